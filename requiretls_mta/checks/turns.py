"""Turns: shares for which one waits, site by site, so that whoever has much to ask keeps only himself waiting."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred, succeed

from requiretls_mta.message.shares import Shares

Value = TypeVar("Value")


class Turns:
    """So many at once of all sites together."""

    def __init__(self, places: int) -> None:
        self._shares = Shares(places)
        self._waiting: OrderedDict[str, deque[Deferred[None]]] = OrderedDict()
        self._calling = False

    async def run(self, site: str, work: Callable[..., Deferred[Value]], *arguments: object) -> Value:
        """Do this as soon as it is the site's turn."""
        await self._enter(site)
        try:
            return await work(*arguments)
        finally:
            self._leave(site)

    def _enter(self, site: str) -> Deferred[None]:
        if site not in self._waiting and self._shares.enter(site):
            return succeed(None)
        waiter: Deferred[None] = Deferred(lambda gone: self._gone(site, gone))
        self._waiting.setdefault(site, deque()).append(waiter)
        return waiter

    def _gone(self, site: str, waiter: Deferred[None]) -> None:
        self._waiting[site].remove(waiter)
        if not self._waiting[site]:
            del self._waiting[site]

    def _leave(self, site: str) -> None:
        self._shares.leave(site)
        if self._calling:  # what is known already is done at once: a loop, for a recursion would be deep
            return
        self._calling = True
        try:
            while (chosen := next(filter(self._shares.enter, self._waiting), None)) is not None:
                waiter = self._waiting[chosen].popleft()
                self._waiting.move_to_end(chosen)
                if not self._waiting[chosen]:
                    del self._waiting[chosen]
                waiter.callback(None)
        finally:
            self._calling = False
