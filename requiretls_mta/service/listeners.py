"""Listeners: bound before the privilege drop, accepting once the store is open, closed in order."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs
from twisted.application.service import Service
from twisted.internet import endpoints, error
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import ServerFactory

from requiretls_mta.service.endpoints import at_path, path_of
from requiretls_mta.service.unix_path import remove_dead, socket_path


class Drainable(Protocol):
    """A factory whose sessions can be brought to an end."""

    def drain(self) -> Deferred[None]:
        """Answer idle sessions 421, let the others finish their message; fires when none is left."""

    def cut(self) -> None:
        """Answer those that are left 421, and end them."""


@attrs.frozen(kw_only=True)
class Binding:
    """One endpoint of a listener and what answers there."""

    name: str
    """The listener's name in the configuration."""
    endpoint: str
    """A Twisted endpoint description."""
    factory: ServerFactory
    sessions: Drainable


class BindError(Exception):
    """An endpoint cannot be listened on; the message names it and says why."""


class Listeners(Service):
    """All listeners of the process. Until `accept` they are bound, but take no connection."""

    def __init__(self, reactor: Any, bindings: Sequence[Binding]) -> None:
        self._reactor = reactor
        self._bindings = bindings
        self._ports: list[IListeningPort] = []
        self._open = contextlib.ExitStack()

    @property
    def addresses(self) -> list[tuple[str, Any]]:
        """(listener's name, Twisted address) of everything bound."""
        return [(b.name, port.getHost()) for b, port in zip(self._bindings, self._ports, strict=True)]

    def privilegedStartService(self) -> None:
        """Bind; raises `BindError`, after closing what was bound before."""
        super().privilegedStartService()
        for binding in self._bindings:
            try:
                self._ports.append(self._bind(binding))
            except (error.CannotListenError, OSError, ValueError, TypeError, LookupError) as trouble:
                # The last three are what descriptions of plugins and of sockets that systemd did not hand over raise.
                for port in self._ports:
                    port.stopListening()
                self._ports.clear()
                self._open.close()
                raise BindError(f"listen.{binding.name}: cannot listen on {binding.endpoint}: {trouble}") from trouble

    def accept(self) -> None:
        """Take connections from now on."""
        for port in self._ports:
            port.startReading()  # type: ignore[attr-defined]  # IListeningPort lacks what every port of Twisted has

    async def close(self) -> None:
        """Stop listening, then bring the sessions to their end."""
        ports, self._ports = self._ports, []
        await DeferredList([maybeDeferred(port.stopListening) for port in ports])
        self._open.close()
        await DeferredList([sessions.drain() for sessions in self._sessions])

    def cut(self) -> None:
        """End the sessions that did not come to their end."""
        for sessions in self._sessions:
            sessions.cut()

    @property
    def _sessions(self) -> list[Drainable]:
        return list({id(b.sessions): b.sessions for b in self._bindings}.values())

    def _bind(self, binding: Binding) -> IListeningPort:
        endpoint = binding.endpoint
        if path := path_of(endpoint):
            short = self._open.enter_context(socket_path(Path(path)))
            # Not Twisted's lock file: it takes the number of a process for the process, and in a container all starts
            # have the same ones.
            remove_dead(short)
            endpoint = at_path(endpoint, short)
        outcome: list[Any] = []
        listening = endpoints.serverFromString(self._reactor, endpoint).listen(binding.factory)
        listening.addBoth(outcome.append)
        # Listening on this machine's own sockets never waits; what is not done now never will be.
        if not outcome:
            raise OSError("the endpoint does not listen at once")
        if not hasattr(outcome[0], "startReading"):
            raise outcome[0].value
        port: IListeningPort = outcome[0]
        port.stopReading()  # type: ignore[attr-defined]
        return port
