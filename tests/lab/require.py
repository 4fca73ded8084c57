"""What has to be installed for the end-to-end tests."""

import os
import shutil

import pytest

# The Debian package of each program.
PACKAGES = {
    "knotd": "knot",
    "keymgr": "knot",
    "unbound": "unbound",
    "rbldnsd": "rbldnsd",
    "postfix": "postfix",
    "swaks": "swaks",
    "haproxy": "haproxy",
    "node": "nodejs",
    "npm": "npm",
    "openssl": "openssl",
    "go": "golang-go",
}


def find(program: str) -> str | None:
    """The path of a program; daemons live where an ordinary user's PATH does not look."""
    return shutil.which(program, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin")))


def need(program: str) -> str:
    """The path of a program; without it the test is skipped, or fails where REQUIRE_ALL=1."""
    path = find(program)
    if path is not None:
        return path
    why = f"{program} is not installed (Debian package: {PACKAGES.get(program, program)})"
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(f"{why}, and REQUIRE_ALL=1", pytrace=False)
    pytest.skip(why)
