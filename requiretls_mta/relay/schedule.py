"""The schedule: the work in hand. Takes leases, attempts their recipients, hands what became of them on."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from requiretls_mta.message.envelope import Recipient
from requiretls_mta.message.outcome import Deferred as Postponed
from requiretls_mta.message.outcome import Outcome
from requiretls_mta.message.ports import Events, Trace
from requiretls_mta.message.reply import Reply
from requiretls_mta.message.stored import Message
from requiretls_mta.queue.store import Entry, IQueueStore, Lease
from requiretls_mta.relay.claims import Claims
from requiretls_mta.relay.destination import BROKE_OFF, Attempt, Destination, Group, Way
from requiretls_mta.relay.settings import ScheduleSettings
from requiretls_mta.relay.settlements import Settlements
from requiretls_mta.relay.settling import Reporter, Responder, given_up

CONGESTED = Reply(451, "4.4.5", "too many messages wait for this destination already")


class Chooser(Protocol):
    """Decides who attempts a recipient; asked anew for every attempt."""

    def __call__(self, recipient: Recipient) -> Way:
        """The way for this recipient."""


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
        self._clock = clock
        self._settings = settings
        self._claims = Claims(store=store, clock=clock, wall=wall, settings=settings, work=self)
        self._settlements = Settlements(
            store=store,
            clock=clock,
            wall=wall,
            events=events,
            settings=settings,
            report=report,
            respond=respond,
            rng=rng or random.SystemRandom(),
            trace=trace,
            over=self._over,
        )
        self._destinations: dict[str, Destination] = {}
        self._leases = 0
        self._parked = 0
        self._running = False
        self._stopping: Deferred[None] | None = None
        self._returned: list[str] = []

    def start(self) -> None:
        """Begin with what the store holds."""
        self._running = True
        self._claims.start()

    def stop(self) -> Deferred[None]:
        """No new attempts; fires when those under way are settled. What only waits stays in the store."""
        self._running = False
        self._claims.stop()
        self._settlements.stop()
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
        self._claims.look()

    # --- room -------------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many more messages may be held in memory."""
        return self._settings().leases - self._leases

    @property
    def has_room(self) -> bool:
        """Whether fresh leases can be taken."""
        return self._running and self._leases < self._settings().leases

    def has_room_for(self, message: Message) -> bool:
        """Whether a fresh lease on this message can be taken; else it waits in the store until it is claimed."""
        if not self.has_room or not self.is_full:
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
    def is_full(self) -> bool:
        """Whether no more can be parked."""
        return self._parked >= self._settings().parked

    # --- in ---------------------------------------------------------------------------------------------------

    def take(self, leases: Sequence[Lease]) -> None:
        """Attempt these, or give them back to the store when there is no room or the schedule has stopped."""
        left = [lease.message.id for lease in leases if not (self.has_room and self._begin(lease))]
        if left:
            self._give_back(left)

    def claimed(self, leases: Sequence[Lease]) -> None:
        """Attempt these, or put them off; or give them back when the schedule has stopped."""
        if not self._running:
            self.take(leases)
            return
        for lease in leases:
            if not self._begin(lease):
                self._postpone(lease)

    def looked(self) -> None:
        """Nothing more comes of the last look at the store."""
        self._check_stopped()

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
            self._settlements.end(lease, attempt.outcomes)
        return True

    def _park(self, destination: Destination, lease: Lease) -> bool:
        if self.is_full:
            return False
        destination.parked.append(lease.message.id)
        self._parked += 1
        return True

    def _postpone(self, lease: Lease) -> None:
        """Out of the way of others, until its next attempt (RFC 3463 X.4.5)."""
        self._leases += 1
        self._settlements.end(
            lease, {entry.number: Postponed(recipient=entry.recipient, reply=CONGESTED) for entry in lease.entries}
        )

    def _group_done(self, group: Group, outcomes: Sequence[Outcome] = ()) -> None:
        attempt = group.attempt
        for entry, outcome in zip(group.entries, outcomes, strict=False):
            attempt.outcomes[entry.number] = outcome
        attempt.left -= 1
        if attempt.left == 0:
            self._settlements.end(attempt.lease, attempt.outcomes)

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
            lambda _: None if self.is_full else self.wake(),
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
        end = self._settlements.end_of(message_id)
        self._leases += 1
        self._settlements.end(lease, given_up(lease))
        return await end

    # --- out --------------------------------------------------------------------------------------------------

    def _over(self, count: int, more: bool) -> None:
        """So many leases are; `more` may be due."""
        full = not self.has_room
        self._leases -= count
        if more or (full and self.has_room):
            self.wake()
        self._check_stopped()

    def _check_stopped(self) -> None:
        if self._stopping is None or self._stopping.called:
            return
        busy = self._claims.looking or any(d.running for d in self._destinations.values())
        if not busy and self._settlements.is_idle:
            self._stopping.callback(None)
