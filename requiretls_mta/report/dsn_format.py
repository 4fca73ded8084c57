"""Delivery status notifications as octets (RFC 3464, RFC 6522), written by hand: what they quote stays as it was.

A report is 7-bit, whatever it quotes, so that it passes everywhere. Two things alone can make it 8-bit: a sender whose
local part is not ASCII, and an 8-bit message returned whole, for a `message/rfc822` must not be encoded (RFC 2046
5.2.1).
"""

from __future__ import annotations

import binascii
import re
import secrets
import textwrap
from collections.abc import Sequence

import attrs

from requiretls_mta.message import header
from requiretls_mta.message.address import Address, AddressError, ascii_domain
from requiretls_mta.message.envelope import Recipient, Tag
from requiretls_mta.message.outcome import Cause, Failed
from requiretls_mta.message.profile import Profile
from requiretls_mta.message.reply import Reply, quote
from requiretls_mta.message.stored import Message
from requiretls_mta.message.xtext import decode
from requiretls_mta.report.dsn_text import explain

WHOLE_LIMIT = 50_000
"""Octets of a message that is returned whole, and of a header section; of what is larger, only fields that fit."""
_LINE_LIMIT = 998
"""Octets of a line without its CRLF (RFC 5322 2.1.1); a longer one could keep the report from being taken."""
_KEPT_WHEN_REDACTED = frozenset({b"date", b"message-id", b"from", b"to", b"received", b"return-path"})
_DIAGNOSTIC_LIMIT = 4000
_DIAGNOSTICS_LIMIT = 200_000
"""Characters of one Diagnostic-Code, and of all of them in a report."""
_BOUNDARY = re.compile(rb'boundary="(=_[0-9a-f]{32})"')


@attrs.frozen(kw_only=True)
class Report:
    """What a report says, before it is octets."""

    hostname: str
    """Reporting-MTA."""
    message_id: str
    """Queue id of the report itself."""
    date: str
    """RFC 5322 date-time."""
    arrival: str
    """Of the message reported about, likewise."""
    original: Message
    failed: Sequence[Failed]
    whole: bool
    """Quote the whole message if it is small and well-formed, else its header section."""
    redacted: bool
    """Quote no more than `Date`, `Message-ID`, `From`, `To` and trace fields (RFC 8689 5)."""
    profile: Profile = Profile.RFC8689


def write_report(report: Report) -> bytes:
    """The report as a message, CRLF line ends. Reads the original's body, at most its header and `WHOLE_LIMIT`."""
    text = explain(report.original, report.failed, hostname=report.hostname, arrival=report.arrival)
    parts = [
        _part(b"text/plain; charset=utf-8", text.encode("utf-8")),
        _part(b"message/delivery-status", _delivery_status(report).encode("ascii", "backslashreplace")),
        _quoted(report),
    ]
    boundary = b"=_" + secrets.token_hex(16).encode("ascii")
    body = b"".join(b"--%s\r\n%s\r\n" % (boundary, part) for part in parts)
    return _head(report, boundary) + body + b"--%s--\r\n" % boundary


def redact_report(octets: bytes) -> bytes:
    """A report of ours with its last part cut to what `Report.redacted` allows; else `ValueError`."""
    head, _, _ = octets.partition(b"\r\n\r\n")
    types = [field.value for field in header.fields(head) if field.name == b"content-type"]
    found = _BOUNDARY.search(types[0]) if types else None
    if not found:
        raise ValueError("this is not a report of ours")
    border = b"--" + found.group(1)
    parts = octets.split(border)
    if len(parts) != 5:
        raise ValueError("this is not a report of ours")
    part_head, empty, quoted = parts[3].partition(b"\r\n\r\n")
    if not empty:
        raise ValueError("this is not a report of ours")
    if b"quoted-printable" in part_head:
        quoted = binascii.a2b_qp(quoted)
    parts[3] = b"\r\n%s\r\n" % _part(b"text/rfc822-headers", redact_header(quoted))
    return border.join(parts)


def redact_header(octets: bytes) -> bytes:
    """Of a message or its header section, the fields that a redacted report may show."""
    octets = octets[: (b"\r\n" + octets + b"\r\n\r\n").find(b"\r\n\r\n")]
    return b"".join(octets[f.start : f.end] for f in header.fields(octets) if f.name in _KEPT_WHEN_REDACTED)


# --- the parts ----------------------------------------------------------------------------------------------------
def _part(kind: bytes, octets: bytes) -> bytes:
    """A MIME part in 7-bit."""
    encoding = b"7bit"
    if not octets.isascii() or not _is_well_formed(octets):
        encoding = b"quoted-printable"
        # The line ends of the encoder are LF when it sees no other.
        octets = binascii.b2a_qp(octets).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return b"Content-Type: %s\r\nContent-Transfer-Encoding: %s\r\n\r\n%s" % (kind, encoding, octets)


def _quoted(report: Report) -> bytes:
    """What comes back of the original. RFC 6533 4: where its header is internationalized, as a type that says so."""
    original = report.original
    is_global = original.envelope.smtputf8 and original.content.eight_bit_header
    try:
        if report.whole and original.size <= WHOLE_LIMIT:
            octets = b"".join(original.pieces())
            if is_global:
                return _part(b"message/global", octets)
            if _is_well_formed(octets):
                encoding = b"7bit" if octets.isascii() else b"8bit"
                return b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: %s\r\n\r\n%s" % (encoding, octets)
        octets = _header(original)
    except (OSError, EOFError):
        # The body is gone; that must not cost the sender the report too.
        octets = b""
    if report.redacted:
        octets = redact_header(octets)
    elif len(octets) > WHOLE_LIMIT:
        octets = _shortened(octets)
    return _part(b"message/global-headers" if is_global else b"text/rfc822-headers", octets)


def _is_well_formed(octets: bytes) -> bool:
    """Whether these octets are lines that every server takes."""
    lines = octets.count(b"\r\n")
    return (
        octets.count(b"\n") == lines == octets.count(b"\r")
        and b"\0" not in octets
        and max(map(len, octets.split(b"\r\n"))) <= _LINE_LIMIT
    )


def _header(message: Message) -> bytes:
    """The header section as it went out, trace fields first."""
    octets, at = message.prepend, 0
    header_octets = message.header()
    for start, end in sorted(message.cuts):
        octets += header_octets[at:start]
        at = max(at, end)
    return octets + header_octets[at:]


def _shortened(octets: bytes) -> bytes:
    """The fields that fit in."""
    kept, room = [], WHOLE_LIMIT
    for field in header.fields(octets):
        if field.end - field.start <= room:
            kept.append(octets[field.start : field.end])
            room -= len(kept[-1])
    return b"".join(kept)


# --- header and status --------------------------------------------------------------------------------------------
def _head(report: Report, boundary: bytes) -> bytes:
    sender = report.original.envelope.sender
    assert sender is not None
    # With A-labels, only a local part outside ASCII keeps the report from those without SMTPUTF8.
    to = _with_a_labels(sender) if sender.local.isascii() else sender
    lines = [
        f"From: Mail Delivery System <MAILER-DAEMON@{report.hostname}>",
        f"To: <{to}>",
        "Subject: Your message could not be delivered",
        f"Date: {report.date}",
        f"Message-ID: <{report.message_id}@{report.hostname}>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="{boundary.decode("ascii")}"',
    ]
    if report.original.envelope.tag is Tag.OPTIONAL:
        lines.append(report.profile.optional_field)
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8")


def _delivery_status(report: Report) -> str:
    original = report.original
    blocks = [
        [
            f"Reporting-MTA: dns; {report.hostname}",
            f"X-requiretls-mta-Queue-ID: {original.id}",
            f"Arrival-Date: {report.arrival}",
        ]
    ]
    if original.envelope.envid:
        blocks[0].insert(0, f"Original-Envelope-Id: {quote(decode(original.envelope.envid))}")
    room = min(_DIAGNOSTIC_LIMIT, _DIAGNOSTICS_LIMIT // len(report.failed))
    # Many recipients often failed in the same way.
    diagnostics: dict[tuple[Reply, tuple[Cause, ...]], str] = {}
    for failure in report.failed:
        block = []
        if failure.recipient.orcpt:
            block.append(f"Original-Recipient: {_original_recipient(failure.recipient)}")
        block += [
            f"Final-Recipient: {_typed(failure.recipient.address)}",
            "Action: failed",
            f"Status: {failure.reply.enhanced or f'{failure.reply.code // 100}.0.0'}",
        ]
        if failure.host:
            block.append(f"Remote-MTA: dns; {quote(failure.host)}")
        way = failure.reply, failure.causes
        if way not in diagnostics:
            diagnostics[way] = _diagnostic(failure, room)
        block += [diagnostics[way], f"Last-Attempt-Date: {report.date}"]
        blocks.append(block)
    return "\r\n\r\n".join("\r\n".join(block) for block in blocks) + "\r\n"


def _diagnostic(failure: Failed, room: int) -> str:
    """The reply, and each host with the step that failed, folded."""
    text = " ".join(f"{failure.reply}".split())
    tried = "; ".join(str(cause) for cause in failure.causes if str(cause) not in text)
    if tried:
        text = f"{text} ({tried})"
    text = text[:room]
    if not text.isprintable():
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    # Names of hosts stay whole; words that no line can hold are broken all the same.
    words = [word[i : i + 500] for word in text.split() for i in range(0, len(word), 500)]
    field = " ".join(["Diagnostic-Code: smtp;", *words])
    return "\r\n ".join(textwrap.wrap(field, 76, break_long_words=False, break_on_hyphens=False))


def _original_recipient(recipient: Recipient) -> str:
    kind, _, address = (recipient.orcpt or "").partition(";")
    # RFC 6533 3: raw UTF-8 may have come from the client; xtext holds none.
    shown = quote(decode(address)) if address.isascii() else _embedded(address)
    return f"{quote(kind)};{shown}"


def _typed(address: Address) -> str:
    """RFC 6533 3: an address outside ASCII is of type utf-8, and shown in ASCII here."""
    address = _with_a_labels(address)
    return f"rfc822; {address}" if address.is_ascii else f"utf-8; {_embedded(str(address))}"


def _with_a_labels(address: Address) -> Address:
    try:
        return Address(address.local, ascii_domain(address.domain))
    except AddressError:
        return address


def _embedded(text: str) -> str:
    return "".join(c if "!" <= c <= "~" and c not in "\\+=" else f"\\x{{{ord(c):X}}}" for c in text)
