"""What would become of a REQUIRETLS message: the relay's own walk over every host, without a message.

Each host is met as the relay meets it, at each of its addresses, up to where MAIL would be said; there it hears QUIT.
Unlike the relay it goes on behind a host that would take the message, and connects even to one that is out by its
look-up: no message is at stake, and whoever mends the one fault wants to know of the next.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults

from requiretls_mta.message.address import Address
from requiretls_mta.message.outcome import Cause, Step
from requiretls_mta.message.ports import Events, NoEvents
from requiretls_mta.message.reply import Reply
from requiretls_mta.relay.approach import Located, locate, reach
from requiretls_mta.relay.demand import Demand
from requiretls_mta.relay.dial import Connect, Line, bars_login, connector
from requiretls_mta.relay.explanation import Explanation, Visit, steps
from requiretls_mta.relay.lookup import RouteFinder
from requiretls_mta.relay.outcomes import judged
from requiretls_mta.relay.presented import check_records, read_chain
from requiretls_mta.relay.route import Host, HostAddress, NoRoute, Route
from requiretls_mta.relay.settings import RelaySettings
from requiretls_mta.relay.tls_event import session_event
from requiretls_mta.smtp.client import ClientSession
from requiretls_mta.tls.conclude import conclude
from requiretls_mta.tls.elements import Requirement

DEADLINE = 120.0
"""Seconds for the whole of it."""
AT_ONCE = 10
"""Connections at a time."""

T = TypeVar("T")


def explain(
    reactor: Any,
    address: Address,
    *,
    finder: RouteFinder,
    settings: RelaySettings,
    connect: Connect | None = None,
    events: Events | None = None,
    deadline: float = DEADLINE,
) -> Deferred[Explanation]:
    """Meet every host for mail to `address`. Never fails; what does not end in time is told as temporary.

    `events` are told of each session by the event `tls`, as by the relay.
    """
    walk = _Walk(
        reactor,
        finder=finder,
        settings=settings,
        connect=connect or connector(reactor),
        events=events or NoEvents(),
        deadline=deadline,
    )
    return Deferred.fromCoroutine(walk.explain(address))


class _Walk:
    """One explanation on its way."""

    def __init__(
        self,
        reactor: Any,
        *,
        finder: RouteFinder,
        settings: RelaySettings,
        connect: Connect,
        events: Events,
        deadline: float,
    ) -> None:
        self._clock = reactor
        self._finder = finder
        self._settings = settings
        self._dial = connect
        self._events = events
        self._deadline = deadline
        self._end = reactor.seconds() + deadline
        self._room = DeferredSemaphore(AT_ONCE)
        self._sessions: list[ClientSession] = []

    async def explain(self, address: Address) -> Explanation:
        level = self._settings.levels.of(address.domain)
        route = await self._in_time(self._finder.find(address.domain)) or self._no_route(address.domain)
        begun = Explanation(address=str(address), level=level, route=route)
        if isinstance(route, NoRoute):
            return attrs.evolve(begun, reply=route.reply)
        if route.local:
            return begun
        demand = Demand(requirement=Requirement.REQUIRED, level=level)
        found = await self._round(begun, route, demand)
        if found.reply is not None and not found.reply.is_temporary:
            # RFC 8461 5.1 (3): the relay looks for a newer policy before it gives up, too.
            newer = await self._in_time(self._finder.renewed(route))
            if newer is not None:
                found = await self._round(begun, newer, demand)
        # Nobody is left without a QUIT (RFC 8689 4.2.1).
        await gatherResults([session.quit(self._settings.timeouts.quit) for session in self._sessions])
        return found

    async def _round(self, begun: Explanation, route: Route, demand: Demand) -> Explanation:
        hosts = [Deferred.fromCoroutine(self._host(route, host, demand)) for host in route.hosts]
        found = await gatherResults(hosts, consumeErrors=True)
        visits = tuple(itertools.chain.from_iterable(visits for visits, _ in found))
        causes = tuple(itertools.chain.from_iterable(causes for _, causes in found))
        taken = any(visit.cause is None for visit in visits)
        reply = None if taken else conclude(causes, self._settings.profile)
        return attrs.evolve(begun, route=route, visits=visits, reply=reply)

    async def _host(self, route: Route, host: Host, demand: Demand) -> tuple[list[Visit], Sequence[Cause]]:
        """One host at each of its addresses, and what the relay would hold against it."""
        located = await self._in_time(Deferred.fromCoroutine(locate(self._finder, demand, host)))
        if not isinstance(located, Located):
            cause = located or self._late(host)
            return [self._seen(route, host, None, None, (cause,))], (cause,)
        host, addresses = located.host, located.addresses
        if located.row is None:
            visits = await self._visits(route, host, addresses, demand)
            return visits, [visit.cause for visit in visits if visit.cause is not None]
        cause = judged(host, None, located.row)
        host, addresses = await self._in_time(Deferred.fromCoroutine(self._look_closer(host))) or (host, ())
        visits = await self._visits(route, host, addresses, demand, cause)
        return visits or [self._seen(route, host, None, None, (cause,))], (cause,)

    async def _look_closer(self, host: Host) -> tuple[Host, tuple[HostAddress, ...]]:
        """What the relay does not ask about a host that is out already."""
        addresses = await self._finder.addresses(host)
        if isinstance(addresses, Cause):
            return host, ()
        return attrs.evolve(host, tlsa=await self._finder.tlsa(host, addresses)), addresses

    async def _visits(
        self, route: Route, host: Host, addresses: Sequence[HostAddress], demand: Demand, *causes: Cause
    ) -> list[Visit]:
        visits = [self._visit(route, host, address.address, demand, causes) for address in addresses]
        return await gatherResults([Deferred.fromCoroutine(visit) for visit in visits], consumeErrors=True)

    async def _visit(self, route: Route, host: Host, address: str, demand: Demand, causes: Sequence[Cause]) -> Visit:
        """A host at one address; `causes` are what is held against it already."""
        lines: list[Line] = []

        def met(line: Line) -> None:
            lines.append(line)
            self._events.emit("tls", **session_event("", route, host, line, heeded=True))

        def work() -> Deferred[tuple[Line, object] | Cause]:
            way = reach(self._connect, self._clock, host, address, demand=demand, settings=self._settings, met=met)
            return Deferred.fromCoroutine(way)

        reached = await self._in_time(self._room.run(work))
        trouble: Cause | None
        if reached is None:
            trouble = self._late(host, address)
        elif isinstance(reached, Cause):
            trouble = reached
        else:
            line, _ = reached
            line.session.quit(self._settings.timeouts.quit)
            trouble = bars_login(line, self._settings)
        found = [*causes, trouble] if trouble else causes
        visit = self._seen(route, host, address, lines[0] if lines else None, found)
        waived = demand.waives(host, lines[0]) if lines and not found else None
        return attrs.evolve(visit, waived=waived, logs_in=host.name in self._settings.logins)

    def _seen(self, route: Route, host: Host, address: str | None, line: Line | None, causes: Sequence[Cause]) -> Visit:
        tls = line.session.tls if line is not None else None
        return Visit(
            host=host,
            address=address,
            steps=steps(route, host, line, causes),
            cause=causes[0] if causes else None,
            reply=conclude(causes[:1], self._settings.profile) if causes else None,
            tls=tls,
            proved=line.proves(host) if line is not None else None,
            certificates=read_chain(tls.chain) if tls is not None else (),
            tlsa=check_records(host.tlsa, tls, host.names),
        )

    def _connect(self, host: Host, address: str, settings: RelaySettings) -> Deferred[ClientSession]:
        def keep(session: ClientSession) -> ClientSession:
            self._sessions.append(session)
            return session

        return self._dial(host, address, settings).addCallback(keep)

    # --- the end of patience ----------------------------------------------------------------------------------------

    def _in_time(self, work: Deferred[T]) -> Deferred[T | None]:
        """The result of some work; None when it did not come before the deadline."""
        left = max(self._end - self._clock.seconds(), 0.0)
        bounded: Deferred[Any] = work
        return bounded.addTimeout(left, self._clock, lambda _, __: None)

    def _late(self, host: Host, address: str | None = None) -> Cause:
        return Cause(
            host=host.name,
            address=address and f"{address}:{host.port}",
            step=Step.LOOKUP if address is None else Step.CONNECT,
            detail=f"no end in sight after {self._deadline:g} seconds",
            temporary=True,
            clause="RFC 5321 4.5.4.1",
        )

    def _no_route(self, domain: str) -> NoRoute:
        cause = self._late(Host(name=domain))
        return NoRoute(domain=domain, reply=Reply(451, "4.4.3", cause.detail), cause=cause)
