"""What the trace is told of a message that enters the queue, whoever brings it."""

from __future__ import annotations

from collections.abc import Sequence
from json.encoder import encode_basestring_ascii

from requiretls_mta.message.envelope import Recipient
from requiretls_mta.message.header import message_id
from requiretls_mta.message.stored import Message

MOST_NAMES = 200
"""Recipients that are named; all are counted."""
_quoted = encode_basestring_ascii


def names(recipients: Sequence[Recipient]) -> str:
    """Their addresses, those of the first ones if they are many, as a JSON array."""
    return "[" + ",".join([_quoted(recipient.address.text) for recipient in recipients[:MOST_NAMES]]) + "]"


def birth(message: Message, more: str = "") -> str:
    """The members of the event `queued` as one text of JSON, for it is written for every message.

    `more` of them, each behind a comma, are told along.
    """
    envelope, recipients = message.envelope, message.envelope.recipients
    text = (
        f'"queue_id":"{message.id}","sender":{_quoted(envelope.reverse_path)},"recipients":{names(recipients)}'
        f',"count":{len(recipients)},"size":{message.size},"origin":"{message.origin}"{more}'
    )
    if envelope.tag is not None:
        text += f',"requiretls":"{envelope.tag.value}"'
    if message.parent is not None:
        text += f',"parent":"{message.parent}"'
    if message.origin == "report" and (known_as := message_id(message.header())):
        text += f',"message_id":{_quoted(known_as)}'
    return text
