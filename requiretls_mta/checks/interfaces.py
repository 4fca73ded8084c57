"""The seam for checks: what a plugin provides, what a check is told, and what it answers.

A package of somebody else's installs a module into `requiretls_mta/checks/plugins/` (without an `__init__.py`: see
`twisted.plugin`) that holds an object providing `ICheckPlugin`.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable
from typing import Any

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.plugin import IPlugin
from zope.interface import Attribute, Interface

from requiretls_mta.dns.answer import Resolver
from requiretls_mta.message.authres import Result
from requiretls_mta.message.envelope import Envelope
from requiretls_mta.message.ports import Body, Events
from requiretls_mta.message.reply import Reply


class Stage(enum.IntEnum):
    """The moments of a session at which checks begin, and those whose reply waits for their verdicts."""

    CONNECTION = 1
    """The client is there and was greeted. Checks of its address begin."""
    SENDER = 2
    """MAIL is about to be taken. Checks of the envelope begin."""
    RECIPIENT = 3
    """RCPT is about to be answered. The earliest that waits for verdicts."""
    MESSAGE = 4
    """The message is there, octet by octet as it came. Checks of it begin; its reply waits for all verdicts."""
    CONCLUSION = 5
    """All verdicts of the other stages are there. Checks that draw a conclusion from them begin."""


@attrs.frozen(kw_only=True)
class Client:
    """Who is connected; neither trusted nor, as yet, authenticated."""

    session: str
    """The id of the session in logs."""
    address: str | None
    """IP address, None on a UNIX socket."""
    listener: str = ""
    service: str = "mx"
    via_proxy: bool = False


@attrs.frozen(kw_only=True)
class Subject:
    """What is known at a check's stage; the rest has its default."""

    client: Client
    helo: str = ""
    """From SENDER on: what the client calls itself, as it came."""
    envelope: Envelope | None = None
    """From SENDER on; without recipients."""
    header: bytes = b""
    """From MESSAGE on: the header section with its last CRLF."""
    body: Body | None = None
    """From MESSAGE on: the whole message, header included, before anything is taken off or put in front."""
    verdicts: tuple[Verdict, ...] = ()
    """At CONCLUSION: what all others found; of a check that failed or was late, an empty one."""


@attrs.frozen(kw_only=True)
class Verdict:
    """What a check found. It can refuse; it cannot allow what would be refused without it."""

    check: str
    """The check's name."""
    results: tuple[Result, ...] = ()
    """For Authentication-Results, in this order."""
    refusal: Reply | None = None
    """What the client is told instead of a yes, at the check's `needed` stage; <postmaster> is told it never."""
    trace: tuple[str, ...] = ()
    """Whole header fields without their last CRLF, put between Authentication-Results and Received."""
    lifetime: float = math.inf
    """Seconds; of a CONNECTION check whose verdict is older a transaction that begins wants a new one."""


@attrs.frozen(kw_only=True)
class Tools:
    """What a check works with; it has no reactor, resolver or clock of its own."""

    clock: IReactorTime
    resolver: Resolver
    """For what no client brings about; a client's questions go to `resolver_of` its address."""
    events: Events
    settings: Callable[[str], Any] = lambda _: None
    """The settings in force of the check by that name; None: the configuration knows none."""
    in_thread: Callable[..., Deferred[Any]] = maybeDeferred
    """Runs a function that takes its time, with these arguments, where it keeps nobody waiting."""
    resolver_of: Callable[[str | None], Resolver] = attrs.field()
    """The resolver with the share of the client at that address (`Client.address`)."""

    @resolver_of.default
    def _the_same(self) -> Callable[[str | None], Resolver]:
        return lambda _: self.resolver


class ICheck(Interface):
    """One check. One that provides `twisted.application.service.IService` too is started and stopped with the MTA."""

    name = Attribute("Text, unique; `dnswl`, `spf`, ...")
    stage = Attribute("The `Stage` at which it begins: CONNECTION, SENDER, MESSAGE or CONCLUSION.")
    needed = Attribute("The `Stage` whose reply waits for the verdict: RECIPIENT or MESSAGE.")
    deadline = Attribute("Seconds from its beginning after which nobody waits any more; the message then goes on.")

    def begin(subject: Subject) -> Deferred[Verdict] | Verdict | None:
        """Begin; None when there is nothing to check. Must not block. Cancelled when the client is gone or time is up.

        A check that raises is logged, and has no verdict.
        """


class ICheckPlugin(IPlugin):
    """What `twisted.plugin` finds: the maker of checks."""

    def checks(tools: Tools) -> Iterable[ICheck]:
        """Make the checks of one MTA."""
