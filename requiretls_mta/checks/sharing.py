"""The resolver shared by clients: what one of them brings about, by whatever check, leaves look-ups for the others."""

from __future__ import annotations

from collections import Counter
from typing import TypeVar

import attrs
from twisted.internet.defer import Deferred, succeed

from requiretls_mta.dns.answer import Answer, Resolver, Status
from requiretls_mta.message.shares import Shares, site_of

Value = TypeVar("Value")


class SharedResolver:
    """Gives each client its resolver; all of them together have so many look-ups under way."""

    def __init__(self, resolver: Resolver, look_ups: int) -> None:
        self._resolver = resolver
        self._shares = Shares(look_ups)
        self._open: Counter[tuple[str, str, str]] = Counter()

    def of(self, address: str | None) -> Resolver:
        """For the questions of a client at this address."""
        return _OfSite(self, site_of(address))

    def resolve(self, site: str, name: str, rdtype: str) -> Deferred[Answer]:
        """Ask; what the site is waiting for already costs it nothing. A failure where it has its share."""
        key = (site, name, rdtype)
        if key not in self._open and not self._shares.enter(site):
            detail = "the client has brought about too many look-ups"
            refused = Answer(name=name, rdtype=rdtype, status=Status.FAILURE, rcode="NETWORK", detail=detail)
            return succeed(refused)
        self._open[key] += 1
        return self._resolver.resolve(name, rdtype).addBoth(self._over, key)

    def _over(self, result: Value, key: tuple[str, str, str]) -> Value:
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]
            self._shares.leave(key[0])
        return result


@attrs.frozen
class _OfSite:
    _shared: SharedResolver
    _site: str

    def resolve(self, name: str, rdtype: str) -> Deferred[Answer]:
        return self._shared.resolve(self._site, name, rdtype)
