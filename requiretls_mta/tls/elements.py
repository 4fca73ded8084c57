"""What is judged: the elements of a decision about a message and a host, and what may come of it."""

from __future__ import annotations

import enum

import attrs

from requiretls_mta.message.envelope import Tag
from requiretls_mta.tls.policy import Level


class MXSecurity(enum.Enum):
    """How a host was found (RFC 8689 4.2.1 step 2)."""

    DNSSEC = "dnssec"
    """Secure MX records, or securely none."""
    MTA_STS = "mta-sts"
    """Nothing is signed, but an MTA-STS policy lists the host."""
    NONE = "none"
    NOT_APPLICABLE = "not-applicable"
    """Nothing was looked up: a configured `[host]`, or an address literal."""


class DANE(enum.Enum):
    """What the host publishes in TLSA records (RFC 7672 2.2)."""

    NONE = "none"
    """None that DNSSEC vouches for, or they were not asked for."""
    USABLE = "usable"
    UNUSABLE = "unusable"
    """Secure records, of which not one can be used."""
    UNKNOWN = "unknown"
    """They could not be looked up."""


class STS(enum.Enum):
    """What the MTA-STS policy of the domain says about the host (RFC 8461 4.1)."""

    NONE = "none"
    """There is no policy, or its mode asks for nothing."""
    ENFORCED = "enforced"
    """The policy lists the host, and is to be enforced."""
    VOUCHES = "vouches"
    """The policy lists the host in testing mode, and the operator lets such a one vouch."""
    UNLISTED = "unlisted"
    """The policy is to be enforced, and does not list the host."""
    UNAVAILABLE = "unavailable"
    """A policy is announced, but cannot be had, and none is cached."""


class TLSState(enum.Enum):
    """How far TLS got with a host."""

    NOT_OFFERED = "not offered"
    REFUSED = "refused"
    """STARTTLS was offered and answered 5xx."""
    UNAVAILABLE = "unavailable"
    """STARTTLS was answered 4xx."""
    HANDSHAKE_FAILED = "handshake failed"
    ESTABLISHED = "established"


class Proof(enum.Enum):
    """What the host's certificate proves. Where TLSA records are usable only they are asked, else only PKIX."""

    DANE_EE = "dane-ee"
    DANE_TA = "dane-ta"
    PKIX = "pkix"
    WRONG_NAME = "wrong name"
    EXPIRED = "expired"
    UNTRUSTED = "untrusted"


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
    dane: DANE = DANE.NONE
    sts: STS = STS.NONE
    tls: TLSState | None = None
    """None before the connection."""
    proof: Proof | None = None
    """None without TLS."""
    keyword: bool = False
    """Whether the EHLO inside TLS listed REQUIRETLS."""


@attrs.frozen
class Proved:
    """What a certificate came to."""

    proof: Proof
    detail: str = ""
    """Why it authenticates nobody, or which TLSA record it matches; escaped."""

    @property
    def auth(self) -> str | None:
        """`dane-ee`, `dane-ta` or `pkix`; None: nobody was authenticated."""
        return self.proof.value if self.proof in AUTHENTICATING else None


AUTHENTICATING = frozenset({Proof.DANE_EE, Proof.DANE_TA, Proof.PKIX})


def requirement_of(tag: Tag | None, *, empty_reverse_path: bool) -> Requirement:
    """A message's demand. RFC 8689 4.2.1 binds messages whose return path is not empty."""
    match tag:
        case None:
            return Requirement.NONE
        case Tag.OPTIONAL:
            return Requirement.OPTIONAL
        case Tag.REQUIRED:
            return Requirement.REPORT if empty_reverse_path else Requirement.REQUIRED
