"""A thread with a queue of work, fed in groups: all that came while it was busy goes over together.

A saturated reactor starves threads of Python's interpreter lock. It lets go of the lock around every system call, but
takes it back before a waiting thread has even woken, and each such release starts the waiter's time-out anew: waits of
seconds have been measured. So a group costs few calls that release the lock, and while one is under way the reactor
thread pauses every now and then for long enough that the thread gets its turn.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

Job = TypeVar("Job")
After = Callable[[Any, bool], None]
"""Told a job's result, and whether somebody still waits for it."""

_PATIENCE = 0.005
"""Seconds before the reactor thread first pauses for a group; most are done by then."""
_EVERY = 0.001
_PAUSE = 50e-6


class LaneClosed(Exception):
    """The store was closed; nothing more is done."""


_Submitted = tuple[Job, Deferred[Any], After | None]


class Lane(Generic[Job]):
    """Runs `work(jobs)` in a thread of its own; it returns one result for each job, an exception for what failed.

    `elsewhere` is asked first, and not in the thread: it may do a group itself, and fire with the results, or None if
    the thread has to do it after all. `reactor` provides IReactorTime and IReactorFromThreads.
    """

    def __init__(
        self,
        reactor: Any,
        name: str,
        work: Callable[[Sequence[Job]], Sequence[Any]],
        elsewhere: Callable[[Sequence[Job]], Deferred[Sequence[Any] | None] | None] = lambda _: None,
    ) -> None:
        self._reactor = reactor
        self._work = work
        self._elsewhere = elsewhere
        self._groups: SimpleQueue[list[_Submitted[Job]] | None] = SimpleQueue()
        self._waiting: list[_Submitted[Job]] = []
        self._busy = False
        self._closing: Deferred[None] | None = None
        self._pause: IDelayedCall | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, job: Job, after: After | None = None) -> Deferred[Any]:
        """The job's result, on the reactor thread; fails with `LaneClosed` after `stop`.

        To cancel the Deferred is not to wait any more; the job is done all the same. `after` is called before it fires.
        """
        done: Deferred[Any] = Deferred()
        if self._closing is not None:
            _tell((job, done, after), LaneClosed("the queue is closed"))
            return done
        self._waiting.append((job, done, after))
        if len(self._waiting) == 1 and not self._busy:
            # What else comes in this turn of the reactor shares the group.
            self._reactor.callLater(0, self._flush)
        return done

    def stop(self) -> Deferred[None]:
        """Finish what was submitted, then end the thread."""
        if self._closing is None:
            self._closing = Deferred()
            self._flush()
            self._end()
        return self._closing

    def _flush(self) -> None:
        if self._busy or not self._waiting:
            return
        group, self._waiting = self._waiting, []
        self._busy = True
        results = self._elsewhere([job for job, _, _ in group])
        if results is None:
            self._in_thread(group)
        else:
            results.addCallback(lambda done: self._in_thread(group) if done is None else self._done(group, done))

    def _in_thread(self, group: list[_Submitted[Job]]) -> None:
        self._pause = self._reactor.callLater(_PATIENCE, self._let_run)
        self._groups.put(group)

    def _let_run(self) -> None:
        time.sleep(_PAUSE)
        self._pause = self._reactor.callLater(_EVERY, self._let_run)

    def _run(self) -> None:
        while (group := self._groups.get()) is not None:
            try:
                results = self._work([job for job, _, _ in group])
            except Exception as error:
                results = [error] * len(group)
            self._reactor.callFromThread(self._done, group, results)
            # A thread that waits for its next group must not keep the last one's messages alive.
            del group, results
        self._reactor.callFromThread(self._ended)

    def _done(self, group: list[_Submitted[Job]], results: Sequence[Any]) -> None:
        self._busy = False
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._flush()
        for submitted, result in zip(group, results, strict=True):
            _tell(submitted, result)
        self._end()

    def _end(self) -> None:
        if self._closing is not None and not self._busy and not self._waiting:
            self._groups.put(None)

    def _ended(self) -> None:
        self._thread.join()
        assert self._closing is not None
        self._closing.callback(None)


def _tell(submitted: _Submitted[Any], result: Any) -> None:
    _, done, after = submitted
    if after is not None:
        after(result, not done.called)
    if isinstance(result, Exception):
        done.errback(result)
    else:
        done.callback(result)
