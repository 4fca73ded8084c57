"""The words of a failure report: what happened to whom, at which host and step, and what the sender can do."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from requiretls_mta.message.envelope import Tag
from requiretls_mta.message.outcome import Cause, Failed
from requiretls_mta.message.profile import SUPPORT_REQUIRED
from requiretls_mta.message.reply import quote
from requiretls_mta.message.stored import Message

_TEXT_LIMIT = 50_000
"""Characters after which further recipients are only counted; the delivery status names them all."""
_PROTECTED = "The message was sent with REQUIRETLS: every server on its way must be encrypted and authenticated"
_PROMISE = f"{_PROTECTED}, and promise the same for the next. None of the recipient's makes that promise."
_WHY = {
    **dict.fromkeys(SUPPORT_REQUIRED, _PROMISE),
    "5.7.10": f"{_PROTECTED}. None of the recipient's could be reached in that way.",
}
_SEND_WITHOUT = (
    "What you can do: ask the recipient's mail operator to support REQUIRETLS (RFC 8689), or send the message again "
    "without it, if it may travel unprotected."
)
_ADVICE = {
    "5.1.1": "What you can do: check the address for mistakes.",
    "5.1.2": "What you can do: check the address for mistakes, above all what follows the @.",
    "5.1.3": "What you can do: check the address for mistakes.",
    "5.1.10": "What you can do: check the address for mistakes; its domain takes no mail.",
    "5.2.2": "What you can do: try again later, or reach the recipient in another way; the mailbox is full.",
    "5.3.4": "What you can do: send a smaller message.",
    "5.4.7": "What you can do: send the message again later; its time in our queue is over.",
    "5.7.10": _SEND_WITHOUT,
    **dict.fromkeys(SUPPORT_REQUIRED, _SEND_WITHOUT),
}


def explain(original: Message, failed: Sequence[Failed], *, hostname: str, arrival: str) -> str:
    """The part of a report that people read; CRLF line ends. `arrival` is the original's, an RFC 5322 date-time."""
    lines = [f"This is the mail server {hostname}. Your message of {arrival}", "could not be delivered to:", ""]
    groups: dict[tuple[str, tuple[Cause, ...]], list[Failed]] = {}
    for failure in failed:
        groups.setdefault((str(failure.reply), failure.causes), []).append(failure)
    told = 0
    for group in groups.values():
        if sum(map(len, lines)) > _TEXT_LIMIT:
            lines += [f"    ... and {len(failed) - told} more recipients; the attached status names them.", ""]
            break
        lines += _group(group, required=original.envelope.tag is Tag.REQUIRED)
        told += len(group)
    lines.append("It will not be tried again. Details for your mail operator are attached.")
    return "\r\n".join(lines) + "\r\n"


def _group(group: Sequence[Failed], *, required: bool) -> list[str]:
    """Recipients that failed in the same way."""
    one = group[0]
    lines = [f"    {quote(str(failure.recipient.address))}" for failure in group]
    lines += ["", *_wrapped(_headline(one)), ""]
    if required and one.reply.enhanced in _WHY:
        lines += [*_wrapped(_WHY[one.reply.enhanced]), ""]
    if one.causes:
        lines += ["    What was tried, and at which step it ended:", ""]
        lines += [line for cause in one.causes for line in _tried(cause)]
        lines.append("")
    if one.reply.enhanced in _ADVICE and (required or one.reply.enhanced not in _WHY):
        lines += [*_wrapped(_ADVICE[one.reply.enhanced]), ""]
    return lines


def _headline(failure: Failed) -> str:
    """The reply, and who gave it; our own conclusion without the causes that are listed anyway."""
    reply = failure.reply
    ends = [end for cause in failure.causes if (end := reply.text.find(str(cause))) >= 0]
    text = f"{reply.code} {reply.enhanced or ''} {reply.text[: min(ends)].rstrip(' :;') if ends else reply.text}"
    return text if ends or not failure.host else f"{quote(failure.host)} said: {text}"


def _tried(cause: Cause) -> list[str]:
    where = f"{cause.host} [{cause.address}]" if cause.address else cause.host
    clause = f" ({cause.clause})" if cause.clause else ""
    return [f"      * {quote(where)}", *_wrapped(f"{cause.step.value}: {cause.detail}{clause}", indent=8)]


def _wrapped(text: str, indent: int = 4) -> list[str]:
    blank = " " * indent
    shown = quote(" ".join(text.split()))
    return textwrap.wrap(shown, 90, initial_indent=blank, subsequent_indent=blank, break_on_hyphens=False)
