"""Sessions kept for the next message to the same host. Whether one may be used is judged anew for each message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from requiretls_mta.relay.dial import Line
from requiretls_mta.relay.route import Host

_Key = tuple[str, int, str, bool]
_MOST = 500
"""Idle sessions kept in all."""


@attrs.frozen(eq=False)
class _Kept:
    """A line nobody uses now."""

    line: Line
    timer: Any
    quit_time: float


class Pool:
    """Idle lines by host. Those opened for TLS-optional mail are kept apart: they took whatever TLS there was."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._idle: dict[_Key, list[_Kept]] = {}
        self._count = 0

    def take(self, host: Host, *, optional: bool, generation: int, fits: Callable[[Line], bool]) -> Line | None:
        """An idle line to that host that `fits`; those from before the last reload are ended."""
        key = _key(host, optional=optional)
        for kept in reversed(self._idle.get(key, ())[:]):
            line = kept.line
            if not line.session.is_open:
                self._drop(key, kept)
            elif line.generation != generation:
                self._drop(key, kept)
                line.session.quit(kept.quit_time)
            elif fits(line):
                self._drop(key, kept)
                return line
        return None

    def keep(self, line: Line, *, optional: bool, idle: float, quit_time: float) -> None:
        """Keep a line for `idle` seconds, or end it."""
        if not line.session.is_open:
            return
        if self._count >= _MOST or idle <= 0:
            line.session.quit(quit_time)
            return
        key = _key(line.host, optional=optional)
        timer = self._clock.callLater(idle, self._expire, key, line)
        self._idle.setdefault(key, []).append(_Kept(line, timer, quit_time))
        self._count += 1

    def close(self) -> None:
        """End all."""
        for key in list(self._idle):
            while key in self._idle:
                kept = self._idle[key][-1]
                self._drop(key, kept)
                kept.line.session.abort("the service stops")

    def _expire(self, key: _Key, line: Line) -> None:
        # A timer fires for a line that is still here: whoever takes one away cancels its timer.
        kept = next(kept for kept in self._idle[key] if kept.line is line)
        self._drop(key, kept)
        line.session.quit(kept.quit_time)

    def _drop(self, key: _Key, kept: _Kept) -> None:
        entries = self._idle[key]
        entries.remove(kept)
        self._count -= 1
        if kept.timer.active():
            kept.timer.cancel()
        if not entries:
            del self._idle[key]


def _key(host: Host, *, optional: bool) -> _Key:
    return (host.name, host.port, host.protocol, optional)
