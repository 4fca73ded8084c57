"""The check of SPF (RFC 7208): whether the domain of MAIL FROM lets this client send its mail."""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

import attrs
from twisted.internet.defer import Deferred, gatherResults
from zope.interface import implementer

from requiretls_mta.checks.dnswl_health import first_of_all
from requiretls_mta.checks.interfaces import ICheck, ICheckPlugin, Stage, Subject, Tools, Verdict
from requiretls_mta.checks.spf_rules import Identity, Outcome, check_host
from requiretls_mta.checks.turns import Turns
from requiretls_mta.message.address import Address, AddressError, ascii_domain, check_domain
from requiretls_mta.message.authres import Property, Result
from requiretls_mta.message.reply import Reply, quote
from requiretls_mta.message.shares import site_of

PATIENCE = 20.0
"""Seconds for one evaluation (RFC 7208 4.6.4, 11.1); then it is a temperror."""
QUESTIONS_AT_ONCE = 200
"""Of all evaluations together, by turns: neither a client nor a domain whose servers are slow takes the resolver from
everybody else."""
FAILED = Reply(550, "5.7.23", "SPF")
UNANSWERED = Reply(451, "4.7.1", "SPF cannot be evaluated now, try again later")
_DOT_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*\Z")


@attrs.frozen(kw_only=True)
class SPFSettings:
    """What the check goes by."""

    action: Literal["annotate", "reject"]
    receiver: str
    """Who we are, in Received-SPF and in explanations."""


@attrs.frozen(kw_only=True)
class SPFVerdict(Verdict):
    """The verdict with what it comes from; DMARC reads it."""

    identity: Identity
    outcome: Outcome


@implementer(ICheck)
class SPFCheck:
    """Evaluates MAIL FROM; of a report, whose reverse path is empty, the name in EHLO (RFC 7208 2.4)."""

    name = "spf"
    stage = Stage.SENDER
    deadline = PATIENCE + 5

    def __init__(self, tools: Tools, wall: Callable[[], float] = time.time) -> None:
        self._tools = tools
        self._wall = wall
        self._turns = Turns(QUESTIONS_AT_ONCE)

    @property
    def needed(self) -> Stage:
        """Only a rejection is worth waiting for."""
        settings: SPFSettings | None = self._tools.settings(self.name)
        return Stage.RECIPIENT if settings is not None and settings.action == "reject" else Stage.MESSAGE

    def begin(self, subject: Subject) -> Deferred[Verdict] | None:
        """Evaluate."""
        settings: SPFSettings | None = self._tools.settings(self.name)
        if settings is None or subject.client.address is None or subject.envelope is None:
            return None
        client = ipaddress.ip_address(subject.client.address.partition("%")[0])
        identity = identity_of(
            client, subject.envelope.sender, subject.helo, receiver=settings.receiver, now=self._wall()
        )
        evaluated = Deferred.fromCoroutine(self._evaluate(identity))
        evaluated.addTimeout(PATIENCE, self._tools.clock, onTimeoutCancel=lambda *_: _TIMED_OUT)
        return evaluated.addCallback(self._found, identity, settings, subject.client.session)

    async def _evaluate(self, identity: Identity) -> Outcome:
        evaluation, client = check_host(identity), str(identity.client)
        site, resolve = site_of(client), self._tools.resolver_of(client).resolve
        answers: Any = None  # there are none yet
        while True:
            try:
                questions = evaluation.send(answers)
            except StopIteration as end:
                outcome: Outcome = end.value
                return outcome
            turns = [self._turns.run(site, resolve, *question) for question in questions]
            asked = [Deferred.fromCoroutine(turn) for turn in turns]
            answers = tuple(await gatherResults(asked, consumeErrors=True).addErrback(first_of_all))

    def _found(self, outcome: Outcome, identity: Identity, settings: SPFSettings, session: str) -> Verdict:
        self._tools.events.emit(
            "spf",
            level="debug",
            session=session,
            client=str(identity.client),
            domain=identity.domain,
            result=outcome.result,
            reason=outcome.problem or None,
        )
        return SPFVerdict(
            check=self.name,
            results=(report(identity, outcome),),
            refusal=_refusal(identity, outcome) if settings.action == "reject" else None,
            trace=(received_spf(identity, outcome),),
            identity=identity,
            outcome=outcome,
        )


_TIMED_OUT = Outcome(result="temperror", problem=f"no result within {PATIENCE:g} s")


def identity_of(
    client: ipaddress.IPv4Address | ipaddress.IPv6Address,
    sender: Address | None,
    helo: str,
    *,
    receiver: str = "unknown",
    now: float = 0.0,
) -> Identity:
    """Who sends, as SPF sees it; a sender without a local part is the postmaster (RFC 7208 4.3)."""
    if isinstance(client, ipaddress.IPv6Address) and client.ipv4_mapped is not None:
        client = client.ipv4_mapped
    domain = helo if sender is None else sender.domain
    try:
        domain = ascii_domain(domain)
    except AddressError:
        domain = ""  # no name that the DNS could know
    return Identity(
        client=client,
        kind="helo" if sender is None else "mailfrom",
        local=(sender.local if sender is not None else "") or "postmaster",
        domain=domain.removesuffix("."),
        helo=helo,
        receiver=receiver,
        now=now,
    )


def report(identity: Identity, outcome: Outcome) -> Result:
    """How it is written into Authentication-Results: the domain alone, for nobody vouches for more (RFC 8601 2.7.2)."""
    try:
        check_domain(identity.domain)
        properties: tuple[Property, ...] = (Property("smtp", identity.kind, identity.domain),)
    except (AddressError, ValueError):
        properties = ()
    return Result("spf", outcome.result, properties=properties)


def received_spf(identity: Identity, outcome: Outcome) -> str:
    """The Received-SPF field (RFC 7208 9.1), without its last CRLF."""
    pairs = {"client-ip": str(identity.client)}
    if identity.kind == "mailfrom":
        pairs["envelope-from"] = identity.sender
    pairs |= {"helo": identity.helo, "receiver": identity.receiver, "identity": identity.kind}
    if outcome.mechanism:
        pairs["mechanism"] = outcome.mechanism
    if outcome.problem:
        pairs["problem"] = outcome.problem
    comment = re.sub(r"([()\\])", r"\\\1", quote(f"{identity.receiver}: {_explain(identity, outcome)}"))
    lines = [f"Received-SPF: {outcome.result}", f"({comment})"]
    lines += [f"{key}={_value(value)};" for key, value in pairs.items()]
    return "\r\n ".join(lines)


def _value(text: str) -> str:
    """A dot-atom, or a quoted-string that is short enough for a line whatever has to be escaped."""
    return text if _DOT_ATOM.match(text) else '"' + re.sub(r'(["\\])', r"\\\1", quote(text)[:400]) + '"'


def _explain(identity: Identity, outcome: Outcome) -> str:
    domain, client = quote(identity.domain)[:255], identity.client
    match outcome.result:
        case "pass":
            return f"domain of {domain} designates {client} as permitted sender"
        case "fail" | "softfail":
            return f"domain of {domain} does not designate {client} as permitted sender"
        case "neutral":
            return f"domain of {domain} does not say whether {client} is a permitted sender"
        case "none":
            return f"domain of {domain} does not designate permitted senders"
        case _:
            return f"permitted senders of {domain} are not known"


def _refusal(identity: Identity, outcome: Outcome) -> Reply | None:
    if outcome.result == "temperror":
        return UNANSWERED
    if outcome.result != "fail":
        return None
    domain = quote(identity.domain)[:255]
    text = f"SPF: {domain} does not let {identity.client} send its mail"
    if outcome.explanation:
        # RFC 7208 6.2: whose words these are must be plain.
        text += f"\n{domain} explains: {quote(outcome.explanation)[:300]}"
    return FAILED.with_text(text)


@implementer(ICheckPlugin)
class SPFPlugin:
    """Makes the check."""

    def checks(self, tools: Tools) -> Iterable[ICheck]:
        """One check for all."""
        return [SPFCheck(tools)]
