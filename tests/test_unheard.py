"""What goes wrong where no test looks fails the suite all the same."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("test", "told"),
    [
        ("fail(ValueError('hush'))", "hush"),
        ("d = fail(ValueError('hush')); d.cycle = d", "hush"),
        ("coroutine()", "never awaited"),
        ("Deferred.fromCoroutine(coroutine())", None),
    ],
)
def test_what_nobody_hears_fails(tmp_path, test, told):
    """At once, or with the garbage at the end."""
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    text = f"""from twisted.internet.defer import Deferred, fail
async def coroutine(): await Deferred()
def test_it(): {test}
def test_last(): pass
"""
    (tmp_path / "test_it.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_it.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == (0 if told is None else 1), done.stdout
    assert told is None or told in done.stdout
