"""One shard of the embedded queue, synchronously: the tables, the body files, the leases. For one thread at a time.

The store runs it in a thread of its own; the tool, when no service runs, uses it as it is:

    with Shard(folder, wall=time.time) as shard:
        shard.rows()
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from requiretls_mta.message.stored import Message
from requiretls_mta.queue import codec, files, tables, writing
from requiretls_mta.queue.changes import Accept, Change, Group, Leased, Settle
from requiretls_mta.queue.ids import EPOCHS, TICK, QueueIds, tick_of
from requiretls_mta.queue.schema import migrate
from requiretls_mta.queue.settings import QueueSettings
from requiretls_mta.queue.store import Lease, Row, StoreFull
from requiretls_mta.queue.writing import LEASED, NEVER, PENDING, SEQS

_STEP = 1.0
"""Seconds by which the clock must have gone back before the queue's times follow it."""


class NotLeased(Exception):
    """A settlement of a message that is not being attempted, or not any more."""


class Shard:
    """The messages in one folder; `wall` tells Unix seconds. Open it before anything else."""

    def __init__(self, folder: Path, *, wall: Callable[[], float], settings: QueueSettings | None = None) -> None:
        self.folder = folder
        self.files = files.BodyFiles(folder / "bodies")
        self.settings = settings or QueueSettings()
        self.commits = 0
        """Transactions that wrote messages or outcomes."""
        self.octets: Callable[[str, int, int], bytes] = self._octets
        """Reads bodies out of the database, on behalf of the messages that are handed out."""
        self._wall = wall
        self._lock: int | None = None
        self._db: sqlite3.Connection
        self._ids: QueueIds
        self._seq = 0
        self._latest = 0.0
        self._leased: dict[str, Leased] = {}

    def __enter__(self) -> Shard:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- opening and closing ------------------------------------------------------------------------------------------
    @property
    def path(self) -> Path:
        """The database."""
        return self.folder / "queue.db"

    @property
    def lock(self) -> int:
        """The descriptor that holds the lock."""
        assert self._lock is not None
        return self._lock

    def open(self) -> None:
        """Create what is missing, lock, migrate, remove what was left half-written.

        Raises `StoreLocked`, `SchemaError`, `StoreFull`, or an `OSError` or `sqlite3.Error` that names the path.
        """
        files.private_folder(self.folder)
        files.private_folder(self.files.folder)
        self._lock = files.lock(self.folder / "lock")
        try:
            # SQLite gives its other files the mode of this one.
            os.close(files.private_file(self.path, os.O_RDWR))
            self._db = writing.connect(str(self.path))
            try:
                self._begin()
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as error:
            self._unlock()
            raise self.trouble(error) from error
        except BaseException:
            self._unlock()
            raise

    def close(self) -> None:
        """Let go of everything; leases end."""
        self._leased.clear()
        try:
            # On a full disk this fails and is not missed: it only keeps ids in order when the clock is set back.
            with contextlib.suppress(sqlite3.Error), self._transaction():
                writing.keep(self._db, "tick", self._ids.last)
                writing.keep(self._db, "wall", codec.write_time(self._latest))
        finally:
            self._db.close()
            self._unlock()

    def _begin(self) -> None:
        db = self._db
        db.execute("PRAGMA page_size = 8192").close()
        db.execute("PRAGMA journal_mode = WAL").close()
        writing.prepare(db)
        migrate(db, str(self.path))
        meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
        # Each maximum in a query of its own: only then does it come from the index.
        newest, message, body = db.execute(
            "SELECT (SELECT max(id) FROM message), (SELECT max(seq) FROM message), (SELECT max(message) FROM body)"
        ).fetchall()[0]
        self._seq = max(message or 0, body or 0)
        epoch = (meta.get("epoch", secrets.randbelow(EPOCHS)) + 1) % EPOCHS
        with self._transaction():
            writing.keep(self._db, "epoch", epoch)
            # Leases end with the process that held them.
            writing.set_due(self._db, "due = ?", LEASED)
        self._ids = QueueIds(self._wall, epoch, max(meta.get("tick", 0), tick_of(newest or "")))
        # After a crash the newest message may be all that tells how late it was.
        self._latest = max(codec.read_time(meta.get("wall", 0)), tick_of(newest or "") * TICK)
        self.files.remove_orphans(self._has_file)

    def _has_file(self, message_id: str) -> bool:
        return bool(self._db.execute("SELECT 1 FROM message WHERE id = ? AND in_file <> 0", (message_id,)).fetchall())

    def _unlock(self) -> None:
        fd, self._lock = self._lock, None
        if fd is not None:
            os.close(fd)

    def new_id(self) -> str:
        """A queue id that was never given before."""
        return self._ids.new()

    # --- changes ------------------------------------------------------------------------------------------------------
    def apply(self, changes: Sequence[Change]) -> list[Exception | None]:
        """Make all changes durable, if possible in one transaction; one that fails is told, and hurts no other."""
        results: list[Exception | None] = [None] * len(changes)
        good: list[int] = []
        ending: set[str] = set()
        for index, change in enumerate(changes):
            if isinstance(change, Settle) and (change.id in ending or change.id not in self._leased):
                results[index] = NotLeased(f"message {change.id} is not leased")
                continue
            if isinstance(change, Settle):
                ending.add(change.id)
            good.append(index)
        if not good:
            return results
        trouble = self._try([changes[index] for index in good])
        for index in good if trouble is not None else ():
            results[index] = self._try([changes[index]]) if len(good) > 1 else trouble
        return results

    def gather(self, changes: Sequence[Change]) -> Group | None:
        """All changes as one group, to be written by whom it may be and then concluded; None: `apply` has to do it.

        Does not block: what concerns files as well is not for this.
        """
        if any(rows.body is not None for change in changes for rows in change.entering):
            return None
        ending = [change.id for change in changes if isinstance(change, Settle)]
        if len(set(ending)) < len(ending) or not self._leased.keys() >= set(ending):
            return None
        group = Group(self._seq)
        self._gather(group, changes)
        return None if group.unlinked else group

    def conclude(self, group: Group) -> None:
        """The group is in the tables."""
        self._seq = group.seq
        self.commits += 1
        for message_id in group.ended:
            del self._leased[message_id]
        self._leased |= group.leases
        for message_id in group.unlinked:
            self.files.discard(message_id)

    def has(self, group: Group) -> bool:
        """Whether the group is in the tables, as far as it cannot be written once more without harm."""
        seq = [message[0] for message in group.messages[:1]]
        return bool(seq and self._db.execute("SELECT 1 FROM message WHERE seq = ?", seq).fetchall())

    def _try(self, changes: Sequence[Change]) -> Exception | None:
        group = Group(self._seq)
        try:
            self._gather(group, changes)
            if group.placed:
                files.sync_folder(self.files.folder)
            writing.write(self._db, group.changes)
        except Exception as error:
            for message_id in group.placed:
                self.files.discard(message_id)
            return self.trouble(error)
        self.conclude(group)
        return None

    def _gather(self, group: Group, changes: Sequence[Change]) -> None:
        for change in changes:
            for rows in change.entering:
                if rows.body is not None:
                    self.files.place(rows.id, rows.body)
                    group.placed.append(rows.id)
                group.add(rows, lease=isinstance(change, Accept) and change.lease)
            if isinstance(change, Settle):
                group.settle(change, self._leased[change.id])
        if group.updates:
            self._latest = max(self._latest, self._wall())
            group.latest = codec.write_time(self._latest)

    # --- work to be done ----------------------------------------------------------------------------------------------
    def claim(self, limit: int, now: float) -> tuple[Lease, ...]:
        """Lease at most `limit` messages with due recipients, the longest due first."""
        self._follow_clock(now)
        micros = codec.write_time(now)
        leases, leased, wrong = [], {}, []
        for found in self._find("WHERE held = 0 AND due <= ? ORDER BY due LIMIT ?", micros, limit):
            pending = [entry for entry in found.entries if entry.state not in codec.SETTLED]
            due = tuple(entry for entry in pending if codec.write_time(entry.next_attempt) <= micros)
            if not due:
                wrong.append(found.seq)
                continue
            leased[found.message.id] = Leased(found.seq, frozenset(e.number for e in pending), found.in_file)
            leases.append(Lease(message=found.message, entries=due))
        if leased or wrong:
            with self._unsynced():
                seqs = json.dumps([one.seq for one in leased.values()])
                self._db.execute(f"UPDATE message SET due = {LEASED} WHERE seq IN {SEQS}", (seqs,))
                writing.set_due(self._db, f"seq IN {SEQS}", json.dumps(wrong))
            self._leased |= leased
        return tuple(leases)

    def lease(self, message_id: str) -> Lease | None:
        """Lease a message with all its open recipients, due and held or not; None: there is none, or it is leased."""
        found = None if message_id in self._leased else next(iter(self._find("WHERE id = ?", message_id)), None)
        pending = [entry for entry in found.entries if entry.state not in codec.SETTLED] if found else []
        if found is None or not pending:
            return None
        with self._unsynced():
            self._db.execute(f"UPDATE message SET due = {LEASED} WHERE seq = ?", (found.seq,))
        self._leased[message_id] = Leased(found.seq, frozenset(entry.number for entry in pending), found.in_file)
        return Lease(message=found.message, entries=tuple(pending))

    def release(self, message_ids: Sequence[str]) -> None:
        """Give leases back that nobody will use."""
        seqs = [self._leased[message_id].seq for message_id in message_ids if message_id in self._leased]
        if seqs:
            with self._unsynced():
                writing.set_due(self._db, f"seq IN {SEQS}", json.dumps(seqs))
        for message_id in message_ids:
            self._leased.pop(message_id, None)

    def next_due(self) -> float | None:
        """When the next message that is not leased is due; None when there is none."""
        chosen = f"SELECT due FROM message WHERE held = 0 AND due < {NEVER} ORDER BY due LIMIT 1"
        rows = self._db.execute(chosen).fetchall()
        return codec.read_time(rows[0][0]) if rows else None

    def _follow_clock(self, now: float) -> None:
        """When the clock was set back, the stored times go back with it: no retry waits longer than its own pause."""
        if self._latest - now > _STEP:
            back, after = codec.write_time(self._latest - now), codec.write_time(now)
            with self._transaction():
                self._db.execute(
                    "UPDATE recipient SET next_attempt = max(next_attempt - ?, 0) WHERE next_attempt > ?", (back, after)
                )
                writing.set_due(self._db, f"due > ? AND due < {NEVER}", after)
            self._latest = now
        self._latest = max(self._latest, now)

    # --- the tool's verbs ---------------------------------------------------------------------------------------------
    def rows(self) -> tuple[Row, ...]:
        """All queued messages, by id."""
        return tuple(tables.read_rows(self._find))

    def message(self, message_id: str) -> Message | None:
        """One queued message, to show it."""
        found = self._find("WHERE id = ?", message_id)
        return found[0].message if found else None

    def retry(self, message_id: str, now: float) -> int:
        """Make one message due now; how many there were."""
        return self._retry("id = ?", (message_id,), now)

    def retry_some(self, after: int, now: float) -> tuple[int, int | None]:
        """Make the next messages behind number `after` due; how many, and where to go on (None: nowhere)."""
        last = self._db.execute(
            "SELECT max(seq) FROM (SELECT seq FROM message WHERE seq > ? ORDER BY seq LIMIT 2000)", (after,)
        ).fetchall()[0][0]
        return (0, None) if last is None else (self._retry("seq > ? AND seq <= ?", (after, last), now), last)

    def retry_all(self, now: float) -> int:
        """Make all messages due now; how many there were."""
        count, after = 0, 0
        while True:
            more, last = self.retry_some(after, now)
            if last is None:
                return count
            count, after = count + more, last

    def hold(self, message_id: str, held: bool) -> bool:
        """Hold a message back, or release it; False when there is none."""
        with self._transaction():
            return self._db.execute("UPDATE message SET held = ? WHERE id = ?", (int(held), message_id)).rowcount > 0

    def remove(self, message_id: str) -> bool:
        """Delete a message without a report; False when there is none, or it is being attempted now."""
        if message_id in self._leased:
            return False
        found = self._find("WHERE id = ?", message_id)
        if not found:
            return False
        with self._transaction():
            writing.delete(self._db, [found[0].seq])
        if found[0].in_file:
            self.files.discard(message_id)
        return True

    def _retry(self, where: str, parameters: tuple[Any, ...], now: float) -> int:
        micros = codec.write_time(now)
        with self._transaction():
            self._db.execute(
                f"UPDATE recipient SET next_attempt = ? WHERE {PENDING}"
                f" AND message IN (SELECT seq FROM message WHERE {where})",
                (micros, *parameters),
            )
            changed = self._db.execute(
                f"UPDATE message SET due = iif(due = {LEASED}, due, ?) WHERE {where}", (micros, *parameters)
            )
            return changed.rowcount

    # --- inside -------------------------------------------------------------------------------------------------------
    def _find(self, chosen: str, *parameters: Any) -> list[tables.Found]:
        return tables.find(self._db, chosen, parameters, tables.Bodies(self.octets, self.files.folder))

    def _octets(self, message_id: str, offset: int, length: int) -> bytes:
        return tables.octets(self._db, message_id, offset, length)

    def _transaction(self) -> writing.Transaction:
        return writing.Transaction(self._db)

    @contextlib.contextmanager
    def _unsynced(self) -> Iterator[None]:
        """A transaction that need not survive a power cut: opening the queue comes to the same."""
        self._db.execute("PRAGMA synchronous = NORMAL").close()
        try:
            with self._transaction():
                yield
        finally:
            self._db.execute("PRAGMA synchronous = FULL").close()

    def trouble(self, error: Exception) -> Exception:
        """`StoreFull` for what means that; other errors as they are, with the path in a database error's text."""
        match error:
            case sqlite3.Error() if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
                return StoreFull(f"{self.path}: {error}")
            case sqlite3.Error() if str(self.path) not in str(error):
                return type(error)(f"{self.path}: {error}")
            case OSError():
                return files.full_or_same(error, self.folder)
            case _:
                return error
