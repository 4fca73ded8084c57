"""One question to one server: by UDP, and by TCP where UDP does not do.

Each UDP question has its own connected socket, so that the kernel picks an unpredictable port, drops packets from
elsewhere and reports a closed port. The sockets are read through `IReactorFDSet`: Twisted's UDP port logs two lines for
each socket, and closes it a turn late.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
from collections.abc import Callable
from typing import cast

import attrs
import dns.name
import dns.rdatatype
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IDelayedCall,
    IReactorFDSet,
    IReactorTCP,
    IReactorTime,
    IReadDescriptor,
    ITCPTransport,
)
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from requiretls_mta.dns import wire
from requiretls_mta.dns.settings import Server, Settings, show_server

LARGEST_DATAGRAM = 4096  # octets; we ask for at most 1,232
MOST_UNUSABLE = 8  # replies that are not ours, before we ask where nobody else can answer
WITHOUT_EDNS = 3600.0  # seconds for which a server that knows no EDNS is asked without
KNOWS_NO_EDNS = frozenset({"FORMERR", "NOTIMP", "BADVERS"})  # RFC 6891 7, 6.1.3

RandomBits = Callable[[int], int]
Note = Callable[[wire.Unusable], None]


class IDNSReactor(IReactorFDSet, IReactorTCP, IReactorTime):
    """What the stub needs of a reactor."""


@attrs.frozen(kw_only=True)
class Trouble:
    """Why there is no reply of a server."""

    rcode: str
    """`TIMEOUT`, `NETWORK` or `MALFORMED`, as in an `Answer`."""
    detail: str


class Exchanges:
    """Asks servers, one question each time, and knows what is still open."""

    def __init__(self, reactor: IDNSReactor, settings: Settings, *, random_bits: RandomBits = secrets.randbits) -> None:
        self._reactor = reactor
        self._settings = settings
        self._random_bits = random_bits
        self._plain: dict[Server, float] = {}
        self._streams: set[_StreamFactory] = set()
        self._idle: Deferred[None] | None = None
        self.sweeper = Sweeper(reactor)

    async def ask(
        self,
        server: Server,
        name: dns.name.Name,
        rdtype: dns.rdatatype.RdataType,
        *,
        checking_disabled: bool = False,
        note: Note,
    ) -> wire.Reply | Trouble:
        """Ask one server, for as long as it takes: the caller keeps the time, and cancels.

        `note` is told of every packet that came and could not be used.
        """
        edns = self._plain.get(server, 0.0) <= self._reactor.seconds()
        reply = await self._ask(server, name, rdtype, note, checking_disabled=checking_disabled, edns=edns)
        if edns and isinstance(reply, wire.Reply) and reply.rcode in KNOWS_NO_EDNS:
            reply = await self._ask(server, name, rdtype, note, checking_disabled=checking_disabled, edns=False)
            if isinstance(reply, wire.Reply) and reply.rcode not in KNOWS_NO_EDNS:
                self._plain[server] = self._reactor.seconds() + WITHOUT_EDNS
        return reply

    async def _ask(
        self,
        server: Server,
        name: dns.name.Name,
        rdtype: dns.rdatatype.RdataType,
        note: Note,
        *,
        checking_disabled: bool,
        edns: bool,
    ) -> wire.Reply | Trouble:
        mixed = self._settings.mixes_case(server)
        query = wire.build(
            wire.mix_case(name, self._random_bits(256)) if mixed else name,
            rdtype,
            id=self._random_bits(16),
            edns=edns,
            checking_disabled=checking_disabled,
        )
        datagram = _Datagram(self._reactor, self.sweeper, server, query, note, exact_case=mixed)
        try:
            reply = await datagram.outcome
        finally:
            datagram.close()
        if reply is not None:
            return reply
        stream = _StreamFactory(server, query, note, self._stream_gone)
        self._streams.add(stream)
        connector = self._reactor.connectTCP(*server, stream, timeout=self._settings.timeout)
        try:
            return await stream.outcome
        finally:
            stream.close(connector)

    def _stream_gone(self, stream: _StreamFactory) -> None:
        self._streams.discard(stream)
        if self._idle is not None and not self._streams:
            idle, self._idle = self._idle, None
            idle.callback(None)

    def close(self) -> Deferred[None]:
        """Fires when every socket is closed; nothing may be asked any more."""
        self.sweeper.sweep()
        if not self._streams:
            return succeed(None)
        self._idle = Deferred()
        return self._idle


class Sweeper:
    """Closes sockets at the end of the reactor's turn.

    Within the turn the number of a closed socket could be given to a new one, which would then get an event that was
    meant for the old one.
    """

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._sockets: list[socket.socket] = []
        self._call: IDelayedCall | None = None

    def close_later(self, sock: socket.socket) -> None:
        """Close that socket, which nobody reads any more."""
        self._sockets.append(sock)
        if self._call is None:
            self._call = self._reactor.callLater(0, self.sweep)

    def sweep(self) -> None:
        """Close what is to be closed, now."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
        while self._sockets:
            self._sockets.pop().close()


@implementer(IReadDescriptor)
class _Datagram:
    """A question sent by UDP. Its outcome is None where TCP has to be asked instead."""

    def __init__(
        self,
        reactor: IDNSReactor,
        sweeper: Sweeper,
        server: Server,
        query: wire.Query,
        note: Note,
        *,
        exact_case: bool,
    ) -> None:
        self.outcome: Deferred[wire.Reply | Trouble | None] = Deferred()
        self._reactor = reactor
        self._sweeper = sweeper
        self._server = server
        self._query = query
        self._exact_case = exact_case
        self._note = note
        self._unusable = 0
        self._socket: socket.socket | None = None
        self._number = -1
        try:
            self._send()
        except OSError as error:
            self._settle(_network(server, error.strerror or str(error)))

    def _send(self) -> None:
        family = socket.AF_INET6 if ":" in self._server[0] else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._number = self._socket.fileno()
        self._socket.connect(self._server)
        self._reactor.addReader(self)
        self._socket.send(self._query.wire)

    def fileno(self) -> int:
        return self._number

    def logPrefix(self) -> str:
        return "DNS"

    def doRead(self) -> None:
        if self._socket is None:
            return
        try:
            octets = self._socket.recv(LARGEST_DATAGRAM)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:  # an ICMP message came back
            self._settle(_network(self._server, error.strerror or str(error)))
            return
        reply = wire.read(self._query, octets, exact_case=self._exact_case)
        if isinstance(reply, wire.Reply):
            self._settle(None if reply.truncated else reply)
            return
        self._note(reply)
        self._unusable += 1
        # A server that changes the case gets TCP, where the case need not protect us.
        if reply is wire.Unusable.CASE or self._unusable > MOST_UNUSABLE:
            self._settle(None)

    def connectionLost(self, reason: Failure) -> None:
        """Whether the reactor calls this or doRead on an ICMP message depends on the reactor."""
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if self._socket is not None else 0
        self._settle(_network(self._server, os.strerror(code) if code else "the socket failed"))

    def _settle(self, reply: wire.Reply | Trouble | None) -> None:
        self.close()
        if not self.outcome.called:
            self.outcome.callback(reply)

    def close(self) -> None:
        """Stop listening; any number of times."""
        if self._socket is not None:
            self._reactor.removeReader(self)
            self._sweeper.close_later(self._socket)
            self._socket = None


class _Stream(Protocol):
    """The frames of one TCP connection (RFC 1035 4.2.2): a length of two octets, and a message."""

    def __init__(self, factory: _StreamFactory) -> None:
        self._exchange = factory
        self._buffer = bytearray()

    def connectionMade(self) -> None:
        octets = self._exchange.query.wire
        if self.transport is not None:
            self.transport.write(struct.pack("!H", len(octets)) + octets)

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 2:
            end = 2 + int.from_bytes(self._buffer[:2], "big")
            if len(self._buffer) < end:
                return
            frame = bytes(self._buffer[2:end])
            del self._buffer[:end]
            self._exchange.received(frame)


class _StreamFactory(ClientFactory):
    """A question sent over a TCP connection of its own."""

    noisy = False

    def __init__(self, server: Server, query: wire.Query, note: Note, gone: Callable[[_StreamFactory], None]) -> None:
        self.outcome: Deferred[wire.Reply | Trouble] = Deferred()
        self.query = query
        self._server = server
        self._note = note
        self._gone = gone
        self._unusable = 0
        self._protocol: _Stream | None = None

    def buildProtocol(self, addr: IAddress | None) -> _Stream:
        self._protocol = _Stream(self)
        return self._protocol

    def received(self, frame: bytes) -> None:
        """Take one message of the server."""
        if self.outcome.called:
            return
        reply = wire.read(self.query, frame)
        if isinstance(reply, wire.Reply) and not reply.truncated:
            self._settle(reply)
            return
        self._note(reply if isinstance(reply, wire.Unusable) else wire.Unusable.MALFORMED)
        self._unusable += 1
        if reply is not wire.Unusable.FOREIGN or self._unusable > MOST_UNUSABLE:
            self._settle(Trouble(rcode="MALFORMED", detail=f"malformed reply of {show_server(self._server)} by TCP"))

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self._settle(_network(self._server, f"TCP: {reason.getErrorMessage()}"))
        self._gone(self)

    def clientConnectionLost(self, connector: IConnector, reason: Failure) -> None:
        self._settle(_network(self._server, "TCP: closed without a reply"))
        self._gone(self)

    def _settle(self, reply: wire.Reply | Trouble) -> None:
        if not self.outcome.called:
            self.outcome.callback(reply)

    def close(self, connector: IConnector) -> None:
        """Give the connection up, made or not."""
        transport = self._protocol.transport if self._protocol is not None else None
        if transport is not None:
            cast(ITCPTransport, transport).abortConnection()
        else:
            connector.disconnect()


def _network(server: Server, why: str) -> Trouble:
    return Trouble(rcode="NETWORK", detail=f"{show_server(server)}: {why}")
