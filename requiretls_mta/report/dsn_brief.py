"""A report that says who and what, and no more: for when the one that tells all cannot be written.

Only a bug can be the reason, so it leans on as little as possible of what writes the other.
"""

from __future__ import annotations

import secrets

from requiretls_mta.message.address import Address
from requiretls_mta.message.envelope import Tag
from requiretls_mta.message.xtext import embed
from requiretls_mta.report.dsn_format import Report
from requiretls_mta.report.dsn_rules import Action, Told

_MOST_ADDRESS = 900
"""Characters; with more a line could be too long (RFC 5322 2.1.1)."""
_CLASSES = {Action.FAILED: 5, Action.DELAYED: 4}
_SEVEN_BIT = "Content-Transfer-Encoding: 7bit\r\n"


def write_brief(report: Report) -> bytes:
    """The report as a message of ASCII (RFC 3464), CRLF line ends; nothing of the original comes back."""
    original = report.original
    text = [
        f"This is the mail server {report.hostname}, about your message of",
        f"{report.arrival}.",
        "",
        *(f"    {one.action.value}: {_typed(one.outcome.recipient.address)[1]}" for one in report.told),
        "",
        "It cannot tell you more of it. Its operator finds what happened in the log, under",
        f"{original.id}.",
    ]
    about = [
        f"Reporting-MTA: dns; {report.hostname}",
        f"X-requiretls-mta-Queue-ID: {original.id}",
        f"Arrival-Date: {report.arrival}",
    ]
    status = [about, *(_block(one, report.date) for one in report.told)]
    parts = (
        ("text/plain; charset=us-ascii", _lines(text)),
        ("message/delivery-status", "\r\n".join(map(_lines, status))),
        ("text/rfc822-headers", ""),
    )
    boundary = f"=_{secrets.token_hex(16)}"
    body = "".join(f"--{boundary}\r\nContent-Type: {kind}\r\n{_SEVEN_BIT}\r\n{octets}\r\n" for kind, octets in parts)
    return f"{_head(report, boundary)}\r\n{body}--{boundary}--\r\n".encode("ascii")


def _head(report: Report, boundary: str) -> str:
    sender = report.original.envelope.sender
    kind, to = _typed(sender) if sender is not None else ("", "")
    lines = [
        f"From: Mail Delivery System <MAILER-DAEMON@{report.hostname}>",
        f"To: <{to}>" if kind == "rfc822" else "To: undisclosed-recipients:;",
        "Subject: What became of your message",
        f"Date: {report.date}",
        f"Message-ID: <{report.message_id}@{report.hostname}>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="{boundary}"',
    ]
    if report.original.envelope.tag is Tag.OPTIONAL:
        lines.append(report.profile.optional_field)
    return _lines(lines)


def _block(told: Told, date: str) -> list[str]:
    """RFC 3464 2.3."""
    kind, recipient = _typed(told.outcome.recipient.address)
    lines = [
        f"Final-Recipient: {kind}; {recipient}",
        f"Action: {told.action.value}",
        f"Status: {_CLASSES.get(told.action, 2)}.0.0",
    ]
    if told.action in _CLASSES:
        lines.append(f"Diagnostic-Code: smtp; {told.outcome.reply.code}")
    return [*lines, f"Last-Attempt-Date: {date}"]


def _typed(address: Address) -> tuple[str, str]:
    """RFC 6533 3: what is not ASCII, or could break out of its line, by numbers."""
    text = str(address)
    kind = "rfc822" if text.isascii() and text.isprintable() and len(text) <= _MOST_ADDRESS else "utf-8"
    return kind, text if kind == "rfc822" else embed(text)[:_MOST_ADDRESS]


def _lines(lines: list[str]) -> str:
    return "".join(f"{line}\r\n" for line in lines)
