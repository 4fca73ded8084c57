"""Call-outs: whether a mailbox exists is asked, mostly of the server that delivers, and the answer remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred, DeferredSemaphore

from requiretls_mta.message import reply
from requiretls_mta.message.address import Address, ascii_domain
from requiretls_mta.message.outcome import Cause
from requiretls_mta.message.reply import Reply
from requiretls_mta.relay.dial import Connect, connector, dial
from requiretls_mta.relay.route import Host, HostAddress, NoRoute, Route
from requiretls_mta.relay.settings import RelaySettings
from requiretls_mta.smtp.client import ClientSession, SessionLostError

AT_ONCE = 10
"""Questions that are asked at once, each in a session of its own."""
MOST_WAITING = 200
"""Questions that are open; whoever comes then hears 451."""
DEADLINE = 15.0
"""Seconds for an answer, the wait for a session included."""
KNOWN_FOR, UNKNOWN_FOR = 3600.0, 300.0
"""Seconds for which an answer holds: that there is a mailbox, that there is none."""
MOST_KEPT = 10_000
"""Answers that are kept."""


class Finder(Protocol):
    """What is asked of `relay.lookup.RouteFinder`."""

    def find(self, domain: str, *, policy: bool = True) -> Deferred[Route | NoRoute]:
        """The hosts."""

    def addresses(self, host: Host) -> Deferred[tuple[HostAddress, ...] | Cause]:
        """Their addresses."""


Question = Callable[[Address], Coroutine[Any, Any, Reply | None]]
"""Why mail for an address of a local domain is not taken, or None; it may raise."""


@attrs.frozen
class _Answer:
    refused: Reply | None
    until: float


class Callout:
    """Asks, and remembers the answers."""

    def __init__(self, clock: Any, question: Question) -> None:
        self._clock = clock
        self._question = question
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._asking: dict[str, list[Deferred[Reply | None]]] = {}
        self._open = 0
        self._running: set[Deferred[Reply | None]] = set()
        self._turn = DeferredSemaphore(AT_ONCE)

    def ask(self, address: Address) -> Reply | Deferred[Reply | None] | None:
        """Why mail for this address of a local domain is not taken, or None; the Deferred never fails."""
        key = address.key
        known = self._answers.get(key)
        if known is not None and known.until > self._clock.seconds():
            return known.refused
        if self._open >= MOST_WAITING:
            return reply.CANNOT_VERIFY
        self._open += 1
        waiter: Deferred[Reply | None] = Deferred()
        waiters = self._asking.get(key)
        if waiters is not None:
            waiters.append(waiter)
            return waiter
        self._asking[key] = [waiter]
        asked = self._turn.run(lambda: Deferred.fromCoroutine(self._question(address)))
        self._running.add(asked)
        asked.addTimeout(DEADLINE, self._clock)
        # Whatever went wrong: nobody is turned away for good for our own trouble.
        asked.addErrback(lambda _: reply.CANNOT_VERIFY)
        asked.addCallback(lambda refused: self._tell(key, refused))
        asked.addCallback(lambda _: self._running.discard(asked))
        return waiter

    def close(self) -> None:
        """Break off what is asked; whoever waits hears that it cannot be told."""
        for asked in list(self._running):
            asked.cancel()

    def _tell(self, key: str, refused: Reply | None) -> None:
        if refused is None or refused.is_permanent:
            holds = KNOWN_FOR if refused is None else UNKNOWN_FOR
            self._answers.pop(key, None)
            self._answers[key] = _Answer(refused, self._clock.seconds() + holds)
            if len(self._answers) > MOST_KEPT:
                self._answers.popitem(last=False)
        waiters = self._asking.pop(key)
        self._open -= len(waiters)
        for waiter in waiters:
            waiter.callback(refused)


class OfServer:
    """The question to the server that delivers: a transaction without a message."""

    def __init__(
        self, clock: Any, finder: Finder, settings: Callable[[], RelaySettings], connect: Connect | None = None
    ) -> None:
        self._clock = clock
        self._finder = finder
        self._settings = settings
        self._connect = connect or connector(clock)

    async def __call__(self, address: Address) -> Reply | None:
        """The answer; of a server that cannot be asked, that it cannot be told."""
        settings = self._settings()
        route = await self._finder.find(address.domain, policy=False)
        for host in route.hosts if isinstance(route, Route) else ():
            found = await self._finder.addresses(host)
            for at in () if isinstance(found, Cause) else found:
                line = await dial(self._connect, self._clock, host, at.address, settings, use_tls=True, use_helo=False)
                if isinstance(line, Cause):
                    continue
                try:
                    return await _transaction(line.session, address, settings)
                except SessionLostError:
                    continue
                finally:
                    line.session.quit(settings.timeouts.quit)
        return reply.CANNOT_VERIFY


async def _transaction(session: ClientSession, address: Address, settings: RelaySettings) -> Reply | None:
    address, utf8 = Address(address.local, ascii_domain(address.domain)), ""
    if not address.is_ascii:
        if "SMTPUTF8" not in session.offers:
            return reply.UNKNOWN_RECIPIENT  # it could not be named to the server when its mail comes either
        utf8 = " SMTPUTF8"
    begun = await session.command(f"MAIL FROM:<>{utf8}".encode(), settings.timeouts.mail)
    if not begun.is_positive:
        return reply.CANNOT_VERIFY
    answer = await session.command(f"RCPT TO:<{address}>".encode(), settings.timeouts.rcpt)
    if answer.is_positive:
        return None
    if not answer.is_permanent:
        return reply.CANNOT_VERIFY
    # RFC 3463 3.2: X.1.x is about the address; a full mailbox, say, is not unknown.
    unknown = answer.enhanced is None or answer.enhanced.startswith("5.1.")
    return reply.UNKNOWN_RECIPIENT if unknown else answer
