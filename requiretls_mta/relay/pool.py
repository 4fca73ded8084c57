"""Sessions kept for the next message to the same host. Whether one may be used is judged anew for each message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from requiretls_mta.relay.dial import Line
from requiretls_mta.relay.route import Host

_Key = tuple[str, int, str, bool]
_MOST = 500
"""Idle sessions kept in all."""


class Pool:
    """Idle lines by host. Those opened for TLS-optional mail are kept apart: they took whatever TLS there was."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._idle: dict[_Key, list[tuple[Line, Any]]] = {}
        self._count = 0

    def take(self, host: Host, *, optional: bool, generation: int, fits: Callable[[Line], bool]) -> Line | None:
        """An idle line to that host that `fits`; none from before the last reload."""
        key = _key(host, optional=optional)
        entries = self._idle.get(key, [])
        for place in range(len(entries) - 1, -1, -1):
            line, _ = entries[place]
            if not line.session.is_open or line.generation != generation:
                self._drop(key, place)
            elif fits(line):
                self._drop(key, place)
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
        timer = self._clock.callLater(idle, self._expire, key, line, quit_time)
        self._idle.setdefault(key, []).append((line, timer))
        self._count += 1

    def close(self) -> None:
        """End all."""
        for key in list(self._idle):
            while key in self._idle:
                line, _ = self._idle[key][-1]
                self._drop(key, -1)
                line.session.abort("the service stops")

    def _expire(self, key: _Key, line: Line, quit_time: float) -> None:
        for place, (kept, _) in enumerate(self._idle.get(key, [])):
            if kept is line:
                self._drop(key, place)
                break
        line.session.quit(quit_time)

    def _drop(self, key: _Key, place: int) -> None:
        entries = self._idle[key]
        _, timer = entries.pop(place)
        self._count -= 1
        if timer.active():
            timer.cancel()
        if not entries:
            del self._idle[key]


def _key(host: Host, *, optional: bool) -> _Key:
    return (host.name, host.port, host.protocol, optional)
