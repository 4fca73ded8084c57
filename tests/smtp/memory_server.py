"""An outgoing session with a transport in memory: what it writes is kept, and tests speak for the server."""

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from requiretls_mta.smtp.client import ClientSession


class MemoryTransport:
    """Keeps each write; a producer is asked only by `drain`, for a peer that takes its time."""

    def __init__(self):
        self.writes, self.producer, self.aborted, self.tls = [], None, False, None

    def write(self, octets):
        """As ITransport."""
        self.writes.append(octets)

    def registerProducer(self, producer, streaming):
        """As IConsumer, for pull producers."""
        assert not streaming
        self.producer = producer

    def unregisterProducer(self):
        """As IConsumer."""
        self.producer = None

    def abortConnection(self):
        """As ITCPTransport; the loss is told by the test."""
        self.aborted = True

    def startTLS(self, creator):
        """As ITLSTransport; no handshake."""
        self.tls = creator


class MemoryServer:
    """One session and the server's end of it."""

    def __init__(self, *offers):
        self.clock = Clock()
        self.transport = MemoryTransport()
        self.session = ClientSession(self.clock)
        self.session.makeConnection(self.transport)
        self.session.offers = {words[0]: tuple(words[1:]) for words in map(str.split, offers)}

    def said(self):
        """What the client wrote since the last look, write by write."""
        writes, self.transport.writes = self.transport.writes, []
        return writes

    def say(self, *lines):
        """Replies, all in one segment."""
        self.session.dataReceived(b"".join(line.encode() + b"\r\n" for line in lines))

    def drain(self, most=1000):
        """Let the client write, at most so many pieces."""
        while most and self.transport.producer:
            self.transport.producer.resumeProducing()
            most -= 1

    def hang_up(self):
        """The connection is gone."""
        self.session.connectionLost(Failure(ConnectionDone()))
