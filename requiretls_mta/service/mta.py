"""The whole MTA as one Twisted service: started and stopped in the order that loses nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from requiretls_mta.queue.store import IQueueStore
from requiretls_mta.service.config import Config
from requiretls_mta.service.config_errors import ConfigError, Problem
from requiretls_mta.service.listeners import Listeners

GRACE = 5.0
"""Seconds that transactions get to finish when the service stops."""

Step = Callable[[], object]
"""Something done at start, reload or stop; may return a Deferred."""


@attrs.frozen(kw_only=True)
class Parts:
    """What the composition root has put together."""

    listeners: Listeners
    privileged: Step
    """Reads what only the starting user may read: keys, passwords."""
    store: IQueueStore
    prepare: Step
    """Creates and checks the state folder; raises what stops the start-up."""
    started: Step
    """After the store is open: schedule, control socket."""
    drain: Step
    """Finishes running attempts."""
    closed: Step
    """Lets go of connections, threads, resolver."""
    reload: Callable[[Config], None]
    """Puts a configuration's policies into force, or raises and keeps the old ones."""


class MTA(Service):
    """Binds, opens the store, and only then accepts; stops in the opposite order.

    `on_fatal` is called with the reason when the start fails after the reactor runs.
    """

    _log = Logger()

    def __init__(self, reactor: Any, parts: Parts) -> None:
        self._reactor = reactor
        self._parts = parts
        self._opening: Deferred[None] | None = None
        self._open = False
        self._bound = False
        self.is_accepting = False
        """Whether the store is open and the listeners take connections."""
        self.reread: Callable[[], Config] = _nothing_to_read
        """Reads the configuration again, for whoever asks through the control socket."""
        self.on_fatal: Callable[[Failure], None] = lambda _: None

    @property
    def listeners(self) -> Listeners:
        """The bound endpoints."""
        return self._parts.listeners

    @property
    def store(self) -> IQueueStore:
        """The queue."""
        return self._parts.store

    def privilegedStartService(self) -> None:
        """Bind, while the process may still bind anything."""
        super().privilegedStartService()
        self._parts.privileged()
        self._parts.listeners.privilegedStartService()
        self._bound = True

    def startService(self) -> None:
        """Create and check the state folder, open the store, accept connections."""
        super().startService()
        if not self._bound:  # nobody had privileges to drop
            self.privilegedStartService()
        self._parts.prepare()
        self._opening = Deferred.fromCoroutine(self._begin())
        self._opening.addErrback(self._fatal)

    def stopService(self) -> Deferred[None]:
        """Stop listening, finish transactions for at most `GRACE` seconds, close the store."""
        super().stopService()
        return Deferred.fromCoroutine(self._end())

    def reload(self, config: Config) -> None:
        """Put a configuration's policies into force; raises, and keeps the old ones, when any part of it fails."""
        self._parts.reload(config)

    async def _begin(self) -> None:
        await self._parts.store.open()
        self._open = True
        await maybeDeferred(self._parts.started)
        if self.running:
            self._parts.listeners.accept()
            self.is_accepting = True

    def _fatal(self, failure: Failure) -> None:
        error = failure.value
        # Errors with a text of their own for the operator need no traceback; a bug keeps it.
        if isinstance(error, OSError | sqlite3.Error) or type(error).__module__.startswith("requiretls_mta."):
            self._log.critical("the service cannot start: {error}", error=str(error))
        else:
            self._log.failure("the service cannot start", failure)
        self.on_fatal(failure)

    async def _end(self) -> None:
        self.is_accepting = False
        if self._opening is not None:
            await self._opening
        # Whoever is behind the final dot is waited for: breaking off would deliver twice.
        incoming = Deferred.fromCoroutine(self._parts.listeners.close())
        outgoing = maybeDeferred(self._parts.drain)
        for work in (incoming, outgoing):
            work.addTimeout(GRACE, self._reactor, onTimeoutCancel=lambda _, __: None)
        incoming.addCallback(lambda _: self._parts.listeners.cut())
        for step in (lambda: incoming, lambda: outgoing, self._parts.closed, self._close_store):
            try:
                await maybeDeferred(step)
            except Exception:
                # What one part could not end must not keep the others, least of all the store, from ending.
                self._log.failure("a part of the service did not stop as it should")

    def _close_store(self) -> Deferred[None] | None:
        return self._parts.store.close() if self._open else None


def _nothing_to_read() -> Config:
    raise ConfigError([Problem("", "", "no configuration file", "one, for a reload")])
