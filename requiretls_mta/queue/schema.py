"""The tables of the embedded queue, and the way from one version of them to the next."""

from __future__ import annotations

import sqlite3

from requiretls_mta.queue.store import StoreError

_VERSION_1 = """
CREATE TABLE message (
    id TEXT PRIMARY KEY,
    sender TEXT,                -- JSON [local, domain]; NULL: the empty reverse path
    tag TEXT,
    parameters TEXT NOT NULL,   -- JSON: BODY, SMTPUTF8, RET, ENVID, SIZE
    prepend BLOB NOT NULL,
    cuts TEXT,                  -- JSON [[start, end], ...]
    content TEXT NOT NULL,      -- JSON
    body BLOB,                  -- NULL: a file in the folder of bodies
    size INTEGER NOT NULL,
    received REAL NOT NULL,
    origin TEXT NOT NULL,
    parent TEXT,
    listener TEXT NOT NULL,
    held INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE recipient (
    message TEXT NOT NULL,
    number INTEGER NOT NULL,
    local TEXT NOT NULL,
    domain TEXT NOT NULL,
    notify TEXT,
    orcpt TEXT,
    state TEXT NOT NULL DEFAULT 'queued',
    attempts INTEGER NOT NULL DEFAULT 0,
    next_attempt REAL,          -- NULL: settled for good
    last_reply TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (message, number)
) WITHOUT ROWID;
CREATE INDEX recipient_due ON recipient (next_attempt) WHERE next_attempt IS NOT NULL;
"""

MIGRATIONS = (_VERSION_1,)
"""The script that makes version n + 1 out of version n; applied one transaction each."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables to the newest version; raises `StoreError` when they are newer than this program."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise StoreError(f"the queue has schema version {version}; this program knows up to {len(MIGRATIONS)}")
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        connection.executescript(f"BEGIN IMMEDIATE;{script}PRAGMA user_version = {number};COMMIT;")
