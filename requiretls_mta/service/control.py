"""The control socket: how the tool speaks with the running service.

One request per line, a JSON object with `verb` and its arguments. The answer is any number of lines with a `row`, then
one line with `ok`: true and a `result`, or false and an `error` for a person.
"""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from requiretls_mta import __version__
from requiretls_mta.message.ports import Events, NoEvents
from requiretls_mta.queue.store import IQueueStore, Row, StoreFull
from requiretls_mta.service.queue_view import message_json, row_json
from requiretls_mta.service.unix_path import socket_path

NAME = "control"
"""The socket's name in the state folder."""
REQUEST_LIMIT = 4096
"""Octets of a request."""
BACKLOG = 16
"""Requests of one connection that wait; nobody who reads answers has more."""
_ROWS_AT_ONCE = 100


class RequestError(Exception):
    """A request cannot be carried out; the message is for whoever asked."""


@attrs.frozen(kw_only=True)
class Controls:
    """What the control socket can do."""

    store: IQueueStore
    wall: Callable[[], float]
    reload: Callable[[], Deferred[None]]
    """Put the configuration's policies into force; fails with the reason."""
    wake: Callable[[], None]
    """Look at the queue now: something may have become due."""
    give_up: Callable[[str], Deferred[bool]] = lambda _: succeed(False)
    """End a message as failed, with a report to its sender; False when it is not there, or being attempted."""
    flush: Callable[[], Deferred[None]] = lambda: succeed(None)
    """Write what the trace still holds in memory."""
    counters: Callable[[], str] = lambda: ""
    """What was counted since the service began, as text."""
    events: Events = attrs.field(factory=NoEvents)
    """Told of what the operator does to messages."""


class ControlSocket:
    """Listens at `state/control`; to be started when the store is locked, so that a stale socket is ours to replace."""

    def __init__(self, reactor: Any, state: Path, controls: Controls) -> None:
        self._reactor = reactor
        self._path = state / NAME
        self._factory = _ControlFactory(controls)
        self._port: Any = None
        self._open = contextlib.ExitStack()

    def start(self) -> None:
        """Listen; raises `OSError` or `twisted.internet.error.CannotListenError`."""
        self._path.unlink(missing_ok=True)
        path = self._open.enter_context(socket_path(self._path))
        self._port = self._reactor.listenUNIX(path, self._factory, mode=0o600)

    async def stop(self) -> None:
        """Stop listening, end the connections, remove the socket."""
        port, self._port = self._port, None
        if port is not None:
            await port.stopListening()
        for connection in list(self._factory.connections):
            connection.transport.abortConnection()
        self._open.close()


class _ControlFactory(Factory):
    """Makes the protocols of one control socket."""

    noisy = False

    def __init__(self, controls: Controls) -> None:
        self.controls = controls
        self.connections: set[_ControlProtocol] = set()

    def buildProtocol(self, addr: Any) -> _ControlProtocol:
        """A protocol for a new connection."""
        return _ControlProtocol(self)


class _ControlProtocol(LineOnlyReceiver):
    """Carries out one request after the other."""

    _log = Logger()
    transport: Any
    delimiter = b"\n"
    MAX_LENGTH = REQUEST_LIMIT

    def __init__(self, factory: _ControlFactory) -> None:
        self.factory = factory
        self._controls = factory.controls
        self._waiting: deque[bytes] = deque()
        self._busy = False

    def connectionMade(self) -> None:
        """Somebody of our own user, or root: the socket's mode sees to that."""
        self.factory.connections.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget what was not begun."""
        self.factory.connections.discard(self)
        self._waiting.clear()

    def lineReceived(self, line: bytes) -> None:
        """A request."""
        if len(self._waiting) >= BACKLOG:
            self.transport.abortConnection()
            return
        self._waiting.append(line)
        if not self._busy:
            self._busy = True
            Deferred.fromCoroutine(self._work()).addErrback(self._failed)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Nobody of ours asks that much."""
        self.transport.abortConnection()

    async def _work(self) -> None:
        while self._waiting:
            try:
                result = await self._carry_out(self._waiting.popleft())
            except (RequestError, StoreFull) as error:
                self._send({"ok": False, "error": str(error)})
            except Exception as error:
                self._log.failure("a request at the control socket failed")
                self._send({"ok": False, "error": f"{type(error).__name__}: {error}"})
            else:
                self._send({"ok": True, "result": result})
        self._busy = False

    def _failed(self, failure: Failure) -> None:
        self._log.failure("the control socket failed", failure)
        self.transport.abortConnection()

    def _send(self, answer: dict[str, Any]) -> None:
        self.transport.write(json.dumps(answer).encode("ascii") + b"\n")

    async def _carry_out(self, line: bytes) -> Any:
        verb, message_id = _request(line)
        controls, store = self._controls, self._controls.store
        match verb:
            case "version":
                return __version__
            case "reload":
                try:
                    await controls.reload()
                except Exception as error:
                    raise RequestError(f"nothing was reloaded: {error}") from error
                return True
            case "flush":
                await controls.flush()
                return True
            case "counters":
                return controls.counters()
            case "rows":
                await self._send_rows(await store.rows())
                return True
            case "retry":
                count = await store.retry(message_id, controls.wall())
                self._tell(verb, message_id, done=count > 0)
                controls.wake()
                return count
            case "show" if message_id is not None:
                return await _show(store, message_id)
            case "hold" | "release" if message_id is not None:
                found = await store.hold(message_id, verb == "hold")
                self._tell(verb, message_id, done=found)
                controls.wake()
                return found
            case "remove" if message_id is not None:
                removed = await store.remove(message_id)
                self._tell(verb, message_id, done=removed)
                return removed
            case "bounce" if message_id is not None:
                return await self._give_up(message_id)
        raise RequestError("unknown verb, or no id where one is needed")

    def _tell(self, action: str, message_id: str | None, *, done: bool) -> None:
        if done:
            self._controls.events.emit("operator", queue_id=message_id, action=action)

    async def _give_up(self, message_id: str) -> bool:
        done = await self._controls.give_up(message_id)
        self._tell("bounce", message_id, done=done)
        return done

    async def _send_rows(self, rows: tuple[Row, ...]) -> None:
        """As fast as the other end reads, a hundred at once: a long queue neither stalls the service nor fills it."""
        sender = _RowSender(self, iter(rows))
        self.transport.registerProducer(sender, False)
        await sender.done

    def send_row(self, row: Row) -> None:
        """One line of the list."""
        self._send({"row": row_json(row)})


@implementer(IPullProducer)
class _RowSender:
    """Writes rows whenever the transport has room."""

    def __init__(self, protocol: _ControlProtocol, rows: Iterator[Row]) -> None:
        self.done: Deferred[None] = Deferred()
        self._protocol = protocol
        self._rows = rows

    def resumeProducing(self) -> None:
        """There is room."""
        for _ in range(_ROWS_AT_ONCE):
            row = next(self._rows, None)
            if row is None:
                self._protocol.transport.unregisterProducer()
                self._finish()
                return
            self._protocol.send_row(row)

    def stopProducing(self) -> None:
        """The other end is gone."""
        self._finish()

    def _finish(self) -> None:
        if not self.done.called:
            self.done.callback(None)


async def _show(store: IQueueStore, message_id: str) -> dict[str, Any] | None:
    message = await store.message(message_id)
    row = next((row for row in await store.rows() if row.id == message_id), None)
    return message_json(row, message) if message is not None and row is not None else None


def _request(line: bytes) -> tuple[str, str | None]:
    try:
        request = json.loads(line)
        verb, message_id = request["verb"], request.get("id")
        if not isinstance(verb, str) or not (message_id is None or isinstance(message_id, str)):
            raise TypeError
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise RequestError('a request is {"verb": ..., "id": ...}') from None
    return verb, message_id
