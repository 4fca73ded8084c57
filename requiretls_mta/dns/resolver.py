"""The stub resolver: what others ask. Cache first, one look-up for all who want the same, never a failure."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import attrs
import dns.exception
import dns.name
import dns.rdatatype
from twisted.internet.defer import Deferred, succeed

from requiretls_mta.dns import wire
from requiretls_mta.dns.answer import Answer, Resolver, Status
from requiretls_mta.dns.cache import Cache
from requiretls_mta.dns.exchange import Exchanges, IDNSReactor, RandomBits
from requiretls_mta.dns.lookup import Lookup, Result
from requiretls_mta.dns.settings import Server, Settings

SHUNNED = 30.0  # seconds for which a server that kept silent is asked last


class StubResolver:
    """Implements `dns.answer.Resolver` by asking recursive, preferably validating servers."""

    def __init__(self, reactor: IDNSReactor, settings: Settings, *, random_bits: RandomBits = secrets.randbits) -> None:
        self._reactor = reactor
        self._settings = settings
        self._cache = Cache(reactor, entries=settings.cache_entries)
        self._exchanges = Exchanges(reactor, settings, random_bits=random_bits)
        self._shared: dict[tuple[str, str], _Shared] = {}
        self._shunned: dict[Server, float] = {}
        self._closed = False
        self.unusable = 0
        """Packets that came to our sockets and were no reply to our questions."""

    def resolve(self, name: str, rdtype: str) -> Deferred[Answer]:
        """Look up a name (A-labels, taken as absolute). Never fails, except with CancelledError when cancelled.

        Cancelling gives up the waiting; the question itself is given up with the last who waits for it.
        """
        return self._resolve(name, rdtype, self._settings.in_flight)

    @property
    def for_strangers(self) -> Resolver:
        """The same for questions that strangers choose: they never take the last look-ups from those who deliver."""
        return _ForStrangers(self._resolve, self._settings.for_strangers)

    def _resolve(self, name: str, rdtype: str, most: int) -> Deferred[Answer]:
        parsed = wire.parse_name(name)
        wanted = _rdtype(rdtype)
        if parsed is None or wanted is None:
            return succeed(_refusal(name, rdtype, "MALFORMED", f"{name[:255]!r} {rdtype} is no question to the DNS"))
        key = (wire.show_name(parsed), dns.rdatatype.to_text(wanted))
        known = self._cache.get(*key)
        if known is not None:
            return succeed(known)
        if self._closed:
            return succeed(_refusal(*key, "NETWORK", "the resolver is closed"))
        shared = self._shared.get(key)
        if shared is not None:
            return shared.wait()
        if len(self._shared) >= most:
            return succeed(_refusal(*key, "NETWORK", f"{len(self._shared)} look-ups are under way, that is all we do"))
        lookup = Lookup(
            self._exchanges,
            self._reactor,
            self._settings,
            servers=self._order(),
            name=parsed,
            rdtype=wanted,
            note=self._note,
        )
        shared = self._shared[key] = _Shared(lookup)
        waiter = shared.wait()
        lookup.done.addCallback(self._keep).addCallbacks(self._share, self._forget, (key,), {}, (key,))
        lookup.start()
        return waiter

    def close(self) -> Deferred[None]:
        """End every look-up with an answer that says so; fires when all sockets are closed."""
        self._closed = True
        for key, shared in list(self._shared.items()):
            del self._shared[key]
            shared.lookup.done.cancel()
            shared.tell(_refusal(*key, "NETWORK", "the resolver is closed"))
        self._cache.clear()
        return self._exchanges.close()

    def _keep(self, result: Result) -> Answer:
        self._cache.put(result.answer, result.size)
        return result.answer

    def _share(self, answer: Answer, key: tuple[str, str]) -> None:
        shared = self._shared.pop(key, None)
        if shared is not None:
            shared.tell(answer)

    def _forget(self, _: object, key: tuple[str, str]) -> None:
        """Everybody who waited has gone: the look-up was cancelled."""
        self._shared.pop(key, None)

    def _order(self) -> list[Server]:
        now = self._reactor.seconds()
        return sorted(self._settings.servers, key=lambda server: self._shunned.get(server, 0.0) > now)

    def _note(self, server: Server, why: wire.Unusable | None) -> None:
        if why is None:
            self._shunned[server] = self._reactor.seconds() + SHUNNED
        else:
            self.unusable += 1


@attrs.frozen
class _ForStrangers:
    _resolve: Callable[[str, str, int], Deferred[Answer]]
    _most: int

    def resolve(self, name: str, rdtype: str) -> Deferred[Answer]:
        return self._resolve(name, rdtype, self._most)


class _Shared:
    """One look-up and all who wait for it."""

    def __init__(self, lookup: Lookup) -> None:
        self.lookup = lookup
        self._waiting: list[Deferred[Answer]] = []

    def wait(self) -> Deferred[Answer]:
        waiter: Deferred[Answer] = Deferred(self._leave)
        self._waiting.append(waiter)
        return waiter

    def tell(self, answer: Answer) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.called:
                waiter.callback(answer)

    def _leave(self, waiter: Deferred[Answer]) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)
            if not self._waiting:
                self.lookup.done.cancel()


def _rdtype(text: str) -> dns.rdatatype.RdataType | None:
    try:
        rdtype = dns.rdatatype.from_text(text)
    except (dns.exception.DNSException, ValueError):
        return None
    return None if dns.rdatatype.is_metatype(rdtype) else rdtype


def _refusal(name: str, rdtype: str, rcode: str, detail: str) -> Answer:
    return Answer(name=name, rdtype=rdtype, status=Status.FAILURE, rcode=rcode, canonical=name, detail=detail)
