"""What becomes of a message because it is submitted here, not relayed (RFC 6409): refused, or made complete."""

from __future__ import annotations

import re
from collections import Counter

import attrs

from requiretls_mta.message.content import Content
from requiretls_mta.message.reply import Reply
from requiretls_mta.message.trace import date_time

_ONCE = ("From", "Sender", "Reply-To", "To", "Cc", "Bcc", "Date", "Message-ID", "In-Reply-To", "References", "Subject")
"""RFC 5322 3.6: each once at the most. Of two, a signature covers one, and a reader sees the other."""
_NAMES = {name.lower().encode("ascii"): name for name in _ONCE}
_KNOWN = re.compile(rb"^(" + b"|".join(_NAMES) + rb")[ \t]*:", re.IGNORECASE | re.MULTILINE)
_FIELD = re.compile(rb"^[!-9;-~]++[ \t]*+:", re.MULTILINE)
_NO_FIELD = re.compile(rb"^(?![!-9;-~]++[ \t]*+:|[ \t]|\Z)", re.MULTILINE)
_MAILBOX_LINE = re.compile(rb">?From ")
_MALFORMED = Reply(554, "5.6.0", "Malformed header")  # RFC 6409 6.3


@attrs.frozen(kw_only=True)
class Submission:
    """A message as it goes on."""

    header: bytes
    """Its header section as it came; empty where it has none."""
    content: Content
    added: bytes
    """Fields for the top of the header, each ended by CRLF; the empty line too where the message has no header."""


def submit(
    header: bytes, content: Content, *, strict: bool, queue_id: str, hostname: str, now: float
) -> Submission | Reply:
    """Judge a message, if `strict`, and add what it lacks; `now` in Unix seconds.

    A program of this machine is not judged: many repeat a field, and nobody would ever see the refusal.

    From is neither asked for nor added, though RFC 5322 3.6 wants it: many a script sends without, and RFC 6409 8
    warns of making up addresses. No other field is touched, even where it is malformed.
    """
    end = b""
    if _is_text(header):
        # Whoever sends no header means text. It is parted from the fields in front of it, to be read as such.
        end, header = b"\r\n", b""
        is_8bit = content.eight_bit_header or content.eight_bit_body
        content = attrs.evolve(content, header_end=0, eight_bit_header=False, eight_bit_body=is_8bit)
    found = Counter(name.lower() for name in _KNOWN.findall(header))
    refused = (_repeated(found) or _stray_line(header)) if strict else None
    if refused is not None:
        return refused
    added = b""
    if b"date" not in found:  # RFC 6409 8.2
        added += f"Date: {date_time(now)}\r\n".encode("ascii")
    if b"message-id" not in found:  # RFC 6409 8.3
        added += f"Message-ID: <{queue_id}@{hostname}>\r\n".encode("ascii")
    return Submission(header=header, content=content, added=added + end)


def _is_text(header: bytes) -> bool:
    """Whether already the first line is no field: then there is no header."""
    if not header or _FIELD.match(header):
        return False
    # It has one behind a line of a mailbox file.
    return not (_MAILBOX_LINE.match(header) and _FIELD.search(header))


def _repeated(found: Counter[bytes]) -> Reply | None:
    name = next((name for name, times in found.items() if times > 1), None)
    if name is None:
        return None
    return _MALFORMED.with_text(f"Malformed header: {found[name]} {_NAMES[name]} fields; one is allowed (RFC 5322 3.6)")


def _stray_line(header: bytes) -> Reply | None:
    """A line that is no field, with fields behind it: header to one reader, text to the other."""
    stray = _NO_FIELD.search(header)
    if stray is None or not _FIELD.search(header, stray.end()):
        return None
    line = header.count(b"\n", 0, stray.start()) + 1
    return _MALFORMED.with_text(
        f'Malformed header: line {line} is no field "Name: value"; an empty line parts header and text'
    )
