"""Messages and recipients as rows, and back. What cannot be read any more errs on the side of the promise."""

from __future__ import annotations

import json
from typing import Any

from requiretls_mta.message.address import Address
from requiretls_mta.message.content import Content
from requiretls_mta.message.envelope import Envelope, Notify, Recipient, Tag
from requiretls_mta.message.ports import Body
from requiretls_mta.message.stored import Message
from requiretls_mta.queue.store import Entry

MESSAGE_COLUMNS = (
    "id", "sender", "tag", "parameters", "prepend", "cuts", "content", "body", "size", "received", "origin", "parent",
    "listener",
)  # fmt: skip
"""Columns of a message's row, in the order of `message_row`."""
RECIPIENT_COLUMNS = ("message", "number", "local", "domain", "notify", "orcpt", "next_attempt")


def message_row(message: Message, blob: bytes | None) -> tuple[Any, ...]:
    """A message's row; `blob` is None where the body is a file."""
    envelope, content = message.envelope, message.content
    parameters = {
        "body": envelope.body,
        "smtputf8": envelope.smtputf8,
        "ret": envelope.ret,
        "envid": envelope.envid,
        "size": envelope.size,
    }
    flags = [content.eight_bit_header, content.eight_bit_body, content.dot_at_line_start]
    return (
        message.id,
        None if envelope.sender is None else json.dumps([envelope.sender.local, envelope.sender.domain]),
        envelope.tag.value if envelope.tag else None,
        json.dumps({key: value for key, value in parameters.items() if value}),
        message.prepend,
        json.dumps(message.cuts) if message.cuts else None,
        json.dumps([content.size, content.header_end, content.longest_line, *map(int, flags)]),
        blob,
        message.size,
        message.received,
        message.origin,
        message.parent,
        message.listener,
    )


def recipient_rows(message: Message) -> list[tuple[Any, ...]]:
    """The rows of a message's recipients."""
    return [
        (
            message.id,
            number,
            recipient.address.local,
            recipient.address.domain,
            None if recipient.notify is None else ",".join(sorted(n.value for n in recipient.notify)),
            recipient.orcpt,
            message.received,
        )
        for number, recipient in enumerate(message.envelope.recipients)
    ]


def read_tag(value: Any) -> Tag | None:
    """The tag of a row. One that cannot be read counts as required: a promise may have been made."""
    if value is None:
        return None
    try:
        return Tag(value)
    except ValueError:
        return Tag.REQUIRED


def read_recipient(local: str, domain: str, notify: str | None, orcpt: str | None) -> Recipient:
    """A recipient from its columns."""
    wanted = None
    if notify is not None:
        wanted = frozenset(Notify(word) for word in notify.split(",") if word in Notify.__members__)
    return Recipient(Address(local, domain), wanted, orcpt)


def read_message(row: tuple[Any, ...], recipients: tuple[Recipient, ...], body: Body) -> Message:
    """A message from its row."""
    (queue_id, sender, tag, parameters, prepend, cuts, content, _, _, received, origin, parent, listener) = row
    size, header_end, longest, eight_header, eight_body, dot = json.loads(content)
    told = json.loads(parameters)
    return Message(
        id=queue_id,
        envelope=Envelope(
            sender=None if sender is None else Address(*json.loads(sender)),
            recipients=recipients,
            tag=read_tag(tag),
            body=told.get("body"),
            smtputf8=told.get("smtputf8", False),
            ret=told.get("ret"),
            envid=told.get("envid"),
            size=told.get("size"),
        ),
        body=body,
        content=Content(
            size=size,
            header_end=header_end,
            longest_line=longest,
            eight_bit_header=bool(eight_header),
            eight_bit_body=bool(eight_body),
            dot_at_line_start=bool(dot),
        ),
        prepend=prepend,
        cuts=tuple((start, end) for start, end in json.loads(cuts)) if cuts else (),
        received=received,
        origin=origin,
        parent=parent,
        listener=listener,
    )


def fresh_entries(message: Message) -> tuple[Entry, ...]:
    """The entries of a message that was just accepted."""
    return tuple(
        Entry(number=number, recipient=recipient, next_attempt=message.received)
        for number, recipient in enumerate(message.envelope.recipients)
    )


def read_sender(value: str | None) -> str:
    """The reverse path of a row as text, empty for the empty one."""
    return "" if value is None else str(Address(*json.loads(value)))


def read_size(content: str) -> int:
    """The body's octets from the column `content`."""
    return int(json.loads(content)[0])
