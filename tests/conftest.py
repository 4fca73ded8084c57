"""What all tests share: a loaded machine is no failure of a property, no failure goes unheard; and who runs them.

`--hypothesis-profile=deep` searches for long: worth a night before a release, too long for every run.
"""

import gc
import os

import pytest
from hypothesis import settings
from twisted.logger import globalLogPublisher

settings.register_profile("patient", deadline=None)
settings.register_profile("deep", deadline=None, max_examples=5000)
# Where nothing may be skipped a commit is judged, and twice alike: to find by chance is for whoever develops.
settings.register_profile("judge", deadline=None, derandomize=True)
settings.load_profile("judge" if os.environ.get("REQUIRE_ALL") else "patient")

# Hundreds of processes are started: each would compile us anew, which takes longer than all else it does.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

LONGEST = ("lab/test_kill.py", "test_packaging.py", "test_static.py")
"""Begun last, one of them would be waited for alone."""


def pytest_collection_modifyitems(items):
    """The longest first: `make test` gives the files to two processes in this order."""
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONGEST))


@pytest.fixture
def reachable(tmp_path):
    """`tmp_path`, into which every user may look: pytest closes its folders to others, also those above it."""
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents:
        if not folder.name.startswith(("pytest-", "popen-")):
            break
        folder.chmod(0o755)
    return tmp_path


_unheard = []
"""Failures in Deferreds that nobody asked for their result, as they are found: at the latest with other garbage."""


def _hear(event):
    if event.get("log_namespace") == "twisted.internet.defer" and "log_failure" in event:
        _unheard.append(event["log_failure"].getTraceback())


globalLogPublisher.addObserver(_hear)


def _tell():
    if _unheard:
        found = "\n".join(_unheard)
        _unheard.clear()
        pytest.fail(f"a failure that nobody heard, of this test or one before it:\n{found}", pytrace=False)


@pytest.fixture(autouse=True)
def _heard():
    yield
    _tell()


@pytest.fixture(autouse=True, scope="session")
def _heard_to_the_end():
    yield
    gc.collect()
    _tell()
