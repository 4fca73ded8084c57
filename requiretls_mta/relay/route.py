"""Routes: which hosts take a domain's mail, in which order, and how surely that is known (RFC 5321 5.1)."""

from __future__ import annotations

from typing import Protocol

import attrs
from twisted.internet.defer import Deferred

from requiretls_mta.message.outcome import Cause
from requiretls_mta.message.reply import Reply
from requiretls_mta.tls.dane import NO_RECORDS, TLSA
from requiretls_mta.tls.elements import STS, MXSecurity
from requiretls_mta.tls.mta_sts import Mode, Policy


@attrs.frozen(kw_only=True)
class NoPolicy:
    """Why there is no MTA-STS policy."""

    problem: str = ""
    """Empty: the domain announces none. Else why it cannot be had; escaped."""
    result: str | None = None
    """The RFC 8460 4.3 result type: `sts-policy-fetch-error`, `sts-policy-invalid` or `sts-webpki-invalid`."""
    temporary: bool = False
    """Asking again may help: one is announced but cannot be had, or the announcement cannot be looked up."""


class PolicyFinder(Protocol):
    """Finds MTA-STS policies."""

    def find(self, domain: str) -> Deferred[Policy | NoPolicy]:
        """The policy of a next-hop domain (A-labels, lower case; RFC 8461 3.4). Never fails."""

    def renewed(self, domain: str, known: Policy) -> Deferred[Policy | NoPolicy | None]:
        """What replaces a policy, looked up past the cache (RFC 8461 5.1 step 3); None: it holds. Never fails."""


@attrs.frozen(kw_only=True)
class Host:
    """One host to try."""

    name: str
    """A-labels in lower case without the last dot, an address literal in brackets, or the path of a UNIX socket."""
    port: int = 25
    protocol: str = "smtp"
    """`smtp`, `smtps` (TLS from the first octet) or `lmtp`."""
    preference: int = 0
    mx_security: MXSecurity = MXSecurity.NONE
    sts: STS = STS.NONE
    """What the MTA-STS policy of the next-hop domain says about it."""
    sts_problem: str = ""
    """Why that domain has no policy though it would; escaped."""
    next_hops: tuple[str, ...] = ()
    """The next-hop domain and its alias target, where its MX records are secure: they may stand in a certificate that
    a DANE-TA record vouches for (RFC 7672 3.2.2)."""

    tlsa: TLSA = NO_RECORDS
    """What it publishes; known only after its addresses."""

    @property
    def server_name(self) -> str:
        """The name that it is asked for inside TLS (RFC 7672 8.1)."""
        return self.tlsa.base or self.name

    @property
    def names(self) -> tuple[str, ...]:
        """The names of which a certificate that a DANE-TA record vouches for has to bear one (RFC 7672 3.2.2)."""
        return tuple(dict.fromkeys([self.server_name, self.name, *self.next_hops]))

    @property
    def is_socket(self) -> bool:
        """Whether the name is the path of a UNIX socket."""
        return self.name.startswith("/")


@attrs.frozen(kw_only=True)
class Route:
    """The hosts that take mail for a domain, in the order in which they are tried."""

    domain: str
    hosts: tuple[Host, ...]
    local: bool = False
    """Delivery on this machine (RFC 8689 4.4): no TLS is asked of it."""
    next_hop: str = ""
    """The domain whose MX records were asked for, and whose policy counts; empty where nothing was looked up."""
    policy: Policy | NoPolicy | None = None
    """The MTA-STS policy of the next hop; None: not asked for."""
    implicit: bool = False
    """Whether there are no MX records, so that the domain itself is the host (RFC 5321 5.1)."""

    @property
    def key(self) -> str:
        """Equal for messages that may share a transaction."""
        return self.domain

    def under(self, policy: Policy | NoPolicy, *, testing_vouches: bool) -> Route:
        """The same route as that policy sees it."""
        hosts = []
        problem = policy.problem if isinstance(policy, NoPolicy) else ""
        for host in self.hosts:
            sts = _standing(policy, host.name, testing_vouches=testing_vouches)
            security = host.mx_security
            if security in (MXSecurity.NONE, MXSecurity.MTA_STS):
                security = MXSecurity.MTA_STS if sts in (STS.ENFORCED, STS.VOUCHES) else MXSecurity.NONE
            hosts.append(attrs.evolve(host, sts=sts, sts_problem=problem, mx_security=security))
        return attrs.evolve(self, hosts=tuple(hosts), policy=policy)


@attrs.frozen(kw_only=True)
class NoRoute:
    """Why there is none."""

    domain: str
    reply: Reply
    """4xx: asking again may help."""
    cause: Cause
    mx_security: MXSecurity = MXSecurity.NONE
    """How surely that is known."""


@attrs.frozen(kw_only=True)
class HostAddress:
    """One address of a host."""

    address: str
    """IP address."""
    secure: bool
    """Whether DNSSEC vouches for it."""
    canonical: str = ""
    """The name that it was found at, after all aliases; empty where that is the host's own."""


def _standing(policy: Policy | NoPolicy, host: str, *, testing_vouches: bool) -> STS:
    if isinstance(policy, NoPolicy):
        return STS.UNAVAILABLE if policy.temporary else STS.NONE
    match policy.mode:
        case Mode.ENFORCE:
            return STS.ENFORCED if policy.matches(host) else STS.UNLISTED
        case Mode.TESTING if testing_vouches and policy.matches(host):
            return STS.VOUCHES
    return STS.NONE
