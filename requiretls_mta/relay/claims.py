"""Claims: when the store is asked for what is due, one look at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from requiretls_mta.queue.store import IQueueStore, Lease, StoreFull
from requiretls_mta.relay.settings import ScheduleSettings


class Work(Protocol):
    """Who takes what is claimed."""

    @property
    def room(self) -> int:
        """How many fresh leases can be taken."""

    @property
    def is_full(self) -> bool:
        """Whether no more can be parked."""

    def claimed(self, leases: Sequence[Lease]) -> None:
        """Take these, even after `stop`: the store may answer when it is too late."""

    def looked(self) -> None:
        """A look at the store is over."""


class Claims:
    """Looks at the store when told to, when its next message is due, and every now and then."""

    _log = Logger()

    def __init__(
        self,
        *,
        store: IQueueStore,
        clock: IReactorTime,
        wall: Callable[[], float],
        settings: Callable[[], ScheduleSettings],
        work: Work,
    ) -> None:
        self._store = store
        self._clock = clock
        self._wall = wall
        self._settings = settings
        self._work = work
        self.looking = False
        """Whether the store has not answered yet."""
        self._asked = 0.0
        self._again = False
        self._look_past = float("-inf")
        self._running = False
        self._timer: Any = None

    def start(self) -> None:
        """Look now."""
        self._running = True
        self.look()

    def stop(self) -> None:
        """No further looks."""
        self._running = False
        self._cancel_timer()

    def look(self) -> None:
        """Something may be due: ask the store now."""
        if not self._running:
            return
        if self.looking:
            self._again = True
            return
        self.looking = True
        self._cancel_timer()
        Deferred.fromCoroutine(self._look()).addCallbacks(lambda _: self._looked(), self._broke)

    async def _look(self) -> None:
        settings = self._settings()
        room = min(settings.claim, self._work.room)
        if room <= 0:
            return
        if self._work.is_full:
            # Behind what is due for full destinations there may be mail for others.
            if self._clock.seconds() < self._look_past:
                return
            self._look_past = self._clock.seconds() + settings.full_check
        self._asked = self._wall()
        leases = await self._store.claim(room, self._asked)
        self._work.claimed(leases)
        if len(leases) == room:
            self._again = True

    def _looked(self) -> None:
        self.looking = False
        again, self._again = self._again, False
        self._work.looked()
        if not self._running:
            return
        if again and self._work.room > 0 and not self._work.is_full:
            self._clock.callLater(0, self.look)
        elif self._work.is_full:
            self._sleep(None)
        else:
            due = self._store.next_due()
            due.addCallbacks(self._sleep, lambda _: self._sleep(None))

    def _broke(self, failure: Failure) -> None:
        self.looking = self._again = False
        if failure.check(StoreFull):
            self._log.error("nothing is attempted while the queue has no space: {error}", error=str(failure.value))
        else:
            self._log.failure("the queue cannot be read", failure)
        self._work.looked()
        if self._running:
            self._wait(self._settings().full_check)

    def _sleep(self, due: float | None) -> None:
        if not self._running or self.looking:
            return
        pause = self._settings().idle_check
        if self._work.is_full:
            pause = min(pause, self._settings().full_check)
        elif due is not None and self._work.room > 0:
            # By the clock that the store was asked by: set back since, it would make the pause longer.
            pause = min(max(due - self._asked, 0.05), pause)
        self._wait(pause)

    def _wait(self, pause: float) -> None:
        self._cancel_timer()
        self._timer = self._clock.callLater(pause, self._timed)

    def _timed(self) -> None:
        self._timer = None
        self.look()

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
