"""The files of a shard: its folder, its lock, and one file for each large body. All calls block."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import attrs

from requiretls_mta.message.ports import Body
from requiretls_mta.message.stored import CHUNK
from requiretls_mta.queue.ids import is_id
from requiretls_mta.queue.store import StoreFull

LOCK_PATIENCE = 2.0
"""Seconds that a queue whose service was killed may still be written to."""
_PART = ".part"
_FULL = (errno.ENOSPC, errno.EDQUOT)


class StoreLocked(Exception):
    """Another process works on this part of the queue; the message names the path and, where known, the process."""


@attrs.frozen
class FileBody:
    """A body in a file of its own. Opened for every piece: thousands of messages may wait with one each."""

    path: Path
    size: int

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` octets from `offset` on; fewer only at the end."""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, length, offset)
        finally:
            os.close(fd)


def full_or_same(error: OSError, path: Path) -> Exception:
    """`StoreFull` when no space (or quota) is left, else the error itself."""
    return StoreFull(f"{path}: {error.strerror}") if error.errno in _FULL else error


def private_folder(path: Path) -> None:
    """Create the folder; 0700 whatever the umask, and whatever it was before."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)


def private_file(path: Path, flags: int) -> int:
    """Open the file, created with 0600 whatever the umask; returns the descriptor."""
    fd = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.fchmod(fd, 0o600)
    return fd


def sync_folder(path: Path) -> None:
    """Make the folder's entries durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def lock(path: Path) -> int:
    """Take the lock and return its descriptor, to be closed; raises `StoreLocked` after `LOCK_PATIENCE`."""
    fd = private_file(path, os.O_RDWR)
    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            owner = os.read(fd, 32).decode("ascii", "replace").strip()
            os.close(fd)
            by = f"process {owner}" if owner.isdigit() else "another process"
            raise StoreLocked(f"{path}: {by} works on this queue") from None
    os.ftruncate(fd, 0)
    os.write(fd, b"%d\n" % os.getpid())
    return fd


class BodyFiles:
    """The folder `bodies/`. A file is written under a passing name and renamed when it is whole and on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, message_id: str) -> Path:
        """Where the body of a message is."""
        if not is_id(message_id):
            raise ValueError(f"{message_id!r} is no queue id")
        return self.folder / message_id

    def begin(self, message_id: str) -> int:
        """Open a new file for writing under its passing name."""
        path = self.path(message_id)
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        return private_file(path.with_suffix(_PART), os.O_WRONLY | os.O_EXCL)

    def finish(self, files: Iterable[tuple[int, str]]) -> list[Exception | None]:
        """Sync, close, rename each (descriptor, message id); sync the folder once. What went wrong with each."""
        results: list[Exception | None] = []
        for fd, message_id in files:
            path = self.path(message_id)
            try:
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
                path.with_suffix(_PART).rename(path)
                results.append(None)
            except OSError as error:
                results.append(full_or_same(error, path))
        try:
            sync_folder(self.folder)
        except OSError as error:
            trouble = full_or_same(error, self.folder)
            results = [result or trouble for result in results]
        return results

    def place(self, message_id: str, body: Body) -> None:
        """Give a message a file with the octets of `body`, another message's file perhaps; the folder is not synced."""
        path = self.path(message_id)
        try:
            if isinstance(body, FileBody) and body.path.parent == self.folder:
                os.link(body.path, path)
                return
            fd = self.begin(message_id)
        except OSError as error:
            raise full_or_same(error, path) from error
        try:
            try:
                for offset in range(0, body.size, CHUNK):
                    write_all(fd, body.read(offset, CHUNK))
                os.fsync(fd)
            finally:
                os.close(fd)
            path.with_suffix(_PART).rename(path)
        except OSError as error:
            self.discard(message_id)
            raise full_or_same(error, path) from error

    def discard(self, message_id: str) -> None:
        """Remove a message's file, finished or not; harmless when there is none."""
        if not is_id(message_id):
            return
        path = self.folder / message_id
        for name in (path, path.with_suffix(_PART)):
            with contextlib.suppress(OSError):
                name.unlink()

    def remove_orphans(self, known: Callable[[str], bool]) -> int:
        """Remove every file that belongs to no message; how many there were."""
        count = 0
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if not (is_id(entry.name) and known(entry.name)) and not entry.is_dir(follow_symlinks=False):
                    Path(entry.path).unlink(missing_ok=True)
                    count += 1
        return count


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data`, at most `CHUNK` octets at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest[:CHUNK]) :]
