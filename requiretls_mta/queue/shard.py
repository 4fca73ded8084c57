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
from requiretls_mta.queue import codec, files, tables
from requiretls_mta.queue.changes import Accept, Change, Group, Leased, Rows, Settle
from requiretls_mta.queue.ids import EPOCHS, TICK, QueueIds, tick_of
from requiretls_mta.queue.schema import migrate
from requiretls_mta.queue.settings import QueueSettings
from requiretls_mta.queue.store import Lease, Row, StoreFull

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
            self._db = tables.connect(self.path)
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
                self._keep("tick", self._ids.last)
                self._keep("wall", codec.write_time(self._latest))
        finally:
            self._db.close()
            self._unlock()

    def _begin(self) -> None:
        db = self._db
        db.execute("PRAGMA page_size = 8192").close()
        db.execute("PRAGMA journal_mode = WAL").close()
        # Debian's SQLite overwrites what is deleted, which doubles the cost of every message that leaves the queue.
        db.execute("PRAGMA secure_delete = OFF").fetchall()
        db.execute("PRAGMA wal_autocheckpoint = 8000").fetchall()
        migrate(db, str(self.path))
        meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
        # Each maximum in a query of its own: only then does it come from the index.
        newest, message, body = db.execute(
            "SELECT (SELECT max(id) FROM message), (SELECT max(seq) FROM message), (SELECT max(message) FROM body)"
        ).fetchall()[0]
        self._seq = max(message or 0, body or 0)
        epoch = (meta.get("epoch", secrets.randbelow(EPOCHS)) + 1) % EPOCHS
        with self._transaction():
            self._keep("epoch", epoch)
            # Leases end with the process that held them.
            self._set_due("due = ?", codec.LEASED)
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

    def _keep(self, key: str, value: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

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

    def _try(self, changes: Sequence[Change]) -> Exception | None:
        group = Group(self._seq)
        try:
            for change in changes:
                match change:
                    case Accept():
                        self._enter(group, change.rows, lease=change.lease)
                    case Settle():
                        self._enter(group, change.offspring, lease=False)
                        group.settle(change, self._leased[change.id])
            if group.placed:
                files.sync_folder(self.files.folder)
            self._write(group)
        except Exception as error:
            for message_id in group.placed:
                self.files.discard(message_id)
            return self.trouble(error)
        self._seq = group.seq
        self.commits += 1
        for message_id in group.ended:
            del self._leased[message_id]
        self._leased |= group.leases
        for message_id in group.unlinked:
            self.files.discard(message_id)
        return None

    def _enter(self, group: Group, messages: Sequence[Rows], *, lease: bool) -> None:
        for rows in messages:
            if rows.body is not None:
                self.files.place(rows.id, rows.body)
                group.placed.append(rows.id)
            group.add(rows, lease=lease)

    def _write(self, group: Group) -> None:
        db = self._db
        if len(group.messages) <= tables.ROWS and not group.ended:
            # One statement is a transaction by itself, and one release of the interpreter's lock.
            tables.enter(db, group.messages)
            return
        with self._transaction():
            tables.enter(db, group.messages)
            if group.updates:
                db.execute(
                    "UPDATE recipient SET attempts = attempts + 1, state = new.s, next_attempt = new.t,"
                    " last_reply = new.r, warned = new.w, tried = new.e FROM (SELECT"
                    " json_extract(value, '$[0]') AS m, json_extract(value, '$[1]') AS n,"
                    " json_extract(value, '$[2]') AS s, json_extract(value, '$[3]') AS t,"
                    " json_extract(value, '$[4]') AS r, json_extract(value, '$[5]') AS w,"
                    " json_extract(value, '$[6]') AS e FROM json_each(?)) AS new"
                    " WHERE message = new.m AND number = new.n",
                    (json.dumps(group.updates),),
                )
                self._latest = max(self._latest, self._wall())
                self._keep("wall", codec.write_time(self._latest))
            if group.updated:
                self._set_due(f"seq IN {tables.SEQS}", json.dumps(group.updated))
            if group.removed:
                self._delete(group.removed)

    def _set_due(self, where: str, *parameters: Any) -> None:
        # A message without recipients to attempt (there is none, but for damage) must not come up again and again.
        first = f"SELECT min(next_attempt) FROM recipient WHERE message = seq AND {tables.PENDING}"
        self._db.execute(f"UPDATE message SET due = coalesce(({first}), {codec.NEVER}) WHERE {where}", parameters)

    def _delete(self, seqs: Sequence[int]) -> None:
        chosen = (json.dumps(seqs),)
        self._db.execute(f"DELETE FROM recipient WHERE message IN {tables.SEQS}", chosen)
        self._db.execute(f"DELETE FROM body WHERE message IN {tables.SEQS}", chosen)
        self._db.execute(f"DELETE FROM message WHERE seq IN {tables.SEQS}", chosen)

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
                self._db.execute(f"UPDATE message SET due = {codec.LEASED} WHERE seq IN {tables.SEQS}", (seqs,))
                self._set_due(f"seq IN {tables.SEQS}", json.dumps(wrong))
            self._leased |= leased
        return tuple(leases)

    def release(self, message_ids: Sequence[str]) -> None:
        """Give leases back that nobody will use."""
        seqs = [self._leased[message_id].seq for message_id in message_ids if message_id in self._leased]
        if seqs:
            with self._unsynced():
                self._set_due(f"seq IN {tables.SEQS}", json.dumps(seqs))
        for message_id in message_ids:
            self._leased.pop(message_id, None)

    def next_due(self) -> float | None:
        """When the next message that is not leased is due; None when there is none."""
        chosen = f"SELECT due FROM message WHERE held = 0 AND due < {codec.NEVER} ORDER BY due LIMIT 1"
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
                self._set_due(f"due > ? AND due < {codec.NEVER}", after)
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
            self._delete([found[0].seq])
        if found[0].in_file:
            self.files.discard(message_id)
        return True

    def _retry(self, where: str, parameters: tuple[Any, ...], now: float) -> int:
        micros = codec.write_time(now)
        with self._transaction():
            self._db.execute(
                f"UPDATE recipient SET next_attempt = ? WHERE {tables.PENDING}"
                f" AND message IN (SELECT seq FROM message WHERE {where})",
                (micros, *parameters),
            )
            changed = self._db.execute(
                f"UPDATE message SET due = iif(due = {codec.LEASED}, due, ?) WHERE {where}", (micros, *parameters)
            )
            return changed.rowcount

    # --- inside -------------------------------------------------------------------------------------------------------
    def _find(self, chosen: str, *parameters: Any) -> list[tables.Found]:
        return tables.find(self._db, chosen, parameters, tables.Bodies(self.octets, self.files.folder))

    def _octets(self, message_id: str, offset: int, length: int) -> bytes:
        return tables.octets(self._db, message_id, offset, length)

    def _transaction(self) -> tables.Transaction:
        return tables.Transaction(self._db)

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
