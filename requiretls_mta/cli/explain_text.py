"""An explanation for people: what was asked, host by host the five steps, and at the end what it comes to."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from requiretls_mta.cli.common import printable
from requiretls_mta.message.address import Address
from requiretls_mta.relay.explanation import Explanation, Prospect, StepResult, Visit, how_found
from requiretls_mta.relay.presented import Certificate
from requiretls_mta.relay.route import NoPolicy, NoRoute, Route
from requiretls_mta.service.config_types import write_duration
from requiretls_mta.tls.elements import DANE
from requiretls_mta.tls.policy import Level

_STYLES = {Prospect.DELIVERABLE: "bold green", Prospect.UNDELIVERABLE: "bold red", Prospect.TEMPORARY: "bold yellow"}
_MOST_NAMES = 5
"""Names of a certificate that are shown; JSON has them all."""


@contextlib.contextmanager
def waiting(mailbox: Address) -> Iterator[None]:
    """Show on a terminal that something is going on."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with Status(Text(f"Asking the hosts for {printable(str(mailbox))}"), console=console):
        yield


def print_explanation(told: Explanation, lifetime: float, now: float) -> None:
    """`lifetime` is the time in seconds for which a tagged message is tried again, `now` in Unix seconds."""
    # A pipe has no width to fit into.
    console = Console(width=None if sys.stdout.isatty() else 4000, highlight=False)
    console.print(_text(f"A REQUIRETLS message to {told.address}", "bold"))
    for row in _about(told):
        console.print(row)
    for number, (_, visits) in enumerate(itertools.groupby(told.visits, key=lambda visit: visit.host.name), 1):
        for visit in visits:
            console.print()
            console.print(_heading(number, visit))
            for row in _met(visit, datetime.datetime.fromtimestamp(now, datetime.UTC)):
                console.print(row)
    console.print()
    for line in _end(told, lifetime):
        console.print(line)


def _text(text: str, style: str = "") -> Text:
    # All of it may come from strangers: no markup, no controls.
    return Text(printable(text), style)


def _grid(mark: Text, word: Text, said: Text, clause: str = "") -> Table:
    """One line; what there is to say is wrapped in its own column."""
    grid = Table.grid()
    for width in (2, 3, 13):
        grid.add_column(width=width)
    grid.add_column(overflow="fold")
    cells = [Text(), mark, word, said]
    if clause:
        grid.add_column(no_wrap=True)
        cells.append(_text(f"  {clause}", "dim"))
    grid.add_row(*cells)
    return grid


def _indented(text: Text) -> Table:
    grid = Table.grid()
    grid.add_column(width=2)
    grid.add_column(overflow="fold")
    grid.add_row("", text)
    return grid


def _row(word: str, text: str, style: str = "") -> Table:
    return _grid(Text(), _text(word, "dim"), _text(text, style))


# --- what was asked -------------------------------------------------------------------------------------------------


def _about(told: Explanation) -> Iterator[Table]:
    level = told.level.value
    yield _row("policy", level if told.level is Level.ENFORCE else f"{level}, less than RFC 8689 asks for", "")
    route = told.route
    if isinstance(route, NoRoute):
        yield _row("look-up", route.reply.text, "red")
    elif route is not None and not route.local:
        yield _row("look-up", _look_up(told, route))
        yield _row("MTA-STS", _mta_sts(route))


def _look_up(told: Explanation, route: Route) -> str:
    count = len(route.hosts)
    hosts = f"{count} host{'' if count == 1 else 's'}"
    asked = f" by the MX records of {route.next_hop}" if route.next_hop not in ("", route.domain) else ""
    return f"{hosts}{asked}; {how_found(route, told.mx_security)}"


def _mta_sts(route: Route) -> str:
    match route.policy:
        case None:
            return "not asked for"
        case NoPolicy(problem=""):
            return "the domain announces no policy"
        case NoPolicy(problem=problem):
            return f"no policy to be had: {problem}"
        case policy:
            listed = f", lists {', '.join(policy.mx[:_MOST_NAMES])}" if policy.mx else ""
            more = f" and {len(policy.mx) - _MOST_NAMES} more" if len(policy.mx) > _MOST_NAMES else ""
            return f"mode {policy.mode.value}{listed}{more}"


# --- one host -------------------------------------------------------------------------------------------------------


def _heading(number: int, visit: Visit) -> Text:
    host = visit.host
    where = f" at {visit.address}, port {host.port}" if visit.address is not None else ""
    preference = f" (preference {host.preference})" if host.preference else ""
    return Text.assemble(f"{number}. ", _text(host.name, "bold"), _text(where + preference))


def _met(visit: Visit, now: datetime.datetime) -> Iterator[Table]:
    for step in visit.steps:
        style = "" if step.reached else "dim"
        clause = step.clause if step.reached else ""
        yield _grid(_mark(step), _text(step.step.value, style), _text(step.detail, style), clause)
    for place, certificate in enumerate(visit.certificates):
        yield _row("certificate" if place == 0 else "", *_certificate(certificate, now))
    if visit.host.tlsa.state is DANE.UNKNOWN:
        yield _row("TLSA", visit.host.tlsa.problem, "red")
    for checked in visit.tlsa:
        yield _row("TLSA", f"{'matches' if checked.matches else checked.detail}: {checked.record}")
    if visit.logs_in:
        yield _row("login", "configured for this host, and not tried here")
    yield _row("so", *_verdict(visit))


def _mark(step: StepResult) -> Text:
    if not step.reached:
        return Text("-", "dim")
    return Text("ok", "green") if step.ok else Text("NO", "bold red")


def _certificate(one: Certificate | str, now: datetime.datetime) -> tuple[str, str]:
    if isinstance(one, str):
        return one, "red"
    names = ", ".join(one.names[:_MOST_NAMES])
    if len(one.names) > _MOST_NAMES:
        names += f" and {len(one.names) - _MOST_NAMES} more"
    about = " for ".join(filter(None, (one.subject, names))) or "nobody"
    ended = ", expired" if one.not_after < now else ", not yet valid" if one.not_before > now else ""
    dates = f"{one.not_before:%Y-%m-%d} to {one.not_after:%Y-%m-%d}{ended}"
    return f"{about}; by {one.issuer}; {dates}", "yellow" if ended else ""


def _verdict(visit: Visit) -> tuple[str, str]:
    style = _STYLES[visit.prospect].removeprefix("bold ")
    match visit.prospect:
        case Prospect.DELIVERABLE if visit.waived is not None:
            return "the configuration lets the message pass, RFC 8689 would not", "yellow"
        case Prospect.DELIVERABLE:
            return "the message may pass", style
        case Prospect.TEMPORARY:
            return f"{visit.status}: not now", style
    return f"{visit.status}: the message may not pass", style


# --- what it comes to -----------------------------------------------------------------------------------------------


def _end(told: Explanation, lifetime: float) -> Iterator[Text | Table]:
    style = _STYLES[told.prospect]
    if told.reply is None:
        yield Text.assemble(("Deliverable", style), ": ", _text(_deliverable(told)))
        return
    again = write_duration(lifetime)
    word, then = {
        Prospect.TEMPORARY: ("Not now", f"it would be tried again, for at most {again} (requiretls.lifetime)"),
        Prospect.UNDELIVERABLE: ("Undeliverable", "the sender would get it back with this status"),
    }[told.prospect]
    yield Text.assemble((word, style), ": ", _text(told.status, style), _text(f"; {then}."))
    yield _indented(_text(str(told.reply), "dim"))


def _deliverable(told: Explanation) -> str:
    visit = told.chosen
    if told.is_local or visit is None:
        return "on this machine, where nothing has to be proved (RFC 8689 4.4)."
    tls = f"{visit.tls.version}, {visit.proved.auth or 'not authenticated'}" if visit.tls and visit.proved else "no TLS"
    said = f"{visit.host.name} would get it ({tls})."
    if visit.waived is not None:
        said += (
            f" Only because the policy is {told.level.value} here;"
            f" RFC 8689 would not let it: {visit.waived.detail} ({visit.waived.clause})."
        )
    return said
