"""The log: a subscriber of the house's events, and an observer of Twisted's, writing the same lines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from twisted.logger import ILogObserver, LogEvent, formatEvent
from zope.interface import implementer

from requiretls_mta.service.log_format import LEVELS, MESSAGES, json_lines, level_of, plain, text_lines

BUFFER_LIMIT = 1024 * 1024
"""Octets of lines that wait at most for the end of the reactor's turn."""
_STOCK_FIELDS = frozenset(
    {"format", "isError", "failure", "why", "message", "time", "system", "level", "event", "printed", "logLevel"}
)


class Stream(Protocol):
    """Where lines go."""

    def write(self, data: bytes, /) -> object:
        """Take octets."""

    def flush(self) -> object:
        """Pass them on."""


class LogWriter:
    """Formats lines and writes them once per turn of the reactor; never raises, whatever the disk does.

    Until `attach` gives it a reactor it writes at once, and until `open` gives it a stream it collects.
    """

    def __init__(self, form: str = "text", level: str = "info", wall: Callable[[], float] = time.time) -> None:
        self.structured = form == "json"
        """Whether fields that stand in the message already are told once more by name."""
        self._line = json_lines() if self.structured else text_lines()
        self._levels = frozenset(LEVELS[LEVELS.index(level) :])
        self._wall = wall
        self._stream: Stream | None = None
        self._reactor: Any = None
        self._thread = threading.get_ident()
        self._waiting: list[bytes] = []
        self._size = 0
        self._lost = 0

    @property
    def debugs(self) -> bool:
        """Whether debug lines are written at all."""
        return "debug" in self._levels

    def open(self, stream: Stream) -> None:
        """Write to this stream from now on, and first what has been collected."""
        self._stream = stream
        self.flush()

    def attach(self, reactor: Any) -> None:
        """From now on write at the end of the reactor's turn; this is the reactor's thread."""
        self._reactor = reactor
        self._thread = threading.get_ident()
        reactor.addSystemEventTrigger("after", "shutdown", self.detach)

    def detach(self) -> None:
        """Write what waits, and again at once."""
        self._reactor = None
        self.flush()

    def emit(self, event: str, /, **fields: Any) -> None:
        """Take one event of the house (`message.ports.Events`); fields `level` and `message` are its own."""
        level = fields.pop("level", None) or level_of(event)
        if level in self._levels:
            message = fields.pop("message", None) or MESSAGES.get(event, event)
            self.write(level, event, message, fields)

    def write(self, level: str, event: str, message: str, fields: dict[str, Any]) -> None:
        """Take one line; the level has been looked at."""
        try:
            line = self._line(self._wall(), level, event, str(message), fields)
        except Exception as error:  # a field's own __str__ may do anything
            line = self._line(self._wall(), "error", event, f"cannot be logged: {type(error).__name__}", {})
        self._waiting.append(line)
        self._size += len(line)
        reactor = self._reactor
        if reactor is None or self._size > BUFFER_LIMIT:
            self.flush()
        elif len(self._waiting) == 1:
            reactor.callLater(0, self.flush)

    def flush(self) -> None:
        """Write what waits; lines that the stream refuses are counted, and the count is told by the next line."""
        stream = self._stream
        if stream is None or not self._waiting:
            return
        lines, self._waiting, self._size = self._waiting, [], 0
        if self._lost:
            lines.insert(0, self._line(self._wall(), "error", "log", "lines were lost", {"lines": self._lost}))
        try:
            stream.write(b"".join(lines))
            stream.flush()
            self._lost = 0
        except (OSError, ValueError):
            self._lost += len(lines) - (1 if self._lost else 0)

    def from_thread(self, level: str, event: str, message: str, fields: dict[str, Any]) -> None:
        """`write` from any thread."""
        reactor = self._reactor
        if reactor is None or threading.get_ident() == self._thread:
            self.write(level, event, message, fields)
        else:
            reactor.callFromThread(self.write, level, event, message, fields)

    def passes(self, level: str) -> bool:
        """Whether lines of this level are written."""
        return level in self._levels


@implementer(ILogObserver)
class TwistedObserver:
    """Writes what `twisted.logger` brings: the event `log`, the message formatted, further fields by name."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer

    def __call__(self, event: LogEvent) -> None:
        """Take one event."""
        level = getattr(event.get("log_level"), "name", "info")
        if not self._writer.passes(level):
            return
        try:
            message = formatEvent(event)
            fields = {"source": event.get("log_namespace")}
            if self._writer.structured:
                fields |= {name: plain_field(value) for name, value in event.items() if _is_field(name)}
            if (failure := event.get("log_failure")) is not None:
                message = message or str(failure.value)
                fields["traceback"] = failure.getTraceback()
        except Exception as error:  # an observer never raises, or Twisted drops it
            message, fields = f"cannot be formatted: {type(error).__name__}", {}
        self._writer.from_thread(level, "log", message, fields)


def plain_field(value: Any) -> Any:
    """A field of a Twisted event as JSON can hold it."""
    return value if value is None or type(value) in (str, int, float, bool) else plain(value)


def _is_field(name: str) -> bool:
    return not name.startswith("log_") and name not in _STOCK_FIELDS
