"""A name server that says what a test told it to say, over real UDP and TCP sockets."""

from __future__ import annotations

import struct
from collections.abc import Callable

import attrs
import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol

SOA = "test. 3600 IN SOA ns.test. hostmaster.test. 1 7200 900 1209600 300"


@attrs.frozen(kw_only=True)
class Say:
    """One scripted reply. Records are lines as in a zone file, such as `good.test. 60 IN MX 10 mx.good.test.`."""

    records: tuple[str, ...] = ()
    authority: tuple[str, ...] = ()
    rcode: str = "NOERROR"
    ad: bool = False
    ede: tuple[int, ...] = ()
    delay: float = 0.0
    """Seconds."""
    silent: bool = False
    truncated: bool = False
    """TC=1 and no records by UDP; TCP gets everything."""
    before: tuple[Callable[[dns.message.Message, bytes], bytes], ...] = ()
    """Datagrams sent ahead of the right reply, each made of the question and that reply."""
    garbage_only: bool = False
    """Send only what `before` makes."""
    knows_edns: bool = True
    recursion_available: bool = True
    tcp: str = "whole"
    """`whole`, `split` (octet by octet), `behind` (another message in front, in the same write) or `hangup`."""


def secure(*records: str, **more) -> Say:
    """An answer with AD=1."""
    return Say(records=records, ad=True, **more)


def denial(rcode: str = "NOERROR", soa: str = SOA, **more) -> Say:
    """NODATA, or NXDOMAIN, with a SOA."""
    return Say(rcode=rcode, authority=(soa,), **more)


def wrong_id(query: dns.message.Message, reply: bytes) -> bytes:
    """The right reply under another id."""
    return struct.pack("!H", query.id ^ 1) + reply[2:]


def wrong_question(query: dns.message.Message, reply: bytes) -> bytes:
    """A reply with our id to a question that we did not ask."""
    other = dns.message.make_query("evil.test.", "A", id=query.id)
    forged = dns.message.make_response(other)
    forged.answer.extend(rrsets(["evil.test. 60 IN A 192.0.2.66"]))
    return forged.to_wire()


def wrong_case(query: dns.message.Message, reply: bytes) -> bytes:
    """The right reply with the question's letters in the opposite case."""
    end = 12 + len(query.question[0].name.to_wire())
    return reply[:12] + reply[12:end].swapcase() + reply[end:]


def garbage(query: dns.message.Message, reply: bytes) -> bytes:
    """Our id and question, and then nonsense."""
    end = 12 + len(query.question[0].name.to_wire()) + 4
    return struct.pack("!HHHHHH", query.id, 0x8180, 1, 5, 5, 5) + reply[12:end] + b"\xc0\xff\xff\xff\x00"


def rrsets(lines):
    """RRsets of zone file lines: owner, TTL, class, type, data."""
    found = {}
    for line in lines:
        owner, ttl, rdclass, rdtype, data = line.split(None, 4)
        found.setdefault((owner, ttl, rdclass, rdtype), []).append(data)
    return [
        dns.rrset.from_text(owner, int(ttl), rdclass, rdtype, *data)
        for (owner, ttl, rdclass, rdtype), data in found.items()
    ]


@attrs.frozen(kw_only=True)
class Asked:
    """One question that came in."""

    name: str
    """As it was written, with its last dot."""
    rdtype: str
    transport: str
    edns: bool
    message: dns.message.Message

    @property
    def checking_disabled(self) -> bool:
        """CD=1."""
        return bool(self.message.flags & dns.flags.CD)


class FakeNameServer:
    """Answers by script: `on(name, type, first, second, ...)`, the last one for ever; the rest is NXDOMAIN."""

    def __init__(self, reactor, host: str = "127.0.0.1") -> None:
        self.reactor = reactor
        self.host = host
        self.port = 0
        self.asked: list[Asked] = []
        self.peer = None
        """From where the last datagram came."""
        self._script: dict[tuple[str, str], list[Say]] = {}
        self._unchecked: dict[tuple[str, str], Say] = {}
        self._otherwise = denial("NXDOMAIN")
        self._ports = []
        self._calls = []
        self._streams = set()

    @property
    def address(self) -> tuple[str, int]:
        """For `Settings.servers`."""
        return self.host, self.port

    def on(self, name: str, rdtype: str, *says: Say) -> None:
        """Script the replies to one question."""
        self._script[(name.lower(), rdtype)] = list(says)

    def on_unchecked(self, name: str, rdtype: str, say: Say) -> None:
        """Script the reply to the question with CD=1."""
        self._unchecked[(name.lower(), rdtype)] = say

    def otherwise(self, say: Say) -> None:
        """The reply to every question without a script."""
        self._otherwise = say

    def count(self, name: str, rdtype: str) -> int:
        """How often that was asked."""
        return sum((a.name.lower(), a.rdtype) == (name.lower(), rdtype) for a in self.asked)

    def start(self, *, tcp: bool = True) -> FakeNameServer:
        """Listen on a free port, the same one for UDP and TCP."""
        for _ in range(20):
            udp = self.reactor.listenUDP(0, _Datagrams(self), interface=self.host)
            self.port = udp.getHost().port
            self._ports = [udp]
            if not tcp:
                return self
            try:
                self._ports.append(self.reactor.listenTCP(self.port, _Streams(self), interface=self.host))
            except CannotListenError:
                udp.stopListening()
            else:
                return self
        raise RuntimeError("no port is free")

    def stop(self) -> Deferred:
        """Stop listening and drop what is still to be said."""
        for call in self._calls:
            if call.active():
                call.cancel()
        closing = [d for d in (port.stopListening() for port in self._ports) if d is not None]
        for stream in list(self._streams):
            stream.gone = Deferred()
            closing.append(stream.gone)
            stream.transport.abortConnection()
        return gatherResults(closing)

    def received(self, octets: bytes, transport: str, send: Callable[[bytes], None], hangup: Callable[[], None]):
        """Answer one question by the script."""
        query = dns.message.from_wire(octets)
        question = query.question[0]
        asked = Asked(
            name=question.name.to_text(),
            rdtype=dns.rdatatype.to_text(question.rdtype),
            transport=transport,
            edns=query.edns >= 0,
            message=query,
        )
        self.asked.append(asked)
        key = (asked.name.lower(), asked.rdtype)
        says = self._script.get(key, [self._otherwise])
        if asked.checking_disabled and key in self._unchecked:
            say = self._unchecked[key]
        elif transport == "tcp" or len(says) == 1:
            say = says[0]
        else:
            say = says.pop(0)
        if say.silent:
            return
        if say.delay:
            self._calls.append(self.reactor.callLater(say.delay, self._say, query, say, transport, send, hangup))
        else:
            self._say(query, say, transport, send, hangup)

    def _say(self, query, say, transport, send, hangup):
        reply = self._reply(query, say, transport)
        for make in say.before if transport == "udp" else ():
            send(make(query, reply))
        if say.garbage_only:
            return
        if transport == "udp":
            send(reply)
            return
        framed = struct.pack("!H", len(reply)) + reply
        match say.tcp:
            case "whole":
                send(framed)
            case "split":
                self._dribble(framed, send)
            case "behind":
                other = wrong_question(query, reply)
                send(struct.pack("!H", len(other)) + other + framed)
            case "hangup":
                send(framed[: len(framed) // 2])
                hangup()

    def _dribble(self, octets, send):
        """The length in two pieces, then the message in four."""
        step = max(1, len(octets) // 4)
        pieces = [octets[:1], octets[1:2], *(octets[i : i + step] for i in range(2, len(octets), step))]
        self._calls += [self.reactor.callLater(0.005 * i, send, piece) for i, piece in enumerate(pieces)]

    def _reply(self, query, say, transport):
        reply = dns.message.make_response(query, recursion_available=say.recursion_available)
        if query.edns >= 0 and not say.knows_edns:
            reply.use_edns(False)
            reply.set_rcode(dns.rcode.FORMERR)
            return reply.to_wire()
        reply.set_rcode(dns.rcode.from_text(say.rcode))
        if say.ad:
            reply.flags |= dns.flags.AD
        if say.ede and query.edns >= 0:
            reply.use_edns(0, options=[dns.edns.EDEOption(code) for code in say.ede])
        if say.truncated and transport == "udp":
            reply.flags |= dns.flags.TC
        else:
            reply.answer.extend(rrsets(say.records))
            reply.authority.extend(rrsets(say.authority))
        return reply.to_wire(max_size=65535)


class _Datagrams(DatagramProtocol):
    noisy = False

    def __init__(self, server):
        self.server = server

    def datagramReceived(self, octets, source):
        def send(reply):
            if self.transport is not None:
                self.transport.write(reply, source)

        self.server.peer = source
        self.server.received(octets, "udp", send, lambda: None)


class _Stream(Protocol):
    gone = None

    def __init__(self, server):
        self.server = server
        self.buffer = b""

    def connectionMade(self):
        self.server._streams.add(self)

    def connectionLost(self, reason):
        self.server._streams.discard(self)
        if self.gone is not None:
            self.gone.callback(None)

    def dataReceived(self, data):
        self.buffer += data
        while len(self.buffer) >= 2:
            end = 2 + struct.unpack("!H", self.buffer[:2])[0]
            if len(self.buffer) < end:
                return
            octets, self.buffer = self.buffer[2:end], self.buffer[end:]
            self.server.received(octets, "tcp", self.transport.write, self.transport.loseConnection)


class _Streams(Factory):
    noisy = False

    def __init__(self, server):
        self.server = server

    def buildProtocol(self, addr):
        return _Stream(self.server)
