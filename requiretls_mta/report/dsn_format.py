"""Delivery status notifications as octets (RFC 3464, RFC 6522), written by hand: what they quote stays as it was.

A report is 7-bit, whatever it tells and quotes, so that it passes everywhere. Two things alone can make it 8-bit: a
sender whose local part is not ASCII, and an 8-bit message returned whole, for a `message/rfc822` must not be encoded
(RFC 2046 5.2.1).
"""

from __future__ import annotations

import binascii
import re
import secrets
from collections.abc import Sequence
from itertools import islice

import attrs

from requiretls_mta.message import header
from requiretls_mta.message.envelope import Tag
from requiretls_mta.message.profile import Profile
from requiretls_mta.message.stored import Message
from requiretls_mta.report.dsn_rules import Action, Told
from requiretls_mta.report.dsn_status import delivery_status, with_a_labels
from requiretls_mta.report.dsn_text import explain

WHOLE_LIMIT = 50_000
"""Octets of a message that is returned whole, and of a header section; of what is larger, only fields that fit."""
_LINE_LIMIT = 998
"""Octets of a line without its CRLF (RFC 5322 2.1.1); a longer one could keep the report from being taken."""
_MOST_FIELDS = 10_000
"""Of a header that is shortened; what is below them is left out."""
_KEPT_WHEN_REDACTED = (b"date", b"message-id", b"from", b"to", b"received", b"return-path")
_SUBJECTS = {
    Action.FAILED: "Your message could not be delivered",
    Action.DELAYED: "Your message is delayed",
    Action.DELIVERED: "Your message has been delivered",
    Action.RELAYED: "Your message has been passed on",
    Action.EXPANDED: "Your message has been passed on to several recipients",
}
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
    told: Sequence[Told]
    whole: bool
    """Quote the whole message if it is small and well-formed, else its header section."""
    redacted: bool
    """Quote no more than `Date`, `Message-ID`, `From`, `To` and trace fields (RFC 8689 5)."""
    profile: Profile = Profile.RFC8689


def write_report(report: Report) -> bytes:
    """The report as a message, CRLF line ends. Reads the original's body, at most its header and `WHOLE_LIMIT`."""
    text = explain(report.original, report.told, hostname=report.hostname, arrival=report.arrival)
    status = delivery_status(
        report.original, report.told, hostname=report.hostname, date=report.date, arrival=report.arrival
    )
    # RFC 6533 4.4: in 7-bit the traditional type says the same, and more programs can read it.
    kind = b"message/delivery-status" if status.isascii() else b"message/global-delivery-status"
    parts = [
        _part(b"text/plain; charset=utf-8", text.encode("utf-8")),
        _part(kind, status.encode("utf-8"), eight_bit=_needs_smtputf8(report.original)),
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
    kind = b"message/global-headers" if b"message/global" in part_head else b"text/rfc822-headers"
    parts[3] = b"\r\n%s\r\n" % _part(kind, redact_header(quoted))
    return border.join(parts)


def redact_header(octets: bytes) -> bytes:
    """Of a message or its header section, the fields that a redacted report may show."""
    octets = octets[: (b"\r\n" + octets + b"\r\n\r\n").find(b"\r\n\r\n")]
    kept = [field for name in _KEPT_WHEN_REDACTED for field in header.fields_named(octets, name)]
    return b"".join(octets[field.start : field.end] for field in sorted(kept, key=lambda field: field.start))


# --- the parts ----------------------------------------------------------------------------------------------------
def _part(kind: bytes, octets: bytes, *, eight_bit: bool = False) -> bytes:
    """A MIME part in 7-bit, unless `eight_bit` passes anyway."""
    encoding = b"7bit" if octets.isascii() else b"8bit"
    if (encoding == b"8bit" and not eight_bit) or not _is_well_formed(octets):
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
                return _part(b"message/global", octets, eight_bit=_needs_smtputf8(original))
            if _is_well_formed(octets):
                encoding = b"7bit" if octets.isascii() else b"8bit"
                return b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: %s\r\n\r\n%s" % (encoding, octets)
        octets = _header(original)
    except (OSError, EOFError):
        # The body is gone; that must not cost the sender the report too.
        octets = b""
    if report.redacted:
        octets = redact_header(octets)
    if len(octets) > WHOLE_LIMIT:
        octets = _shortened(octets)
    kind = b"message/global-headers" if is_global else b"text/rfc822-headers"
    return _part(kind, octets, eight_bit=is_global and _needs_smtputf8(original))


def _needs_smtputf8(original: Message) -> bool:
    """Whether its report does. RFC 6533 4.5: then all of it can be 8-bit, else it must pass without SMTPUTF8."""
    sender = original.envelope.sender
    return sender is not None and not sender.local.isascii()


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
    for field in islice(header.fields(octets), _MOST_FIELDS):
        if field.end - field.start <= room:
            kept.append(octets[field.start : field.end])
            room -= len(kept[-1])
    return b"".join(kept)


# --- header -------------------------------------------------------------------------------------------------------
def _head(report: Report, boundary: bytes) -> bytes:
    sender = report.original.envelope.sender
    assert sender is not None
    # With A-labels, only a local part outside ASCII keeps the report from those without SMTPUTF8.
    to = with_a_labels(sender) if sender.local.isascii() else sender
    gravest = min((one.action for one in report.told), key=list(Action).index)
    lines = [
        f"From: Mail Delivery System <MAILER-DAEMON@{report.hostname}>",
        f"To: <{to}>",
        f"Subject: {_SUBJECTS[gravest]}",
        f"Date: {report.date}",
        f"Message-ID: <{report.message_id}@{report.hostname}>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="{boundary.decode("ascii")}"',
    ]
    if report.original.envelope.tag is Tag.OPTIONAL:
        lines.append(report.profile.optional_field)
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8")
