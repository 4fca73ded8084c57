"""Bodies: small ones in memory until they are rows, large ones in files while they arrive."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from requiretls_mta.message.ports import Body
from requiretls_mta.message.stored import BytesBody
from requiretls_mta.queue.store import StoreFull

IN_ROW = 128 * 1024
"""Octets up to which a body is kept in its row."""
IN_MEMORY = 64 * 1024 * 1024
"""Octets of unfinished bodies that all sessions together may hold in memory."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

Syncer = Callable[["BodyFile"], Deferred[Body]]
"""Makes a written file durable, in the store's own thread."""


class FileBody:
    """A body in a file; it is opened for each read, for a queue may hold more messages than a process files."""

    __slots__ = ("_path", "_size")

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._path

    @property
    def size(self) -> int:
        """Octets."""
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` octets from `offset` on."""
        with self._path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), length, offset)


class Memory:
    """What unfinished bodies hold in memory, counted for all sessions together."""

    def __init__(self, limit: int = IN_MEMORY) -> None:
        self.limit = limit
        self.used = 0


class BodyFile:
    """A file under its temporary name; `sync` gives it its own."""

    def __init__(self, folder: Path, message_id: str) -> None:
        self._temporary, self._final = folder / f"{message_id}.tmp", folder / message_id
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(self._temporary, flags, 0o600)
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append all of it."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]
        self.size += len(data)

    def sync(self) -> Body:
        """Put file and name on disk; for the store's thread."""
        os.fsync(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1
        self._temporary.rename(self._final)
        sync_folder(self._final.parent)
        return FileBody(self._final, self.size)

    def remove(self) -> None:
        """Forget it, under either name."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._temporary.unlink(missing_ok=True)
        self._final.unlink(missing_ok=True)


class StreamedBody:
    """`queue.store.BodyWriter`: in memory while it is small and memory allows, in a file beyond."""

    def __init__(self, folder: Path, message_id: str, memory: Memory, sync: Syncer) -> None:
        self._folder = folder
        self._id = message_id
        self._memory = memory
        self._sync = sync
        self._pieces: list[bytes] = []
        self._held = 0
        self._file: BodyFile | None = None

    def write(self, data: bytes) -> None:
        """Append."""
        if self._file is None:
            memory = self._memory
            if self._held + len(data) <= IN_ROW and memory.used + len(data) <= memory.limit:
                self._pieces.append(data)
                self._held += len(data)
                memory.used += len(data)
                return
            self._file = BodyFile(self._folder, self._id)
            self._file.write(self._taken())
        self._file.write(data)

    def finish(self) -> Deferred[Body]:
        """All octets are there."""
        if self._file is None:
            body: Body = BytesBody(self._taken())
            return succeed(body)
        return self._sync(self._file).addErrback(_full)

    def abort(self) -> None:
        """Leave no trace."""
        self._taken()
        file, self._file = self._file, None
        if file is not None:
            file.remove()

    def _taken(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        self._memory.used -= self._held
        self._held = 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def sync_folder(folder: Path) -> None:
    """Put a folder's names on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_full(error: OSError) -> bool:
    """Whether the disk has no more room."""
    return error.errno in _FULL


def _full(failure: Failure) -> Failure:
    error = failure.value
    return Failure(StoreFull(str(error))) if isinstance(error, OSError) and is_full(error) else failure
