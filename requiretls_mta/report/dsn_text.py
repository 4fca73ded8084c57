"""The words of a report: what happened to whom, at which host and step, and what the sender can do."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from requiretls_mta.message.envelope import Tag
from requiretls_mta.message.outcome import Cause, Delivered, Outcome, Tried
from requiretls_mta.message.profile import SUPPORT_REQUIRED
from requiretls_mta.message.reply import quote
from requiretls_mta.message.stored import Message
from requiretls_mta.message.trace import date_time
from requiretls_mta.report.dsn_rules import Action, Told
from requiretls_mta.report.dsn_status import remote_host

_TEXT_LIMIT = 50_000
"""Characters after which further recipients are only counted; the delivery status names them all."""
_OPENINGS = {
    Action.FAILED: "It could not be delivered to:",
    Action.DELAYED: "It could not be delivered yet to:",
    Action.DELIVERED: "It has been delivered to:",
    Action.RELAYED: "It has been passed on to a server that may not tell you what becomes of it, for:",
    Action.EXPANDED: "It has been passed on to everybody who is meant by:",
}
_CLOSINGS = {
    Action.FAILED: "It will not be tried again.",
    Action.DELAYED: "This is only a warning: you need not send it again. It will be tried until {until}.",
}
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


def explain(original: Message, told: Sequence[Told], *, hostname: str, arrival: str) -> str:
    """The part of a report that people read; CRLF line ends. `arrival` is the original's, an RFC 5322 date-time."""
    lines = [f"This is the mail server {hostname}, about your message of", f"{arrival}.", ""]
    for action in Action:
        those = [one for one in told if one.action is action]
        if those:
            lines += _section(action, those, required=original.envelope.tag is Tag.REQUIRED)
    lines.append("Details for your mail operator are attached.")
    return "\r\n".join(lines) + "\r\n"


def _section(action: Action, told: Sequence[Told], *, required: bool) -> list[str]:
    """All to whom the same happened."""
    lines = [_OPENINGS[action], ""]
    groups: dict[tuple[str, tuple[Cause, ...], tuple[Tried, ...]], list[Told]] = {}
    for one in told:
        groups.setdefault((str(one.outcome.reply), one.outcome.causes, one.tried), []).append(one)
    count = 0
    for group in groups.values():
        if sum(map(len, lines)) > _TEXT_LIMIT:
            lines += [f"    ... and {len(told) - count} more recipients; the attached status names them.", ""]
            break
        lines += _group(group, required=required)
        count += len(group)
    if closing := _CLOSINGS.get(action):
        lines += [*_wrapped(closing.format(until=date_time(told[0].until or 0.0)), indent=0), ""]
    return lines


def _group(group: Sequence[Told], *, required: bool) -> list[str]:
    """Recipients that fared in the same way."""
    one = group[0]
    outcome = one.outcome
    lines = [f"    {quote(str(other.outcome.recipient.address))}" for other in group]
    lines.append("")
    if one.action is Action.EXPANDED:
        return lines
    lines += [*_wrapped(_headline(outcome)), ""]
    status = outcome.reply.enhanced
    if required and status in _WHY:
        lines += [*_wrapped(_WHY[status]), ""]
    if outcome.causes:
        lines += ["    What was tried, and at which step it ended:", ""]
        lines += [line for cause in outcome.causes for line in _tried(cause)]
        lines.append("")
    if one.tried:
        lines += ["    Attempts before this one, not all of them if there were many:", ""]
        for earlier in one.tried:
            lines += [f"      * {date_time(earlier.at)}", *_wrapped(earlier.reply, indent=8)]
        lines.append("")
    if status in _ADVICE and (required or status not in _WHY):
        lines += [*_wrapped(_ADVICE[status]), ""]
    return lines


def _headline(outcome: Outcome) -> str:
    """The reply, and who gave it; our own conclusion without the causes that are listed anyway."""
    reply, host = outcome.reply, remote_host(outcome)
    ends = [end for cause in outcome.causes if (end := reply.text.find(str(cause))) >= 0]
    text = f"{reply.code} {reply.enhanced or ''} {reply.text[: min(ends)].rstrip(' :;') if ends else reply.text}"
    if ends or not host:
        return text
    command = None if isinstance(outcome, Delivered) else outcome.command
    return f"{host} said to {command}: {text}" if command else f"{host}: {text}"


def _tried(cause: Cause) -> list[str]:
    where = f"{cause.host} [{cause.address}]" if cause.address else cause.host
    clause = f" ({cause.clause})" if cause.clause else ""
    return [f"      * {quote(where)}", *_wrapped(f"{cause.step.value}: {cause.detail}{clause}", indent=8)]


def _wrapped(text: str, indent: int = 4) -> list[str]:
    blank = " " * indent
    shown = quote(" ".join(text.split()))
    return textwrap.wrap(shown, 90, initial_indent=blank, subsequent_indent=blank, break_on_hyphens=False)
