"""Linter, formatter and type checker as tests, so that one command tells everything."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(tool, *arguments):
    """Run a module of this environment; skipped where it is missing, but with REQUIRE_ALL=1."""
    found = subprocess.run([sys.executable, "-m", tool, "--version"], capture_output=True, check=False, timeout=60)
    if found.returncode:
        assert os.environ.get("REQUIRE_ALL") != "1", f"{tool} is not installed, and REQUIRE_ALL=1"
        pytest.skip(f"{tool} is not installed")
    done = subprocess.run(
        [sys.executable, "-m", tool, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_linter_is_content():
    """Names, imports, docstrings, habits."""
    run("ruff", "check", "--no-cache", ".")


def test_the_code_is_formatted():
    """By one hand."""
    run("ruff", "format", "--no-cache", "--check", ".")


def test_the_types_hold():
    """Strictly."""
    run("mypy")


def test_no_group_is_repeated_possessively():
    """Python up to 3.11.4, Debian's among them, takes in what such a group began and could not match (gh-106052)."""
    for path in (ROOT / "requiretls_mta").rglob("*.py"):
        assert not re.search(r"\)(?:[*+?]|\{[0-9,]+\})\+", path.read_text()), path
