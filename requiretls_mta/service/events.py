"""The fan-out: one stream of events to all who subscribe."""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger

from requiretls_mta.message.ports import Events


class Subscribers:
    """Tells every subscriber; what one of them cannot bear does not keep the event from the others."""

    _log = Logger()

    def __init__(self, *subscribers: Events) -> None:
        self._subscribers = list(subscribers)

    def add(self, subscriber: Events) -> None:
        """One more."""
        self._subscribers.append(subscriber)

    def emit(self, event: str, /, **fields: Any) -> None:
        """Take one event."""
        for subscriber in self._subscribers:
            try:
                subscriber.emit(event, **fields)
            except Exception:
                self._log.failure("a subscriber failed over the event {name}", name=event)
