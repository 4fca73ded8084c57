"""Messages and their recipients as columns of the tables, and back.

Writing is strict; reading never fails. What cannot be understood is read as what does the least harm: a tag as REQUIRED
(the promise is kept, or the message comes back), a recipient's state as still queued, content as needing every care.
"""

from __future__ import annotations

import json
import math
from typing import Any

from requiretls_mta.message.address import Address
from requiretls_mta.message.content import Content
from requiretls_mta.message.envelope import Envelope, Notify, Recipient, Tag
from requiretls_mta.message.flat_json import write_array, write_object
from requiretls_mta.message.outcome import Deferred, Delivered, Failed, Tried
from requiretls_mta.message.ports import Body
from requiretls_mta.message.stored import Message
from requiretls_mta.queue.store import Entry, Settled
from requiretls_mta.queue.writing import NEVER

UNTAGGED = "none"
"""Written out, so that a value that got lost is not taken for the absence of a tag."""
SETTLED = ("delivered", "failed")
"""The states that are final; every other one means that the recipient is still to be attempted."""
_TAGS: dict[Any, Tag | None] = {UNTAGGED: None, "optional": Tag.OPTIONAL, "required": Tag.REQUIRED}
_REPLY_LIMIT = 512
_LATEST = NEVER / 1e6


# --- times --------------------------------------------------------------------------------------------------------
def write_time(seconds: float) -> int:
    """Unix time in whole microseconds: compared exactly, in SQL as here."""
    if math.isnan(seconds):
        return 0
    return round(min(max(seconds, 0.0), _LATEST) * 1e6)


def read_time(micros: Any) -> float:
    """Unix seconds."""
    return micros / 1e6 if isinstance(micros, int) else 0.0


# --- writing ------------------------------------------------------------------------------------------------------
def write_tag(tag: Tag | None) -> str:
    """The tag's column."""
    return UNTAGGED if tag is None else tag.value


def write_envelope(envelope: Envelope) -> str:
    """All of the envelope but its tag and its recipients."""
    sender = envelope.sender
    return write_object(
        {
            "local": None if sender is None else sender.local,
            "domain": None if sender is None else sender.domain,
            "body": envelope.body,
            "smtputf8": envelope.smtputf8,
            "ret": envelope.ret,
            "envid": envelope.envid,
            "size": envelope.size,
        }
    )


def write_content(message: Message) -> str:
    """The properties of the body, and what is left out of it when sending."""
    content = message.content
    return write_object(
        {
            "size": content.size,
            "header_end": content.header_end,
            "eight_bit_header": content.eight_bit_header,
            "eight_bit_body": content.eight_bit_body,
            "dot_at_line_start": content.dot_at_line_start,
            "cuts": message.cuts or None,
        }
    )


def write_recipient(recipient: Recipient) -> str:
    """Address and DSN parameters."""
    notify = None if recipient.notify is None else sorted(value.value for value in recipient.notify)
    return write_array([recipient.address.local, recipient.address.domain, notify, recipient.orcpt])


def write_settled(settled: Settled) -> tuple[str, int, str, int, str]:
    """State, next attempt, last reply, whether warned, and earlier attempts of a recipient after an attempt."""
    state = "queued"
    if settled.final:
        match settled.outcome:
            case Delivered():
                state = "delivered"
            case Failed() | Deferred():
                state = "failed"
    tried = write_array([[write_time(one.at), one.reply] for one in settled.tried]) if settled.tried else ""
    reply = str(settled.outcome.reply)[:_REPLY_LIMIT]
    return state, write_time(settled.next_attempt), reply, int(settled.warned), tried


# --- reading ------------------------------------------------------------------------------------------------------
def read_tag(value: Any) -> Tag | None:
    """RFC 8689 4.1: what cannot be read counts as REQUIRED."""
    return _TAGS.get(value, Tag.REQUIRED) if isinstance(value, str) else Tag.REQUIRED


def read_message(row: list[Any], body: Body, recipients: tuple[Recipient, ...]) -> Message:
    """A row of `message` (in the order of `tables.find`) as a value."""
    _, message_id, parent, origin, listener, received, tag, envelope, content, prepend, *_ = row
    size = body.size
    properties = _object(content)
    return Message(
        id=str(message_id),
        envelope=_read_envelope(_object(envelope), read_tag(tag), recipients),
        body=body,
        content=_read_content(properties, size),
        prepend=_hex(prepend),
        cuts=_read_cuts(properties.get("cuts"), size),
        received=read_time(received),
        origin=origin if isinstance(origin, str) else "smtp",
        parent=parent if isinstance(parent, str) else None,
        listener=listener if isinstance(listener, str) else "",
    )


def read_entry(row: list[Any]) -> Entry:
    """A row of `recipient` (in the order of `tables.find`) as a value."""
    number, recipient, state, attempts, next_attempt, last_reply, warned, tried = row
    return Entry(
        number=_count(number),
        recipient=read_recipient(recipient),
        state=state if state in SETTLED else "queued",
        attempts=_count(attempts),
        next_attempt=read_time(next_attempt),
        last_reply=last_reply if isinstance(last_reply, str) else "",
        warned=bool(warned),
        tried=_read_tried(_json(tried)),
    )


def read_recipient(text: Any) -> Recipient:
    """Address and DSN parameters; an unreadable address is one that nobody has, so that its failure is reported."""
    match _json(text):
        case [str(local), str(domain), notify, orcpt]:
            return Recipient(Address(local, domain), _read_notify(notify), orcpt if isinstance(orcpt, str) else None)
        case _:
            return Recipient(Address("unreadable", "queue.invalid"))


def _read_tried(value: Any) -> tuple[Tried, ...]:
    tried = []
    for pair in value if isinstance(value, list) else ():
        match pair:
            case [int(at), str(reply)]:
                tried.append(Tried(read_time(at), reply))
    return tuple(tried)


def _read_notify(value: Any) -> frozenset[Notify] | None:
    if not isinstance(value, list):
        return None
    known = {notify.value: notify for notify in Notify}
    # Of several words, those unknown are left out; when none is known it is as if the parameter had not been given.
    return frozenset(known[word] for word in value if isinstance(word, str) and word in known) or None


def _read_envelope(fields: dict[str, Any], tag: Tag | None, recipients: tuple[Recipient, ...]) -> Envelope:
    sender: Address | None
    match fields.get("local"), fields.get("domain"):
        case str(local), str(domain):
            sender = Address(local, domain)
        case _:
            sender = None
    body, ret, envid, size = (fields.get(name) for name in ("body", "ret", "envid", "size"))
    return Envelope(
        sender=sender,
        recipients=recipients,
        tag=tag,
        body=body if body in ("7BIT", "8BITMIME") else None,
        smtputf8=bool(fields.get("smtputf8")),
        ret=ret if ret in ("FULL", "HDRS") else None,
        envid=envid if isinstance(envid, str) else None,
        size=size if isinstance(size, int) and size >= 0 else None,
    )


def _read_content(fields: dict[str, Any], size: int) -> Content:
    # The defaults are those of a message about which nothing is known: stuffed, 8-bit, no header to quote from.
    return Content(
        size=size,
        header_end=min(_count(fields.get("header_end")), size),
        eight_bit_header=bool(fields.get("eight_bit_header", True)),
        eight_bit_body=bool(fields.get("eight_bit_body", True)),
        dot_at_line_start=bool(fields.get("dot_at_line_start", True)),
    )


def _read_cuts(value: Any, size: int) -> tuple[tuple[int, int], ...]:
    cuts = []
    for pair in value if isinstance(value, list) else ():
        match pair:
            case [int(start), int(end)] if 0 <= start <= end <= size:
                cuts.append((start, end))
    return tuple(cuts)


def _json(text: Any) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None


def _object(text: Any) -> dict[str, Any]:
    value = _json(text)
    return value if isinstance(value, dict) else {}


def _hex(text: Any) -> bytes:
    try:
        return bytes.fromhex(text)
    except (ValueError, TypeError):
        return b""


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
