"""Finding the hosts that take a domain's mail (RFC 5321 5.1, RFC 7505, RFC 8689 4.2.1 steps 1 and 2)."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, gatherResults

from requiretls_mta.dns.answer import Answer, Resolver, Status
from requiretls_mta.message.address import AddressError, ascii_domain, literal_address
from requiretls_mta.message.outcome import Cause, Step
from requiretls_mta.message.reply import Reply, quote
from requiretls_mta.relay.route import Host, HostAddress, NoPolicy, NoRoute, PolicyFinder, Route
from requiretls_mta.relay.static_routes import StaticRoute, route_for
from requiretls_mta.relay.tlsa import find_tlsa
from requiretls_mta.tls.dane import TLSA
from requiretls_mta.tls.elements import MXSecurity
from requiretls_mta.tls.names import as_ip, is_host_name

MAX_HOSTS = 50
"""MX records that are looked at, best first."""
MAX_ADDRESSES = 10
"""Addresses of one host that are tried."""


@attrs.frozen(kw_only=True)
class LookupSettings:
    """What is known before anybody is asked."""

    port: int = 25
    """Of MX hosts."""
    static: Mapping[str, StaticRoute] = attrs.field(factory=dict)
    """Next hops by domain (A-labels), `.parent` or `*`."""
    own_names: frozenset[str] = frozenset()
    """Host names of ours in MX records; A-labels in lower case."""
    own_addresses: Container[tuple[str, int]] = frozenset()
    """IP addresses and ports on which we listen."""
    dane: bool = True
    """Whether TLSA records are asked for."""
    testing_vouches: bool = False
    """Whether an MTA-STS policy in testing mode may vouch for a host (`requiretls.mta_sts_testing`)."""


class RouteFinder:
    """Asks the DNS for routes. Never fails: what cannot be found is a `NoRoute` or a `Cause`."""

    def __init__(
        self,
        resolver: Resolver,
        settings: Callable[[], LookupSettings],
        rng: random.Random | None = None,
        policies: PolicyFinder | None = None,
    ) -> None:
        self._resolver = resolver
        self._settings = settings
        self._policies = policies
        self._rng = rng or random.SystemRandom()

    def key(self, domain: str) -> str:
        """Equal for domains whose mail may share a transaction: those of one static route, else each its own."""
        try:
            name = ascii_domain(domain)
        except AddressError:
            return domain
        static = route_for(name, self._settings().static)
        return static.key if static else name

    def find(self, domain: str, *, policy: bool = True) -> Deferred[Route | NoRoute]:
        """The hosts for mail to `domain` (as written in an address); their MTA-STS `policy` unless nobody heeds it."""
        return Deferred.fromCoroutine(self._find(domain, policy=policy))

    def renewed(self, route: Route) -> Deferred[Route | None]:
        """The route under a policy that is newer than its own, looked up past every cache; None: there is no newer."""
        return Deferred.fromCoroutine(self._renewed(route))

    def addresses(self, host: Host) -> Deferred[tuple[HostAddress, ...] | Cause]:
        """The addresses of a host, IPv6 and IPv4 in turn, or why there are none."""
        return Deferred.fromCoroutine(self._addresses(host))

    def tlsa(self, host: Host, addresses: Sequence[HostAddress]) -> Deferred[TLSA]:
        """The TLSA records of a host that was found at these addresses; none where DANE does not apply."""
        return Deferred.fromCoroutine(find_tlsa(self._resolver, host, addresses if self._settings().dane else ()))

    async def _find(self, domain: str, *, policy: bool) -> Route | NoRoute:
        route = await self._hosts(domain)
        if isinstance(route, NoRoute) or not (policy and route.next_hop and self._policies):
            return route
        found = await self._policies.find(route.next_hop)
        return route.under(found, testing_vouches=self._settings().testing_vouches)

    async def _renewed(self, route: Route) -> Route | None:
        if self._policies is None or route.policy is None or isinstance(route.policy, NoPolicy):
            return None
        found = await self._policies.renewed(route.next_hop, route.policy)
        return None if found is None else route.under(found, testing_vouches=self._settings().testing_vouches)

    async def _hosts(self, domain: str) -> Route | NoRoute:
        if domain.startswith("["):
            return _literal(domain, self._settings().port)
        try:
            name = ascii_domain(domain)
        except AddressError as error:
            return _no_route(domain, Reply(550, "5.1.2", f"bad domain: {error}"))
        static = route_for(name, self._settings().static)
        if static is not None and not static.lookup:
            host = Host(
                name=static.host, port=static.port, protocol=static.protocol, mx_security=MXSecurity.NOT_APPLICABLE
            )
            return Route(domain=name, hosts=(host,), local=static.local)
        if static is not None:
            return await self._by_mx(name, static.host, static.port, static.protocol)
        return await self._by_mx(name, name, self._settings().port, "smtp")

    async def _by_mx(self, domain: str, name: str, port: int, protocol: str) -> Route | NoRoute:
        answer = await self._resolver.resolve(name, "MX")
        if answer.is_failure:
            return _no_route(domain, _failure(answer, "MX records"), temporary=True)
        security = MXSecurity.DNSSEC if answer.is_secure else MXSecurity.NONE
        # RFC 7672 3.2.2; dict, for a name that is no alias is its own target.
        next_hops = tuple(dict.fromkeys([name, answer.canonical.rstrip(".") or name])) if answer.is_secure else ()
        if answer.rcode == "NXDOMAIN":
            return _no_route(domain, Reply(550, "5.1.2", f"the domain {quote(name)} does not exist"), security)
        if not answer.exists:
            # RFC 5321 5.1: without MX records the domain itself is the host.
            hosts = [Host(name=name, port=port, protocol=protocol, mx_security=security, next_hops=next_hops)]
        else:
            records: Any = answer.records
            found = sorted(
                ((record.preference, self._rng.random(), record.exchange.to_text(omit_final_dot=True).lower())
                 for record in records),
            )[:MAX_HOSTS]  # fmt: skip
            if [exchange for _, _, exchange in found] in ([""], ["."]):
                # RFC 7505 4.1
                text = f"the domain {quote(name)} takes no mail (null MX)"
                return _no_route(domain, Reply(556, "5.1.10", text), security)
            hosts = [
                Host(
                    name=exchange,
                    port=port,
                    protocol=protocol,
                    preference=preference,
                    mx_security=security,
                    next_hops=next_hops,
                )
                for preference, _, exchange in found
                if is_host_name(exchange)
            ]
            if not hosts:
                return _no_route(domain, Reply(550, "5.4.4", f"no MX record of {quote(name)} names a host"), security)
        remaining = await self._without_us(hosts)
        if not remaining:
            text = f"mail for {quote(name)} loops back to this server: its best MX is ourselves"
            return _no_route(domain, Reply(554, "5.4.6", text), security)
        return Route(domain=domain, hosts=tuple(remaining), next_hop=name, implicit=not answer.exists)

    async def _without_us(self, hosts: list[Host]) -> list[Host]:
        """RFC 5321 5.1: our own record goes, and with it all that are no better."""
        ours = [host.preference for host in hosts if host.name in self._settings().own_names]
        if self._settings().own_addresses:
            looked_up = await gatherResults([self.addresses(host) for host in hosts], consumeErrors=True)
            for host, found in zip(hosts, looked_up, strict=True):
                if not isinstance(found, Cause) and any(
                    (a.address, host.port) in self._settings().own_addresses for a in found
                ):
                    ours.append(host.preference)
        return [host for host in hosts if host.preference < min(ours)] if ours else hosts

    async def _addresses(self, host: Host) -> tuple[HostAddress, ...] | Cause:
        if host.is_socket:
            return (HostAddress(address=host.name, secure=True),)
        literal = as_ip(host.name)
        if literal is not None:
            return (HostAddress(address=literal, secure=True),)
        six, four = await gatherResults(
            [self._resolver.resolve(host.name, "AAAA"), self._resolver.resolve(host.name, "A")],
            consumeErrors=True,  # of a look-up that is cancelled
        )
        found: list[HostAddress] = []
        sixes, fours = _usable(six), _usable(four)
        for place in range(max(len(sixes), len(fours))):
            found += sixes[place : place + 1] + fours[place : place + 1]
        if found:
            return tuple(found[:MAX_ADDRESSES])
        for answer in (four, six):
            if answer.is_failure:
                return _cause(host.name, _failure(answer, "addresses"), temporary=True)
        return _cause(host.name, Reply(550, "5.4.4", "the host has no address"), temporary=False)


def _literal(domain: str, port: int) -> Route | NoRoute:
    try:
        literal_address(domain)
    except AddressError as error:
        return _no_route(domain, Reply(550, "5.1.2", str(error)))
    return Route(domain=domain, hosts=(Host(name=domain, port=port, mx_security=MXSecurity.NOT_APPLICABLE),))


def _usable(answer: Answer) -> list[HostAddress]:
    records: Any = answer.records
    canonical = answer.canonical.rstrip(".")
    found = [HostAddress(address=r.address, secure=answer.is_secure, canonical=canonical) for r in records]
    # 0.0.0.0 and :: lead to ourselves; multicast leads nowhere.
    return [a for a in found if not (ip := ipaddress.ip_address(a.address)).is_unspecified and not ip.is_multicast]


def _failure(answer: Answer, what: str) -> Reply:
    name = quote(answer.name)
    if answer.status is Status.BOGUS:
        return Reply(451, "4.7.5", f"the {what} of {name} do not verify (DNSSEC bogus)")
    return Reply(451, "4.4.3", f"the {what} of {name} cannot be looked up: {answer.detail or answer.rcode}")


def _cause(name: str, reply: Reply, *, temporary: bool) -> Cause:
    return Cause(
        host=name, step=Step.LOOKUP, detail=reply.text, temporary=temporary, reply=reply, clause="RFC 5321 5.1"
    )


def _no_route(domain: str, reply: Reply, security: MXSecurity = MXSecurity.NONE, *, temporary: bool = False) -> NoRoute:
    cause = _cause(domain, reply, temporary=temporary)
    return NoRoute(domain=domain, reply=reply, cause=cause, mx_security=security)
