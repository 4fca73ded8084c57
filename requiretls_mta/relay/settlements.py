"""Settlements: leases that ended in one turn are settled by one transaction, and told of once that is on disk."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from requiretls_mta.message.outcome import Outcome
from requiretls_mta.message.ports import Events, Trace
from requiretls_mta.queue.store import IQueueStore, Lease, Settlement
from requiretls_mta.relay.settings import ScheduleSettings
from requiretls_mta.relay.settling import Ending, Reporter, Responder, conclude, in_mailboxes


class Settlements:
    """Ends leases: those given to `end`, each once, whether the store takes it or not."""

    _log = Logger()

    def __init__(
        self,
        *,
        store: IQueueStore,
        clock: IReactorTime,
        wall: Callable[[], float],
        events: Events,
        settings: Callable[[], ScheduleSettings],
        report: Reporter,
        respond: Responder | None,
        rng: random.Random,
        trace: Trace | None,
        over: Callable[[int, bool], None],
    ) -> None:
        """`over` is told how many leases are, and whether something in the store may be due sooner than was known."""
        self._store = store
        self._clock = clock
        self._wall = wall
        self._events = events
        self._settings = settings
        self._report = report
        self._respond = respond
        self._rng = rng
        self._trace = trace
        self._over = over
        self._endings: list[Ending] = []
        self._settling: set[Deferred[Any]] = set()
        self._awaited: dict[str, Deferred[bool]] = {}
        self._late = False

    @property
    def is_idle(self) -> bool:
        """Whether all that ended is settled."""
        return not (self._endings or self._settling)

    def stop(self) -> None:
        """What the store refuses from now on is only too late."""
        self._late = True

    def end_of(self, message_id: str) -> Deferred[bool]:
        """Fires when the lease on this message has ended: whether that is on disk and nobody is left of it."""
        waiting = self._awaited[message_id] = Deferred()
        return waiting

    def end(self, lease: Lease, outcomes: Mapping[int, Outcome]) -> None:
        """Settle the recipients that have an outcome, by their numbers."""
        try:
            ending = conclude(
                lease,
                outcomes,
                self._report,
                now=self._wall(),
                retry=self._settings().retry,
                rng=self._rng,
            )
        except Exception:
            self._log.failure("an attempt cannot be settled; its message stays in the queue")
            self._over(1, False)
            self._answer(lease, done=False)
            return
        arrived = in_mailboxes(ending.ended) if self._respond is not None else ()
        if self._respond is None or not arrived:
            self._settle(ending)
            return
        replies = self._respond(lease.message, arrived)
        self._settling.add(replies)
        replies.addCallback(lambda made: self._replied(replies, ending.with_replies(made)))

    def _replied(self, replies: Deferred[Any], ending: Ending) -> None:
        self._settling.discard(replies)
        self._settle(ending)

    def _settle(self, ending: Ending) -> None:
        if not self._endings:
            # Attempts that end in the same turn share one transaction.
            self._clock.callLater(0, self._flush)
        self._endings.append(ending)

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
            try:
                ending.tell(self._events, trouble, self._trace)
            except Exception:
                # It has happened all the same, and there is room for others.
                self._log.failure("what became of a message cannot be told")
            self._answer(ending.settlement.lease, done=trouble is None and ending.is_final)
        if failed := [trouble for trouble in results if trouble is not None]:
            self._not_stored(failed)
        self._over(len(endings), any(_leaves_work(ending.settlement) for ending in endings))

    def _answer(self, lease: Lease, *, done: bool) -> None:
        if (waiting := self._awaited.pop(lease.message.id, None)) is not None:
            waiting.callback(done)

    def _not_stored(self, failed: list[Exception]) -> None:
        count = len(failed)
        if self._late:  # it was waited for, but not for ever
            self._log.warn("too late to store outcomes of {count} messages: attempted again at the start", count=count)
        else:
            self._log.failure(
                "outcomes of {count} messages cannot be stored; they will be repeated after a restart",
                Failure(failed[0]),
                count=count,
            )


def _leaves_work(settlement: Settlement) -> bool:
    """Whether something in the store may be due sooner than was known while the message was leased."""
    ended = sum(one.final for one in settlement.settled)
    return bool(settlement.offspring) or ended < len(settlement.lease.message.envelope.recipients)
