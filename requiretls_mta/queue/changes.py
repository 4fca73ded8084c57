"""What is written in one transaction: messages that enter, leases that end, as rows; and many of them gathered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

from requiretls_mta.message.ports import Body
from requiretls_mta.message.stored import Message
from requiretls_mta.queue import codec
from requiretls_mta.queue.files import FileBody
from requiretls_mta.queue.store import Settlement
from requiretls_mta.queue.writing import LEASED, Changes


@attrs.frozen
class Rows:
    """A message as rows, but for the number that it gets when it is written."""

    id: str
    columns: tuple[Any, ...]
    """The last one says when it is due."""
    recipients: str
    """All of them, as one JSON array."""
    count: int
    octets: bytes | None
    """The body, if it goes into the database."""
    body: Body | None
    """The body, if it is to get a file that it does not have yet."""


@attrs.frozen
class Accept:
    """Messages that enter together or not at all."""

    rows: tuple[Rows, ...]
    lease: bool = False

    @property
    def entering(self) -> tuple[Rows, ...]:
        """New messages."""
        return self.rows


@attrs.frozen
class Settle:
    """The end of a lease."""

    id: str
    settled: tuple[tuple[int, str, int, str, int, str], ...]
    """Number, state, next attempt, last reply, whether the delay was reported, and earlier attempts."""
    offspring: tuple[Rows, ...] = ()

    @property
    def entering(self) -> tuple[Rows, ...]:
        """New messages."""
        return self.offspring


Change = Accept | Settle


def encode(message: Message, bodies: Path, row_limit: int) -> Rows:
    """A message as rows. Reads a small body; raises `ValueError` for what no queue can hold."""
    recipients = message.envelope.recipients
    if not recipients:
        raise ValueError(f"message {message.id} has no recipient")
    body = message.body
    own = isinstance(body, FileBody) and body.path == bodies / message.id
    in_row = not own and body.size <= row_limit
    due = codec.write_time(message.received)
    columns = (
        message.id,
        message.parent,
        message.origin,
        message.listener,
        due,
        codec.write_tag(message.envelope.tag),
        codec.write_envelope(message.envelope),
        codec.write_content(message),
        message.prepend,
        body.size,
        int(not in_row),
        0,
        due,
    )
    entries = "[" + ",".join(map(codec.write_recipient, recipients)) + "]"
    octets = body.read(0, body.size) if in_row else None
    if octets is not None and len(octets) != body.size:
        raise ValueError(f"the body of message {message.id} has {len(octets)} of {body.size} octets")
    return Rows(message.id, columns, entries, len(recipients), octets, None if in_row or own else body)


def encode_settlement(settlement: Settlement, bodies: Path, row_limit: int) -> Settle:
    """A settlement as rows."""
    return Settle(
        settlement.lease.message.id,
        tuple((s.number, *codec.write_settled(s)) for s in settlement.settled),
        tuple(encode(message, bodies, row_limit) for message in settlement.offspring),
    )


@attrs.frozen
class Leased:
    """A message that is being attempted."""

    seq: int
    pending: frozenset[int]
    """Numbers of the recipients that are not settled yet, due or not."""
    in_file: bool


class Group:
    """The rows of one transaction."""

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.messages: list[tuple[Any, ...]] = []
        self.placed: list[str] = []
        self.leases: dict[str, Leased] = {}
        self.updates: list[tuple[Any, ...]] = []
        self.updated: list[int] = []
        self.removed: list[int] = []
        self.ended: list[str] = []
        self.unlinked: list[str] = []
        self.latest = 0

    @property
    def changes(self) -> Changes:
        """What is done to the tables."""
        return self.messages, self.updates, self.updated, self.removed, self.latest

    def add(self, rows: Rows, *, lease: bool) -> None:
        """A new message."""
        self.seq += 1
        due = (LEASED,) if lease else rows.columns[-1:]
        self.messages.append((self.seq, *rows.columns[:-1], *due, rows.recipients, rows.octets))
        if lease:
            self.leases[rows.id] = Leased(self.seq, frozenset(range(rows.count)), rows.octets is None)

    def settle(self, change: Settle, leased: Leased) -> None:
        """The end of a lease: an update of its recipients, or the message's removal."""
        self.ended.append(change.id)
        if leased.pending <= {number for number, state, *_ in change.settled if state in codec.SETTLED}:
            self.removed.append(leased.seq)
            if leased.in_file:
                self.unlinked.append(change.id)
            return
        self.updated.append(leased.seq)
        self.updates += [(leased.seq, *settled) for settled in change.settled]
