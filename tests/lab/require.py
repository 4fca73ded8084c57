"""What has to be installed for the end-to-end tests."""

import os
import shutil
from pathlib import Path
from typing import NoReturn

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
    "exim4": "exim4-daemon-light",
}
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "requiretls-mta-ci"
UNPACKED = _CACHE / "exim4" / "usr" / "sbin"
"""Where `.ci/run` puts what cannot be installed beside the others."""


def find(program: str) -> str | None:
    """The path of a program; daemons live where an ordinary user's PATH does not look."""
    return shutil.which(
        program, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin", str(UNPACKED)))
    )


def need(program: str) -> str:
    """The path of a program; without it the test is skipped, or fails where REQUIRE_ALL=1."""
    return find(program) or do_without(f"{program} is not installed (Debian package: {PACKAGES.get(program, program)})")


def need_root(why: str) -> None:
    """Only root can do it; for others the test is skipped, or fails where REQUIRE_ALL=1."""
    if os.geteuid() != 0:
        do_without(f"only root can run this: {why}")


def do_without(why: str) -> NoReturn:
    """Skip the test, or fail where REQUIRE_ALL=1."""
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(f"{why}, and REQUIRE_ALL=1", pytrace=False)
    pytest.skip(why)
