"""The relay manager: walks the hosts of a domain until one takes the message under the conditions it was given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from requiretls_mta.message.envelope import Recipient
from requiretls_mta.message.outcome import Cause, Delivered, Outcome, Step, attempt_id
from requiretls_mta.message.ports import Events, Trace
from requiretls_mta.message.stored import Message
from requiretls_mta.relay.approach import locate, reach
from requiretls_mta.relay.demand import Demand, Sending
from requiretls_mta.relay.destination import BROKE_OFF
from requiretls_mta.relay.dial import Connect, Line, connector, identify
from requiretls_mta.relay.lookup import RouteFinder
from requiretls_mta.relay.outcomes import all_alike, judged, out_of_time, outcome, refused, waived_event
from requiretls_mta.relay.pool import Pool
from requiretls_mta.relay.route import Host, NoRoute, Route
from requiretls_mta.relay.settings import RelaySettings
from requiretls_mta.relay.tls_event import passed_over_event, session_event
from requiretls_mta.relay.visits import Visits, attempt_event
from requiretls_mta.smtp.exchange import Refused, transact
from requiretls_mta.tls.conclude import conclude
from requiretls_mta.tls.elements import Requirement, Verdict, requirement_of
from requiretls_mta.tls.judge import Row


class RelayManager:
    """A `Transport` over SMTP and LMTP. Knows no queue: one call is one attempt."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        *,
        finder: RouteFinder,
        settings: Callable[[], RelaySettings],
        events: Events,
        connect: Connect | None = None,
        trace: Trace | None = None,
        transcribes: bool = True,
    ) -> None:
        """`trace` is told of each attempt, and if `transcribes` what was said in it."""
        self._clock = reactor
        self._finder = finder
        self._settings = settings
        self._events = events
        self._connect = connect or connector(reactor)
        self._pool = Pool(reactor)
        self._trace = trace
        self._transcribes = transcribes

    def deliver(self, message: Message, recipients: Sequence[Recipient]) -> Deferred[list[Outcome]]:
        """One attempt for recipients that share a next hop."""
        return Deferred.fromCoroutine(self._attempt(message, tuple(recipients)))

    def close(self) -> None:
        """End the sessions that are kept."""
        self._pool.close()

    async def _attempt(self, message: Message, recipients: tuple[Recipient, ...]) -> list[Outcome]:
        """The outcomes, with the attempt's name, and where no session got as far as MAIL the time it took."""
        attempt, began = attempt_id(), self._clock.seconds()
        visits = Visits(self._clock.seconds, watched=self._trace is not None, transcribed=self._transcribes)
        outcomes = await self._deliver(message, recipients, attempt, visits)
        if self._trace is not None:
            self._trace.put("attempt", partial(attempt_event, message, recipients, attempt, visits))
        spent = (self._clock.seconds() - began, 0.0, 0.0)
        return [attrs.evolve(o, attempt=attempt, delays=o.delays if any(o.delays) else spent) for o in outcomes]

    async def _deliver(
        self, message: Message, recipients: tuple[Recipient, ...], attempt: str, visits: Visits
    ) -> list[Outcome]:
        settings = self._settings()
        domain = recipients[0].address.domain
        # What we say ourselves about tagged messages is held to the promise; others' reports are let through
        # (RFC 8689 5, 6).
        empty = message.envelope.sender is None and message.origin not in ("report", "reply")
        requirement = requirement_of(message.envelope.tag, empty_reverse_path=empty)
        route = await self._finder.find(domain, policy=requirement is not Requirement.OPTIONAL)
        if isinstance(route, NoRoute):
            visits.passed(route.cause)
            return all_alike(recipients, route.reply, (route.cause,))
        sending = Sending(
            message=message,
            recipients=recipients,
            demand=Demand(requirement=requirement, level=settings.levels.of(domain), local=route.local),
            settings=settings,
            attempt=attempt,
            visits=visits,
        )
        # Who needs SMTPUTF8 goes apart, lest a host without it refuses all (RFC 6531 3.5).
        needing = [not recipient.address.local.isascii() for recipient in recipients]
        if not any(needing) or all(needing):
            return await self._walk(route, sending)
        found = {}
        for need in (False, True):
            part = tuple(r for r, needs in zip(recipients, needing, strict=True) if needs is need)
            try:
                found[need] = iter(await self._walk(route, attrs.evolve(sending, recipients=part)))
            except Exception:
                # The other part may have got it, and must not get it again.
                self._log.failure("an attempt at a part of message {queue_id} broke off", queue_id=message.id)
                found[need] = iter(all_alike(part, BROKE_OFF, ()))
        return [next(found[need]) for need in needing]

    async def _walk(self, route: Route, sending: Sending) -> list[Outcome]:
        if sending.demand.requirement is Requirement.REPORT and len(route.hosts) > 1:
            # It is let through in any case, so first by a host that protects it (RFC 8689 5).
            strict = attrs.evolve(sending.demand, requirement=Requirement.REQUIRED)
            result = await self._round(route, attrs.evolve(sending, demand=strict))
            if isinstance(result, list):
                return result
        result = await self._round(route, sending)
        if isinstance(result, tuple) and not conclude(result).is_temporary:
            # RFC 8461 5.1 (3): nothing fails for good before somebody has looked for a newer policy.
            newer = await self._finder.renewed(route)
            if newer is not None:
                result = await self._round(newer, sending)
        if isinstance(result, list):
            return result
        return all_alike(sending.recipients, conclude(result, sending.settings.profile), result)

    async def _round(self, route: Route, sending: Sending) -> list[Outcome] | tuple[Cause, ...]:
        """Each host once: outcomes, or why each of them would not do."""
        causes: list[Cause] = []
        end = self._clock.seconds() + sending.settings.patience
        for host in route.hosts:
            if causes and self._clock.seconds() >= end:
                causes.append(out_of_time(host))
                sending.visits.passed(causes[-1])
                break
            result = await self._host(host, route, sending, causes, end)
            if isinstance(result, list):
                return result
            causes += result
        return tuple(causes)

    async def _host(
        self, host: Host, route: Route, sending: Sending, causes: Sequence[Cause], end: float
    ) -> list[Outcome] | tuple[Cause, ...]:
        """One host at each of its addresses: outcomes, or why it would not do."""
        located = await locate(self._finder, sending.demand, host)
        if isinstance(located, Cause):
            sending.visits.passed(located)
            return (located,)
        host = located.host
        if located.row is not None:
            self._tell(sending, passed_over_event(sending.message.id, route, host, located.row))
            out = judged(host, None, located.row)
            sending.visits.passed(out)
            return (out,)
        found: list[Cause] = []
        for number, address in enumerate(located.addresses):
            if number and self._clock.seconds() >= end:
                break
            result = await self._try(host, address.address, route, sending, [*causes, *found])
            if not isinstance(result, Cause):
                return result
            found.append(result)
        return tuple(found)

    async def _try(
        self, host: Host, address: str, route: Route, sending: Sending, causes: Sequence[Cause]
    ) -> list[Outcome] | Cause:
        """One address of one host: outcomes, or why it was none."""
        demand, settings = sending.demand, sending.settings
        kept = self._kept(host, sending)
        if kept is not None:
            result = await self._resume(kept, sending, causes, demand.judge(host, kept))
            # Servers end kept sessions as they like (RFC 5321 3.8); that says nothing about a new one.
            if not isinstance(result, Cause) or kept.session.is_open or result.step is not Step.TRANSACTION:
                return result

        def met(line: Line) -> None:
            self._tell(sending, session_event(sending.message.id, route, host, line, heeded=demand.heeds_policies))

        visit = sending.visits.begin(host, address)
        reached = await reach(
            self._connect,
            self._clock,
            host,
            address,
            demand=demand,
            settings=settings,
            met=met,
            transcript=visit.transcript,
        )
        if isinstance(reached, Cause):
            visit.cause = reached
            return reached
        line, row = reached
        visit.row = None if demand.local else row
        return visit.ended(await self._send(line, sending, causes, row))

    async def _resume(self, line: Line, sending: Sending, causes: Sequence[Cause], row: Row) -> list[Outcome] | Cause:
        """The transaction in a session that was kept."""
        visit = sending.visits.begin(line.host, line.address)
        line.session.transcript, visit.row = visit.transcript, None if sending.demand.local else row
        if visit.transcript is not None:
            visit.transcript.note("in a session that an earlier message began")
        return visit.ended(await self._send(line, sending, causes, row))

    def _kept(self, host: Host, sending: Sending) -> Line | None:
        demand = sending.demand

        def fits(line: Line) -> bool:
            return demand.local or demand.judge(host, line).lets_through

        line = self._pool.take(
            host,
            optional=demand.requirement is Requirement.OPTIONAL,
            generation=sending.settings.generation,
            fits=fits,
        )
        if line is not None:
            line.host = host  # the same one, but perhaps found in another way
        return line

    def _tell(self, sending: Sending, fields: dict[str, Any] | None) -> None:
        if fields is not None:
            self._events.emit("tls", attempt=sending.attempt, **fields)

    async def _send(self, line: Line, sending: Sending, causes: Sequence[Cause], row: Row) -> list[Outcome] | Cause:
        """The transaction, under the conditions of the row that approved of it."""
        settings, host, demand = sending.settings, line.host, sending.demand
        keyword = row.verdict is Verdict.PROCEED_TAGGED
        start = self._clock.seconds()
        try:
            trouble = await identify(line, settings)
            if trouble is not None:
                line.session.quit(settings.timeouts.quit)
                return trouble
            answer = await transact(
                line.session,
                sending.message,
                sending.recipients,
                keyword=keyword,
                lmtp=host.protocol == "lmtp",
                timeouts=settings.timeouts,
            )
        except BaseException:
            line.session.abort("the attempt broke off")
            raise
        transfer = self._clock.seconds() - start
        if isinstance(answer, Refused):
            line.session.quit(settings.timeouts.quit)
            if answer.why == "sender" and answer.reply.is_permanent:
                return [
                    outcome(r, answer.reply, line, causes, sending, keyword=keyword, transfer=transfer)
                    for r in sending.recipients
                ]
            return refused(line, answer)
        outcomes = [
            outcome(r, reply, line, causes, sending, keyword=keyword, command=c, answered=answer, transfer=transfer)
            for r, reply, c in zip(sending.recipients, answer.replies, answer.commands, strict=True)
        ]
        try:
            waived = demand.waives(host, line)
            if waived is not None and any(isinstance(o, Delivered) for o in outcomes):
                self._events.emit("policy", **waived_event(sending, host, waived))
            line.session.transcript = None
            self._pool.keep(
                line,
                optional=demand.requirement is Requirement.OPTIONAL,
                idle=settings.idle if answer.reusable else 0.0,
                quit_time=settings.timeouts.quit,
            )
            line.delays = (0.0, 0.0)
        except Exception:
            # The host has given its answer: what it took must not be sent again.
            self._log.failure("a session with {host} was not parted from well", host=host.name)
            line.session.abort("the attempt broke off behind the message")
        return outcomes
