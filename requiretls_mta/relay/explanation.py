"""What would become of a REQUIRETLS message, as values: five steps per host and address, and what they come to."""

from __future__ import annotations

import enum
from collections.abc import Sequence

import attrs

from requiretls_mta.message.outcome import Cause, Step
from requiretls_mta.message.reply import Reply
from requiretls_mta.relay.demand import Demand
from requiretls_mta.relay.dial import Line
from requiretls_mta.relay.outcomes import judged
from requiretls_mta.relay.presented import Certificate, Checked
from requiretls_mta.relay.route import Host, NoRoute, Route
from requiretls_mta.tls.dane import NO_RECORDS
from requiretls_mta.tls.elements import DANE, STS, Facts, MXSecurity, Proof, Proved, Requirement, TLSState
from requiretls_mta.tls.facts import ClientTLS
from requiretls_mta.tls.judge import Row, judge
from requiretls_mta.tls.policy import Level

STEPS = (Step.LOOKUP, Step.CONNECT, Step.STARTTLS, Step.AUTHENTICATE, Step.REQUIRETLS)
RFC8689 = Demand(requirement=Requirement.REQUIRED, level=Level.ENFORCE)
"""What the steps are measured by, whatever the operator lets pass."""


class Prospect(enum.Enum):
    """What would become of the message."""

    DELIVERABLE = "deliverable"
    UNDELIVERABLE = "undeliverable"
    TEMPORARY = "temporary"
    """Nobody would take it now; it would be tried again."""


@attrs.frozen(kw_only=True)
class StepResult:
    """One step with one host, by RFC 8689 as it stands."""

    step: Step
    ok: bool
    detail: str
    """For a person; escaped."""
    clause: str
    reached: bool = True
    """False: an earlier step left nothing to see here."""


@attrs.frozen(kw_only=True)
class Visit:
    """One host at one of its addresses."""

    host: Host
    address: str | None
    """None: it was not connected to, for want of an address."""
    steps: tuple[StepResult, ...]
    cause: Cause | None
    """Why it would not take the message; None: it would."""
    tls: ClientTLS | None = None
    proved: Proved | None = None
    certificates: tuple[Certificate | str, ...] = ()
    """As presented, the host's own first; a text for one that cannot be read."""
    tlsa: tuple[Checked, ...] = ()
    waived: Row | None = None
    """What the operator lets pass here, and RFC 8689 would not."""
    logs_in: bool = False
    """Whether the configuration has a login for it, which is not tried here."""

    reply: Reply | None = None
    """What the cause alone would come to; None: it would take the message."""

    @property
    def prospect(self) -> Prospect:
        """What would become of the message here."""
        return prospect_of(self.reply)

    @property
    def status(self) -> str:
        """The enhanced status code here."""
        return status_of(self.reply)


@attrs.frozen(kw_only=True)
class Explanation:
    """What would become of a REQUIRETLS message for one address."""

    address: str
    level: Level
    route: Route | NoRoute | None
    """None: delivered on this machine, where nothing is to be proved (RFC 8689 4.4)."""
    visits: tuple[Visit, ...] = ()
    """In the order of the walk."""
    reply: Reply | None = None
    """Why it would be returned or kept; None: it would be handed over."""

    @property
    def is_local(self) -> bool:
        """Whether it would be delivered on this machine."""
        return self.route is None or (isinstance(self.route, Route) and self.route.local)

    @property
    def prospect(self) -> Prospect:
        """What would become of the message."""
        return prospect_of(self.reply)

    @property
    def status(self) -> str:
        """The enhanced status code: `2.0.0`, or that of the report or of the deferral."""
        return status_of(self.reply)

    @property
    def chosen(self) -> Visit | None:
        """Who would get it; None: nobody, or somebody on this machine."""
        return next((visit for visit in self.visits if visit.cause is None), None)

    @property
    def mx_security(self) -> MXSecurity:
        """How surely the hosts are known; of several ways that which would be gone, else the best."""
        if self.is_local or self.route is None:
            return MXSecurity.NOT_APPLICABLE
        if isinstance(self.route, NoRoute):
            return self.route.mx_security
        if self.chosen is not None:
            return self.chosen.host.mx_security
        found = {host.mx_security for host in self.route.hosts}
        return next((security for security in MXSecurity if security in found), MXSecurity.NONE)


def prospect_of(reply: Reply | None) -> Prospect:
    """What a reply comes to, None being success."""
    if reply is None:
        return Prospect.DELIVERABLE
    return Prospect.TEMPORARY if reply.is_temporary else Prospect.UNDELIVERABLE


def status_of(reply: Reply | None) -> str:
    """The enhanced status code of a reply, None being success."""
    return "2.0.0" if reply is None else reply.with_class().enhanced or ""


# --- the five steps -------------------------------------------------------------------------------------------------


def steps(route: Route, host: Host, line: Line | None, causes: Sequence[Cause]) -> tuple[StepResult, ...]:
    """The steps with a host, from what was seen of it; those of `causes` in the words of a report."""
    told = {cause.step: cause for cause in reversed(causes)}
    return tuple(
        StepResult(step=one.step, ok=False, detail=cause.detail, clause=cause.clause)
        if (cause := told.get(one.step)) is not None
        else one
        for one in (_lookup(route, host), *_session(host, line))
    )


def _lookup(route: Route, host: Host) -> StepResult:
    row = RFC8689.judge(host)
    if not row.lets_through:
        return _failed(host, None, row, Step.LOOKUP)
    return _passed(Step.LOOKUP, how_found(route, host.mx_security), "RFC 8689 4.2.1 (2)")


def how_found(route: Route, security: MXSecurity) -> str:
    """How surely a host of this route is known, in words."""
    match security:
        case MXSecurity.DNSSEC if route.implicit:
            return "DNSSEC proves that there are no MX records: the domain itself is the host"
        case MXSecurity.DNSSEC:
            return "the MX records are signed (DNSSEC)"
        case MXSecurity.MTA_STS:
            return "the MTA-STS policy of the domain lists the host"
        case MXSecurity.NOT_APPLICABLE if route.domain.startswith("["):
            return "nothing to look up: the address names the host itself"
        case MXSecurity.NOT_APPLICABLE:
            return "nothing to look up: the configuration names the host"
        case MXSecurity.NONE if route.implicit:
            return "that there are no MX records is not signed"
    return "the MX records are not signed"


def _session(host: Host, line: Line | None) -> list[StepResult]:
    if line is None:
        return [_unseen(step) for step in STEPS[1:]]
    host = _found_well(host)
    where = line.address if host.is_socket else f"port {host.port}"
    connect = _passed(Step.CONNECT, f"{where} answers", "RFC 8689 4.2.1 (3)")
    row, facts = RFC8689.judge(host, line), line.session.tls
    if line.tls is not TLSState.ESTABLISHED or facts is None:
        return [connect, _failed(host, line, row, Step.STARTTLS), _unseen(Step.AUTHENTICATE), _unseen(Step.REQUIRETLS)]
    starttls = _passed(Step.STARTTLS, f"{facts.version}, {facts.cipher}", "RFC 8689 4.2.1 (4)")
    if row.step is Step.AUTHENTICATE:
        return [connect, starttls, _failed(host, line, row, Step.AUTHENTICATE), _keyword(line)]
    authenticate_ = _passed(Step.AUTHENTICATE, _proof(line.proves(host)), "RFC 8689 4.2.1 (4)")
    return [connect, starttls, authenticate_, _keyword(line)]


def _found_well(host: Host) -> Host:
    """The same host, as though nothing were wrong with its look-up: so that the steps behind it can be judged."""
    if RFC8689.judge(host).lets_through:
        return host
    tlsa = NO_RECORDS if host.tlsa.state is DANE.UNKNOWN else host.tlsa
    return attrs.evolve(host, mx_security=MXSecurity.DNSSEC, sts=STS.NONE, tlsa=tlsa)


def _proof(proved: Proved | None) -> str:
    match proved:
        case Proved(proof=Proof.DANE_EE):
            return f"by DANE: {proved.detail} is the host's certificate or key"
        case Proved(proof=Proof.DANE_TA):
            return f"by DANE: {proved.detail} is above the host's certificate, which bears the name"
    return "by PKIX: a chain to a trusted root, and the host's name"


def _keyword(line: Line) -> StepResult:
    if line.keyword:
        return _passed(Step.REQUIRETLS, "listed in the reply to the EHLO inside TLS", "RFC 8689 4.2.1 (5)")
    facts = Facts(
        requirement=RFC8689.requirement,
        level=RFC8689.level,
        mx_security=MXSecurity.DNSSEC,
        tls=TLSState.ESTABLISHED,
        proof=Proof.PKIX,
    )
    row = judge(facts)
    return StepResult(step=Step.REQUIRETLS, ok=False, detail=row.detail, clause=row.clause)


def _passed(step: Step, detail: str, clause: str) -> StepResult:
    return StepResult(step=step, ok=True, detail=detail, clause=clause)


def _failed(host: Host, line: Line | None, row: Row, step: Step) -> StepResult:
    cause = judged(host, line, row)
    return StepResult(step=step, ok=False, detail=cause.detail, clause=cause.clause)


def _unseen(step: Step) -> StepResult:
    return StepResult(step=step, ok=False, detail="not reached", clause="RFC 8689 4.2.1", reached=False)
