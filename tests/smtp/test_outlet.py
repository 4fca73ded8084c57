"""Replies go out at once, and never past what waits before them."""

import socket

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import TestCase

from requiretls_mta.smtp.outlet import write_now


class Outlet(TestCase):
    """On real sockets."""

    timeout = 10

    @inlineCallbacks
    def setUp(self):
        connected = Deferred()

        class Peer(Protocol):
            def connectionMade(self):
                connected.callback(self)

        port = reactor.listenTCP(0, Factory.forProtocol(Peer), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.client = socket.create_connection(("127.0.0.1", port.getHost().port))
        self.addCleanup(self.client.close)
        peer = yield connected
        self.transport = peer.transport
        self.addCleanup(self.transport.abortConnection)

    def read(self, count):
        octets = b""
        while len(octets) < count:
            octets += self.client.recv(65536)
        return octets

    def test_at_once(self):
        """Before the reactor has had a turn the peer can read it."""
        write_now(self.transport, b"250 ok\r\n")
        assert self.client.recv(100) == b"250 ok\r\n"

    @inlineCallbacks
    def test_behind_what_waits(self):
        """More than the socket takes, and what others wrote through the transport: the order stays."""
        written = [b"%07d|" % n * 4000 for n in range(300)]
        for number, octets in enumerate(written):
            if number % 7 == 3:
                self.transport.write(octets)
            else:
                write_now(self.transport, octets)
        expected, got = b"".join(written), b""
        self.client.setblocking(False)
        while len(got) < len(expected):
            try:
                got += self.client.recv(1 << 20)
            except BlockingIOError:
                turn = Deferred()
                reactor.callLater(0.001, turn.callback, None)
                yield turn
        assert got == expected

    @inlineCallbacks
    def test_a_connection_that_is_gone(self):
        """Nothing is raised; the reactor tells of the loss."""
        lost = Deferred()
        self.transport.protocol.connectionLost = lambda reason: lost.callback(None)
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.client.close()
        for _ in range(3):
            write_now(self.transport, b"x" * 100)
        yield lost


def test_any_other_transport():
    """Whatever has a write() is written to."""
    transport = StringTransport()
    write_now(transport, b"220 hello\r\n")
    assert transport.value() == b"220 hello\r\n"
