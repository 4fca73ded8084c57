"""The relay manager: walks the hosts of a domain until one takes the message under the conditions it was given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from requiretls_mta.message.envelope import Recipient
from requiretls_mta.message.outcome import Cause, Delivered, Failed, Outcome, Security, Step
from requiretls_mta.message.outcome import Deferred as Postponed
from requiretls_mta.message.ports import Events
from requiretls_mta.message.reply import Reply
from requiretls_mta.message.stored import Message
from requiretls_mta.relay.dial import Connect, Line, connector, dial, identify
from requiretls_mta.relay.lookup import RouteFinder
from requiretls_mta.relay.pool import Pool
from requiretls_mta.relay.route import Host, NoRoute, Route
from requiretls_mta.relay.settings import RelaySettings
from requiretls_mta.smtp.exchange import Answered, Refused, transact
from requiretls_mta.tls.conclude import conclude
from requiretls_mta.tls.elements import Facts, MXSecurity, Requirement, Verdict, requirement_of
from requiretls_mta.tls.judge import Row, judge
from requiretls_mta.tls.policy import Level


@attrs.frozen(kw_only=True)
class _Demand:
    """What one message asks of every host, for the length of one attempt."""

    message: Message
    recipients: tuple[Recipient, ...]
    requirement: Requirement
    level: Level
    settings: RelaySettings
    local: bool

    @property
    def needs_tls(self) -> bool:
        """Whether the message stays here rather than go without TLS."""
        strict = self.level in (Level.ENFORCE, Level.OPPORTUNISTIC_STARTTLS)
        return self.requirement is Requirement.REQUIRED and strict and not self.local

    def judge(self, host: Host, line: Line | None = None) -> Row:
        """The row that decides about a host, before the connection or with a session."""
        return judge(
            Facts(
                requirement=self.requirement,
                level=self.level,
                mx_security=host.mx_security,
                sts=host.sts,
                tls=line.tls if line else None,
                proof=line.proved.proof if line and line.proved else None,
                keyword=line.keyword if line else False,
            )
        )


class RelayManager:
    """A `Transport` over SMTP and LMTP. Knows no queue: one call is one attempt."""

    def __init__(
        self,
        reactor: Any,
        *,
        finder: RouteFinder,
        settings: Callable[[], RelaySettings],
        events: Events,
        connect: Connect | None = None,
    ) -> None:
        self._clock = reactor
        self._finder = finder
        self._settings = settings
        self._events = events
        self._connect = connect or connector(reactor)
        self._pool = Pool(reactor)

    def deliver(self, message: Message, recipients: Sequence[Recipient]) -> Deferred[list[Outcome]]:
        """One attempt for recipients that share a next hop."""
        return Deferred.fromCoroutine(self._deliver(message, tuple(recipients)))

    def close(self) -> None:
        """End the sessions that are kept."""
        self._pool.close()

    async def _deliver(self, message: Message, recipients: tuple[Recipient, ...]) -> list[Outcome]:
        settings = self._settings()
        domain = recipients[0].address.domain
        # Our own reports about tagged messages are held to the promise; others' are let through (RFC 8689 5).
        empty = message.envelope.sender is None and message.origin != "report"
        requirement = requirement_of(message.envelope.tag, empty_reverse_path=empty)
        route = await self._finder.find(domain, policy=requirement is not Requirement.OPTIONAL)
        if isinstance(route, NoRoute):
            return _all(recipients, route.reply, (route.cause,))
        demand = _Demand(
            message=message,
            recipients=recipients,
            requirement=requirement,
            level=settings.levels.of(domain),
            settings=settings,
            local=route.local,
        )
        # Who needs SMTPUTF8 goes apart, lest a host without it refuses all (RFC 6531 3.5).
        needing = [not recipient.address.local.isascii() for recipient in recipients]
        if not any(needing) or all(needing):
            return await self._walk(route, demand)
        found = {}
        for need in (False, True):
            part = tuple(r for r, needs in zip(recipients, needing, strict=True) if needs is need)
            found[need] = iter(await self._walk(route, attrs.evolve(demand, recipients=part)))
        return [next(found[need]) for need in needing]

    async def _walk(self, route: Route, demand: _Demand) -> list[Outcome]:
        result = await self._round(route, demand)
        if isinstance(result, tuple) and not conclude(result).is_temporary:
            # RFC 8461 5.1 (3): nothing fails for good before somebody has looked for a newer policy.
            newer = await self._finder.renewed(route)
            if newer is not None:
                result = await self._round(newer, demand)
        return result if isinstance(result, list) else _all(demand.recipients, conclude(result), result)

    async def _round(self, route: Route, demand: _Demand) -> list[Outcome] | tuple[Cause, ...]:
        """Each host once: outcomes, or why each of them would not do."""
        causes: list[Cause] = []
        end = self._clock.seconds() + demand.settings.patience
        for host in route.hosts:
            if causes and self._clock.seconds() >= end:
                causes.append(_out_of_time(host))
                break
            row = demand.judge(host)
            if row.verdict is Verdict.NEXT_HOST and not demand.local:
                causes.append(_judged(host, None, row))
                continue
            addresses = await self._finder.addresses(host)
            if isinstance(addresses, Cause):
                causes.append(addresses)
                continue
            for number, address in enumerate(addresses):
                if number and self._clock.seconds() >= end:
                    break
                result = await self._try(host, address.address, demand, causes)
                if not isinstance(result, Cause):
                    return result
                causes.append(result)
        return tuple(causes)

    async def _try(self, host: Host, address: str, demand: _Demand, causes: Sequence[Cause]) -> list[Outcome] | Cause:
        """One address of one host: outcomes, or why it was none."""
        kept = self._kept(host, demand)
        if kept is not None:
            keyword = demand.judge(host, kept).verdict is Verdict.PROCEED_TAGGED
            result = await self._send(kept, demand, causes, keyword=keyword)
            # Servers end kept sessions as they like (RFC 5321 3.8); that says nothing about a new one.
            if not isinstance(result, Cause) or kept.session.is_open or result.step is not Step.TRANSACTION:
                return result
        line = await self._dial(host, address, demand, use_tls=not demand.local)
        if isinstance(line, Cause):
            return line
        row = demand.judge(host, line)
        if demand.local:
            return await self._send(line, demand, causes, keyword=False)
        if row.verdict is Verdict.NEXT_HOST:
            line.session.quit(demand.settings.timeouts.quit)
            return _judged(host, line, row)
        if not line.session.is_open:
            # The handshake came to nothing, and the message may do without (RFC 8689 4.2.2).
            if host.protocol == "smtps":
                # Only here nothing goes without; who did not ask for TLS is not refused for its lack.
                return attrs.evolve(_judged(host, line, row), temporary=True)
            again = await self._dial(host, address, demand, use_tls=False)
            if isinstance(again, Cause):
                return again
            line = again
        return await self._send(line, demand, causes, keyword=row.verdict is Verdict.PROCEED_TAGGED)

    def _kept(self, host: Host, demand: _Demand) -> Line | None:
        def fits(line: Line) -> bool:
            row = demand.judge(host, line)
            return demand.local or row.verdict is not Verdict.NEXT_HOST

        line = self._pool.take(
            host,
            optional=demand.requirement is Requirement.OPTIONAL,
            generation=demand.settings.generation,
            fits=fits,
        )
        if line is not None:
            line.host = host  # the same one, but perhaps found in another way
        return line

    async def _dial(self, host: Host, address: str, demand: _Demand, *, use_tls: bool) -> Line | Cause:
        line = await dial(
            self._connect,
            self._clock,
            host,
            address,
            demand.settings,
            use_tls=use_tls,
            use_helo=not demand.needs_tls,
        )
        if isinstance(line, Line) and line.session.tls is not None:
            self._events.emit(
                "tls",
                queue_id=demand.message.id,
                mx=host.name,
                tls_version=line.session.tls.version,
                cipher=line.session.tls.cipher,
                auth=line.auth,
            )
        return line

    async def _send(
        self, line: Line, demand: _Demand, causes: Sequence[Cause], *, keyword: bool
    ) -> list[Outcome] | Cause:
        settings, host = demand.settings, line.host
        start = self._clock.seconds()
        try:
            trouble = await identify(line, settings)
            if trouble is not None:
                line.session.quit(settings.timeouts.quit)
                return trouble
            answer = await transact(
                line.session,
                demand.message,
                demand.recipients,
                keyword=keyword,
                lmtp=host.protocol == "lmtp",
                timeouts=settings.timeouts,
            )
        except BaseException:
            line.session.abort("the attempt broke off")
            raise
        if isinstance(answer, Refused):
            line.session.quit(settings.timeouts.quit)
            if answer.why == "sender" and answer.reply.is_permanent:
                return [_outcome(r, answer.reply, line, causes, demand, keyword=keyword) for r in demand.recipients]
            return _refused(line, answer)
        transfer = self._clock.seconds() - start
        outcomes = [
            _outcome(r, reply, line, causes, demand, keyword=keyword, answered=answer, transfer=transfer)
            for r, reply in zip(demand.recipients, answer.replies, strict=True)
        ]
        self._pool.keep(
            line,
            optional=demand.requirement is Requirement.OPTIONAL,
            idle=settings.idle if answer.reusable else 0.0,
            quit_time=settings.timeouts.quit,
        )
        line.delays = (0.0, 0.0)
        return outcomes


def _outcome(
    recipient: Recipient,
    reply: Reply,
    line: Line,
    causes: Sequence[Cause],
    demand: _Demand,
    *,
    keyword: bool,
    answered: Answered | None = None,
    transfer: float = 0.0,
) -> Outcome:
    facts = line.session.tls
    security = Security(
        tls_version=facts.version if facts else None,
        cipher=facts.cipher if facts else None,
        auth=line.auth,
        mx_security=line.host.mx_security.value if not demand.local else MXSecurity.NOT_APPLICABLE.value,
        requiretls=keyword,
    )
    host = line.host.name
    if reply.is_positive:
        return Delivered(
            recipient=recipient,
            reply=reply,
            host=host,
            security=security,
            causes=tuple(causes),
            dsn_relayed=answered is not None and answered.dsn_relayed,
            delays=(*line.delays, transfer),
        )
    kind = Postponed if reply.is_temporary else Failed
    return kind(recipient=recipient, reply=reply, host=host, security=security, causes=tuple(causes))


def _all(recipients: Sequence[Recipient], reply: Reply, causes: tuple[Cause, ...]) -> list[Outcome]:
    kind = Postponed if reply.is_temporary else Failed
    host = causes[-1].host if causes else None
    return [kind(recipient=recipient, reply=reply, host=host, causes=causes) for recipient in recipients]


def _judged(host: Host, line: Line | None, row: Row) -> Cause:
    detail = row.detail or "the TLS handshake failed"
    if line is not None and line.detail:
        detail = f"{detail}: {line.detail}"
    return Cause(
        host=host.name,
        address=f"{line.address}:{host.port}" if line else None,
        step=row.step,
        detail=detail,
        temporary=row.temporary,
        clause=row.clause,
    )


def _out_of_time(host: Host) -> Cause:
    return Cause(
        host=host.name,
        step=Step.CONNECT,
        detail="not tried in this attempt, which took too long already",
        temporary=True,
        clause="RFC 5321 4.5.4.1",
    )


def _refused(line: Line, answer: Refused) -> Cause:
    """Why this host did not take the message, though the next may."""
    address = None if line.host.is_socket else f"{line.address}:{line.host.port}"
    if answer.why == "keyword":
        # It advertised the keyword and refuses the parameter: never again without (RFC 8689 4.2.1).
        return Cause(
            host=line.host.name,
            address=address,
            step=Step.REQUIRETLS,
            detail=f"MAIL with REQUIRETLS was answered {answer.reply}",
            temporary=False,
            clause="RFC 8689 4.2.1 (5)",
        )
    return Cause(
        host=line.host.name,
        address=address,
        step=Step.TRANSACTION,
        detail=answer.reply.text,
        temporary=answer.reply.is_temporary,
        reply=answer.reply,
        clause="RFC 5321 3.3",
    )
