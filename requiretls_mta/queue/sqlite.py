"""The embedded store: a shard behind group commit.

Everything that was asked for while the last commit ran becomes one transaction. Its statements run on the reactor's
thread, where each takes microseconds; only the COMMIT, which waits for the disk, goes to the store's own thread. Were
the statements there too, each would wait for the interpreter's lock under load.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from requiretls_mta.message.ports import Body
from requiretls_mta.message.stored import Message
from requiretls_mta.queue.bodies import BodyFile, Memory, StreamedBody, is_full
from requiretls_mta.queue.codec import fresh_entries
from requiretls_mta.queue.ids import QueueIds
from requiretls_mta.queue.shard import Shard
from requiretls_mta.queue.store import IQueueStore, Lease, Row, Settlement, StoreError, StoreFull

_COOL_DOWN = 300.0
"""Seconds for which a message is left alone whose outcome could not be stored: it may well have been delivered."""


@attrs.define
class _Job:
    """Something to do with the shard, and who waits for it."""

    work: Callable[[], Any]
    done: Deferred[Any]
    changes: bool
    result: Any = None


@implementer(IQueueStore)
class SQLiteStore:
    """`IQueueStore` in a folder of this machine."""

    _log = Logger()

    def __init__(self, reactor: Any, folder: Path, *, wall: Callable[[], float]) -> None:
        self._reactor = reactor
        self._wall = wall
        self._shard = Shard(folder)
        self._ids = QueueIds(wall)
        self._memory = Memory()
        self._jobs: list[_Job] = []
        self._busy = True
        self._closing: Deferred[None] | None = None
        self._commits = ThreadPool(1, 1, name="queue")
        self._bodies = ThreadPool(0, 2, name="bodies")
        self._syncing: set[Deferred[Any]] = set()
        self.groups = 0
        """Transactions so far."""

    # --- open and close ---------------------------------------------------------------------------------------

    def open(self) -> Deferred[None]:
        """Lock, check, migrate."""
        self._commits.start()
        self._bodies.start()
        opened: Deferred[None] = deferToThreadPool(self._reactor, self._commits, self._shard.open)
        return opened.addCallbacks(self._opened, self._not_opened)

    def _opened(self, _: None) -> None:
        self._busy = False
        self._next()

    def _not_opened(self, failure: Failure) -> Failure:
        self._commits.stop()
        self._bodies.stop()
        return failure

    def close(self) -> Deferred[None]:
        """Finish what was begun, then close."""
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        await DeferredList(list(self._syncing))
        if self._busy or self._jobs:
            self._closing = Deferred()
            await self._closing
        self._busy = True
        await deferToThreadPool(self._reactor, self._commits, self._shard.close)
        self._commits.stop()
        self._bodies.stop()

    # --- the verbs --------------------------------------------------------------------------------------------

    def new_id(self) -> str:
        """A new queue id."""
        return self._ids()

    def body(self, message_id: str) -> StreamedBody:
        """A writer for a new message's octets."""
        return StreamedBody(self._shard.bodies, message_id, self._memory, self._sync)

    def accept(self, messages: Sequence[Message], lease: bool = False) -> Deferred[tuple[Lease, ...]]:
        """Make messages durable."""

        def work() -> tuple[Lease, ...]:
            self._shard.insert(messages)
            if not lease:
                return ()
            leases = tuple(Lease(message=message, entries=fresh_entries(message)) for message in messages)
            self._shard.leased.update(dict.fromkeys((message.id for message in messages), float("inf")))
            return leases

        def undo(failure: Failure) -> Failure:
            for message in messages:
                self._shard.leased.pop(message.id, None)
            return failure

        return self._ask(work).addErrback(undo)

    def claim(self, limit: int, now: float) -> Deferred[tuple[Lease, ...]]:
        """Hand out due messages."""
        return self._ask(lambda: self._shard.claim(limit, now), changes=False)

    def settle(self, settlements: Sequence[Settlement]) -> Deferred[None]:
        """Store what became of leases."""

        def work() -> None:
            for settlement in settlements:
                self._shard.settle(settlement)

        def release(result: Any) -> Any:
            failed = isinstance(result, Failure)
            for settlement in settlements:
                self._shard.leased.pop(settlement.lease.message.id, None)
                if failed:
                    self._shard.leased[settlement.lease.message.id] = self._wall() + _COOL_DOWN
            return result

        return self._ask(work).addBoth(release)

    def next_due(self) -> Deferred[float | None]:
        """When to claim again."""
        return self._ask(lambda: self._shard.next_due(self._wall()), changes=False)

    def rows(self) -> Deferred[tuple[Row, ...]]:
        """All messages."""
        return self._ask(self._shard.rows, changes=False)

    def message(self, message_id: str) -> Deferred[Message | None]:
        """One message."""
        return self._ask(lambda: self._shard.message(message_id), changes=False)

    def retry(self, message_id: str | None, now: float) -> Deferred[int]:
        """Make due now."""
        return self._ask(lambda: self._shard.retry(message_id, now))

    def hold(self, message_id: str, held: bool) -> Deferred[bool]:
        """Hold back or release."""
        return self._ask(lambda: self._shard.hold(message_id, held, self._wall()))

    def remove(self, message_id: str) -> Deferred[bool]:
        """Delete."""
        return self._ask(lambda: self._shard.remove(message_id, self._wall()))

    # --- group commit -----------------------------------------------------------------------------------------

    def _ask(self, work: Callable[[], Any], *, changes: bool = True) -> Deferred[Any]:
        job = _Job(work, Deferred(), changes)
        first = not self._jobs
        self._jobs.append(job)
        if first and not self._busy:
            # What else this turn of the reactor asks for comes along.
            self._reactor.callLater(0, self._next)
        return job.done

    def _next(self) -> None:
        if self._busy:
            return
        jobs, self._jobs = self._jobs, []
        if not jobs:
            closing, self._closing = self._closing, None
            if closing is not None:
                closing.callback(None)
            return
        self._busy = True
        if not any(job.changes for job in jobs):
            self._finish([(job, self._attempt(job)) for job in jobs])
            return
        trouble = self._run(jobs)
        if trouble is None:
            self._commit(jobs)
        else:
            self._one_by_one(jobs)

    def _run(self, jobs: Sequence[_Job]) -> Failure | None:
        """The statements of a group; on trouble nothing of it remains."""
        try:
            self._shard.begin()
            for job in jobs:
                job.result = job.work()
        except Exception:
            trouble = Failure()
            self._rollback()
            return trouble
        return None

    def _commit(self, jobs: list[_Job]) -> None:
        self.groups += 1
        committed = deferToThreadPool(self._reactor, self._commits, self._shard.commit)
        committed.addCallbacks(lambda _: self._committed(jobs), lambda failure: self._not_committed(jobs, failure))

    def _committed(self, jobs: list[_Job]) -> None:
        try:
            self._shard.committed()
        except OSError as error:
            self._log.warn("a body that is no longer needed stays: {error}", error=str(error))
        self._finish([(job, job.result) for job in jobs])

    def _not_committed(self, jobs: list[_Job], failure: Failure) -> None:
        self._rollback()
        self._finish([(job, _explained(failure)) for job in jobs])

    def _one_by_one(self, jobs: list[_Job]) -> None:
        """Somebody in the group failed: each gets a transaction of its own, so that nobody else does."""
        job, rest = jobs[0], jobs[1:]
        trouble = self._run([job])
        self._jobs = rest + self._jobs
        if trouble is None:
            self._commit([job])
        else:
            self._finish([(job, _explained(trouble))])

    def _attempt(self, job: _Job) -> Any:
        try:
            return job.work()
        except Exception:
            return _explained(Failure())

    def _rollback(self) -> None:
        try:
            self._shard.rollback()
        except sqlite3.Error as error:
            self._log.error("a transaction cannot be undone: {error}", error=str(error))

    def _finish(self, results: list[tuple[_Job, Any]]) -> None:
        self._busy = False
        for job, result in results:
            job.done.callback(result)  # a Failure goes the way of errors
        if not self._busy:
            self._next()

    def _sync(self, file: BodyFile) -> Deferred[Body]:
        work: Deferred[Body] = deferToThreadPool(self._reactor, self._bodies, file.sync)
        self._syncing.add(work)

        def done(result: Any) -> Any:
            self._syncing.discard(work)
            return result

        return work.addBoth(done)


def _explained(failure: Failure) -> Failure:
    """SQLite's troubles in the store's terms."""
    error = failure.value
    if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorname == "SQLITE_FULL":
        return Failure(StoreFull(str(error)))
    if isinstance(error, OSError) and is_full(error):
        return Failure(StoreFull(str(error)))
    if isinstance(error, sqlite3.Error):
        return Failure(StoreError(f"the queue cannot be written or read: {error}"))
    return failure
