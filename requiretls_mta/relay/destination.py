"""One destination: how many of its attempts run at once, who waits, and what one dead host means for those."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import attrs
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from requiretls_mta.message.outcome import Deferred as Postponed
from requiretls_mta.message.outcome import Outcome
from requiretls_mta.message.ports import Transport
from requiretls_mta.message.reply import Reply
from requiretls_mta.queue.store import Entry, Lease
from requiretls_mta.relay.settling import is_unreachable

BROKE_OFF = Reply(451, "4.3.0", "the attempt broke off here; it will be repeated")


@attrs.frozen
class Way:
    """How a recipient is attempted."""

    transport: Transport
    key: str
    """Recipients of one message with equal keys share a transaction; concurrency is counted per key."""
    concurrency: int


class Attempt:
    """A lease under way: how many of its groups are not done, and what is known of its recipients by their numbers."""

    __slots__ = ("lease", "left", "outcomes")

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.left = 0
        self.outcomes: dict[int, Outcome] = {}


@attrs.frozen(eq=False)
class Group:
    """Recipients of one lease that share a transaction."""

    attempt: Attempt
    way: Way
    entries: Sequence[Entry]


class Destination:
    """The groups of one key. Each group added ends once: by `ended` with an outcome per entry, or in `withdraw`.

    `freed` is told whenever an attempt is over and there may be room.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        ended: Callable[[Group, Sequence[Outcome]], None],
        freed: Callable[[Destination], None],
        key: str = "",
    ) -> None:
        self.key = key
        self.running = 0
        self.waiting: deque[Group] = deque()
        self.parked: deque[str] = deque()
        """Ids of leased messages that are not in memory, for others would find no room."""
        self._clock = clock
        self._ended = ended
        self._freed = freed
        self._advancing = False
        self._answered = float("-inf")

    @property
    def is_idle(self) -> bool:
        """Whether it can be forgotten."""
        return not (self.running or self.waiting or self.parked)

    def add(self, group: Group) -> None:
        """Attempt it now, or when its turn comes."""
        self.waiting.append(group)
        self._advance()

    def withdraw(self) -> list[Group]:
        """Those that wait; they will not be attempted."""
        groups = list(self.waiting)
        self.waiting.clear()
        return groups

    def _advance(self) -> None:
        # An attempt may be over before deliver() returns; then this loop goes on, and not one call deeper.
        if self._advancing:
            return
        self._advancing = True
        try:
            while self.waiting and self.running < max(self.waiting[0].way.concurrency, 1):
                self._run(self.waiting.popleft())
        finally:
            self._advancing = False

    def _run(self, group: Group) -> None:
        self.running += 1
        began = self._clock.seconds()
        work = maybeDeferred(
            group.way.transport.deliver,
            group.attempt.lease.message,
            [entry.recipient for entry in group.entries],
        )
        work.addCallback(_one_each, group)
        work.addErrback(self._broke, group)
        work.addCallback(self._over, group, began)
        # What comes here is a bug of the schedule's own; the destination's other messages go on.
        work.addErrback(lambda failure: self._log.failure("the end of an attempt broke off", failure))
        work.addBoth(lambda _: self._next())

    def _broke(self, failure: Failure, group: Group) -> list[Outcome]:
        self._log.failure(
            "an attempt at message {queue_id} broke off", failure, queue_id=group.attempt.lease.message.id
        )
        return [Postponed(recipient=entry.recipient, reply=BROKE_OFF) for entry in group.entries]

    def _over(self, outcomes: Sequence[Outcome], group: Group, began: float) -> None:
        ended = [(group, outcomes)]
        if not all(is_unreachable(outcome) for outcome in outcomes):
            self._answered = self._clock.seconds()
        elif self._answered < began:
            # Nobody answers there: those that wait are not kept waiting to find that out one by one. A host that
            # serves others meanwhile merely takes no more connections.
            ended += [(other, _same(outcomes[0], other)) for other in self.withdraw()]
        for one, its_outcomes in ended:
            self._ended(one, its_outcomes)

    def _next(self) -> None:
        self.running -= 1
        self._advance()
        self._freed(self)


def _one_each(outcomes: Sequence[Outcome], group: Group) -> Sequence[Outcome]:
    if len(outcomes) != len(group.entries):
        raise ValueError(f"{len(outcomes)} outcomes for {len(group.entries)} recipients")
    return outcomes


def _same(outcome: Outcome, group: Group) -> list[Outcome]:
    return [attrs.evolve(outcome, recipient=entry.recipient) for entry in group.entries]
