"""MTA-STS policies of next hops (RFC 8461): announced in the DNS, fetched over HTTPS, kept until they end.

A kept policy is given out at once and looked after behind the message's back: fetched again when the announcement
changes, and every day whatever the DNS says, so that nobody can wait for its end by keeping us from the news. Only the
first mail to a domain that announces a policy waits for it, and nobody else's.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from requiretls_mta.dns.answer import Resolver
from requiretls_mta.message.ports import Events, NoEvents
from requiretls_mta.message.reply import quote
from requiretls_mta.relay.route import NoPolicy
from requiretls_mta.relay.sts_cache import Kept, PolicyCache
from requiretls_mta.relay.sts_fetch import FetchFailure
from requiretls_mta.tls.mta_sts import RECORD, Mode, Policy, PolicyError, can_have_policy, parse_policy, parse_record

Fetch = Callable[[str], Deferred[bytes | FetchFailure]]
"""Gets what the policy host of a domain serves: `sts_fetch.PolicyHosts.fetch`."""

PAUSE = 300.0
"""Seconds until a fetch that failed is tried again (RFC 8461 3.3); doubled with each failure."""
LONGEST_PAUSE = 3600.0
MOST_FAILURES = 10_000
LOOK = 60.0
"""Seconds between two looks at the announcement of a policy that is kept, however much mail there is."""
MOST_LOOKS = 20_000
"""Domains whose last look is remembered."""
SWEEP = 60.0
"""Seconds between two looks at what is due without mail asking for it."""
SWEPT = 8
"""Policies fetched again at each such look: some ten thousand a day."""

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class _Failed:
    """The last fetches under one announcement failed."""

    id: str
    count: int
    until: float
    told: NoPolicy


class STSPolicies:
    """A `relay.route.PolicyFinder`. Without a folder, or before `start`, policies are kept in memory only."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        resolver: Resolver,
        fetch: Fetch,
        *,
        folder: Path | None = None,
        lender: Path | None = None,
        events: Events | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`lender` is the folder of another process, whose policies are known here too; it is only read."""
        self._clock = reactor
        self._resolver = resolver
        self._fetch = fetch
        self._lender = lender
        self._events = events or NoEvents()
        self._wall = wall
        self._cache = PolicyCache(reactor, folder, wall)
        self._loading: Deferred[None] | None = None
        self._running: dict[str, Deferred[Policy | NoPolicy]] = {}
        self._looked: dict[str, float] = {}
        self._failed: dict[str, _Failed] = {}
        self._sweep = LoopingCall(self._look_after)
        self._sweep.clock = reactor
        self._stopped = False

    def start(self) -> None:
        """Read what was kept, and look after it from now on."""
        self._loading = self._cache.start()
        self._sweep.start(SWEEP, now=False)

    def stop(self) -> None:
        """End the fetches under way, and wait until everything kept is on disk."""
        self._stopped = True
        if self._sweep.running:
            self._sweep.stop()
        for running in list(self._running.values()):
            running.cancel()
        self._cache.stop()

    def find(self, domain: str) -> Deferred[Policy | NoPolicy]:
        """The policy of a next-hop domain (A-labels, lower case). Never fails."""
        return Deferred.fromCoroutine(self._find(domain))

    def renewed(self, domain: str, known: Policy) -> Deferred[Policy | NoPolicy | None]:
        """What replaces a policy, looked up past the cache (RFC 8461 5.1 step 3); None: it holds. Never fails."""
        return Deferred.fromCoroutine(self._renewed(domain, known))

    async def _find(self, domain: str) -> Policy | NoPolicy:
        if not can_have_policy(domain):
            return NoPolicy()
        if self._loading is not None:
            await _share(self._loading)
        if self._lender is not None:
            self._cache.borrow(self._lender, domain)
        kept = self._cache.get(domain)
        if kept is not None:
            self._refresh(domain)
            return kept.policy
        announced = await self._announced(domain)
        return announced if isinstance(announced, NoPolicy) else await self._fetched(domain, announced)

    async def _renewed(self, domain: str, known: Policy) -> Policy | NoPolicy | None:
        announced = await self._announced(domain)
        if isinstance(announced, NoPolicy):
            # RFC 8461 3.3: an announcement that went away ends no policy; one that cannot be seen may have changed.
            return announced if announced.temporary else None
        kept = self._cache.peek(domain)
        if kept is not None and kept.policy.id == announced:
            found: Policy | NoPolicy = kept.policy
        else:
            found = known if known.id == announced else await self._fetched(domain, announced)
        same = isinstance(found, Policy) and (found.mode, found.mx) == (known.mode, known.mx)
        return None if same else found

    # --- looking after what is kept ---------------------------------------------------------------------------------

    def _look_after(self) -> None:
        for domain in self._cache.due(SWEPT, unless=self._is_pausing):
            self._refresh(domain)

    def _refresh(self, domain: str) -> None:
        """See in the background whether a kept policy is still the one to keep."""
        now = self._clock.seconds()
        if now - self._looked.get(domain, now - LOOK) < LOOK:
            return
        if len(self._looked) >= MOST_LOOKS:
            self._looked.clear()
        self._looked[domain] = now
        refreshing = Deferred.fromCoroutine(self._refreshed(domain))
        refreshing.addErrback(lambda failure: self._log.failure("MTA-STS: a mistake of ours", failure))

    async def _refreshed(self, domain: str) -> None:
        announced = await self._announced(domain)
        kept = self._cache.peek(domain)
        if kept is None:
            return
        changed = isinstance(announced, str) and announced != kept.policy.id
        if changed or kept.is_due(self._wall()):
            # RFC 8461 10.2: regardless of the state of the TXT record.
            await self._fetched(domain, announced if isinstance(announced, str) else kept.policy.id)

    # --- the DNS and HTTPS ------------------------------------------------------------------------------------------

    async def _announced(self, domain: str) -> str | NoPolicy:
        """The id in the DNS, or why there is none."""
        answer = await self._resolver.resolve(f"{RECORD}.{domain}", "TXT")
        if answer.is_failure:
            why = f"the MTA-STS record cannot be looked up: {answer.detail or answer.rcode}"
            return NoPolicy(problem=quote(why), temporary=True)
        records: Any = answer.records
        try:
            announced = parse_record(b"".join(record.strings) for record in records)
        except PolicyError as error:
            return NoPolicy(problem=str(error))
        return NoPolicy() if announced is None else announced

    async def _fetched(self, domain: str, announced: str) -> Policy | NoPolicy:
        """The policy that is served now. One fetch for all who want the same; none so soon after one that failed."""
        failed = self._failed.get(domain)
        if failed is not None and failed.id == announced and self._is_pausing(domain):
            return failed.told
        running = self._running.get(domain)
        if running is None:
            running = Deferred.fromCoroutine(self._fetch_now(domain, announced))
            if not running.called:
                self._running[domain] = running
                running.addBoth(self._over, domain)
        return await _share(running)

    async def _fetch_now(self, domain: str, announced: str) -> Policy | NoPolicy:
        got: bytes | FetchFailure | None = None
        if not self._stopped:
            with contextlib.suppress(CancelledError):
                got = await self._fetch(domain)
        if got is None or self._stopped:  # a fetch that was ended may tell it as it likes
            return NoPolicy(problem="the service is stopping", temporary=True)
        kept = self._cache.peek(domain)
        if isinstance(got, FetchFailure):
            return self._fail(domain, announced, kept, got.detail, got.result, remember=got.asked)
        try:
            policy = parse_policy(got, announced)
        except PolicyError as error:
            return self._fail(domain, announced, kept, str(error), "sts-policy-invalid", remember=True)
        self._failed.pop(domain, None)
        self._cache.put(domain, policy)
        if kept is None or (kept.policy.id, kept.policy.mode, kept.policy.mx) != (policy.id, policy.mode, policy.mx):
            self._events.emit(
                "policy",
                decision="MTA-STS policy taken",
                domain=domain,
                mode=policy.mode.value,
                id=policy.id,
                max_age=policy.max_age,
            )
        return policy

    def _fail(
        self, domain: str, announced: str, kept: Kept | None, why: str, result: str, *, remember: bool
    ) -> NoPolicy:
        told = NoPolicy(problem=why, result=result, temporary=True)
        if remember:
            before = self._failed.pop(domain, None)
            count = before.count + 1 if before is not None and before.id == announced else 0
            until = self._clock.seconds() + min(PAUSE * 2**count, LONGEST_PAUSE)
            self._failed[domain] = _Failed(id=announced, count=min(count, 10), until=until, told=told)
            while len(self._failed) > MOST_FAILURES:
                del self._failed[next(iter(self._failed))]
        # RFC 8461 3.3, 10.2: operators are to know when a policy cannot be renewed, but for one that is on its way out.
        matters = kept is not None and kept.policy.mode is not Mode.NONE
        self._events.emit(
            "policy",
            decision="MTA-STS policy cannot be had",
            domain=domain,
            result=result,
            detail=why,
            cached=kept is not None,
            level="warn" if matters else "info",
        )
        return told

    def _is_pausing(self, domain: str) -> bool:
        failed = self._failed.get(domain)
        return failed is not None and self._clock.seconds() < failed.until

    def _over(self, result: T, domain: str) -> T:
        del self._running[domain]
        return result


def _share(running: Deferred[T]) -> Deferred[T]:
    """A result for one more who waits for it; cancelling gives up the waiting only."""
    waiter: Deferred[T] = Deferred()

    def tell(result: T) -> T:
        if not waiter.called:
            waiter.callback(result)
        return result

    running.addBoth(tell)
    return waiter
