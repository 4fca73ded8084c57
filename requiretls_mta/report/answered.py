"""Who was answered automatically, and when (RFC 3834 2): nobody twice in a week, and not many in an hour."""

from __future__ import annotations

import hashlib
import sqlite3
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from requiretls_mta.report.ledger import Ledger

PAUSE = 7 * 86400.0
"""Seconds before a sender is answered again on behalf of the same recipient."""
HOUR = 3600.0
MOST_OF_ONE = 30
"""Replies in an hour on behalf of one recipient."""
MOST = 500
"""Replies in an hour in all; so that no more than 84,000 have to be remembered."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS answered (
    pair BLOB PRIMARY KEY, recipient BLOB NOT NULL, at REAL NOT NULL, message TEXT NOT NULL
) WITHOUT ROWID;
"""
Row = tuple[bytes, bytes, float, str]
"""Digests of sender and recipient together and of the recipient, Unix seconds, the queue id of what was answered."""


class Answered:
    """A `receive.responders.Memory` that outlives the process; it keeps digests of addresses. `wall`: Unix seconds."""

    def __init__(self, reactor: Any, path: Path, wall: Callable[[], float]) -> None:
        self._ledger = Ledger(reactor, path, SCHEMA)
        self._wall = wall
        self._known = False
        self._pairs: dict[bytes, Row] = {}
        """The oldest first."""
        self._recent: deque[tuple[float, bytes]] = deque()
        """When and for which recipient, in the last hour."""

    def start(self) -> Deferred[None]:
        """Remember; fires when that is done. Nobody is answered before, nor when nothing can be remembered."""
        self._ledger.start()
        return self._ledger.run(partial(_rows, since=self._wall() - PAUSE)).addCallback(self._loaded)

    def stop(self) -> None:
        """Write what there is to be written. Blocks."""
        self._ledger.stop()

    def silence(self, sender: str, recipient: str, message_id: str) -> str | None:
        """Why this message is not answered now; None: it may be."""
        now, pair = self._wall(), _digest(sender, recipient)
        row = self._pairs.get(pair)
        if row is not None and row[3] == message_id:  # it is attempted again, so the reply did not become durable
            return None
        if not self._known:
            return "it is not known who was answered"
        if row is not None and now < row[2] + PAUSE:
            return "the sender was answered within the last 7 days"
        while self._recent and self._recent[0][0] <= now - HOUR:
            self._recent.popleft()
        if len(self._recent) >= MOST or [who for _, who in self._recent].count(_digest(recipient)) >= MOST_OF_ONE:
            return "much was answered within the last hour"
        return None

    def note(self, sender: str, recipient: str, message_id: str) -> Deferred[bool]:
        """It is answered; fires with whether that is durable."""
        now, pair = self._wall(), _digest(sender, recipient)
        row = (pair, _digest(recipient), now, message_id)
        before = self._pairs.pop(pair, None)
        self._pairs[pair] = row
        if before is None or before[3] != message_id:
            self._recent.append((now, row[1]))
        while (oldest := next(iter(self._pairs.values())))[2] <= now - PAUSE:
            del self._pairs[oldest[0]]
        return self._ledger.run(partial(_write, row=row, before=now - PAUSE)).addCallback(bool)

    def _loaded(self, rows: list[Row] | None) -> None:
        if rows is None:
            return
        self._known = True
        self._pairs = {row[0]: row for row in rows} | self._pairs
        self._recent = deque((row[2], row[1]) for row in rows if row[2] > self._wall() - HOUR)


def _digest(*keys: str) -> bytes:
    return hashlib.blake2b("\n".join(keys).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _rows(connection: sqlite3.Connection, *, since: float) -> list[Row]:
    return connection.execute(
        "SELECT pair, recipient, at, message FROM answered WHERE at > ? ORDER BY at", (since,)
    ).fetchall()


def _write(connection: sqlite3.Connection, *, row: Row, before: float) -> bool:
    connection.execute("INSERT OR REPLACE INTO answered VALUES (?, ?, ?, ?)", row)
    connection.execute("DELETE FROM answered WHERE at <= ?", (before,))
    return True
