"""Queued messages as the tool and the API show them: the JSON that the documentation promises."""

from __future__ import annotations

from typing import Any

from requiretls_mta.message.stored import Message
from requiretls_mta.message.trace import Timestamps
from requiretls_mta.queue.store import Entry, Row

HEADER_LIMIT = 256 * 1024
"""Octets of a header section that are shown."""


def row_json(row: Row) -> dict[str, Any]:
    """One queued message as in `queue list --json`."""
    rfc3339 = Timestamps()
    return {
        "id": row.id,
        "sender": row.sender,
        "size": row.size,
        "received": rfc3339(row.received),
        "requiretls": row.tag,
        "held": row.held,
        "recipients": [_entry(entry, rfc3339) for entry in row.entries],
    }


def message_json(row: Row, message: Message) -> dict[str, Any]:
    """One queued message as in `queue show --json`: its row, envelope parameters and header section."""
    envelope = message.envelope
    header = message.prepend + message.body.read(0, min(message.content.header_end, HEADER_LIMIT))
    return row_json(row) | {
        "origin": message.origin,
        "parent": message.parent,
        "listener": message.listener,
        "body": envelope.body,
        "smtputf8": envelope.smtputf8,
        "ret": envelope.ret,
        "envid": envelope.envid,
        "header": header.decode("utf-8", "backslashreplace").replace("\r\n", "\n"),
    }


def _entry(entry: Entry, rfc3339: Timestamps) -> dict[str, Any]:
    return {
        "address": str(entry.recipient.address),
        "state": entry.state,
        "attempts": entry.attempts,
        "next_attempt": rfc3339(entry.next_attempt) if entry.state == "queued" and entry.next_attempt else None,
        "last_reply": entry.last_reply or None,
    }
