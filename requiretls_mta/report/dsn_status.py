"""What machines read of a report: `message/delivery-status` (RFC 3464 2), or its form in UTF-8 (RFC 6533 4.1)."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from requiretls_mta.message.address import Address, AddressError, ascii_domain
from requiretls_mta.message.envelope import Recipient
from requiretls_mta.message.outcome import Cause, Outcome, Step
from requiretls_mta.message.reply import Reply, quote
from requiretls_mta.message.stored import Message
from requiretls_mta.message.trace import date_time
from requiretls_mta.message.xtext import decode, embed
from requiretls_mta.report.dsn_rules import Action, Told

_DIAGNOSTIC_LIMIT = 4000
_DIAGNOSTICS_LIMIT = 200_000
"""Characters of one Diagnostic-Code, and of all of them in a report."""
_CLASSES = {Action.FAILED: 5, Action.DELAYED: 4}
_EDGES = re.compile(r"\A +| +\Z")
_EMBEDDED = re.compile(r"\\x\{([0-9A-F]{2,6})\}")


def delivery_status(original: Message, told: Sequence[Told], *, hostname: str, date: str, arrival: str) -> str:
    """The fields with CRLF line ends. ASCII, unless the message was an SMTPUTF8 one; dates are RFC 5322 date-times."""
    utf8 = original.envelope.smtputf8
    blocks = [
        [
            f"Reporting-MTA: dns; {hostname}",
            f"X-requiretls-mta-Queue-ID: {original.id}",
            f"Arrival-Date: {arrival}",
        ]
    ]
    if original.envelope.envid:
        blocks[0].insert(0, f"Original-Envelope-Id: {_ascii(quote(decode(original.envelope.envid)))}")
    room = min(_DIAGNOSTIC_LIMIT, _DIAGNOSTICS_LIMIT // len(told))
    # Many recipients often ended in the same way.
    diagnostics: dict[tuple[Reply, tuple[Cause, ...]], str] = {}
    for one in told:
        outcome = one.outcome
        block = []
        if outcome.recipient.orcpt:
            block.append(f"Original-Recipient: {_original_recipient(outcome.recipient, utf8=utf8)}")
        block += [
            f"Final-Recipient: {_typed(outcome.recipient.address, utf8=utf8)}",
            f"Action: {one.action.value}",
            f"Status: {_status(one)}",
        ]
        if host := remote_host(outcome):
            block.append(f"Remote-MTA: dns; {host}")
        if host or one.action in _CLASSES:
            # RFC 3464 2.3.6: what a mailbox says of a success is no reply of SMTP.
            way = outcome.reply, outcome.causes
            if way not in diagnostics:
                diagnostics[way] = _diagnostic(outcome, room)
            block.append(diagnostics[way])
        block.append(f"Last-Attempt-Date: {date}")
        if one.until is not None:
            block.append(f"Will-Retry-Until: {date_time(one.until)}")
        blocks.append(block)
    text = "\r\n\r\n".join("\r\n".join(block) for block in blocks) + "\r\n"
    return text if utf8 else _ascii(text)


def remote_host(outcome: Outcome) -> str | None:
    """The host that spoke, escaped; RFC 3464 2.3.5: none where no other MTA was involved."""
    if not outcome.host or outcome.host.startswith("/"):
        return None
    if outcome.security is None and (not outcome.causes or outcome.causes[-1].step is Step.LOOKUP):
        return None
    return quote(outcome.host)


def with_a_labels(address: Address) -> Address:
    """The address with its domain in ASCII, if that has such a form."""
    try:
        return Address(address.local, ascii_domain(address.domain))
    except AddressError:
        return address


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode("ascii")


def _status(told: Told) -> str:
    """RFC 3464 2.3.4: of the class that belongs to the action."""
    kind, enhanced = str(_CLASSES.get(told.action, 2)), told.outcome.reply.enhanced
    return enhanced if enhanced and enhanced.startswith(kind) else f"{kind}.0.0"


def _diagnostic(outcome: Outcome, room: int) -> str:
    """The reply, and each host with the step that failed, folded."""
    text = " ".join(f"{outcome.reply}".split())
    tried = "; ".join(str(cause) for cause in outcome.causes if str(cause) not in text)
    if tried:
        text = f"{text} ({tried})"
    text = text[:room]
    if not text.isprintable():
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    # Names of hosts stay whole; words that no line can hold are broken all the same.
    words = [word[i : i + 200] for word in text.split() for i in range(0, len(word), 200)]
    field = " ".join(["Diagnostic-Code: smtp;", *words])
    return "\r\n ".join(textwrap.wrap(field, 76, break_long_words=False, break_on_hyphens=False))


def _original_recipient(recipient: Recipient, *, utf8: bool) -> str:
    kind, _, address = (recipient.orcpt or "").partition(";")
    # A blank at an end would be taken for folding and lost: it stays encoded.
    if kind.lower() == "utf-8":
        # RFC 6533 3: unitext may have come from the client, raw UTF-8 in it or not; xtext it is not.
        shown = quote(_EMBEDDED.sub(_character, address)) if utf8 else embed(address, "")
        shown = _EDGES.sub(lambda blanks: r"\x{20}" * len(blanks.group()), shown)
    else:
        shown = _ascii(quote(decode(address))) if address.isascii() else embed(address)
        if shown != shown.strip():
            shown = quote(address)
    return f"{quote(kind)};{shown}"


def _character(embedded: re.Match[str]) -> str:
    code = int(embedded.group(1), 16)
    return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else embedded.group()


def _typed(address: Address, *, utf8: bool) -> str:
    """RFC 6533 3: an address outside ASCII is of type utf-8, and shown in ASCII where nothing else may be."""
    if utf8 and not address.is_ascii:
        return f"utf-8; {quote(str(address))}"
    address = with_a_labels(address)
    return f"rfc822; {address}" if address.is_ascii else f"utf-8; {embed(str(address))}"
