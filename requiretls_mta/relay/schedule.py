"""The schedule: takes leases out of the queue, attempts their recipients, settles what became of them."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from requiretls_mta.message.envelope import Recipient
from requiretls_mta.message.outcome import Deferred as Postponed
from requiretls_mta.message.outcome import Failed, Outcome
from requiretls_mta.message.ports import Events, Transport
from requiretls_mta.message.reply import Reply
from requiretls_mta.message.stored import Message
from requiretls_mta.queue.store import Entry, IQueueStore, Lease, Settlement
from requiretls_mta.relay.retry import RetrySettings
from requiretls_mta.relay.settling import is_unreachable, settle, tell

Reporter = Callable[[Message, Sequence[Failed]], tuple[Message, ...]]
"""What a message's failures give birth to: reports, or nothing."""


@attrs.frozen
class Way:
    """How a recipient is attempted."""

    transport: Transport
    key: str
    """Recipients of one message with equal keys share a transaction; concurrency is counted per key."""
    concurrency: int


class Chooser(Protocol):
    """Decides who attempts a recipient; asked anew for every attempt."""

    def __call__(self, recipient: Recipient) -> Way:
        """The way for this recipient."""


@attrs.frozen(kw_only=True)
class ScheduleSettings:
    """Bounds of the work in hand."""

    retry: RetrySettings = attrs.field(factory=RetrySettings)
    leases: int = 2000
    """Messages held in memory at once; the others wait in the store."""
    share: int = 500
    """Of these, those that wait for one destination; what comes on top is parked by its id alone."""
    parked: int = 10_000
    """Ids parked in all; beyond it nothing more is claimed."""
    claim: int = 200
    """Messages asked of the store at once."""
    idle_check: float = 60.0
    """Seconds after which the store is asked for due messages even if nothing said so."""


class _Attempt:
    """A lease under way: its groups and what is known of its recipients."""

    __slots__ = ("lease", "left", "outcomes")

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.outcomes: dict[int, Outcome] = {}
        self.left = 0


class _Destination:
    """Groups that wait for one key, and how many of its attempts run."""

    __slots__ = ("parked", "running", "waiting")

    def __init__(self) -> None:
        self.running = 0
        self.parked: deque[str] = deque()
        """Ids of leased messages that are not in memory, for others would find no room."""
        self.waiting: deque[tuple[_Attempt, Way, list[Entry]]] = deque()


class Schedule:
    """Attempts what is due. Every lease taken is settled exactly once, whatever its transports do."""

    _log = Logger()

    def __init__(
        self,
        *,
        store: IQueueStore,
        choose: Chooser,
        report: Reporter,
        clock: IReactorTime,
        wall: Callable[[], float],
        events: Events,
        settings: Callable[[], ScheduleSettings],
        rng: random.Random | None = None,
    ) -> None:
        self._store = store
        self._choose = choose
        self._report = report
        self._clock = clock
        self._wall = wall
        self._events = events
        self._settings = settings
        self._rng = rng or random.SystemRandom()
        self._destinations: dict[str, _Destination] = {}
        self._leases = 0
        self._parked = 0
        self._claiming = False
        self._again = False
        self._running = False
        self._stopping: Deferred[None] | None = None
        self._timer: Any = None
        self._settlements: list[Settlement] = []
        self._settling: set[Deferred[Any]] = set()

    # --- in ---------------------------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether fresh leases can be taken."""
        settings = self._settings()
        return self._running and self._leases < settings.leases and self._parked < settings.parked

    def start(self) -> None:
        """Begin with what the store holds."""
        self._running = True
        self.wake()

    def stop(self) -> Deferred[None]:
        """No new attempts; fires when those under way are settled. What only waits stays in the store."""
        self._running = False
        self._cancel_timer()
        for destination in self._destinations.values():
            for attempt, _, _ in destination.waiting:
                attempt.left -= 1
                if attempt.left == 0:
                    self._settle_part(attempt)
            destination.waiting.clear()
        if self._stopping is None:
            self._stopping = Deferred()
        self._check_stopped()
        return self._stopping

    def wake(self) -> None:
        """Something may be due: ask the store now."""
        if not self._running:
            return
        if self._claiming:
            self._again = True
            return
        self._claiming = True
        self._cancel_timer()
        work = Deferred.fromCoroutine(self._claim())
        work.addErrback(lambda failure: self._log.failure("the queue cannot be read", failure))
        work.addBoth(lambda _: self._claimed())

    def take(self, leases: Sequence[Lease]) -> None:
        """Attempt these; without a start they stay leased until the process ends."""
        for lease in leases:
            self._leases += 1
            self._begin(lease)

    async def _claim(self) -> None:
        settings = self._settings()
        room = min(settings.claim, settings.leases - self._leases)
        if room <= 0 or self._parked >= settings.parked:
            return
        leases = await self._store.claim(room, self._wall())
        if self._running:
            self.take(leases)
        if len(leases) == room:
            self._again = True

    def _claimed(self) -> None:
        self._claiming = False
        again, self._again = self._again, False
        if not self._running:
            self._check_stopped()
        elif again and self.has_room:
            self._clock.callLater(0, self.wake)
        else:
            due = self._store.next_due()
            due.addCallbacks(self._sleep, lambda _: self._sleep(None))

    def _sleep(self, due: float | None) -> None:
        if not self._running or self._claiming:
            return
        pause = self._settings().idle_check
        if due is not None and self.has_room:
            # wall may have been set back; the store is asked again after idle_check in any case.
            pause = min(max(due - self._wall(), 0.05), pause)
        self._cancel_timer()
        self._timer = self._clock.callLater(pause, self._timed)

    def _timed(self) -> None:
        self._timer = None
        self.wake()

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    # --- an attempt -------------------------------------------------------------------------------------------

    def _begin(self, lease: Lease) -> None:
        attempt = _Attempt(lease)
        groups: dict[str, tuple[Way, list[Entry]]] = {}
        for entry in lease.entries:
            way = self._choose(entry.recipient)
            groups.setdefault(way.key, (way, []))[1].append(entry)
        if len(groups) == 1:
            (key,) = groups
            destination = self._destinations.get(key)
            if destination is not None and len(destination.waiting) >= self._settings().share:
                destination.parked.append(lease.message.id)
                self._parked += 1
                self._leases -= 1
                return
        attempt.left = len(groups)
        for way, entries in groups.values():
            destination = self._destinations.setdefault(way.key, _Destination())
            if destination.running < way.concurrency:
                self._run(destination, attempt, way, entries)
            else:
                destination.waiting.append((attempt, way, entries))

    def _run(self, destination: _Destination, attempt: _Attempt, way: Way, entries: list[Entry]) -> None:
        destination.running += 1
        work = maybeDeferred(way.transport.deliver, attempt.lease.message, [entry.recipient for entry in entries])
        work.addCallbacks(
            lambda outcomes: self._attempted(way.key, attempt, entries, outcomes),
            lambda failure: self._broke(attempt, entries, failure),
        )
        work.addBoth(lambda _: self._freed(way.key, destination))

    def _attempted(self, key: str, attempt: _Attempt, entries: list[Entry], outcomes: Sequence[Outcome]) -> None:
        for entry, outcome in zip(entries, outcomes, strict=True):
            attempt.outcomes[entry.number] = outcome
        if all(is_unreachable(outcome) for outcome in outcomes):
            self._share_fate(key, outcomes[0])
        self._group_done(attempt)

    def _share_fate(self, key: str, outcome: Outcome) -> None:
        """Nobody there answers: those that wait for the same are not kept waiting to find that out one by one."""
        destination = self._destinations.get(key)
        waiting = list(destination.waiting) if destination else []
        if destination:
            destination.waiting.clear()
        for attempt, _, entries in waiting:
            for entry in entries:
                attempt.outcomes[entry.number] = attrs.evolve(outcome, recipient=entry.recipient)
            self._group_done(attempt)

    def _broke(self, attempt: _Attempt, entries: list[Entry], failure: Failure) -> None:
        self._log.failure("an attempt broke off", failure)
        trouble = Reply(451, "4.3.0", "the attempt broke off here; it will be repeated")
        for entry in entries:
            attempt.outcomes.setdefault(entry.number, Postponed(recipient=entry.recipient, reply=trouble))
        self._group_done(attempt)

    def _freed(self, key: str, destination: _Destination) -> None:
        destination.running -= 1
        if destination.waiting:
            self._run(destination, *destination.waiting.popleft())
        if destination.parked and len(destination.waiting) < self._settings().share // 2:
            self._unpark(destination)
        elif not destination.waiting and not destination.running:
            self._destinations.pop(key, None)

    def _unpark(self, destination: _Destination) -> None:
        """There is room again: the oldest parked messages may be claimed anew."""
        count = min(len(destination.parked), self._settings().share)
        released = self._store.release([destination.parked.popleft() for _ in range(count)])
        self._parked -= count
        released.addCallbacks(
            lambda _: self.wake(), lambda failure: self._log.failure("leases cannot be given back", failure)
        )

    def _group_done(self, attempt: _Attempt) -> None:
        attempt.left -= 1
        if attempt.left == 0:
            self._settle_part(attempt)

    # --- out --------------------------------------------------------------------------------------------------

    def _settle_part(self, attempt: _Attempt) -> None:
        """Settle the recipients that were attempted."""
        try:
            settlement = self._settlement(attempt)
        except Exception:
            self._log.failure("an attempt cannot be settled; its message stays in the queue")
            self._released(1)
            return
        if not self._settlements:
            # Attempts that end in the same turn share one transaction.
            self._clock.callLater(0, self._flush)
        self._settlements.append(settlement)

    def _settlement(self, attempt: _Attempt) -> Settlement:
        settings = self._settings()
        settled = settle(attempt.lease, attempt.outcomes, self._wall(), settings.retry, self._rng)
        message = attempt.lease.message
        for entry, one in settled:
            tell(self._events, message, entry, one, self._wall())
        failed = [one.outcome for _, one in settled if isinstance(one.outcome, Failed)]
        offspring = self._report(message, failed) if failed else ()
        return Settlement(lease=attempt.lease, settled=tuple(one for _, one in settled), offspring=offspring)

    def _flush(self) -> None:
        settlements, self._settlements = self._settlements, []
        work = maybeDeferred(self._store.settle, settlements)
        self._settling.add(work)
        work.addErrback(
            lambda failure: self._log.failure(
                "outcomes cannot be stored; they will be repeated after a restart", failure
            )
        )
        work.addBoth(lambda _: self._flushed(work, settlements))

    def _flushed(self, work: Deferred[Any], settlements: list[Settlement]) -> None:
        self._settling.discard(work)
        self._released(len(settlements))
        if any(s.offspring for s in settlements) or any(not d.final for s in settlements for d in s.settled):
            self.wake()

    def _released(self, count: int) -> None:
        full = not self.has_room
        self._leases -= count
        if full and self.has_room:
            self.wake()
        self._check_stopped()

    def _check_stopped(self) -> None:
        busy = self._settlements or self._settling or any(d.running for d in self._destinations.values())
        if self._stopping is not None and not busy and not self._claiming and not self._stopping.called:
            self._stopping.callback(None)
