"""Who may log in: the users file behind twisted.cred, verified by argon2 in threads of its own."""

from __future__ import annotations

import base64
from typing import Any

import argon2
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from requiretls_mta.service.users_file import PASSWORD_LIMIT, UsersFile

THREADS = 2
"""Passwords verified at once: each takes a core and 64 MiB for some tens of milliseconds."""
QUEUE = 20
"""Logins that wait for a thread; those beyond are answered 454 4.7.0."""


@implementer(ICredentialsChecker)
class UsersChecker:
    """Checks names and passwords against a `UsersFile`; an unknown user costs as much as a wrong password."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, reactor: Any, users: UsersFile) -> None:
        self._reactor = reactor
        self._file = users
        self._users: dict[str, str] = {}
        self._hasher = argon2.PasswordHasher()
        self._nobody = _hash_of_nobody(self._hasher, [])
        self._pool = ThreadPool(0, THREADS, name="argon2")
        self._pending = 0

    def start(self) -> None:
        """Start the threads."""
        self._pool.start()

    def stop(self) -> None:
        """Wait for the threads; at most as long as the logins under way take."""
        if self._pool.started:
            self._pool.stop()

    def load(self) -> None:
        """Read the file again; raises `UsersError` and keeps the users that were."""
        self.replace(self._file.read())

    def read(self) -> dict[str, str]:
        """The users in the file, to be put into force by `replace`; raises `UsersError`."""
        return self._file.read()

    def replace(self, users: dict[str, str]) -> None:
        """Put users (name to hash) into force."""
        self._nobody = _hash_of_nobody(self._hasher, list(users.values()))
        self._users = users

    def requestAvatarId(self, credentials: Any) -> Deferred[bytes | tuple[()]]:
        """The user's name as UTF-8; fails with `UnauthorizedLogin`, or `AuthBusyError` when too many are waiting."""
        # At module level this would install a reactor: the server's classes need twisted.mail.smtp.
        from requiretls_mta.smtp.auth import AuthBusyError  # noqa: PLC0415

        if self._pending >= THREADS + QUEUE:
            raise AuthBusyError(f"{self._pending} logins are being verified or waiting")
        name, password = _text(credentials.username), _text(credentials.password)
        hashed = self._users.get(name)
        self._pending += 1
        verified: Deferred[Any] = deferToThreadPool(
            self._reactor, self._pool, _verify, self._hasher, hashed or self._nobody, password
        )
        verified.addBoth(self._done)
        verified.addCallback(_answer, name if hashed else None)
        return verified

    def _done(self, result: Any) -> Any:
        self._pending -= 1
        return result


def _answer(matches: bool, name: str | None) -> bytes | tuple[()]:
    if not matches or name is None:
        raise UnauthorizedLogin("wrong user or password")
    return name.encode("utf-8")


def _verify(hasher: argon2.PasswordHasher, hashed: str, password: str) -> bool:
    try:
        # An over-long password takes as long as any other, and never matches.
        right = len(password.encode("utf-8", "surrogateescape")) <= PASSWORD_LIMIT
        return hasher.verify(hashed, password[:PASSWORD_LIMIT].encode("utf-8", "surrogateescape")) and right
    except argon2.exceptions.VerifyMismatchError:
        return False


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _hash_of_nobody(hasher: argon2.PasswordHasher, hashes: list[str]) -> str:
    """A hash that no password has, as dear to verify as the newest one in use."""
    if hashes:
        ours = argon2.extract_parameters(hashes[-1])
        memory, time, lanes = ours.memory_cost, ours.time_cost, ours.parallelism
    else:
        memory, time, lanes = hasher.memory_cost, hasher.time_cost, hasher.parallelism
    salt, nothing = (base64.b64encode(bytes(n)).rstrip(b"=").decode("ascii") for n in (16, 32))
    return f"$argon2id$v=19$m={memory},t={time},p={lanes}${salt}${nothing}"
