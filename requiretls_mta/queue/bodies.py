"""Bodies while they arrive: small ones in memory, large ones into files, piece by piece."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Sequence

import attrs
from twisted.internet.defer import Deferred

from requiretls_mta.message.ports import Body
from requiretls_mta.message.stored import BytesBody
from requiretls_mta.queue.files import BodyFiles, FileBody, full_or_same, write_all
from requiretls_mta.queue.settings import QueueSettings

_PIECE = 64 * 1024
"""Octets gathered before they are written to a file: many small chunks must not cost a system call each."""


class MemoryBudget:
    """Octets of all arriving bodies together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0


@attrs.frozen
class Finish:
    """Work for the file thread: make a whole file durable under its name."""

    fd: int
    id: str


@attrs.frozen
class Discard:
    """Work for the file thread: remove what there is of a file."""

    id: str
    fd: int | None = None
    """Still open for writing."""


FileWork = Finish | Discard


def do_file_work(files: BodyFiles, jobs: Sequence[FileWork]) -> list[Exception | None]:
    """Files that end together share one sync of their folder. Blocks."""
    finishing = [job for job in jobs if isinstance(job, Finish)]
    results: dict[int, Exception | None] = {}
    if finishing:
        done = files.finish((job.fd, job.id) for job in finishing)
        results = {id(job): result for job, result in zip(finishing, done, strict=True)}
    for job in jobs:
        if isinstance(job, Discard):
            if job.fd is not None:
                os.close(job.fd)
            files.discard(job.id)
    return [results.get(id(job)) for job in jobs]


class _State(enum.Enum):
    ARRIVING = enum.auto()
    FINISHED = enum.auto()
    ACCEPTING = enum.auto()
    """The message is on its way into the tables: nobody can tell yet whose the file is."""
    OVER = enum.auto()


class Spool:
    """A `BodyWriter` of the embedded store. `submit` gives work to the file thread; `over` is called at the end."""

    def __init__(
        self,
        message_id: str,
        *,
        files: BodyFiles,
        settings: QueueSettings,
        budget: MemoryBudget,
        submit: Callable[[FileWork], Deferred[None]],
        over: Callable[[str], object],
    ) -> None:
        self._id = message_id
        self._files = files
        self._settings = settings
        self._budget = budget
        self._submit = submit
        self._over = over
        self._state = _State.ARRIVING
        self._first = b""
        """All that has come, while that is one piece: nearly every message is, and is never copied."""
        self._buffer = bytearray()
        self._reserved = 0
        self._size = 0
        self._fd: int | None = None
        self._in_file = False
        self._aborted = False

    def write(self, data: bytes) -> None:
        """Append. Raises `StoreFull`, or another `OSError` when the disk refuses; then only `abort` makes sense."""
        assert self._state is _State.ARRIVING
        if self._size:
            self._buffer += self._first
            self._first = b""
            self._buffer += data
        else:
            self._first = data
        self._size += len(data)
        held = len(self._first) + len(self._buffer)
        self._reserve(held)
        tight = self._budget.used > self._budget.limit
        if self._size > self._settings.row_limit or tight:
            if self._fd is None:
                self._open()
            if held >= _PIECE or tight:
                self._spill()

    def finish(self) -> Body | Deferred[Body]:
        """The whole body, durable if it is in a file. Raises or fails with `StoreFull` or an `OSError`."""
        assert self._state is _State.ARRIVING
        self._state = _State.FINISHED
        if self._fd is None:
            return BytesBody(self._first or bytes(self._buffer))
        self._spill()
        fd, self._fd = self._fd, None
        body: Body = FileBody(self._files.path(self._id), self._size)
        return self._submit(Finish(fd, self._id)).addCallback(lambda _: body)

    def abort(self) -> None:
        """Forget it; leaves no trace. Harmless twice, and once the message has been accepted."""
        self._aborted = True
        if self._state in (_State.ARRIVING, _State.FINISHED):
            self._end(discard=True)

    def accepting(self) -> None:
        """The message is being written into the tables."""
        if self._state is _State.FINISHED:
            self._state = _State.ACCEPTING

    def accepted(self, *, durable: bool) -> None:
        """The message is in the tables, and the file theirs; or it is not, and what was aborted meanwhile goes."""
        if self._state is not _State.ACCEPTING:
            return
        if durable:
            self._end(discard=False)
        else:
            self._state = _State.FINISHED
            if self._aborted:
                self.abort()

    def _open(self) -> None:
        try:
            self._fd = self._files.begin(self._id)
        except OSError as error:
            raise full_or_same(error, self._files.folder) from error
        self._in_file = True

    def _spill(self) -> None:
        assert self._fd is not None
        try:
            write_all(self._fd, self._first or self._buffer)
        except OSError as error:
            raise full_or_same(error, self._files.path(self._id)) from error
        self._forget()

    def _forget(self) -> None:
        self._first, self._buffer = b"", bytearray()
        self._reserve(0)

    def _reserve(self, octets: int) -> None:
        self._budget.used += octets - self._reserved
        self._reserved = octets

    def _end(self, *, discard: bool) -> None:
        self._state = _State.OVER
        self._forget()
        fd, self._fd = self._fd, None
        if discard and self._in_file:
            # There is nobody to tell: what cannot be removed now is removed when the store is opened again.
            self._submit(Discard(self._id, fd)).addErrback(lambda _: None)
        self._over(self._id)
