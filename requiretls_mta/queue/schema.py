"""The tables of a shard, their version, and the way from older ones to the present one."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

APPLICATION_ID = 0x52544C53
"""`RTLS`, in the file's header: this is a queue of ours and nothing else."""

_FIRST = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE message (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    parent TEXT,
    origin TEXT NOT NULL,
    listener TEXT NOT NULL,
    received INTEGER NOT NULL,
    tag TEXT NOT NULL,
    envelope TEXT NOT NULL,
    content TEXT NOT NULL,
    prepend BLOB NOT NULL,
    size INTEGER NOT NULL,
    in_file INTEGER NOT NULL,
    held INTEGER NOT NULL,
    due INTEGER NOT NULL
);
CREATE INDEX message_due ON message (due) WHERE held = 0;
CREATE TABLE recipient (
    message INTEGER NOT NULL,
    number INTEGER NOT NULL,
    recipient TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    next_attempt INTEGER NOT NULL,
    last_reply TEXT NOT NULL,
    warned INTEGER NOT NULL,
    tried TEXT NOT NULL,
    PRIMARY KEY (message, number)
) WITHOUT ROWID;
CREATE TABLE body (message INTEGER PRIMARY KEY, octets BLOB NOT NULL);
CREATE VIEW entering AS SELECT *, NULL AS recipients, NULL AS octets FROM message;
CREATE TRIGGER enter INSTEAD OF INSERT ON entering BEGIN
    INSERT INTO message VALUES (new.seq, new.id, new.parent, new.origin, new.listener, new.received, new.tag,
        new.envelope, new.content, new.prepend, new.size, new.in_file, new.held, new.due);
    INSERT INTO recipient SELECT new.seq, key, value, 'queued', 0, new.received, '', 0, ''
        FROM json_each(new.recipients);
    INSERT INTO body SELECT new.seq, new.octets WHERE new.octets IS NOT NULL;
END;
"""

MIGRATIONS: Sequence[str] = (_FIRST,)
"""Step n leads from version n to version n + 1; a step that was released is never changed."""


class SchemaError(Exception):
    """The queue's file was not written by this program, or by a newer version of it; the message says which."""


def migrate(db: sqlite3.Connection, path: str, steps: Sequence[str] = MIGRATIONS) -> None:
    """Bring the tables to the newest version, each step in a transaction of its own; raises `SchemaError`."""
    version, application, objects = db.execute(
        "SELECT (SELECT user_version FROM pragma_user_version), (SELECT application_id FROM pragma_application_id),"
        " (SELECT count(*) FROM sqlite_master)"
    ).fetchall()[0]
    if objects and application != APPLICATION_ID:
        raise SchemaError(f"{path}: this is no queue of requiretls-mta")
    if version > len(steps):
        raise SchemaError(f"{path}: version {version} of the tables; this program knows up to {len(steps)}")
    for number in range(version, len(steps)):
        db.executescript(
            f"BEGIN IMMEDIATE; {steps[number]}"
            f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number + 1}; COMMIT;"
        )
