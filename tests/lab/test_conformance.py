"""The conformance tester on a server of others: Debian's Postfix, which has no REQUIRETLS."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.ca import CA
from tests.lab.mta import free_port
from tests.lab.postfix import postfix
from tests.lab.require import need

TOOL = Path(sys.executable).parent / "requiretls-mta"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Exit status and report."""
    need("postfix")
    folder, port = tmp_path_factory.mktemp("postfix"), free_port("127.0.0.1")
    ca = CA(folder / "ca")
    files = ca.host("postfix.test")
    settings = {"smtpd_tls_security_level": "may", "smtpd_tls_chain_files": f"{files.key} {files.chain}"}
    with postfix(folder / "postfix", port, settings):
        command = [TOOL, "conformance", f"127.0.0.1:{port}", "--trust", ca.roots, "--name", "postfix.test", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, json.loads(done.stdout)


def test_postfix_3_7_is_not_conformant(report):
    """It offers no REQUIRETLS; status 1."""
    status, found = report
    assert (status, found["conformant"]) == (1, False)
    assert [check["id"] for check in found["checks"] if check["verdict"] == "fail"] == ["offered"]


def test_postfix_3_7_is_not_blamed_for_anything_else(report):
    """What it refuses and forgets as it should passes all the same."""
    passed = {check["id"] for check in report[1]["checks"] if check["verdict"] == "pass"}
    assert passed >= {
        "ehlo",
        "starttls-offered",
        "not-offered-in-clear",
        "tls",
        "mail-in-clear",
        "injected-command",
        "injected-fragment",
        "starttls-in-transaction",
        "starttls-argument",
        "starttls-in-tls",
        "chain",
        "name",
    }
