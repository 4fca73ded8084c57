"""The judge: RFC 8689 4.2.1, RFC 7672 2.2 and RFC 8461 5 as one table: what a message may do at a host, from facts.

Two questions are asked of it. Before any connection: may this host be tried at all, as it was found? And when the
session stands as well as it will: may the message go through it, with the keyword or without?
Rows are tried in order, the first match decides; each names its clause. What stops a tagged message under `enforce` is
definite; what stops anybody else by the will of the recipient's domain is temporary (RFC 7672 2.2, RFC 8461 5).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from typing import Any, TypeVar

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


T = TypeVar("T")


def _of(*elements: T) -> frozenset[T]:
    return frozenset(elements)


_STRICT: dict[str, Any] = {"requirement": _of(Requirement.REQUIRED), "level": _of(Level.ENFORCE)}
"""A tagged message that is held to RFC 8689 as it stands."""
_ANYBODY: dict[str, Any] = {}


def _next_host(
    step: Step, detail: str, clause: str, *, temporary: bool = False, **elements: frozenset[Any] | bool
) -> Row:
    given: dict[str, Any] = elements
    return Row(verdict=Verdict.NEXT_HOST, step=step, detail=detail, temporary=temporary, clause=clause, **given)


WAIVED = (
    Row(
        requirement=_of(Requirement.OPTIONAL),
        tls=_of(None),
        verdict=Verdict.PROCEED,
        step=Step.LOOKUP,
        clause="RFC 8689 4.2.2",
    ),
    Row(
        requirement=_of(Requirement.OPTIONAL),
        tls=_of(TLSState.ESTABLISHED),
        verdict=Verdict.PROCEED,
        clause="RFC 8689 4.2.2",
    ),
    Row(
        requirement=_of(Requirement.OPTIONAL),
        verdict=Verdict.CLEAR,
        step=Step.STARTTLS,
        clause="RFC 8689 4.2.2",
    ),
)

FOUND = (
    _next_host(
        Step.LOOKUP,
        "the TLSA records of the host cannot be looked up",
        "RFC 7672 2.1.2",
        temporary=True,
        dane=_of(DANE.UNKNOWN),
    ),
    _next_host(
        Step.LOOKUP,
        "the MX host was not looked up securely, and the MTA-STS policy that may vouch for it cannot be had",
        "RFC 8689 4.2.1 (2); RFC 8461 3.3",
        temporary=True,
        **_STRICT,
        mx_security=_of(MXSecurity.NONE),
        sts=_of(STS.UNAVAILABLE),
    ),
    _next_host(
        Step.LOOKUP,
        "the MX host was not looked up securely: neither DNSSEC nor an MTA-STS policy vouches for it",
        "RFC 8689 4.2.1 (2)",
        **_STRICT,
        mx_security=_of(MXSecurity.NONE),
        sts=_of(STS.NONE),
    ),
    # DANE may overrule the policy, but not by an unsigned MX record: that may be anybody's, and so may the records of
    # the host that it names.
    *(
        _next_host(
            Step.LOOKUP,
            "the MTA-STS policy of the domain does not list the host",
            "RFC 8461 4.1",
            temporary=temporary,
            **who,
            **where,
            sts=_of(STS.UNLISTED),
        )
        for who, temporary in ((_STRICT, False), (_ANYBODY, True))
        for where in ({"mx_security": _of(MXSecurity.NONE)}, {"dane": _of(DANE.NONE, DANE.UNUSABLE)})
    ),
    Row(tls=_of(None), verdict=Verdict.PROCEED, step=Step.LOOKUP, clause="RFC 5321 5.1"),
)

_NO_TLS = (
    (TLSState.NOT_OFFERED, "the host does not offer STARTTLS", False),
    (TLSState.REFUSED, "the host refuses STARTTLS", False),
    (TLSState.UNAVAILABLE, "the host cannot start TLS now", True),
    (TLSState.HANDSHAKE_FAILED, "the TLS handshake failed", False),
)
"""How there came to be no TLS, and whether that is temporary in itself."""

WITHOUT_TLS = (
    *(
        _next_host(
            Step.STARTTLS,
            detail,
            "RFC 8689 4.2.1 (4)",
            temporary=temporary,
            requirement=_of(Requirement.REQUIRED),
            level=_of(Level.ENFORCE, Level.OPPORTUNISTIC_STARTTLS),
            tls=_of(state),
        )
        for state, detail, temporary in _NO_TLS
    ),
    *(
        _next_host(
            Step.STARTTLS,
            f"{detail}, and its TLSA records demand TLS",
            "RFC 7672 2.2",
            temporary=True,
            dane=_of(DANE.USABLE, DANE.UNUSABLE),
            tls=_of(state),
        )
        for state, detail, _ in _NO_TLS
    ),
    *(
        _next_host(
            Step.STARTTLS,
            f"{detail}, and the MTA-STS policy of the domain demands TLS",
            "RFC 8461 5",
            temporary=True,
            sts=_of(STS.ENFORCED),
            tls=_of(state),
        )
        for state, detail, _ in _NO_TLS
    ),
    Row(
        tls=_of(*(state for state, _, _ in _NO_TLS)),
        verdict=Verdict.CLEAR,
        step=Step.STARTTLS,
        clause="RFC 7435 3",
    ),
)

_NO_MATCH = (
    (_of(Proof.WRONG_NAME), "the host's certificate bears another name than its TLSA records demand"),
    (_of(Proof.EXPIRED), "the host's certificate has expired, and its TLSA records demand a valid one"),
    (_of(Proof.UNTRUSTED, Proof.PKIX), "no TLSA record of the host vouches for its certificate"),
)
_NO_PROOF = (
    (_of(Proof.WRONG_NAME), "the host's certificate bears another name"),
    (_of(Proof.EXPIRED), "the host's certificate has expired"),
    (_of(Proof.UNTRUSTED), "the host's certificate does not authenticate it"),
)

CERTIFICATE = (
    *(
        _next_host(
            Step.AUTHENTICATE,
            detail,
            clause,
            temporary=temporary,
            **who,
            dane=_of(DANE.USABLE),
            proof=proof,
        )
        for who, temporary, clause in (
            (_STRICT, False, "RFC 8689 4.2.1 (4); RFC 7672 3.2"),
            (_ANYBODY, True, "RFC 7672 2.2"),
        )
        for proof, detail in _NO_MATCH
    ),
    *(
        _next_host(Step.AUTHENTICATE, detail, "RFC 8689 4.2.1 (4)", **_STRICT, proof=proof)
        for proof, detail in _NO_PROOF
    ),
    *(
        _next_host(
            Step.AUTHENTICATE,
            f"{detail}, and the MTA-STS policy of the domain demands a valid one",
            "RFC 8461 4.2",
            temporary=True,
            sts=_of(STS.ENFORCED),
            proof=proof,
        )
        for proof, detail in _NO_PROOF
    ),
    # Whoever publishes TLSA records says that DANE authenticates the host; PKIX does only where a policy says so.
    *(
        _next_host(
            Step.AUTHENTICATE,
            f"the host's TLSA records are all unusable, and {policy}",
            "RFC 8689 4.2.1 (4); RFC 7671 10.3",
            temporary=temporary,
            **_STRICT,
            mx_security=_of(MXSecurity.DNSSEC),
            dane=_of(DANE.UNUSABLE),
            sts=_of(sts),
        )
        for sts, policy, temporary in (
            (STS.UNAVAILABLE, "the MTA-STS policy that may vouch for it cannot be had", True),
            (STS.NONE, "no MTA-STS policy vouches for it", False),
        )
    ),
)

KEYWORD = (
    _next_host(
        Step.REQUIRETLS,
        "the host does not offer REQUIRETLS inside TLS",
        "RFC 8689 4.2.1 (5)",
        **_STRICT,
        keyword=False,
    ),
    Row(
        requirement=_of(Requirement.REQUIRED, Requirement.REPORT),
        level=_of(Level.ENFORCE, Level.OPPORTUNISTIC_STARTTLS, Level.OPPORTUNISTIC),
        keyword=True,
        verdict=Verdict.PROCEED_TAGGED,
        step=Step.REQUIRETLS,
        clause="RFC 8689 4.2.1",
    ),
    Row(verdict=Verdict.PROCEED, clause="RFC 5321 3.3"),
)

PARTS: Mapping[str, tuple[Row, ...]] = {
    "Whoever said that TLS is optional": WAIVED,
    "How the host was found": FOUND,
    "Without TLS": WITHOUT_TLS,
    "Inside TLS: the certificate": CERTIFICATE,
    "Inside TLS: the keyword": KEYWORD,
}
"""The table in its parts, each with a title."""

TABLE: tuple[Row, ...] = tuple(itertools.chain.from_iterable(PARTS.values()))


@functools.cache
def judge(facts: Facts) -> Row:
    """The row that decides."""
    return next(row for row in TABLE if row.matches(facts))
