"""The trace: every event of every message, kept for a while, for `requiretls-mta trace` to tell.

A line is made when its event comes, and written about once a second by a thread; a crash costs the last second of it.
A disk that is full or slow costs lines, and never mail.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from requiretls_mta.message.flat_json import write_members
from requiretls_mta.message.ports import SECRET, Events
from requiretls_mta.message.trace import Timestamps
from requiretls_mta.report.trace_files import LONGEST, SegmentWriter, TraceSettings

PAUSE = 1.0
"""Seconds between two writes,"""
ENOUGH = 1024 * 1024
"""unless so many octets wait."""
MOST = 8 * ENOUGH
"""Octets that wait at most; what comes on top of them is lost."""
_TOLD_BETTER = frozenset({"queued", "accepted"})
"""Events of the house that the trace has from their station, with more in them."""


def write_event(when: str, event: str, fields: Mapping[str, Any]) -> bytes:
    """An event as one line of JSON; fields that are None are left out."""
    return _line(when, event, write_members({name: fields[name] for name in fields if name not in SECRET}))


def _line(when: str, event: str, members: str) -> bytes:
    return f'{{"time":"{when}","event":"{event}",{members}}}\n'.encode("ascii")


class Trace:
    """The subscriber of a running service. `reactor` provides IReactorTime and IReactorFromThreads."""

    _log = Logger()

    def __init__(self, reactor: Any, folder: Path, settings: TraceSettings, wall: Callable[[], float]) -> None:
        self._reactor = reactor
        self._wall = wall
        self._is_off = not settings.keep
        self._timestamp = Timestamps()
        self._segments = SegmentWriter(folder, settings)
        self._pool = ThreadPool(0, 1, name="trace")
        self._waiting: list[bytes] = []
        self._size = 0
        self._lost = 0
        self._writing: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        self._pruning: IDelayedCall | None = None
        self._troubled = False

    def start(self) -> None:
        """The shard's folder is there, and ours."""
        self._pool.start()
        self._prune()

    def stop(self) -> None:
        """Write what waits, and end. Blocks for as long as that takes."""
        for timer in (self._timer, self._pruning):
            if timer is not None:
                timer.cancel()
        self._timer = self._pruning = None
        self._is_off = True
        group, self._waiting = self._waiting, []
        if self._pool.started:
            self._pool.callInThread(self._last_words, group)
            self._pool.stop()

    def emit(self, event: str, /, **fields: Any) -> None:
        """Take one event; never raises."""
        if self._is_off:
            return
        try:
            line = write_event(self._timestamp(self._wall()), event, fields)
        except Exception as error:  # a field's own __str__ may do anything
            self._log.warn("the trace cannot hold an event {name}: {error}", name=event, error=type(error).__name__)
        else:
            self._take(line)

    def _take(self, line: bytes) -> None:
        if self._size > MOST:
            self._lost += 1
            return
        self._waiting.append(line)
        self._size += len(line)
        if self._timer is None:
            self._timer = self._reactor.callLater(PAUSE, self._write)
        elif self._size > ENOUGH and self._writing is None:
            self._timer.reset(0)

    def put(self, event: str, write: Callable[[], str]) -> None:
        """Take an event whose fields `write` writes; never raises."""
        if self._is_off:
            return
        try:
            line = _line(self._timestamp(self._wall()), event, write())
        except Exception:
            self._log.failure("the trace cannot hold an event {name}", name=event)
        else:
            self._take(line)

    def flush(self) -> Deferred[None]:
        """Fires when all that was told so far can be read, or is lost."""
        return Deferred.fromCoroutine(self._flush())

    async def _flush(self) -> None:
        group = self._writing
        if group is not None:
            await _when(group)
        if self._timer is not None:
            self._timer.cancel()
            self._write()
            if self._writing is not None:
                await _when(self._writing)

    def _write(self) -> None:
        self._timer = None
        if self._writing is not None:
            # The disk is slow: one group at a time, so that what waits is counted.
            self._timer = self._reactor.callLater(PAUSE, self._write)
            return
        group, self._waiting, self._size = self._waiting, [], 0
        self._writing = deferToThreadPool(self._reactor, self._pool, self._segments.append, group, self._wall())
        self._writing.addCallbacks(lambda _: self._well(), self._trouble, errbackArgs=(len(group),))

    def _prune(self) -> None:
        """Also where no mail comes that would begin a new segment."""
        self._pruning = self._reactor.callLater(LONGEST / 4, self._prune)
        pruned = deferToThreadPool(self._reactor, self._pool, self._segments.prune, self._wall())
        pruned.addErrback(self._trouble, 0)

    def _last_words(self, group: list[bytes]) -> None:
        try:
            if group:
                self._segments.append(group, self._wall())
            self._segments.close()
        except OSError as error:
            self._log.warn("{count} lines of the trace are lost: {error}", count=len(group), error=str(error))

    def _well(self) -> None:
        self._writing = None
        lost, self._lost = self._lost, 0
        if lost:
            self._log.warn("{count} lines of the trace are lost: the disk is slow", count=lost)
        elif self._troubled:
            self._log.info("the trace is written again")
        self._troubled = False

    def _trouble(self, failure: Failure, count: int) -> None:
        self._writing = None
        self._lost += count
        if not failure.check(OSError):
            self._log.failure("the trace cannot be written", failure)
        elif not self._troubled:
            self._log.warn("the trace cannot be written, and events are lost: {error}", error=failure.getErrorMessage())
        self._troubled = True


class TraceAtOnce:
    """For a process that is no service and has the shard for itself: events are written as they come, if they can."""

    _log = Logger()

    def __init__(self, folder: Path, settings: TraceSettings, wall: Callable[[], float]) -> None:
        self._segments = SegmentWriter(folder, settings)
        self._is_off = not settings.keep
        self._wall = wall
        self._timestamp = Timestamps()

    def emit(self, event: str, /, **fields: Any) -> None:
        """Take one event."""
        now = self._wall()
        self._write(write_event(self._timestamp(now), event, fields), now)

    def put(self, event: str, write: Callable[[], str]) -> None:
        """Take an event whose fields `write` writes; never raises."""
        now = self._wall()
        try:
            line = _line(self._timestamp(now), event, write())
        except Exception:
            self._log.failure("the trace cannot hold an event {name}", name=event)
        else:
            self._write(line, now)

    def close(self) -> None:
        """Let go of the file."""
        self._segments.close()

    def _write(self, line: bytes, now: float) -> None:
        if not self._is_off:
            with contextlib.suppress(OSError):
                self._segments.append([line], now)


class OfMessages:
    """Subscribes to the events of the house on the trace's behalf: those of a message."""

    def __init__(self, trace: Events) -> None:
        self._trace = trace

    def emit(self, event: str, /, **fields: Any) -> None:
        """Take one event."""
        if event not in _TOLD_BETTER and fields.get("queue_id"):
            self._trace.emit(event, **fields)


def _when(done: Deferred[None]) -> Deferred[None]:
    """Fires when another one does, which goes on by itself."""
    told: Deferred[None] = Deferred()
    done.addCallback(lambda _: told.callback(None))  # it never fails
    return told
