"""Reading the header section of a stored message: fields with their places, and the fields that REQUIRETLS knows."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from itertools import chain, islice

import attrs

from requiretls_mta.message.reply import quote

_NAME = re.compile(rb"([!-9;-~]+)[ \t]*:")
_MESSAGE_ID = re.compile(rb"message-id[ \t]*:[ \t\r\n]{0,8}(<[^<>\r\n]{1,998}>)", re.IGNORECASE)
_EARLY = 64 * 1024
"""Octets of a header section in which its Message-ID is looked for."""


@attrs.frozen
class Field:
    """One header field as it stands in the message."""

    name: bytes
    """In lower case."""
    value: bytes
    """Unfolded, without blanks at either end."""
    start: int
    """Offset of the field's first octet in the header section."""
    end: int
    """Offset behind the CRLF of its last line."""


def fields(header: bytes) -> Iterator[Field]:
    """The fields of a header section (CRLF line ends); lines that are no field are passed over."""
    start, length = 0, len(header)
    while start < length:
        end = start
        while True:
            line_end = header.find(b"\r\n", end)
            end = length if line_end < 0 else line_end + 2
            if end >= length or header[end] not in b" \t":
                break
        if match := _NAME.match(header, start, end):
            raw = header[match.end() : end]
            yield Field(match.group(1).lower(), raw.replace(b"\r\n", b"").strip(b" \t"), start, end)
        start = end


def fields_named(header: bytes, name: bytes) -> Iterator[Field]:
    """The fields of one name (lower case), without a walk through all others: of these a header can hold very many."""
    for match in _starts(header, name):
        end = match.start()
        while True:
            line_end = header.find(b"\r\n", end)
            end = len(header) if line_end < 0 else line_end + 2
            if header[end : end + 1] not in (b" ", b"\t"):
                break
        value = header[match.end() : end].replace(b"\r\n", b"").strip(b" \t")
        yield Field(name, value, match.start(), end)


def _starts(header: bytes, name: bytes) -> Iterator[re.Match[bytes]]:
    """The names of these fields, up to the colon."""
    for match in re.finditer(rb"^" + re.escape(name) + rb"[ \t]*:", header, re.IGNORECASE | re.MULTILINE):
        if header[max(match.start() - 2, 0) : match.start()] in (b"", b"\r\n"):  # a bare LF ends no line
            yield match


def exceeds(header: bytes, name: bytes, limit: int) -> bool:
    """Whether there are more than `limit` fields of this name (lower case); for the Received hops of RFC 5321 6.3."""
    # Hardly any message comes near the limit; its name occurs at least as often as the field does.
    if header.lower().count(name) <= limit:
        return False
    return next(islice(_starts(header, name), limit, None), None) is not None


def message_id(header: bytes) -> str | None:
    """The first Message-ID with its angle brackets, escaped and cut for showing; None where there is none."""
    lowered = header[:_EARLY].lower()
    start = 0 if lowered.startswith(b"message-id") else lowered.find(b"\nmessage-id") + 1
    match = _MESSAGE_ID.match(header, start)
    return quote(match.group(1)) if match else None


class TLSRequired(enum.Enum):
    """What the `TLS-Required` fields of a message say (RFC 8689 3)."""

    ABSENT = "absent"
    NO = "no"
    INVALID = "invalid"
    """Something other than exactly `No` was said; it is ignored and logged."""


def tls_required(header: bytes) -> TLSRequired:
    """Read `TLS-Required`, and `RequireTLS`, its name in the draft; several fields count only when all say `No`."""
    lowered = header.lower()
    if b"tls-required" not in lowered and b"requiretls" not in lowered:
        return TLSRequired.ABSENT
    # The field's value ABNF is the bare string "No", which RFC 5234 2.3 makes case-insensitive; comments do not match.
    said = TLSRequired.ABSENT
    for field in chain(fields_named(header, b"tls-required"), fields_named(header, b"requiretls")):
        if field.value.lower() != b"no":
            return TLSRequired.INVALID
        said = TLSRequired.NO
    return said
