"""Users: the file, its atomic rewriting, and logins that cost the same whoever tries."""

import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

import argon2
import pytest
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet import defer, reactor
from twisted.trial.unittest import TestCase

from requiretls_mta.service.users import QUEUE, THREADS, UsersChecker
from requiretls_mta.service.users_file import UsersError, UsersFile
from requiretls_mta.smtp.auth import AuthBusyError

CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)


def users_file(folder):
    return UsersFile(folder / "users", CHEAP)


def test_a_missing_file_is_an_empty_one(tmp_path):
    """Nobody may log in, and nothing fails."""
    assert users_file(tmp_path).read() == {}
    assert users_file(tmp_path).remove("anna") is False


def test_users_are_added_changed_and_removed(tmp_path):
    """One line each, mode 0600, and no trace of the password."""
    users = users_file(tmp_path)
    assert users.add("anna", "first secret") is True
    assert users.add("bob@example.org", "other") is True
    before = users.read()["anna"]
    assert users.add("anna", "second secret") is False
    assert list(users.read()) == ["anna", "bob@example.org"]
    assert users.read()["anna"] != before
    assert CHEAP.verify(users.read()["anna"], "second secret")
    assert stat.S_IMODE(users.path.stat().st_mode) == 0o600
    assert b"secret" not in users.path.read_bytes()
    assert users.remove("anna") is True
    assert list(users.read()) == ["bob@example.org"]
    assert os.listdir(tmp_path) == ["users"]


@pytest.mark.parametrize("name", ["", "a:b", "a b", "a\nb", "#a", "a\0", "x" * 256, "a\u2028b"])
def test_a_name_that_would_break_the_file_is_refused(tmp_path, name):
    """No name can forge another line."""
    with pytest.raises(UsersError):
        users_file(tmp_path).add(name, "x")
    assert users_file(tmp_path).read() == {}


@pytest.mark.parametrize("password", ["", "x" * 1025, "a\0b"])
def test_a_password_has_limits(tmp_path, password):
    """Neither nothing nor a book."""
    with pytest.raises(UsersError):
        users_file(tmp_path).add("anna", password)


@pytest.mark.parametrize(
    "text", ["anna", "anna:plain", "anna:", ":$argon2id$", "anna:$argon2id$v=19$m=1", "a b:x", "\xff"]
)
def test_a_broken_file_is_refused_with_its_line(tmp_path, text):
    """And what stands in it is not repeated: it may be a password."""
    (tmp_path / "users").write_bytes(b"# a comment\n\n" + text.encode("latin-1") + b"\n")
    with pytest.raises(UsersError, match=r"line 3|UTF-8") as caught:
        users_file(tmp_path).read()
    assert "plain" not in str(caught.value)


def test_the_same_name_twice_is_refused(tmp_path):
    """Nobody could tell which of the two counts."""
    users = users_file(tmp_path)
    users.add("anna", "x")
    users.path.write_text(users.path.read_text() * 2)
    with pytest.raises(UsersError, match="line 2"):
        users.read()


class Logins(TestCase):
    """The checker behind twisted.cred."""

    def setUp(self):
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        self.users = users_file(folder)
        self.users.add("anna", "right")
        self.checker = UsersChecker(reactor, self.users)
        self.checker.load()
        self.checker.start()
        self.addCleanup(self.checker.stop)

    async def login(self, name, password):
        return await self.checker.requestAvatarId(UsernamePassword(name, password))

    async def test_the_right_password_logs_in(self):
        """As text or octets."""
        assert await self.login(b"anna", b"right") == b"anna"
        assert await self.login("anna", "right") == b"anna"

    async def test_all_else_is_refused_with_one_error(self):
        """A wrong password, an unknown user, octets that are no text, an endless password."""
        texts = set()
        for name, password in [
            (b"anna", b"wrong"),
            (b"bob", b"right"),
            (b"\xff", b"\xff"),
            (b"anna", b""),
            (b"", b""),
            (b"anna", b"right\0"),
            (b"anna", b"r" * 100000),
        ]:
            with pytest.raises(UnauthorizedLogin) as caught:
                await self.login(name, password)
            texts.add(str(caught.value))
        assert len(texts) == 1

    async def test_an_unknown_user_costs_as_much(self):
        """The clock does not tell who exists."""
        dear = argon2.PasswordHasher(time_cost=3, memory_cost=16384, parallelism=1)
        UsersFile(self.users.path, dear).add("carl", "right")
        self.checker.load()

        async def cost(name):
            best = 9.0
            for _ in range(5):
                start = time.perf_counter()
                with pytest.raises(UnauthorizedLogin):
                    await self.login(name, b"wrong")
                best = min(best, time.perf_counter() - start)
            return best

        known, unknown = await cost(b"carl"), await cost(b"nobody")
        assert 0.4 < unknown / known < 2.5, (known, unknown)

    async def test_a_flood_is_answered_as_busy(self):
        """Two at once, twenty waiting; the next one is told to come back, and later all is well again."""
        logins = [self.checker.requestAvatarId(UsernamePassword(b"anna", b"right")) for _ in range(THREADS + QUEUE)]
        with pytest.raises(AuthBusyError):
            await self.login(b"anna", b"right")
        assert [ok for ok, _ in await defer.DeferredList(logins)] == [True] * (THREADS + QUEUE)
        assert await self.login(b"anna", b"right") == b"anna"

    async def test_a_reload_that_fails_keeps_the_users(self):
        """A broken file locks nobody out."""
        self.users.path.write_text("nonsense\n")
        with pytest.raises(UsersError):
            self.checker.load()
        assert await self.login(b"anna", b"right") == b"anna"

    async def test_a_reload_takes_changes(self):
        """Who was removed cannot log in any more."""
        self.users.remove("anna")
        self.checker.load()
        with pytest.raises(UnauthorizedLogin):
            await self.login(b"anna", b"right")
