"""The embedded queue on Twisted: a `Shard` in a thread of its own, group commit, body files in another thread.

A service gives the changes that matter most, messages that come and go, to a process beside it (`queue.writer`). The
thread then does the rest, and everything where that process is missing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail, gatherResults, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from requiretls_mta.message.stored import BytesBody, Message
from requiretls_mta.queue import tables
from requiretls_mta.queue.bodies import FileWork, MemoryBudget, Spool, do_file_work
from requiretls_mta.queue.changes import Accept, Group, Settle, encode, encode_settlement
from requiretls_mta.queue.files import FileBody
from requiretls_mta.queue.lane import Lane
from requiretls_mta.queue.settings import QueueSettings
from requiretls_mta.queue.shard import Shard
from requiretls_mta.queue.store import BodyWriter, Entry, IQueueStore, Lease, Row, Settlement, StoreFull
from requiretls_mta.queue.writer import Writer
from requiretls_mta.queue.writing import connect

_COPY = 8 * 1024 * 1024
"""Octets of changes that are copied at once."""
_ROW_OCTETS = 2048
"""About what a change costs beside the octets of bodies."""
_MANY = 24
"""Changes of which a group is better written by the thread: to hand them over costs more than its turns of the lock."""
_OWED = 1.0
"""Seconds between attempts to store outcomes for which there was no space."""
_Work = Callable[[], Any]
_Job = Accept | Settle | _Work


@implementer(IQueueStore)
class SQLiteStore:
    """The messages in `folder`, which belongs to this process while the store is open.

    `reactor` provides IReactorTime and IReactorFromThreads; `wall` tells Unix seconds.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        folder: Path,
        *,
        wall: Callable[[], float],
        settings: QueueSettings | None = None,
        writer: Writer | None = None,
    ) -> None:
        self._reactor = reactor
        self._settings = settings or QueueSettings()
        self._shard = Shard(folder, wall=wall, settings=self._settings)
        self._budget = MemoryBudget(self._settings.memory)
        self._spools: dict[str, Spool] = {}
        self._writing: Lane[_Job] = Lane(reactor, "queue", self._write, self._by_writer)
        self._reading: Lane[_Work] = Lane(reactor, "queue reads", _run_each)
        self._filing: Lane[FileWork] = Lane(reactor, "queue bodies", self._do_file_work)
        self._copying: Lane[_Work] = Lane(reactor, "queue checkpoints", _run_each)
        self._writer = writer
        self._unsure: Group | None = None
        """What the writer did not say yes to."""
        self._uncopied = 0
        self._fresh_db: sqlite3.Connection
        self._read_db: sqlite3.Connection
        self._copy_db: sqlite3.Connection
        self._owed: dict[str, tuple[IDelayedCall, Callable[[], None]]] = {}
        self._closing = False

    @property
    def commits(self) -> int:
        """Transactions that wrote messages or outcomes so far."""
        return self._shard.commits

    # --- opening and closing ------------------------------------------------------------------------------------------
    def open(self) -> Deferred[None]:
        """Create, lock, migrate, clean. Fails with `StoreLocked`, `SchemaError`, `StoreFull` or the disk's error."""
        return Deferred.fromCoroutine(self._open())

    async def _open(self) -> None:
        for lane in (self._writing, self._reading, self._filing, self._copying):
            lane.start()
        try:
            await self._writing.submit(self._open_shard)
        except BaseException:
            await self._stop_lanes()
            raise
        if self._writer is not None:
            self._writer.adopt()

    def _open_shard(self) -> None:
        self._shard.open()
        # Bodies are read on the reactor thread, like files, in pieces; that takes a connection of its own.
        self._fresh_db = connect(str(self._shard.path))
        self._read_db = connect(str(self._shard.path))
        self._copy_db = connect(str(self._shard.path))
        self._shard.octets = self._octets
        if self._writer is not None:
            self._writer.start(self._shard.path, self._shard.lock)

    def close(self) -> Deferred[None]:
        """Finish what was begun, then let go of everything. Bodies that nobody accepted are removed."""
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        self._closing = True
        for spool in list(self._spools.values()):
            spool.abort()
        owed, self._owed = self._owed, {}
        for timer, attempt in owed.values():
            timer.cancel()
            attempt()
        await self._filing.stop()
        if self._writer is not None:
            await self._writer.stop()
            await self._copying.submit(self._writer.reap)
        for lane, work in (
            (self._copying, self._copy_db.close),
            (self._reading, self._read_db.close),
            (self._writing, self._shard.close),
        ):
            closed = lane.submit(work)
            await lane.stop()
            await closed
        self._fresh_db.close()

    async def _stop_lanes(self) -> None:
        for lane in (self._filing, self._copying, self._reading, self._writing):
            await lane.stop()

    # --- new messages -------------------------------------------------------------------------------------------------
    def new_id(self) -> str:
        """A queue id that was never given before."""
        return self._shard.new_id()

    def body(self, message_id: str) -> BodyWriter:
        """A writer for a new message's octets."""
        spool = Spool(
            message_id,
            files=self._shard.files,
            settings=self._settings,
            budget=self._budget,
            submit=self._filing.submit,
            over=lambda over: self._spools.pop(over, None),
        )
        self._spools[message_id] = spool
        return spool

    def accept(self, messages: Sequence[Message], lease: bool = False) -> Deferred[tuple[Lease, ...]]:
        """Make messages durable, all or none; fires after the commit. Fails with `StoreFull` or the store's error."""
        messages = tuple(messages)
        folder, limit = self._shard.files.folder, self._settings.row_limit
        try:
            job = Accept(tuple([encode(message, folder, limit) for message in messages]), lease)
        except Exception:
            return fail()
        spools = [spool for message in messages if (spool := self._spools.get(message.id)) is not None]
        for spool in spools:
            spool.accepting()

        def after(result: Any, wanted: bool) -> None:
            # Whoever gave up waiting may have aborted the body; the tables alone say whose it is.
            durable = not isinstance(result, Exception)
            for spool in spools:
                spool.accepted(durable=durable)
            if durable and lease and not wanted:
                self._release(messages)

        self._grows(sum([_ROW_OCTETS + len(rows.octets or b"") for rows in job.rows]))
        done = self._writing.submit(job, after)
        return done.addCallback(lambda _: tuple(map(self._fresh, messages)) if lease else ())

    def _fresh(self, message: Message) -> Lease:
        """The lease of a message just written; what is larger than a little is read from the disk again."""
        body = message.body
        if not isinstance(body, BytesBody) or body.size > self._settings.fresh:
            path = self._shard.files.folder / message.id
            if body.size > self._settings.row_limit or body == FileBody(path, body.size):
                body = FileBody(path, body.size)
            else:
                body = tables.BlobBody(self._octets, message.id, body.size)
            message = attrs.evolve(message, body=body)
        entries = [
            Entry(number=number, recipient=recipient, next_attempt=message.received)
            for number, recipient in enumerate(message.envelope.recipients)
        ]
        return Lease(message=message, entries=tuple(entries))

    # --- attempts -----------------------------------------------------------------------------------------------------
    def claim(self, limit: int, now: float) -> Deferred[tuple[Lease, ...]]:
        """At most `limit` messages with due recipients (not held, not leased), the longest due first."""

        def after(result: Any, wanted: bool) -> None:
            if not wanted and not isinstance(result, Exception):
                self._release([lease.message for lease in result])

        return self._writing.submit(lambda: self._shard.claim(limit, now), after)

    def lease(self, message_id: str) -> Deferred[Lease | None]:
        """One message with all its open recipients, due or not, held or not; None: there is none, or it is leased."""
        return self._writing.submit(lambda: self._shard.lease(message_id))

    def _release(self, messages: Sequence[Message]) -> None:
        """Nobody took these leases; the messages are due again."""
        ids = [message.id for message in messages]
        self._writing.submit(lambda: self._shard.release(ids)).addErrback(lambda _: None)

    def release(self, message_ids: Sequence[str]) -> Deferred[None]:
        """Give back leases of which nothing was attempted; their messages can be claimed again."""
        return self._writing.submit(lambda: self._shard.release(message_ids))

    def settle(self, settlements: Sequence[Settlement]) -> Deferred[tuple[Exception | None, ...]]:
        """Recipient states and offspring of each lease, in one transaction; messages all settled are removed.

        Tells of each, in their order, why it is not stored; None: it is durable. Where there is no space the store
        tries again until there is: what was delivered is not attempted twice. After any other failure the message stays
        leased until the store is opened anew.
        """
        results: Deferred[list[Exception | None]] = gatherResults(map(self._settle_one, settlements))
        return results.addCallback(tuple)

    def _settle_one(self, settlement: Settlement) -> Deferred[Exception | None]:
        try:
            job = encode_settlement(settlement, self._shard.files.folder, self._settings.row_limit)
        except Exception as error:
            return succeed(error)
        done: Deferred[Exception | None] = Deferred()

        self._grows(_ROW_OCTETS)

        def attempt() -> None:
            self._writing.submit(job).addCallbacks(done.callback, failed)

        def failed(failure: Failure) -> None:
            trouble = failure.value
            assert isinstance(trouble, Exception)
            if not isinstance(trouble, StoreFull) or self._closing:
                done.callback(trouble)
                return
            self._log.error("outcomes of message {queue_id} wait for space: {reason}", queue_id=job.id, reason=trouble)
            self._owed[job.id] = (self._reactor.callLater(_OWED, again), attempt)

        def again() -> None:
            del self._owed[job.id]
            attempt()

        attempt()
        return done

    def _grows(self, octets: int) -> None:
        """The log of changes grows by about so much. Now and then what is in it is copied, beside the writing.

        The rest, and the beginning of a new log, are the writer's own (`wal_autocheckpoint`), and little work by then.
        """
        self._uncopied += octets
        if self._uncopied > _COPY and not self._closing:
            self._uncopied = -_COPY
            copied = self._copying.submit(lambda: self._copy_db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall())
            copied.addBoth(self._copied)

    def _copied(self, result: Any) -> None:
        self._uncopied = max(self._uncopied, 0)
        if isinstance(result, Failure):
            self._log.failure("the queue's log of changes cannot be copied", result)

    def next_due(self) -> Deferred[float | None]:
        """When the next message not leased is due (Unix seconds); None when there is none."""
        return self._writing.submit(self._shard.next_due)

    # --- the tool's verbs ---------------------------------------------------------------------------------------------
    def rows(self) -> Deferred[tuple[Row, ...]]:
        """All queued messages, by id."""
        return self._reading.submit(lambda: tuple(tables.read_rows(self._find)))

    def message(self, message_id: str) -> Deferred[Message | None]:
        """One queued message, to show it."""

        def read() -> Message | None:
            found = self._find("WHERE id = ?", message_id)
            return found[0].message if found else None

        return self._reading.submit(read)

    def retry(self, message_id: str | None, now: float) -> Deferred[int]:
        """Make one message, or all, due now; how many there were."""
        if message_id is not None:
            return self._writing.submit(lambda: self._shard.retry(message_id, now))
        return Deferred.fromCoroutine(self._retry_all(now))

    async def _retry_all(self, now: float) -> int:
        # In steps: messages are accepted between them.
        count, after = 0, 0
        while True:
            more, last = await self._writing.submit(partial(self._shard.retry_some, after, now))
            if last is None:
                return count
            count, after = count + more, last

    def hold(self, message_id: str, held: bool) -> Deferred[bool]:
        """Hold a message back, or release it; False when there is none."""
        return self._writing.submit(lambda: self._shard.hold(message_id, held))

    def remove(self, message_id: str) -> Deferred[bool]:
        """Delete a message without a report; False when there is none, or it is being attempted now."""
        return self._writing.submit(lambda: self._shard.remove(message_id))

    # --- in the process beside this one -------------------------------------------------------------------------------
    def _by_writer(self, jobs: Sequence[_Job]) -> Deferred[Sequence[Any] | None] | None:
        """A group of nothing but changes of the tables; whatever is odd about it, the thread finds out."""
        changes = [job for job in jobs if isinstance(job, Accept | Settle)]
        if self._writer is None or not self._writer.is_there or len(changes) < len(jobs) or len(jobs) > _MANY:
            return None
        group = self._shard.gather(changes)
        if group is None:
            return None

        def written(problem: str) -> list[None] | None:
            if problem:
                self._unsure = group
                return None
            self._shard.conclude(group)
            return [None] * len(jobs)

        return self._writer.write(group.changes).addCallbacks(written, lambda _: written("the writer is gone"))

    # --- in the threads -----------------------------------------------------------------------------------------------
    def _write(self, jobs: Sequence[_Job]) -> list[Any]:
        """Everything that is to be stored, in one transaction; then the rest, one by one."""
        unsure, self._unsure = self._unsure, None
        if unsure is not None and self._shard.has(unsure):
            self._shard.conclude(unsure)
            return [None] * len(jobs)
        changes = [(index, job) for index, job in enumerate(jobs) if isinstance(job, Accept | Settle)]
        results: list[Any] = [None] * len(jobs)
        if changes:
            outcomes = self._shard.apply([change for _, change in changes])
            for (index, _), outcome in zip(changes, outcomes, strict=True):
                results[index] = outcome
        for index, job in enumerate(jobs):
            if not isinstance(job, Accept | Settle):
                result = _run(job)
                results[index] = self._shard.trouble(result) if isinstance(result, Exception) else result
        return results

    def _do_file_work(self, jobs: Sequence[FileWork]) -> list[Exception | None]:
        return do_file_work(self._shard.files, jobs)

    def _find(self, chosen: str, *parameters: Any) -> list[tables.Found]:
        return tables.find(self._read_db, chosen, parameters, tables.Bodies(self._octets, self._shard.files.folder))

    def _octets(self, message_id: str, offset: int, length: int) -> bytes:
        return tables.octets(self._fresh_db, message_id, offset, length)


def _run(work: _Work) -> Any:
    try:
        return work()
    except Exception as error:  # it is the result
        return error


def _run_each(jobs: Sequence[_Work]) -> list[Any]:
    return [_run(job) for job in jobs]
