"""Delivery status notifications as octets (RFC 3464, RFC 6522), written by hand: what they quote stays as it was."""

from __future__ import annotations

import secrets
import textwrap
from collections.abc import Sequence

import attrs

from requiretls_mta.message import header
from requiretls_mta.message.address import Address
from requiretls_mta.message.envelope import Recipient, Tag
from requiretls_mta.message.outcome import Cause, Failed
from requiretls_mta.message.reply import quote
from requiretls_mta.message.stored import Message
from requiretls_mta.message.xtext import decode

_KEPT_WHEN_REDACTED = frozenset({b"date", b"message-id", b"from", b"to", b"received", b"return-path"})
_DIAGNOSTIC_LIMIT = 4000
_WHY = {
    "5.7.30": "The message was sent with REQUIRETLS: every server on the way must be encrypted and\r\n"
    "authenticated, and promise the same for the next. None of the recipient's makes that promise.",
    "5.7.10": "The message was sent with REQUIRETLS: every server on the way must be encrypted and\r\n"
    "authenticated. None of the recipient's could be reached in that way.",
}


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
    """Quote the whole message, else its header section."""
    redacted: bool
    """Quote no more than `Date`, `Message-ID`, `From`, `To` and trace fields (RFC 8689 5)."""


def write_report(report: Report) -> bytes:
    """The report as a message, CRLF line ends."""
    text = _text(report).encode("utf-8")
    status = _delivery_status(report).encode("ascii", "backslashreplace")
    if report.whole:
        kind, quoted = "message/rfc822", b"".join(report.original.pieces())
    else:
        kind, quoted = "text/rfc822-headers", _header(report.original)
        if report.redacted:
            quoted = redact_header(quoted)
    boundary = _boundary(quoted)
    parts = [
        ("text/plain; charset=utf-8", text),
        ("message/delivery-status", status),
        (kind, quoted),
    ]
    body = b"".join(
        b"--%s\r\nContent-Type: %s\r\nContent-Transfer-Encoding: %s\r\n\r\n%s\r\n"
        % (boundary, kind.encode("ascii"), b"7bit" if octets.isascii() else b"8bit", octets)
        for kind, octets in parts
    )
    return _head(report, boundary) + body + b"--%s--\r\n" % boundary


def redact_report(octets: bytes) -> bytes:
    """A report of ours with its last part cut to what `Report.redacted` allows; else `ValueError`."""
    _, marker, rest = octets.partition(b'boundary="')
    boundary, quote_mark, _ = rest.partition(b'"')
    parts = octets.split(b"--" + boundary)
    if not marker or not quote_mark or len(parts) != 5:
        raise ValueError("this is not a report of ours")
    head, empty, quoted = parts[3].partition(b"\r\n\r\n")
    if not empty:
        raise ValueError("this is not a report of ours")
    parts[3] = head + empty + redact_header(quoted.removesuffix(b"\r\n")) + b"\r\n"
    return (b"--" + boundary).join(parts)


def redact_header(octets: bytes) -> bytes:
    """Of a header section, the fields that a redacted report may show."""
    return b"".join(octets[f.start : f.end] for f in header.fields(octets) if f.name in _KEPT_WHEN_REDACTED)


def _head(report: Report, boundary: bytes) -> bytes:
    sender = report.original.envelope.sender
    lines = [
        f"From: Mail Delivery System <MAILER-DAEMON@{report.hostname}>",
        f"To: <{sender}>",
        "Subject: Your message could not be delivered",
        f"Date: {report.date}",
        f"Message-ID: <{report.message_id}@{report.hostname}>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="{boundary.decode("ascii")}"',
    ]
    if report.original.envelope.tag is Tag.OPTIONAL:
        lines.append("TLS-Required: No")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8")


def _text(report: Report) -> str:
    lines = [
        f"This is the mail server {report.hostname}. Your message of {report.arrival}",
        "could not be delivered to:",
        "",
    ]
    for failure in report.failed:
        lines += [f"    {failure.recipient.address}", *_wrapped(_shown(failure)), ""]
        if report.original.envelope.tag is Tag.REQUIRED and failure.causes:
            lines += [_WHY.get(failure.reply.enhanced or "", ""), "What was tried, and at which step it ended:", ""]
            lines += [line for cause in failure.causes for line in _tried(cause)]
            lines.append("")
    lines.append("It will not be tried again. Details for your mail operator are attached.")
    return "\r\n".join(lines) + "\r\n"


def _shown(failure: Failed) -> str:
    """The reply; where causes are listed anyway, without their repetition."""
    text = (
        failure.reply.text.partition(":")[0] if failure.causes and len(failure.reply.text) > 200 else failure.reply.text
    )
    return f"{failure.reply.code} {failure.reply.enhanced or ''} {text}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), 90, initial_indent="    ", subsequent_indent="    ")


def _tried(cause: Cause) -> list[str]:
    where = f"{cause.host} [{cause.address}]" if cause.address else cause.host
    clause = f" ({cause.clause})" if cause.clause else ""
    return [f"  * {where}", *_wrapped(f"{cause.step.value}: {cause.detail}{clause}")]


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
        block += [_diagnostic(failure), f"Last-Attempt-Date: {report.date}"]
        blocks.append(block)
    return "\r\n\r\n".join("\r\n".join(block) for block in blocks) + "\r\n"


def _diagnostic(failure: Failed) -> str:
    text = " ".join(f"{failure.reply}".split())
    tried = "; ".join(str(cause) for cause in failure.causes)
    if tried and tried not in text:
        text = f"{text} ({tried})"
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:_DIAGNOSTIC_LIMIT])
    return "\r\n".join(textwrap.wrap(f"Diagnostic-Code: smtp; {text}", 76, subsequent_indent=" "))


def _original_recipient(recipient: Recipient) -> str:
    kind, _, address = (recipient.orcpt or "").partition(";")
    return f"{quote(kind)};{quote(decode(address))}"


def _typed(address: Address) -> str:
    """RFC 6533 3: an address outside ASCII is of type utf-8, and shown in ASCII here."""
    if address.is_ascii:
        return f"rfc822; {address}"
    return "utf-8; " + "".join(c if c.isascii() and c not in "\\+=" else f"\\x{{{ord(c):X}}}" for c in str(address))


def _header(message: Message) -> bytes:
    """The header section as it went out, trace fields first."""
    octets = message.prepend
    at = 0
    header_octets = message.header()
    for start, end in message.cuts:
        octets += header_octets[at:start]
        at = end
    return octets + header_octets[at:]


def _boundary(quoted: bytes) -> bytes:
    while True:
        boundary = b"=_" + secrets.token_hex(16).encode("ascii")
        if boundary not in quoted:
            return boundary
