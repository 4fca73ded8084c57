"""`requiretls-mta user`."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import argon2
import pytest
from click.testing import CliRunner

from requiretls_mta.cli.main import cli
from requiretls_mta.service.users_file import UsersFile

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mta.toml").write_text('state = "state"\n[access]\nusers = "users"\n')


def run(*words, stdin=""):
    return CliRunner().invoke(cli, [*words, "--config", "mta.toml"], input=stdin)


def test_a_user_is_added_listed_and_removed(tmp_path):
    """The password is one line of standard input."""
    assert run("user", "add", "anna", stdin="pass word\nmore\n").output == "anna: added\n"
    assert run("user", "add", "anna", stdin="other\r\n").output == "anna: password changed\n"
    hashed = UsersFile(tmp_path / "users").read()["anna"]
    assert argon2.PasswordHasher().verify(hashed, "other")
    assert stat.S_IMODE((tmp_path / "users").stat().st_mode) == 0o600
    assert run("user", "list").output == "anna\n"
    assert run("user", "remove", "anna").exit_code == 0
    assert run("user", "remove", "anna").exit_code == 1
    assert run("user", "list").output == ""


@pytest.mark.parametrize(
    ("name", "password"), [("a:b", "x\n"), ("anna", ""), ("anna", "\n"), ("anna", b"\xff\n"), ("anna", b"\xed\xa0\x80")]
)
def test_a_bad_name_or_password_is_status_2(tmp_path, name, password):
    """And nothing is written."""
    result = run("user", "add", name, stdin=password)
    assert result.exit_code == 2
    assert not (tmp_path / "users").exists()


def test_a_broken_file_is_status_2(tmp_path):
    """It is not overwritten."""
    (tmp_path / "users").write_text("nonsense\n")
    assert run("user", "add", "anna", stdin="x\n").exit_code == 2
    assert (tmp_path / "users").read_text() == "nonsense\n"


@pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("REQUIRE_ALL") != "1", reason="only root can become somebody else"
)
@pytest.mark.parametrize("inside", [True, False])
def test_root_leaves_the_file_to_the_service(reachable, inside):
    """In the service's folder it is written as the service, in root's it is given to the service."""
    (reachable / "state").mkdir()
    os.chown(reachable / "state", 12345, 12346)
    users = reachable / "state" / "users" if inside else reachable / "users"
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from requiretls_mta.cli.main import main; main()"
    words = ["user", "add", "anna", "--config", "mta.toml", "--set", f"access.users={users}"]
    subprocess.run([sys.executable, "-c", code, *words], input=b"x\n", check=True, timeout=30)
    facts = users.stat()
    assert (facts.st_uid, facts.st_gid, stat.S_IMODE(facts.st_mode)) == (12345, 12346, 0o600)
