"""The schedule: takes leases out of the queue, attempts their recipients, settles what became of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from requiretls_mta.message.envelope import Recipient
from requiretls_mta.message.outcome import Deferred as Postponed
from requiretls_mta.message.outcome import Outcome
from requiretls_mta.message.ports import Events, Trace
from requiretls_mta.message.reply import Reply
from requiretls_mta.message.stored import Message
from requiretls_mta.queue.store import Entry, IQueueStore, Lease, Settlement, StoreFull
from requiretls_mta.relay.destination import BROKE_OFF, Attempt, Destination, Group, Way
from requiretls_mta.relay.retry import RetrySettings
from requiretls_mta.relay.settling import Ending, Reporter, Responder, conclude, given_up, in_mailboxes

CONGESTED = Reply(451, "4.4.5", "too many messages wait for this destination already")


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
    """Ids parked in all; beyond it what is for a destination that has its share is deferred without an attempt."""
    claim: int = 200
    """Messages asked of the store at once."""
    idle_check: float = 60.0
    """Seconds after which the store is asked for due messages even if nothing said so."""
    full_check: float = 10.0
    """Seconds between looks past what is due for full destinations, when no more can be parked; and between looks at a
    queue that could not be read."""


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
        respond: Responder | None = None,
        rng: random.Random | None = None,
        trace: Trace | None = None,
    ) -> None:
        """`trace` is told of the reports that settlements give birth to."""
        self._store = store
        self._choose = choose
        self._report = report
        self._clock = clock
        self._wall = wall
        self._events = events
        self._settings = settings
        self._respond = respond
        self._rng = rng or random.SystemRandom()
        self._trace = trace
        self._destinations: dict[str, Destination] = {}
        self._leases = 0
        self._parked = 0
        self._claiming = False
        self._asked = 0.0
        self._again = False
        self._look_past = float("-inf")
        self._running = False
        self._stopping: Deferred[None] | None = None
        self._timer: Any = None
        self._endings: list[Ending] = []
        self._returned: list[str] = []
        self._settling: set[Deferred[Any]] = set()
        self._given_up: dict[str, Deferred[bool]] = {}
        """Who waits for the end of which message."""

    # --- in ---------------------------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether fresh leases can be taken."""
        return self._running and self._leases < self._settings().leases

    def has_room_for(self, message: Message) -> bool:
        """Whether a fresh lease on this message can be taken; else it waits in the store until it is claimed."""
        if not self.has_room or not self._is_full:
            return self.has_room
        try:
            keys = {self._choose(recipient).key for recipient in message.envelope.recipients}
        except Exception:
            return True  # the attempt will tell
        return len(keys) > 1 or not self._has_share(*keys)

    def _has_share(self, key: str) -> bool:
        """Whether as many wait for a destination as may."""
        destination = self._destinations.get(key)
        return destination is not None and len(destination.waiting) >= self._settings().share

    @property
    def _is_full(self) -> bool:
        """Whether no more can be parked."""
        return self._parked >= self._settings().parked

    def start(self) -> None:
        """Begin with what the store holds."""
        self._running = True
        self.wake()

    def stop(self) -> Deferred[None]:
        """No new attempts; fires when those under way are settled. What only waits stays in the store."""
        self._running = False
        self._cancel_timer()
        for destination in list(self._destinations.values()):
            for group in destination.withdraw():
                self._group_done(group)
        self._give_back(())
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
        work.addCallbacks(lambda _: self._claimed(), self._not_claimed)

    def take(self, leases: Sequence[Lease]) -> None:
        """Attempt these, or give them back to the store when there is no room or the schedule has stopped."""
        left = [lease.message.id for lease in leases if not (self.has_room and self._begin(lease))]
        if left:
            self._give_back(left)

    async def _claim(self) -> None:
        settings = self._settings()
        room = min(settings.claim, settings.leases - self._leases)
        if room <= 0:
            return
        if self._is_full:
            # Behind what is due for full destinations there may be mail for others.
            if self._clock.seconds() < self._look_past:
                return
            self._look_past = self._clock.seconds() + settings.full_check
        self._asked = self._wall()
        leases = await self._store.claim(room, self._asked)
        if not self._running:
            self.take(leases)
            return
        for lease in leases:
            if not self._begin(lease):
                self._postpone(lease)
        if len(leases) == room:
            self._again = True

    def _claimed(self) -> None:
        self._claiming = False
        again, self._again = self._again, False
        if not self._running:
            self._check_stopped()
        elif again and self.has_room and not self._is_full:
            self._clock.callLater(0, self.wake)
        elif self._is_full:
            self._sleep(None)
        else:
            due = self._store.next_due()
            due.addCallbacks(self._sleep, lambda _: self._sleep(None))

    def _not_claimed(self, failure: Failure) -> None:
        self._claiming = self._again = False
        if failure.check(StoreFull):
            self._log.error("nothing is attempted while the queue has no space: {error}", error=str(failure.value))
        else:
            self._log.failure("the queue cannot be read", failure)
        self._check_stopped()
        if self._running:
            self._cancel_timer()
            self._timer = self._clock.callLater(self._settings().full_check, self._timed)

    def _sleep(self, due: float | None) -> None:
        if not self._running or self._claiming:
            return
        pause = self._settings().idle_check
        if self._is_full:
            pause = min(pause, self._settings().full_check)
        elif due is not None and self.has_room:
            # By the clock that the store was asked by: set back since, it would make the pause longer.
            pause = min(max(due - self._asked, 0.05), pause)
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

    def _begin(self, lease: Lease) -> bool:
        """Attempt it, now or in turn, or park it; False when there is no room even for that."""
        attempt = Attempt(lease)
        groups: dict[str, tuple[Way, list[Entry]]] = {}
        for entry in lease.entries:
            try:
                way = self._choose(entry.recipient)
            except Exception:
                self._log.failure("nobody can be chosen to attempt message {queue_id}", queue_id=lease.message.id)
                attempt.outcomes[entry.number] = Postponed(recipient=entry.recipient, reply=BROKE_OFF)
            else:
                groups.setdefault(way.key, (way, []))[1].append(entry)
        if len(groups) == 1 and not attempt.outcomes:
            (key,) = groups
            if self._has_share(key):
                return self._park(self._destinations[key], lease)
        self._leases += 1
        attempt.left = len(groups)
        for key, (way, entries) in groups.items():
            if key not in self._destinations:
                self._destinations[key] = Destination(self._clock, self._group_done, self._freed, key)
            self._destinations[key].add(Group(attempt, way, entries))
        if not groups:
            self._settle_part(attempt)
        return True

    def _park(self, destination: Destination, lease: Lease) -> bool:
        if self._parked >= self._settings().parked:
            return False
        destination.parked.append(lease.message.id)
        self._parked += 1
        return True

    def _postpone(self, lease: Lease) -> None:
        """Out of the way of others, until its next attempt (RFC 3463 X.4.5)."""
        attempt = Attempt(lease)
        for entry in lease.entries:
            attempt.outcomes[entry.number] = Postponed(recipient=entry.recipient, reply=CONGESTED)
        self._leases += 1
        self._settle_part(attempt)

    def _group_done(self, group: Group, outcomes: Sequence[Outcome] = ()) -> None:
        attempt = group.attempt
        for entry, outcome in zip(group.entries, outcomes, strict=False):
            attempt.outcomes[entry.number] = outcome
        attempt.left -= 1
        if attempt.left == 0:
            self._settle_part(attempt)

    def _freed(self, destination: Destination) -> None:
        if self._running and destination.parked and len(destination.waiting) < max(self._settings().share // 2, 1):
            self._unpark(destination)
        if destination.is_idle and self._destinations.get(destination.key) is destination:
            del self._destinations[destination.key]
        self._check_stopped()

    def _unpark(self, destination: Destination) -> None:
        """There is room again: the oldest parked messages may be claimed anew."""
        count = min(len(destination.parked), self._settings().share)
        self._parked -= count
        self._give_back([destination.parked.popleft() for _ in range(count)])

    def _give_back(self, message_ids: Sequence[str]) -> None:
        if self._running and not self._returned:
            # Those of one turn go back in one transaction.
            self._clock.callLater(0, self._return)
        self._returned += message_ids
        if not self._running:
            self._return()

    def _return(self) -> None:
        message_ids, self._returned = self._returned, []
        if not message_ids:
            return
        released = maybeDeferred(self._store.release, message_ids)
        # Nobody looks for work when there was just found to be too much.
        released.addCallbacks(
            lambda _: None if self._is_full else self.wake(),
            lambda failure: self._log.failure("leases cannot be given back", failure),
        )

    def give_up(self, message_id: str) -> Deferred[bool]:
        """End a message at the operator's word: for all who have not got it, it has failed, and the sender is told.

        False when that is not done: there is none, it is being attempted, or its report cannot be written or stored.
        """
        return Deferred.fromCoroutine(self._give_up(message_id))

    async def _give_up(self, message_id: str) -> bool:
        lease = await self._store.lease(message_id)
        if lease is None:
            return False
        attempt = Attempt(lease)
        attempt.outcomes |= given_up(lease)
        waiting = self._given_up[message_id] = Deferred[bool]()
        self._leases += 1
        self._settle_part(attempt)
        return await waiting

    # --- out --------------------------------------------------------------------------------------------------

    def _settle_part(self, attempt: Attempt) -> None:
        """Settle the recipients that were attempted."""
        try:
            ending = self._ending(attempt)
        except Exception:
            self._log.failure("an attempt cannot be settled; its message stays in the queue")
            self._released(1)
            self._answer(attempt.lease, done=False)
            return
        arrived = in_mailboxes(ending.ended) if self._respond is not None else ()
        if self._respond is None or not arrived:
            self._end(ending)
            return
        replies = self._respond(attempt.lease.message, arrived)
        self._settling.add(replies)
        replies.addCallback(lambda made: self._replied(replies, ending.with_replies(made)))

    def _replied(self, replies: Deferred[Any], ending: Ending) -> None:
        self._settling.discard(replies)
        self._end(ending)

    def _end(self, ending: Ending) -> None:
        if not self._endings:
            # Attempts that end in the same turn share one transaction.
            self._clock.callLater(0, self._flush)
        self._endings.append(ending)

    def _ending(self, attempt: Attempt) -> Ending:
        retry, now = self._settings().retry, self._wall()
        return conclude(
            attempt.lease,
            attempt.outcomes,
            self._report,
            now=now,
            retry=retry,
            rng=self._rng,
        )

    def _flush(self) -> None:
        endings, self._endings = self._endings, []
        work = maybeDeferred(self._store.settle, [ending.settlement for ending in endings])
        self._settling.add(work)
        work.addErrback(lambda failure: [failure.value] * len(endings))
        work.addCallback(lambda results: self._flushed(work, endings, results))

    def _flushed(self, work: Deferred[Any], endings: list[Ending], results: Sequence[Exception | None]) -> None:
        self._settling.discard(work)
        # Told only now: what is not on disk happens again when the process ends here.
        for ending, trouble in zip(endings, results, strict=True):
            ending.tell(self._events, trouble, self._trace)
            self._answer(ending.settlement.lease, done=trouble is None and ending.is_final)
        if failed := [trouble for trouble in results if trouble is not None]:
            self._not_stored(failed)
        self._released(len(endings))
        if any(_leaves_work(ending.settlement) for ending in endings):
            self.wake()

    def _answer(self, lease: Lease, *, done: bool) -> None:
        """Tell who had this message given up, if somebody had."""
        if (waiting := self._given_up.pop(lease.message.id, None)) is not None:
            waiting.callback(done)

    def _not_stored(self, failed: list[Exception]) -> None:
        count = len(failed)
        if self._stopping is not None:  # it was waited for, but not for ever
            self._log.warn("too late to store outcomes of {count} messages: attempted again at the start", count=count)
        else:
            self._log.failure(
                "outcomes of {count} messages cannot be stored; they will be repeated after a restart",
                Failure(failed[0]),
                count=count,
            )

    def _released(self, count: int) -> None:
        full = not self.has_room
        self._leases -= count
        if full and self.has_room:
            self.wake()
        self._check_stopped()

    def _check_stopped(self) -> None:
        busy = self._endings or self._settling or any(d.running for d in self._destinations.values())
        if self._stopping is not None and not busy and not self._claiming and not self._stopping.called:
            self._stopping.callback(None)


def _leaves_work(settlement: Settlement) -> bool:
    """Whether something in the store may be due sooner than was known while the message was leased."""
    ended = sum(one.final for one in settlement.settled)
    return bool(settlement.offspring) or ended < len(settlement.lease.message.envelope.recipients)
