"""The judge: RFC 8689 4.2.1, RFC 7672 2.2 and RFC 8461 5 as one table: what a message may do at a host, from facts.

Two questions are asked of it. Before any connection: may this host be tried at all, as it was found? And when the
session stands as well as it will: may the message go through it, with the keyword or without?
Rows are tried in order, the first match decides; each names its clause. What stops a tagged message under `enforce` is
definite; what stops anybody else by the will of the recipient's domain is temporary (RFC 7672 2.2, RFC 8461 5).
"""

from __future__ import annotations

import attrs

from requiretls_mta.message.outcome import Step
from requiretls_mta.tls.elements import DANE, STS, Facts, MXSecurity, Proof, Requirement, TLSState, Verdict
from requiretls_mta.tls.policy import Level


@attrs.frozen(kw_only=True)
class Row:
    """One line of the table. Empty sets match everything."""

    requirement: frozenset[Requirement] = frozenset()
    level: frozenset[Level] = frozenset()
    mx_security: frozenset[MXSecurity] = frozenset()
    dane: frozenset[DANE] = frozenset()
    sts: frozenset[STS] = frozenset()
    tls: frozenset[TLSState | None] = frozenset()
    proof: frozenset[Proof | None] = frozenset()
    keyword: bool | None = None
    verdict: Verdict
    step: Step = Step.TRANSACTION
    detail: str = ""
    temporary: bool = False
    clause: str

    @property
    def lets_through(self) -> bool:
        """Whether the message may go on with this host."""
        return self.verdict is not Verdict.NEXT_HOST

    def matches(self, facts: Facts) -> bool:
        """Whether the row speaks about these facts."""
        return (
            (not self.requirement or facts.requirement in self.requirement)
            and (not self.level or facts.level in self.level)
            and (not self.mx_security or facts.mx_security in self.mx_security)
            and (not self.dane or facts.dane in self.dane)
            and (not self.sts or facts.sts in self.sts)
            and (not self.tls or facts.tls in self.tls)
            and (not self.proof or facts.proof in self.proof)
            and (self.keyword is None or facts.keyword == self.keyword)
        )


_REQUIRED = frozenset({Requirement.REQUIRED})
_TAGGED = frozenset({Requirement.REQUIRED, Requirement.REPORT})
_OPTIONAL = frozenset({Requirement.OPTIONAL})
_ENFORCE = frozenset({Level.ENFORCE})
_SOME_TLS = frozenset({Level.ENFORCE, Level.OPPORTUNISTIC_STARTTLS})
_ASKING = frozenset({Level.ENFORCE, Level.OPPORTUNISTIC_STARTTLS, Level.OPPORTUNISTIC})
_BEFORE: frozenset[TLSState | None] = frozenset({None})
_IN_TLS: frozenset[TLSState | None] = frozenset({TLSState.ESTABLISHED})
_PUBLISHED = frozenset({DANE.USABLE, DANE.UNUSABLE})
_NO_RECORDS = frozenset({DANE.NONE, DANE.UNUSABLE})
_UNSIGNED = frozenset({MXSecurity.NONE})
_SIGNED = frozenset({MXSecurity.DNSSEC})

_NO_TLS = (
    (TLSState.NOT_OFFERED, "the host does not offer STARTTLS", False),
    (TLSState.REFUSED, "the host refuses STARTTLS", False),
    (TLSState.UNAVAILABLE, "the host cannot start TLS now", True),
    (TLSState.HANDSHAKE_FAILED, "the TLS handshake failed", False),
)
"""Without TLS: how it came, and whether it is temporary in itself."""
_NO_MATCH: tuple[tuple[frozenset[Proof | None], str], ...] = (
    (frozenset({Proof.WRONG_NAME}), "the host's certificate bears another name than its TLSA records demand"),
    (frozenset({Proof.EXPIRED}), "the host's certificate has expired, and its TLSA records demand a valid one"),
    (frozenset({Proof.UNTRUSTED, Proof.PKIX}), "no TLSA record of the host vouches for its certificate"),
)
_NO_PROOF: tuple[tuple[frozenset[Proof | None], str], ...] = (
    (frozenset({Proof.WRONG_NAME}), "the host's certificate bears another name"),
    (frozenset({Proof.EXPIRED}), "the host's certificate has expired"),
    (frozenset({Proof.UNTRUSTED}), "the host's certificate does not authenticate it"),
)

TABLE: tuple[Row, ...] = (
    # --- whoever said that TLS is optional is never refused for the lack of it
    Row(
        requirement=_OPTIONAL, tls=_BEFORE, verdict=Verdict.PROCEED, step=Step.LOOKUP, clause="RFC 8689 4.2.2; 5321 5.1"
    ),
    Row(requirement=_OPTIONAL, tls=_IN_TLS, verdict=Verdict.PROCEED, clause="RFC 8689 4.2.2"),
    Row(requirement=_OPTIONAL, verdict=Verdict.CLEAR, step=Step.STARTTLS, clause="RFC 8689 4.2.2"),
    # --- how the host was found: before the connection, and still so with a session
    Row(
        dane=frozenset({DANE.UNKNOWN}),
        verdict=Verdict.NEXT_HOST,
        step=Step.LOOKUP,
        detail="the TLSA records of the host cannot be looked up",
        temporary=True,
        clause="RFC 7672 2.1.2",
    ),
    Row(
        requirement=_REQUIRED,
        level=_ENFORCE,
        mx_security=_UNSIGNED,
        sts=frozenset({STS.UNAVAILABLE}),
        verdict=Verdict.NEXT_HOST,
        step=Step.LOOKUP,
        detail="the MX host was not looked up securely, and the MTA-STS policy that may vouch for it cannot be had",
        temporary=True,
        clause="RFC 8689 4.2.1 (2); RFC 8461 3.3",
    ),
    Row(
        requirement=_REQUIRED,
        level=_ENFORCE,
        mx_security=_UNSIGNED,
        sts=frozenset({STS.NONE}),
        verdict=Verdict.NEXT_HOST,
        step=Step.LOOKUP,
        detail="the MX host was not looked up securely: neither DNSSEC nor an MTA-STS policy vouches for it",
        clause="RFC 8689 4.2.1 (2)",
    ),
    # An unsigned MX record may be anybody's, and so may the TLSA records of the host that it names.
    *(
        Row(
            requirement=requirement,
            level=level,
            mx_security=mx_security,
            dane=dane,
            sts=frozenset({STS.UNLISTED}),
            verdict=Verdict.NEXT_HOST,
            step=Step.LOOKUP,
            detail="the MTA-STS policy of the domain does not list the host",
            temporary=temporary,
            clause="RFC 8461 4.1",
        )
        for requirement, level, temporary in ((_REQUIRED, _ENFORCE, False), (frozenset(), frozenset(), True))
        for mx_security, dane in ((_UNSIGNED, frozenset()), (frozenset(), _NO_RECORDS))
    ),
    Row(tls=_BEFORE, verdict=Verdict.PROCEED, step=Step.LOOKUP, clause="RFC 5321 5.1"),
    # --- without TLS
    *(
        Row(
            requirement=_REQUIRED,
            level=_SOME_TLS,
            tls=frozenset({state}),
            verdict=Verdict.NEXT_HOST,
            step=Step.STARTTLS,
            detail=detail,
            temporary=temporary,
            clause="RFC 8689 4.2.1 (4)",
        )
        for state, detail, temporary in _NO_TLS
    ),
    *(
        Row(
            dane=_PUBLISHED,
            tls=frozenset({state}),
            verdict=Verdict.NEXT_HOST,
            step=Step.STARTTLS,
            detail=f"{detail}, and its TLSA records demand TLS",
            temporary=True,
            clause="RFC 7672 2.2",
        )
        for state, detail, _ in _NO_TLS
    ),
    *(
        Row(
            sts=frozenset({STS.ENFORCED}),
            tls=frozenset({state}),
            verdict=Verdict.NEXT_HOST,
            step=Step.STARTTLS,
            detail=f"{detail}, and the MTA-STS policy of the domain demands TLS",
            temporary=True,
            clause="RFC 8461 5",
        )
        for state, detail, _ in _NO_TLS
    ),
    Row(
        tls=frozenset(state for state, _, _ in _NO_TLS),
        verdict=Verdict.CLEAR,
        step=Step.STARTTLS,
        clause="RFC 7435 3",
    ),
    # --- inside TLS: whom the certificate authenticates
    *(
        Row(
            requirement=requirement,
            level=level,
            dane=frozenset({DANE.USABLE}),
            proof=proof,
            verdict=Verdict.NEXT_HOST,
            step=Step.AUTHENTICATE,
            detail=detail,
            temporary=temporary,
            clause=clause,
        )
        for requirement, level, temporary, clause in (
            (_REQUIRED, _ENFORCE, False, "RFC 8689 4.2.1 (4); RFC 7672 3.2"),
            (frozenset(), frozenset(), True, "RFC 7672 2.2"),
        )
        for proof, detail in _NO_MATCH
    ),
    *(
        Row(
            requirement=_REQUIRED,
            level=_ENFORCE,
            proof=proof,
            verdict=Verdict.NEXT_HOST,
            step=Step.AUTHENTICATE,
            detail=detail,
            clause="RFC 8689 4.2.1 (4)",
        )
        for proof, detail in _NO_PROOF
    ),
    *(
        Row(
            sts=frozenset({STS.ENFORCED}),
            proof=proof,
            verdict=Verdict.NEXT_HOST,
            step=Step.AUTHENTICATE,
            detail=f"{detail}, and the MTA-STS policy of the domain demands a valid one",
            temporary=True,
            clause="RFC 8461 4.2",
        )
        for proof, detail in _NO_PROOF
    ),
    # Whoever publishes TLSA records says that DANE is what authenticates the host; PKIX does only if a policy says so.
    *(
        Row(
            requirement=_REQUIRED,
            level=_ENFORCE,
            mx_security=_SIGNED,
            dane=frozenset({DANE.UNUSABLE}),
            sts=sts,
            verdict=Verdict.NEXT_HOST,
            step=Step.AUTHENTICATE,
            detail=f"the host's TLSA records are all unusable, {policy}",
            temporary=temporary,
            clause="RFC 8689 4.2.1 (4); RFC 7671 10.3",
        )
        for sts, policy, temporary in (
            (frozenset({STS.UNAVAILABLE}), "and the MTA-STS policy that may vouch for it cannot be had", True),
            (frozenset({STS.NONE}), "and no MTA-STS policy vouches for it", False),
        )
    ),
    # --- inside TLS that will do: the keyword
    Row(
        requirement=_REQUIRED,
        level=_ENFORCE,
        keyword=False,
        verdict=Verdict.NEXT_HOST,
        step=Step.REQUIRETLS,
        detail="the host does not offer REQUIRETLS inside TLS",
        clause="RFC 8689 4.2.1 (5)",
    ),
    Row(
        requirement=_TAGGED,
        level=_ASKING,
        keyword=True,
        verdict=Verdict.PROCEED_TAGGED,
        step=Step.REQUIRETLS,
        clause="RFC 8689 4.2.1",
    ),
    Row(verdict=Verdict.PROCEED, clause="RFC 5321 3.3"),
)


def judge(facts: Facts) -> Row:
    """The row that decides."""
    return next(row for row in TABLE if row.matches(facts))
