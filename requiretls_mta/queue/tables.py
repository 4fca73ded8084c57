"""Reading the tables: many rows at once, for a call, and a release of the interpreter's lock, costs more than a row."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from requiretls_mta.message.ports import Body
from requiretls_mta.message.stored import Message
from requiretls_mta.queue import codec
from requiretls_mta.queue.files import FileBody
from requiretls_mta.queue.store import Entry, Row
from requiretls_mta.queue.writing import SEQS

_PAGE = 200
"""Messages read at once where all are wanted."""

_COLUMNS = (
    "seq, CAST(id AS TEXT), CAST(parent AS TEXT), CAST(origin AS TEXT), CAST(listener AS TEXT),"
    " CAST(received AS INTEGER), CAST(tag AS TEXT), CAST(envelope AS TEXT), CAST(content AS TEXT), hex(prepend),"
    " CAST(size AS INTEGER), in_file <> 0, held <> 0"
)
_RECIPIENT_COLUMNS = (
    "message, CAST(number AS INTEGER), CAST(recipient AS TEXT), CAST(state AS TEXT), CAST(attempts AS INTEGER),"
    " CAST(next_attempt AS INTEGER), CAST(last_reply AS TEXT), warned <> 0, CAST(tried AS TEXT)"
)


@attrs.frozen
class BlobBody:
    """A body in the database, read when it is asked for."""

    source: Callable[[str, int, int], bytes]
    id: str
    """The message's."""
    size: int

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` octets from `offset` on; fewer only at the end."""
        return self.source(self.id, offset, length)


@attrs.frozen
class Found:
    """A message as the tables hold it."""

    seq: int
    message: Message
    entries: tuple[Entry, ...]
    held: bool
    in_file: bool


@attrs.frozen
class Bodies:
    """Where the bodies of found messages are read from."""

    octets: Callable[[str, int, int], bytes]
    folder: Path


def octets(db: sqlite3.Connection, message_id: str, offset: int, length: int) -> bytes:
    """Part of a body that is kept in the database; raises `EOFError` when there is none."""
    # fetchall, not fetchone: an unfinished statement would hold its snapshot and with it the whole WAL.
    rows = db.execute(
        "SELECT substr(octets, ?, ?) FROM body WHERE message = (SELECT seq FROM message WHERE id = ?)",
        (offset + 1, length, message_id),
    ).fetchall()
    if not rows:
        raise EOFError(f"the body of message {message_id} is not in the queue")
    data = rows[0][0]
    return data if isinstance(data, bytes) else str(data).encode("utf-8", "replace")


def find(db: sqlite3.Connection, chosen: str, parameters: Sequence[Any], bodies: Bodies) -> list[Found]:
    """The messages that `chosen` (what follows FROM message) names, with all their recipients, in its order.

    Two statements with one row each, however many messages there are.
    """
    source = f"SELECT json_group_array(json_array({_COLUMNS})) FROM (SELECT * FROM message {chosen})"
    rows = json.loads(db.execute(source, parameters).fetchall()[0][0])
    if not rows:
        return []
    source = f"SELECT json_group_array(json_array({_RECIPIENT_COLUMNS})) FROM recipient WHERE message IN {SEQS}"
    entries: dict[int, list[Entry]] = {row[0]: [] for row in rows}
    for seq, *columns in json.loads(db.execute(source, (json.dumps(list(entries)),)).fetchall()[0][0]):
        entries[seq].append(codec.read_entry(columns))
    return [_found(row, tuple(sorted(entries[row[0]], key=lambda entry: entry.number)), bodies) for row in rows]


def _found(row: list[Any], entries: tuple[Entry, ...], bodies: Bodies) -> Found:
    seq, message_id = row[0], str(row[1])
    size, in_file, held = row[10] or 0, bool(row[11]), bool(row[12])
    body: Body = FileBody(bodies.folder / message_id, size) if in_file else BlobBody(bodies.octets, message_id, size)
    message = codec.read_message(row, body, tuple(entry.recipient for entry in entries))
    return Found(seq, message, entries, held, in_file)


def read_rows(find: Callable[..., list[Found]]) -> Iterator[Row]:
    """Every message as the tool shows it, by id, read page by page."""
    last = ""
    while page := find("WHERE id > ? ORDER BY id LIMIT ?", last, _PAGE):
        last = page[-1].message.id
        for found in page:
            message = found.message
            sender, tag = message.envelope.sender, message.envelope.tag
            yield Row(
                id=message.id,
                sender="" if sender is None else str(sender),
                size=message.size,
                received=message.received,
                tag=None if tag is None else tag.value,
                held=found.held,
                entries=found.entries,
            )
