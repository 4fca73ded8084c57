"""The judge: RFC 8689 4.2.1 as a table. What a message may do at a host, decided from facts alone.

Two questions are asked of it. Before any connection: may this host be tried at all, as it was found? And when the
session stands as well as it will: may the message go through it, with the keyword or without?
Rows are tried in order, the first match decides; each names its clause.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import attrs

from requiretls_mta.message.envelope import Tag
from requiretls_mta.message.outcome import Cause, Step
from requiretls_mta.message.reply import Reply
from requiretls_mta.tls.policy import Level


class MXSecurity(enum.Enum):
    """How a host was found (RFC 8689 4.2.1 step 2)."""

    DNSSEC = "dnssec"
    """Secure MX records, or securely none."""
    MTA_STS = "mta-sts"
    """An MTA-STS policy lists the host."""
    NONE = "none"
    NOT_APPLICABLE = "not-applicable"
    """Nothing was looked up: a configured `[host]`, or an address literal."""


class TLSState(enum.Enum):
    """How far TLS got with a host."""

    NOT_OFFERED = "not offered"
    REFUSED = "refused"
    """STARTTLS was offered and answered 5xx."""
    UNAVAILABLE = "unavailable"
    """STARTTLS was answered 4xx."""
    HANDSHAKE_FAILED = "handshake failed"
    UNAUTHENTICATED = "unauthenticated"
    AUTHENTICATED = "authenticated"


class Requirement(enum.Enum):
    """A message's demand, from its tag and reverse path."""

    REQUIRED = "required"
    REPORT = "report"
    """Tagged, with an empty reverse path: protected if possible, delivered in any case (RFC 8689 5)."""
    OPTIONAL = "optional"
    NONE = "none"


class Verdict(enum.Enum):
    """What may happen now."""

    PROCEED_TAGGED = "proceed with REQUIRETLS"
    PROCEED = "proceed"
    CLEAR = "proceed in the clear"
    """After a handshake that failed this takes a new connection."""
    NEXT_HOST = "next host"


@attrs.frozen(kw_only=True)
class Facts:
    """What is known of a host when it is judged."""

    requirement: Requirement
    level: Level
    mx_security: MXSecurity
    tls: TLSState | None = None
    """None before the connection."""
    keyword: bool = False
    """Whether the EHLO inside TLS listed REQUIRETLS."""


@attrs.frozen(kw_only=True)
class Row:
    """One line of the table. Empty sets match everything."""

    requirement: frozenset[Requirement] = frozenset()
    level: frozenset[Level] = frozenset()
    mx_security: frozenset[MXSecurity] = frozenset()
    tls: frozenset[TLSState | None] = frozenset()
    keyword: bool | None = None
    verdict: Verdict
    step: Step = Step.TRANSACTION
    detail: str = ""
    temporary: bool = False
    clause: str

    def matches(self, facts: Facts) -> bool:
        """Whether the row speaks about these facts."""
        return (
            (not self.requirement or facts.requirement in self.requirement)
            and (not self.level or facts.level in self.level)
            and (not self.mx_security or facts.mx_security in self.mx_security)
            and (not self.tls or facts.tls in self.tls)
            and (self.keyword is None or facts.keyword == self.keyword)
        )


_STRICT = frozenset({Requirement.REQUIRED})
_TAGGED = frozenset({Requirement.REQUIRED, Requirement.REPORT})
_ENFORCE = frozenset({Level.ENFORCE})
_STARTTLS = frozenset({Level.OPPORTUNISTIC_STARTTLS})
_ASKING = frozenset({Level.ENFORCE, Level.OPPORTUNISTIC_STARTTLS, Level.OPPORTUNISTIC})
_IN_TLS = frozenset({TLSState.UNAUTHENTICATED, TLSState.AUTHENTICATED})
_NO_TLS = frozenset(TLSState) - _IN_TLS
_SECURITY = frozenset({Step.LOOKUP, Step.STARTTLS, Step.AUTHENTICATE})
_TEMPORARY = {Step.LOOKUP: "4.4.3", Step.CONNECT: "4.4.1", Step.STARTTLS: "4.7.5", Step.AUTHENTICATE: "4.7.5"}
_BEFORE: frozenset[TLSState | None] = frozenset({None})

TABLE: tuple[Row, ...] = (
    # --- before the connection
    Row(
        requirement=_STRICT,
        level=_ENFORCE,
        mx_security=frozenset({MXSecurity.NONE}),
        verdict=Verdict.NEXT_HOST,
        step=Step.LOOKUP,
        detail="the MX host was not looked up securely: neither DNSSEC nor an MTA-STS policy vouches for it",
        clause="RFC 8689 4.2.1 (2)",
    ),
    Row(tls=_BEFORE, verdict=Verdict.PROCEED, step=Step.LOOKUP, clause="RFC 5321 5.1"),
    # --- a tagged message that must not go without
    *(
        Row(
            requirement=_STRICT,
            level=_ENFORCE | _STARTTLS,
            tls=frozenset({state}),
            verdict=Verdict.NEXT_HOST,
            step=Step.STARTTLS,
            detail=detail,
            temporary=temporary,
            clause="RFC 8689 4.2.1 (4)",
        )
        for state, detail, temporary in (
            (TLSState.NOT_OFFERED, "the host does not offer STARTTLS", False),
            (TLSState.REFUSED, "the host refuses STARTTLS", False),
            (TLSState.UNAVAILABLE, "the host cannot start TLS now", True),
            (TLSState.HANDSHAKE_FAILED, "the TLS handshake failed", False),
        )
    ),
    Row(
        requirement=_STRICT,
        level=_ENFORCE,
        tls=frozenset({TLSState.UNAUTHENTICATED}),
        verdict=Verdict.NEXT_HOST,
        step=Step.AUTHENTICATE,
        detail="the host's certificate does not authenticate it",
        clause="RFC 8689 4.2.1 (4)",
    ),
    Row(
        requirement=_STRICT,
        level=_ENFORCE,
        tls=frozenset({TLSState.AUTHENTICATED}),
        keyword=False,
        verdict=Verdict.NEXT_HOST,
        step=Step.REQUIRETLS,
        detail="the host does not offer REQUIRETLS inside TLS",
        clause="RFC 8689 4.2.1 (5)",
    ),
    # --- whoever asks for it and gets it
    Row(
        requirement=_TAGGED,
        level=_ASKING,
        tls=_IN_TLS,
        keyword=True,
        verdict=Verdict.PROCEED_TAGGED,
        step=Step.REQUIRETLS,
        clause="RFC 8689 4.2.1",
    ),
    # --- everybody else: TLS if there is TLS
    Row(tls=_IN_TLS, verdict=Verdict.PROCEED, clause="RFC 8689 4.2.2"),
    Row(
        tls=frozenset({TLSState.UNAVAILABLE, TLSState.NOT_OFFERED, TLSState.REFUSED, TLSState.HANDSHAKE_FAILED}),
        verdict=Verdict.CLEAR,
        step=Step.STARTTLS,
        clause="RFC 8689 4.2.2; RFC 7435 3",
    ),
)


def requirement_of(tag: Tag | None, *, empty_reverse_path: bool) -> Requirement:
    """A message's demand. RFC 8689 4.2.1 binds messages whose return path is not empty."""
    match tag:
        case None:
            return Requirement.NONE
        case Tag.OPTIONAL:
            return Requirement.OPTIONAL
        case Tag.REQUIRED:
            return Requirement.REPORT if empty_reverse_path else Requirement.REQUIRED


def judge(facts: Facts) -> Row:
    """The row that decides."""
    return next(row for row in TABLE if row.matches(facts))


def conclude(causes: Sequence[Cause]) -> Reply:
    """The end of the MX walk when no host would do: what all the causes come to.

    A temporary element means that asking again may help. Otherwise 5.7.30 where some host reached the EHLO inside
    authenticated TLS and lacked only the keyword (RFC 8689 4.2.1), else 5.7.10.
    """
    # A host that said a definite no by one address has been heard, even if another address could not be reached.
    heard = {cause.host for cause in causes if not cause.temporary}
    causes = [c for c in causes if not (c.temporary and c.step is Step.CONNECT and c.host in heard)]
    text = "; ".join(str(cause) for cause in causes)
    temporary = [cause for cause in causes if cause.temporary]
    # What a reply tells is the host's or the DNS's own trouble; without one it is ours with the host's security.
    security = [c for c in causes if c.reply is None and c.step in _SECURITY]
    if temporary:
        replied = next((cause.reply for cause in temporary if cause.reply is not None), None)
        if replied is not None and replied.is_temporary:
            return Reply(replied.code, replied.enhanced or "4.0.0", text)
        return Reply(451, _TEMPORARY.get(temporary[0].step, "4.4.2"), text)
    if any(cause.step is Step.REQUIRETLS for cause in causes):
        return Reply(550, "5.7.30", f"REQUIRETLS support required: {text}")
    if security:
        return Reply(550, "5.7.10", f"Encryption needed: {text}")
    replied = next((cause.reply for cause in reversed(causes) if cause.reply is not None), None)
    if replied is not None:
        return Reply(replied.code, replied.enhanced or "5.0.0", text)
    return Reply(550, "5.4.4", text or "no host takes mail for this domain")
