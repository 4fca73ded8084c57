"""A shard: one SQLite database and its folder of bodies, locked by the process that owns it. Synchronous throughout."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from requiretls_mta.message.outcome import Delivered
from requiretls_mta.message.ports import Body
from requiretls_mta.message.stored import BytesBody, Message
from requiretls_mta.queue import codec
from requiretls_mta.queue.bodies import FileBody, sync_folder
from requiretls_mta.queue.schema import migrate
from requiretls_mta.queue.store import Entry, Lease, Row, Settlement, StoreError

_MESSAGE = ", ".join(codec.MESSAGE_COLUMNS)
_INSERT_MESSAGE = f"INSERT INTO message ({_MESSAGE}) VALUES ({', '.join('?' * len(codec.MESSAGE_COLUMNS))})"
_INSERT_RECIPIENT = (
    f"INSERT INTO recipient ({', '.join(codec.RECIPIENT_COLUMNS)}) "
    f"VALUES ({', '.join('?' * len(codec.RECIPIENT_COLUMNS))})"
)
_SELECT_MESSAGE = f"SELECT {_MESSAGE} FROM message WHERE id = ?"
_BODY, _SIZE = codec.MESSAGE_COLUMNS.index("body"), codec.MESSAGE_COLUMNS.index("content")
_SELECT_RECIPIENTS = (
    "SELECT number, local, domain, notify, orcpt, state, attempts, next_attempt, last_reply "
    "FROM recipient WHERE message = ? ORDER BY number"
)
_DUE = "SELECT message, next_attempt FROM recipient WHERE next_attempt IS NOT NULL ORDER BY next_attempt"
_SETTLE = (
    "UPDATE recipient SET state = ?, attempts = attempts + 1, next_attempt = ?, last_reply = ? "
    "WHERE message = ? AND number = ?"
)


class Shard:
    """The queue of one process. `begin` and `commit` bracket what changes it; the caller groups."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bodies = folder / "bodies"
        self._lock = -1
        self._connection: sqlite3.Connection | None = None
        self.leased: dict[str, float] = {}
        """Messages handed out, and until when (Unix seconds) they are not handed out again."""
        self._unlink: list[Path] = []

    @property
    def db(self) -> sqlite3.Connection:
        """The open database."""
        if self._connection is None:
            raise StoreError(f"{self.folder}: the queue is not open")
        return self._connection

    # --- open and close ---------------------------------------------------------------------------------------

    def open(self) -> None:
        """Lock, open, migrate, and remove bodies that no message has; raises `StoreError`."""
        try:
            for folder in (self.folder, self.bodies):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
            self._connection = self._connect()
            migrate(self._connection)
            self._remove_orphans()
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise StoreError(f"{self.folder}: the queue cannot be opened: {error}") from error
        except StoreError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of database and lock."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def _take_lock(self) -> None:
        path = self.folder / "lock"
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{path}: another process owns this queue") from None

    def _connect(self) -> sqlite3.Connection:
        path = self.folder / "queue.db"
        # SQLite makes its files as the database is, whatever the umask.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "cache_size = -16384",
            # Spilling would write, and wait for the disk, outside the commit.
            "cache_spill = OFF",
            "journal_size_limit = 67108864",
        ):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def _remove_orphans(self) -> None:
        """A body without a row was never acknowledged."""
        removed = False
        with os.scandir(self.bodies) as entries:
            for entry in entries:
                known = self.db.execute("SELECT 1 FROM message WHERE id = ?", (entry.name,)).fetchone()
                if not known:
                    Path(entry.path).unlink(missing_ok=True)
                    removed = True
        if removed:
            sync_folder(self.bodies)

    # --- changes, between begin and commit --------------------------------------------------------------------

    def begin(self) -> None:
        """Open a transaction."""
        self.db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make it durable; the only call that waits for the disk."""
        self.db.execute("COMMIT")

    def committed(self) -> None:
        """After the commit: bodies of messages that are no more go."""
        paths, self._unlink = self._unlink, []
        for path in paths:
            path.unlink(missing_ok=True)

    def rollback(self) -> None:
        """Undo all since `begin`."""
        self._unlink.clear()
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")

    def insert(self, messages: Sequence[Message]) -> None:
        """Add messages; a body in memory becomes part of the row."""
        rows = [
            codec.message_row(m, None if isinstance(m.body, FileBody) else m.body.read(0, m.body.size))
            for m in messages
        ]
        self.db.executemany(_INSERT_MESSAGE, rows)
        self.db.executemany(_INSERT_RECIPIENT, [row for m in messages for row in codec.recipient_rows(m)])

    def settle(self, settlement: Settlement) -> None:
        """Recipient states and offspring of one lease; a message with nothing left to do is deleted."""
        message = settlement.lease.message
        finals = sum(settled.final for settled in settlement.settled)
        if finals == len(message.envelope.recipients):
            self._delete(message.id, message.body)
        else:
            for settled in settlement.settled:
                state = "queued"
                if settled.final:
                    state = "delivered" if isinstance(settled.outcome, Delivered) else "failed"
                due = None if settled.final else settled.next_attempt
                reply = str(settled.outcome.reply)[:1000]
                self.db.execute(_SETTLE, (state, due, reply, message.id, settled.number))
            if finals and not self._is_queued(message.id):
                self._delete(message.id, message.body)
        self.insert(settlement.offspring)

    def retry(self, message_id: str | None, now: float) -> int:
        """Make due now; how many messages."""
        where, values = ("", ()) if message_id is None else (" AND message = ?", (message_id,))
        due = "FROM recipient WHERE next_attempt IS NOT NULL" + where
        (count,) = self.db.execute(f"SELECT count(DISTINCT message) {due}", values).fetchone()
        self.db.execute(f"UPDATE recipient SET next_attempt = ? WHERE next_attempt IS NOT NULL{where}", (now, *values))
        return int(count)

    def hold(self, message_id: str, held: bool, now: float) -> bool:
        """A held message has no due recipients; a released one is due now."""
        found = self.db.execute("UPDATE message SET held = ? WHERE id = ?", (held, message_id)).rowcount > 0
        self.db.execute(
            "UPDATE recipient SET next_attempt = ? WHERE message = ? AND state = 'queued'",
            (None if held else now, message_id),
        )
        return found

    def remove(self, message_id: str, now: float) -> bool:
        """Delete without a report; not what is being attempted."""
        row = self.db.execute(_SELECT_MESSAGE, (message_id,)).fetchone()
        if row is None or self.leased.get(message_id, 0) > now:
            return False
        self._delete(message_id, self._body(row))
        return True

    def _is_queued(self, message_id: str) -> bool:
        query = "SELECT 1 FROM recipient WHERE message = ? AND state = 'queued' LIMIT 1"
        return self.db.execute(query, (message_id,)).fetchone() is not None

    def _delete(self, message_id: str, body: Body) -> None:
        self.db.execute("DELETE FROM message WHERE id = ?", (message_id,))
        self.db.execute("DELETE FROM recipient WHERE message = ?", (message_id,))
        if isinstance(body, FileBody):
            self._unlink.append(body.path)

    # --- reading ----------------------------------------------------------------------------------------------

    def claim(self, limit: int, now: float) -> tuple[Lease, ...]:
        """Hand out messages with due recipients, the longest due first."""
        due: dict[str, None] = {}
        for message_id, next_attempt in self.db.execute(_DUE):
            if next_attempt > now or len(due) >= limit:
                break
            if self.leased.get(message_id, 0) <= now:
                due[message_id] = None
        leases = []
        for message_id in due:
            lease = self._lease(message_id, now)
            if lease is not None:
                self.leased[message_id] = float("inf")
                leases.append(lease)
        return tuple(leases)

    def next_due(self, now: float) -> float | None:
        """When the next recipient is due that is not handed out."""
        for message_id, next_attempt in self.db.execute(_DUE):
            until = self.leased.get(message_id, 0)
            if until <= now:
                return float(next_attempt)
            if until != float("inf"):
                return max(until, float(next_attempt))
        return None

    def message(self, message_id: str) -> Message | None:
        """One message, whole."""
        row = self.db.execute(_SELECT_MESSAGE, (message_id,)).fetchone()
        if row is None:
            return None
        recipients = tuple(entry.recipient for entry in self._entries(message_id))
        return codec.read_message(row, recipients, self._body(row))

    def rows(self) -> tuple[Row, ...]:
        """All messages as the tool shows them, by id."""
        found = []
        query = "SELECT id, sender, size, received, tag, held FROM message ORDER BY id"
        for message_id, sender, size, received, tag, held in self.db.execute(query).fetchall():
            read = codec.read_tag(tag)
            found.append(
                Row(
                    id=message_id,
                    sender=codec.read_sender(sender),
                    size=size,
                    received=received,
                    tag=read.value if read else None,
                    held=bool(held),
                    entries=tuple(self._entries(message_id)),
                )
            )
        return tuple(found)

    def _lease(self, message_id: str, now: float) -> Lease | None:
        row = self.db.execute(_SELECT_MESSAGE, (message_id,)).fetchone()
        if row is None:
            return None
        entries = self._entries(message_id)
        due = tuple(e for e in entries if e.state == "queued" and e.next_attempt <= now)
        return Lease(message=codec.read_message(row, tuple(e.recipient for e in entries), self._body(row)), entries=due)

    def _entries(self, message_id: str) -> list[Entry]:
        return [
            Entry(
                number=number,
                recipient=codec.read_recipient(local, domain, notify, orcpt),
                state=state,
                attempts=attempts,
                next_attempt=next_attempt or 0.0,
                last_reply=last_reply,
            )
            for number, local, domain, notify, orcpt, state, attempts, next_attempt, last_reply in self.db.execute(
                _SELECT_RECIPIENTS, (message_id,)
            )
        ]

    def _body(self, row: tuple[Any, ...]) -> Body:
        blob = row[_BODY]
        if blob is not None:
            return BytesBody(blob)
        return FileBody(self.bodies / row[0], codec.read_size(row[_SIZE]))
