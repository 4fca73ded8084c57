"""The users file: one `name:hash` a line (argon2), mode 0600, replaced as a whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import argon2

NAME_LIMIT = 255
"""Octets of a user's name."""
PASSWORD_LIMIT = 1024
"""Octets of a password; longer ones are wrong whatever they are."""
_FILE_LIMIT = 64 * 1024 * 1024


class UsersError(Exception):
    """The users file, a name or a password cannot be used; the message says which and why."""


def check_name(name: str) -> str:
    """The name itself, or `UsersError`: no colon, no blank, nothing unprintable, 1 to 255 octets."""
    if not name or len(name.encode("utf-8", "surrogatepass")) > NAME_LIMIT:
        raise UsersError(f"a user's name has 1 to {NAME_LIMIT} octets")
    if name.startswith("#") or not all(c.isprintable() and c not in ": " for c in name):
        raise UsersError("a user's name has no colon, no blank, no control characters and no # in front")
    return name


def check_password(password: str) -> str:
    """The password itself, or `UsersError`: 1 to 1024 octets of UTF-8, without NUL."""
    octets = password.encode("utf-8", "surrogatepass")
    try:
        octets.decode("utf-8")
    except UnicodeDecodeError:
        raise UsersError("a password is UTF-8") from None
    if not 0 < len(octets) <= PASSWORD_LIMIT or b"\0" in octets:
        raise UsersError(f"a password has 1 to {PASSWORD_LIMIT} octets and no NUL")
    return password


class UsersFile:
    """Reads and rewrites the file at `path`; a missing one is an empty one.

    When root writes it, a new file belongs to `owner` (user and group), and without that to its folder's owner.
    """

    def __init__(
        self, path: Path, hasher: argon2.PasswordHasher | None = None, owner: tuple[int, int] | None = None
    ) -> None:
        self.path = path
        self._new_owner = owner
        self._hasher = hasher or argon2.PasswordHasher()

    def read(self) -> dict[str, str]:
        """Name to hash, in the file's order; raises `UsersError` naming the line at fault."""
        try:
            with self.path.open("rb") as file:
                data = file.read(_FILE_LIMIT + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UsersError(f"{self.path}: {error.strerror}") from error
        if len(data) > _FILE_LIMIT:
            raise UsersError(f"{self.path}: larger than {_FILE_LIMIT} octets")
        users: dict[str, str] = {}
        try:
            lines = data.decode("utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise UsersError(f"{self.path}: not UTF-8") from error
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            name, colon, hashed = line.rstrip("\r").partition(":")
            # The hash is not shown: a misplaced password would be.
            if not colon or not _is_hash(hashed):
                raise UsersError(f"{self.path}: line {number}: not name:hash with an argon2 hash")
            if name in users:
                raise UsersError(f"{self.path}: line {number}: a second line for the same name")
            users[check_name(name)] = hashed
        return users

    def add(self, name: str, password: str) -> bool:
        """Add a user or change the password; whether the user is new."""
        check_name(name)
        hashed = self._hasher.hash(check_password(password))
        return self._change(lambda users: users.__setitem__(name, hashed), name)

    def remove(self, name: str) -> bool:
        """Remove a user; False when there was none."""
        if name not in self.read():
            return False
        return not self._change(lambda users: users.pop(name, None), name)

    def _change(self, change: Callable[[dict[str, str]], object], name: str) -> bool:
        with self._lock():
            users = self.read()
            new = name not in users
            change(users)
            self._write(users)
        return new

    def _write(self, users: Mapping[str, str]) -> None:
        text = "".join(f"{name}:{hashed}\n" for name, hashed in users.items())
        beside = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                # Root keeps the file readable for whom the service runs as.
                if os.geteuid() == 0:
                    owner = self._owner()
                    os.fchown(file.fileno(), *owner)
                file.write(text.encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
            beside.rename(self.path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _owner(self) -> tuple[int, int]:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            if self._new_owner is not None:
                return self._new_owner
            found = self.path.parent.stat()
        return found.st_uid, found.st_gid

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise UsersError(f"{self.path.parent}: {error.strerror}") from error
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        except OSError as error:
            raise UsersError(f"{self.path}: {error.strerror}") from error
        finally:
            os.close(folder)


def _is_hash(text: str) -> bool:
    try:
        argon2.extract_parameters(text)
    except argon2.exceptions.InvalidHashError:
        return False
    return text.isprintable() and " " not in text
