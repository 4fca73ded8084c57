"""What a group of changes does to the tables, in one transaction; run as a program, the process that does it.

    python writing.py QUEUE.DB      # changes come in on descriptor 0, a UNIX socket, and what became of them goes back

A thread of the service would do, but for Python's interpreter lock: each turn that the thread gets of it, between two
statements of SQLite, costs a busy reactor more than its own work on the message. The program needs nothing but the
standard library, so that it starts at once and stays small.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import marshal
import os
import signal
import socket
import sqlite3
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

ROWS = 128
"""Messages of one INSERT: its parse tree is kept for the next group of the same size."""
PENDING = "state NOT IN ('delivered', 'failed')"
SEQS = "(SELECT value FROM json_each(?))"
"""A list of numbers bound as one JSON text."""
NEVER = 4 * 10**18
"""Due never, in microseconds: nobody is left to be attempted."""
LEASED = NEVER + 1
"""Due when the lease ends; at the latest when the queue is opened anew."""

Changes = tuple[Sequence[Any], Sequence[Any], Sequence[int], Sequence[int], int]
"""Plain values: messages (columns of the view `entering`), recipients (message, number, state, next attempt, last
reply, warned, tried), messages whose recipients those are, messages to be removed, and how late it was."""
LENGTH = 4
"""Octets in front of each piece that goes over the socket: its length, big-endian."""


def connect(path: str) -> sqlite3.Connection:
    """A connection for one thread at a time; transactions are begun explicitly."""
    db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False, cached_statements=64)
    # Text is never trusted to be UTF-8: a damaged value must not stop the queue.
    db.text_factory = lambda octets: octets.decode("utf-8", "replace")
    db.execute("PRAGMA synchronous = FULL").close()
    db.execute("PRAGMA cache_size = -8192").close()
    return db


def prepare(db: sqlite3.Connection) -> None:
    """What a connection that changes messages needs besides."""
    # Debian's SQLite overwrites what is deleted, which doubles the cost of every message that leaves the queue.
    db.execute("PRAGMA secure_delete = OFF").fetchall()
    db.execute("PRAGMA wal_autocheckpoint = 8000").fetchall()


class Transaction:
    """BEGIN and COMMIT around a block; whatever goes wrong, COMMIT included, the connection is usable afterwards."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._db.execute("COMMIT")
        finally:
            # After some errors SQLite has rolled back by itself.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")


def write(db: sqlite3.Connection, changes: Changes) -> None:
    """Make all changes durable, or none. Statements over many rows: a group must not cost a call for each."""
    messages, updates, updated, removed, latest = changes
    if len(messages) <= ROWS and not updated and not removed:
        # One statement is a transaction by itself, and one release of the interpreter's lock.
        enter(db, messages)
        return
    with Transaction(db):
        enter(db, messages)
        if updates:
            db.execute(
                "UPDATE recipient SET attempts = attempts + 1, state = new.s, next_attempt = new.t,"
                " last_reply = new.r, warned = new.w, tried = new.e FROM (SELECT"
                " json_extract(value, '$[0]') AS m, json_extract(value, '$[1]') AS n,"
                " json_extract(value, '$[2]') AS s, json_extract(value, '$[3]') AS t,"
                " json_extract(value, '$[4]') AS r, json_extract(value, '$[5]') AS w,"
                " json_extract(value, '$[6]') AS e FROM json_each(?)) AS new"
                " WHERE message = new.m AND number = new.n",
                (json.dumps(updates),),
            )
            keep(db, "wall", latest)
        if updated:
            set_due(db, f"seq IN {SEQS}", json.dumps(updated))
        if removed:
            delete(db, removed)


def enter(db: sqlite3.Connection, messages: Sequence[Sequence[Any]]) -> None:
    """Insert messages with their recipients and bodies (columns of the view `entering`), up to `ROWS` a statement."""
    for start in range(0, len(messages), ROWS):
        part = messages[start : start + ROWS]
        db.execute(_insertion(len(part[0]), len(part)), list(itertools.chain.from_iterable(part)))


def set_due(db: sqlite3.Connection, where: str, *parameters: Any) -> None:
    """Messages are due when the first of their pending recipients is."""
    # A message without recipients to attempt (there is none, but for damage) must not come up again and again.
    first = f"SELECT min(next_attempt) FROM recipient WHERE message = seq AND {PENDING}"
    db.execute(f"UPDATE message SET due = coalesce(({first}), {NEVER}) WHERE {where}", parameters)


def delete(db: sqlite3.Connection, seqs: Sequence[int]) -> None:
    """Remove messages."""
    chosen = (json.dumps(seqs),)
    db.execute(f"DELETE FROM recipient WHERE message IN {SEQS}", chosen)
    db.execute(f"DELETE FROM body WHERE message IN {SEQS}", chosen)
    db.execute(f"DELETE FROM message WHERE seq IN {SEQS}", chosen)


def keep(db: sqlite3.Connection, key: str, value: int) -> None:
    """Remember a number."""
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


@functools.lru_cache(maxsize=ROWS)
def _insertion(columns: int, rows: int) -> str:
    row = f"({','.join('?' * columns)})"
    return f"INSERT INTO entering VALUES {','.join([row] * rows)}"


# --- the process ------------------------------------------------------------------------------------------------------
def pack(value: Any) -> bytes:
    """A plain value as it goes over the socket, between two processes of the same Python."""
    octets = marshal.dumps(value)
    return len(octets).to_bytes(LENGTH, "big") + octets


def serve(db: sqlite3.Connection, changes: socket.socket) -> None:
    """Write group after group until the other side is gone; each is answered: "" once it is durable, else why not."""
    with changes.makefile("rb", buffering=256 * 1024) as incoming:
        changes.sendall(pack(""))
        while len(length := incoming.read(LENGTH)) == LENGTH:
            size = int.from_bytes(length, "big")
            if len(octets := incoming.read(size)) < size:
                return
            try:
                write(db, marshal.loads(octets))  # noqa: S302  # from our own process
                answer = ""
            except (sqlite3.Error, OverflowError) as error:
                answer = f"{type(error).__name__}: {error}"
            changes.sendall(pack(answer))


def main() -> None:
    """The program."""
    # Whoever stops the service stops this by hanging up: a group that was begun is written.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    db = connect(sys.argv[1])
    prepare(db)
    with contextlib.suppress(ConnectionError):  # nobody waits for the answer any more
        serve(db, socket.socket(fileno=0))
    # At once: a last look at the tables, as closing them means, would only keep a new service waiting for the lock.
    os._exit(0)


if __name__ == "__main__":
    main()
