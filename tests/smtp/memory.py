"""A session without sockets: octets in, octets out, and a clock that the test turns."""

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection

from requiretls_mta.smtp.factory import RequireTLSESMTPFactory
from requiretls_mta.smtp.settings import SessionSettings
from tests.smtp.dialogue import Answers


class Events:
    """Remembers what it was told."""

    def __init__(self):
        self.told = []

    def emit(self, event, /, **fields):
        self.told.append((event, fields))

    def of(self, name):
        return [fields for event, fields in self.told if event == name]


class Memory:
    """One listener's factory; `connect` gives a line to it."""

    def __init__(self, factory=RequireTLSESMTPFactory, *, stock=False, **options):
        self.clock, self.answers, self.events = Clock(), Answers(), Events()
        settings = {"hostname": "mx.test", **options.pop("settings", {})}
        if not stock:
            options.setdefault("station", self.answers)
        self.factory = factory(
            reactor=self.clock, settings=SessionSettings(**settings), events=self.events, wall=lambda: 1e9, **options
        )

    def connect(self, address="192.0.2.1"):
        return Line(self.factory, address)


class Line:
    """A connection; `ask` gives all that the session says to some octets."""

    def __init__(self, factory, address="192.0.2.1"):
        self.transport = StringTransportWithDisconnection(peerAddress=IPv4Address("TCP", address, 40000))
        self.session = factory.buildProtocol(self.transport.getPeer())
        self.transport.protocol = self.session
        self.session.makeConnection(self.transport)

    def said(self):
        octets = self.transport.value()
        self.transport.clear()
        return octets

    def ask(self, octets):
        self.session.dataReceived(octets if isinstance(octets, bytes) else octets.encode())
        return self.said()

    def ready(self, *, recipients=1):
        """In a transaction with that many recipients."""
        self.ask("EHLO x.example\r\nMAIL FROM:<a@b.example>\r\n")
        for number in range(recipients):
            self.ask(f"RCPT TO:<c{number}@d.example>\r\n")
        return self

    @property
    def is_open(self):
        return self.transport.connected
