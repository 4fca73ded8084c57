"""A message's story for people: who it is, then event by event, with what was said in its sessions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from requiretls_mta.cli.common import printable

Event = Mapping[str, Any]

_STATES = {"delivered": "green", "failed": "bold red", "queued": "yellow", "removed": "yellow"}
_STYLES = {
    "delivered": "bold green",
    "bounced": "bold red",
    "expired": "bold red",
    "unsettled": "bold red",
    "discarded": "red",
    "deferred": "yellow",
    "operator": "bold",
}
_SIDES = {"client": "C", "server": "S", None: "*"}
_ORIGINS = {"report": "a report about {parent}", "list": "a list's copy", "local": "made here"}
_ASKED = {
    "required": "REQUIRETLS was asked for by MAIL",
    "optional": "TLS is optional by its header field TLS-Required",
}
_SHOWN_ELSEWHERE = frozenset({"time", "event", "queue_id", "level", "message", "sender", "attempt"})


def print_stories(stories: Sequence[Mapping[str, Any]]) -> None:
    """Each message of a family under a heading of its own."""
    # A pipe has no width to fit into.
    console = Console(width=None if sys.stdout.isatty() else 4000, highlight=False)
    for number, story in enumerate(stories):
        if number:
            console.print()
        for line in _heading(story):
            console.print(line)
        for event in story["events"]:
            for line in _event(event):
                console.print(line)


def _text(text: object, style: str = "") -> Text:
    # All of it may come from strangers: no markup, no controls.
    return Text(printable(str(text)), style)


def _row(*cells: tuple[int, Text]) -> Table:
    """One line: cells of these widths, the last one wrapped in its own column."""
    grid = Table.grid()
    for width, _ in cells[:-1]:
        grid.add_column(width=width, no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(*(text for _, text in cells))
    return grid


# --- who it is ------------------------------------------------------------------------------------------------------


def _heading(story: Mapping[str, Any]) -> Iterator[RenderableType]:
    kind = _ORIGINS.get(story["origin"] or "", "")
    if not kind and story["parent"]:
        kind = "a part of {parent}"
    yield Text.assemble(_text(f"Message {story['id']}", "bold"), _text("  " + kind.format(**story) if kind else ""))
    required = {"required": "REQUIRETLS", "optional": "TLS-Required: No"}.get(story["requiretls"] or "")
    yield _about("from", story["sender"] or "<>")
    for recipient in story["recipients"]:
        state = recipient["state"]
        reply = f" {recipient['last_reply']}" if recipient["last_reply"] else ""
        yield _row(
            (5, Text()),
            (14, _text("to", "dim")),
            (0, Text.assemble(_text(recipient["address"]), "  ", _text(state, _STATES[state]), _text(reply, "dim"))),
        )
    if story["message_id"]:
        yield _about("Message-ID", story["message_id"])
    if required:
        yield _about("TLS", required, "bold")
    if story["born"]:
        yield _about("brought forth", ", ".join(story["born"]))
    yield Text()


def _about(word: str, text: str, style: str = "") -> Table:
    return _row((5, Text()), (14, _text(word, "dim")), (0, _text(text, style)))


# --- what happened --------------------------------------------------------------------------------------------------


def _event(event: Event) -> Iterator[RenderableType]:
    name = str(event.get("event"))
    tell = _TOLD.get(name, _others)
    when = str(event.get("time", "")).replace("T", " ").removesuffix("Z")
    yield _row((24, _text(when, "dim")), (11, _text(name, _STYLES.get(name, "bold"))), (0, _text(tell(event))))
    for check in event.get("checks", ()):
        yield _row((35, Text()), (0, _text(check.get("text"), "dim")))
    yield from _dialogue(event.get("transcript", ()))
    for host in event.get("hosts", ()):
        yield from _host(host)


def _dialogue(lines: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """Line by line, but for the many lines of a reply, which are one."""
    earlier: list[str] = []
    for number, line in enumerate(lines, 1):
        side, text = line["from"], line["text"]
        if side == "server" and text[3:4] == "-" and number < len(lines):
            earlier.append(text[4:] if earlier else f"{text[:3]} {text[4:]}")
            continue
        if earlier:
            text, earlier = "; ".join([*earlier, text[4:]]), []
        yield _row(
            (24, Text()),
            (10, Text("" if line["at"] is None else f"{line['at']:8.3f}", "dim")),
            (2, _text(_SIDES[side], "dim")),
            (0, _text(text, {"client": "cyan", "server": "", None: "italic dim"}[side])),
        )


def _host(host: Mapping[str, Any]) -> Iterator[Table]:
    where = f" at {host['address']}" if host.get("address") else ""
    yield _row((27, Text()), (0, Text.assemble(_text(host["host"], "bold"), _text(where))))
    yield from _dialogue(host.get("transcript", ()))
    if decision := host.get("decision"):
        yield _judged(Text("ok", "green"), decision)
    if failure := host.get("failure"):
        yield _judged(Text("NO", "bold red"), failure)


def _judged(mark: Text, told: Mapping[str, Any]) -> Table:
    clause = f"  {told['clause']}" if told.get("clause") else ""
    then = " (not now)" if told.get("temporary") else ""
    said = Text.assemble(_text(told["detail"] + then), _text(clause, "dim"))
    return _row((27, Text()), (3, mark), (13, _text(told["step"])), (0, said))


# --- in words -------------------------------------------------------------------------------------------------------


def _accepted(event: Event) -> str:
    tls = f", {event['tls_version']}" if event.get("tls_version") else ", without TLS"
    user = f", {event['user']} logged in" if event.get("user") else ""
    client = event.get("client") or "a UNIX socket"
    listener = event.get("listener") or "a listener"
    return f"by {listener} from {event.get('helo')} [{client}], {event.get('protocol')}{tls}{user}"


def _queued(event: Event) -> str:
    names, count = event.get("recipients", ()), event.get("count", 0)
    more = f" and {count - len(names)} more" if count > len(names) else ""
    text = f"for {', '.join(names)}{more}; {event.get('size')} octets"
    if named := event.get("named"):
        text += f"; named were {', '.join(named)}"
    if event.get("rule"):
        text += f"; decided by {event['rule']}: {event.get('effect') or 'nothing'}"
    elif event.get("origin") == "smtp" and event.get("requiretls") in _ASKED:
        text += f"; {_ASKED[event['requiretls']]}"
    return text


def _attempt(event: Event) -> str:
    count = event.get("count", 1)
    return f"at {event.get('domain')}, for {count} recipient{'' if count == 1 else 's'}"


def _outcome(event: Event) -> str:
    where = f" by {event['mx']}" if event.get("mx") else ""
    text = f"{event.get('recipient')}{where}: {event.get('reply')}"
    facts = [str(event[name]) for name in ("tls_version", "auth", "mx_security") if event.get(name)]
    if event.get("keyword"):
        facts.append("REQUIRETLS")
    if facts:
        text += f" ({', '.join(facts)})"
    if event.get("next_attempt"):
        return f"{text}; next attempt {event['next_attempt']}"
    return f"{text}; {event.get('delay')} s after it came"


def _reported(event: Event) -> str:
    return f"to {event.get('sender')}, as {event.get('report')}: {', '.join(event.get('actions', ()))}"


def _tls(event: Event) -> str:
    version = f"{event['tls_version']}, {event.get('cipher')}" if event.get("tls_version") else "none"
    auth = f"authenticated by {event['auth']}" if event.get("auth") else "not authenticated"
    policy = event.get("policy_type") or "unheeded"
    found = f"MX security {event.get('mx_security')}, DANE {event.get('dane')}, policy {policy}"
    keyword = "REQUIRETLS is offered" if event.get("keyword") else "REQUIRETLS is not offered"
    text = f"{event.get('mx')}: {version}; {auth}; {found}; {keyword}"
    return f"{text}; {event['detail']}" if event.get("detail") else text


def _operator(event: Event) -> str:
    return f"queue {event.get('action')}"


def _others(event: Event) -> str:
    return ", ".join(f"{name}={value}" for name, value in event.items() if name not in _SHOWN_ELSEWHERE)


_TOLD: Mapping[str, Callable[[Event], str]] = {
    "accepted": _accepted,
    "queued": _queued,
    "attempt": _attempt,
    "delivered": _outcome,
    "deferred": _outcome,
    "bounced": _outcome,
    "expired": _outcome,
    "reported": _reported,
    "tls": _tls,
    "operator": _operator,
}
