"""Connections through a proxy: nothing before the header, the claimed client after it, in the clear and in TLS."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.protocols.tls import TLSMemoryBIOFactory

from requiretls_mta.smtp.interfaces import Peer
from requiretls_mta.smtp.proxied import ProxiedFactory
from tests.smtp.dialogue import Talk, in_thread
from tests.smtp.headers import v1, v2
from tests.smtp.memory import Memory
from tests.smtp.test_server import SessionCase

PROXY = IPv4Address("TCP", "198.51.100.7", 50000)
SCRIPT = b"EHLO x.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n"


class Proxied:
    """A proxied listener on a clock of the test."""

    def __init__(self, *, proxies=(), max_waiting=10, **settings):
        self.memory = Memory(settings=settings, listener="mx")
        self.factory = ProxiedFactory(
            self.memory.factory,
            reactor=self.memory.clock,
            listener="mx",
            proxies=[ipaddress.ip_network(proxy) for proxy in proxies],
            max_waiting=max_waiting,
        )
        self.factory.doStart()

    def connect(self, address=PROXY):
        """A connection, or None when it was closed at once."""
        protocol = self.factory.buildProtocol(address)
        return protocol and Connection(protocol, address)

    @property
    def sessions(self):
        return self.memory.factory.sessions


class Connection:
    def __init__(self, protocol, address):
        self.transport = StringTransportWithDisconnection(peerAddress=address)
        self.transport.protocol = protocol
        protocol.makeConnection(self.transport)

    def ask(self, octets):
        self.transport.protocol.dataReceived(octets)
        said = self.transport.value()
        self.transport.clear()
        return said

    @property
    def is_open(self):
        return self.transport.connected

    @property
    def peer(self):
        return self.transport.protocol.peer


def test_nothing_starts_before_the_header():
    """No greeting, no session, no count, no event, until the last octet of the header; then the client has its own."""
    listener = Proxied(max_connections_per_client=1)
    connection = listener.connect()
    for octet in v1("192.0.2.1")[:-1]:
        assert connection.ask(bytes([octet])) == b""
        assert not listener.sessions and not listener.memory.events.told
    assert connection.ask(b"\n").startswith(b"220 mx.test ESMTP")
    assert connection.peer == Peer(address="192.0.2.1", port=40000, listener="mx", via_proxy=True)
    assert [e["client"] for e in listener.memory.events.of("connected")] == ["192.0.2.1"]
    assert not listener.factory.waiting


def dialogue(header, pieces):
    listener = Proxied()
    connection = listener.connect()
    said = b"".join(connection.ask(piece) for piece in pieces)
    (transaction,) = listener.memory.answers.accepted
    return said, transaction.octets, transaction.session.peer


@given(st.sampled_from([v1("192.0.2.1"), v2("2001:db8::1", tlvs=b"\x04\0\0")]), st.data())
def test_any_split(header, data):
    """Where segments end means nothing, in the header, behind it or across; nor that all comes at once."""
    octets = header + SCRIPT
    cuts = data.draw(st.lists(st.integers(0, len(octets)), max_size=8).map(sorted))
    pieces = [octets[a:b] for a, b in zip([0, *cuts], [*cuts, len(octets)], strict=True)]
    assert dialogue(header, pieces) == dialogue(header, [octets])


@pytest.mark.parametrize(
    "octets", [b"EHLO x.example\r\n", b"\x16\x03\x01", b"PROXY TCP4 1 2 3 4\r\nQUIT\r\n", v2(command=0)]
)
def test_what_is_no_header_ends_the_connection(octets):
    """Closed without a word, and no session was made."""
    listener = Proxied()
    connection = listener.connect()
    assert connection.ask(octets) == b""
    assert not connection.is_open
    assert not listener.sessions and not listener.factory.waiting and not listener.memory.clock.getDelayedCalls()


def test_a_header_has_five_seconds():
    """From the first moment to the last octet, however busily it comes."""
    listener = Proxied()
    silent, busy = listener.connect(), listener.connect()
    for octet in v1("192.0.2.1")[:9]:
        busy.ask(bytes([octet]))
        listener.memory.clock.advance(0.5)
    assert silent.is_open and busy.is_open
    listener.memory.clock.advance(0.51)
    assert not silent.is_open and not busy.is_open
    assert silent.transport.value() == busy.transport.value() == b""
    assert not listener.factory.waiting


def test_whoever_waits_is_counted_and_limited():
    """Beyond the bound a connection is closed at once; a header, a lost connection or the time-out make room."""
    listener = Proxied(max_waiting=3)
    first, second, _ = (listener.connect() for _ in range(3))
    assert listener.connect() is None
    first.ask(v1("192.0.2.1"))
    assert listener.connect() and listener.connect() is None
    second.transport.loseConnection()
    assert listener.connect() and listener.connect() is None
    listener.memory.clock.advance(5)
    assert listener.connect()


def test_the_claimed_client_is_limited():
    """Connections per client are those of the claimed address, and end with them."""
    listener = Proxied(max_connections_per_client=1, max_connections=3)
    first = listener.connect()
    assert first.ask(v1("192.0.2.1")).startswith(b"220")
    assert listener.connect().ask(v1("192.0.2.1")).startswith(b"421 4.7.0")
    assert listener.connect().ask(v2("192.0.2.2")).startswith(b"220")
    first.ask(b"QUIT\r\n")
    assert listener.connect().ask(v2("192.0.2.1")).startswith(b"220")


CLAIMS = [
    (v1("192.0.2.1"), "192.0.2.1"),
    (v1("::ffff:192.0.2.1"), "192.0.2.1"),
    (v2("::ffff:192.0.2.1"), "192.0.2.1"),
    (v1("2001:DB8:0::1"), "2001:db8::1"),
    (v1("fe80::1%eth0"), "fe80::1"),
    (v1("127.0.0.1"), "127.0.0.1"),
    (v2("::1"), "::1"),
    (b"PROXY UNKNOWN\r\n", None),
    (v2(), None),
    (v2(command=0x20), None),
    (v2("192.0.2.1", command=0x20), None),
    (v2(block=bytes(216), family=0x31), None),
    # The proxy itself, as it checks our health in version 1.
    (v1("198.51.100.7"), None),
    (v2("::ffff:198.51.100.7"), None),
]


@pytest.mark.parametrize(("header", "address"), CLAIMS)
def test_who_the_client_is(header, address):
    """The claimed address in its one spelling; nobody where the proxy speaks for itself or names none."""
    connection = Proxied().connect()
    assert connection.ask(header).startswith(b"220")
    assert connection.peer.address == address
    assert connection.peer.via_proxy
    assert (connection.peer.port is None) == (address is None)


def test_a_proxy_on_this_machine_may_name_this_machine():
    """On loopback client and proxy have one address: it stays in the log, for it gives no rights."""
    connection = Proxied().connect(IPv4Address("TCP", "127.0.0.1", 50000))
    connection.ask(v1("127.0.0.1"))
    assert connection.peer.address == "127.0.0.1"


@pytest.mark.parametrize(
    ("proxies", "address", "taken"),
    [
        ((), "203.0.113.9", True),
        (("198.51.100.7",), "198.51.100.7", True),
        (("198.51.100.7",), "198.51.100.8", False),
        (("198.51.100.7",), "127.0.0.1", False),
        (("2001:db8::/32", "198.51.100.0/24"), "198.51.100.8", True),
        (("198.51.100.0/24",), "::ffff:198.51.100.8", True),
        (("2001:db8::/32",), "2001:db8::1", True),
        (("fe80::/10",), "fe80::1%eth0", True),
        (("2001:db8::/32",), "198.51.100.8", False),
    ],
)
def test_who_may_speak_proxy(proxies, address, taken):
    """Those in `proxies`; all who get here where there are none."""
    kind = IPv6Address if ":" in address else IPv4Address
    assert (Proxied(proxies=proxies).connect(kind("TCP", address, 1)) is not None) == taken


def test_a_unix_socket_needs_no_proxies():
    """Whoever may open it may speak."""
    assert Proxied(proxies=["198.51.100.7"]).connect(UNIXAddress(None)).ask(v1("192.0.2.1")).startswith(b"220")


def test_the_end_of_listening_ends_the_waiting():
    """Who has not said who they are is not waited for; sessions end in their own way."""
    listener = Proxied()
    waiting, session = listener.connect(), listener.connect()
    session.ask(v1("192.0.2.1"))
    listener.factory.doStop()
    assert not waiting.is_open and session.is_open
    assert not listener.factory.waiting


def test_who_comes_while_the_service_stops():
    """A header that completes then is answered as any late client."""
    listener = Proxied()
    connection = listener.connect()
    other = listener.memory.connect()
    listener.memory.factory.drain()
    assert other.said().endswith(b"\r\n")
    assert connection.ask(v1("192.0.2.1") + SCRIPT).startswith(b"421 4.3.2")


class Sockets(SessionCase):
    """The same over sockets, with TLS."""

    def proxied(self, **options):
        server = self.serve(listener="mx", **options)
        factory = server.factory
        if factory.settings.service == "submissions":
            factory = TLSMemoryBIOFactory(factory.contextFactory, False, factory)
        self.factory = ProxiedFactory(factory, reactor=reactor, listener="mx", max_waiting=5)
        port = reactor.listenTCP(0, self.factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return server, port.getHost().port

    def run_dialogue(self, dialogue, **options):
        server, port = self.proxied(**options)
        return in_thread(reactor, self.converse, dialogue, port).addCallback(lambda found: (found, server.answers))

    def converse(self, dialogue, port):
        client = Talk(port)
        try:
            return dialogue(client)
        finally:
            client.close()

    def test_a_message_with_starttls(self):
        """STARTTLS is offered and works; the session knows client and TLS, and tells REQUIRETLS only there."""

        def dialogue(client):
            client.say(v1("192.0.2.1"))
            assert client.hear().startswith("220")
            before = client.ask("EHLO x.example")
            client.ask("STARTTLS")
            client.start_tls()
            after = client.ask("EHLO x.example")
            client.say("MAIL FROM:<a@b.example> REQUIRETLS\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
            assert [client.hear()[:3] for _ in range(3)] == ["250", "250", "354"]
            return before, after, client.ask("x\r\n.")

        def check(found):
            (before, after, taken), answers = found
            assert "STARTTLS" in before and "REQUIRETLS" not in before
            assert "REQUIRETLS" in after and "STARTTLS" not in after
            assert taken.startswith("250 2.0.0")
            (transaction,) = answers.accepted
            assert transaction.session.peer == Peer(address="192.0.2.1", port=40000, listener="mx", via_proxy=True)
            assert transaction.session.tls.version == "TLSv1.3"

        return self.run_dialogue(dialogue).addCallback(check)

    def test_octets_in_the_clear_behind_starttls(self):
        """The rule holds although everything came in one segment with the header."""

        def dialogue(client):
            client.say(v1("192.0.2.1") + b"EHLO x.example\r\nSTARTTLS\r\nNOOP\r\n")
            return client.rest()

        def check(found):
            assert found[0].count(b"\r\n250 ") == 1 and b"220 2.0.0" not in found[0]

        return self.run_dialogue(dialogue).addCallback(check)

    def test_implicit_tls_behind_a_header(self):
        """submissions: the header in the clear, then the handshake; its facts are known."""

        def dialogue(client):
            client.say(v2("2001:db8::1"))
            client.start_tls()
            assert client.hear().startswith("220")
            listed = client.ask("EHLO x.example")
            client.ask("MAIL FROM:<a@b.example>")
            return listed

        def check(found):
            listed, answers = found
            assert "REQUIRETLS" in listed and "STARTTLS" not in listed
            (transaction,) = answers.begun
            assert transaction.session.peer.address == "2001:db8::1"
            assert transaction.session.tls.version == "TLSv1.3"
            assert transaction.session.protocol == "ESMTPS"

        settings = {"service": "submissions"}
        return self.run_dialogue(dialogue, settings=settings).addCallback(check)

    def test_a_client_hello_in_the_segment_of_the_header(self):
        """The first octets of TLS are not lost, wherever the segment ends."""
        import ssl

        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

        def dialogue(client, extra):
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = context.wrap_bio(incoming, outgoing)

            def pump(step):
                while True:
                    try:
                        return step()
                    except ssl.SSLWantReadError:
                        if outgoing.pending:
                            client.say(outgoing.read())
                        incoming.write(client.socket.recv(65536))

            with pytest.raises(ssl.SSLWantReadError):
                tls.do_handshake()
            hello = outgoing.read()
            client.say(v1("192.0.2.1") + hello[:extra])
            client.say(hello[extra:])
            pump(tls.do_handshake)
            client.say(outgoing.read())
            return pump(lambda: tls.read(1000))

        def check(greetings):
            assert all(greeting.startswith(b"220 mx.test ESMTP") for greeting in greetings)

        def all_of_them(port):
            return [self.converse(lambda client, n=n: dialogue(client, n), port) for n in (0, 1, 5, 100, 10_000)]

        _, port = self.proxied(settings={"service": "submissions"})
        return in_thread(reactor, all_of_them, port).addCallback(check)

    def test_a_closed_connection_says_nothing(self):
        """Commands, or TLS, without a header before them: the end, and not one octet."""

        def dialogue(client):
            client.say("EHLO x.example\r\n")
            return client.rest()

        def check(found):
            assert found[0] == b""
            assert not self.factory.waiting

        return self.run_dialogue(dialogue).addCallback(check)

    def test_a_flood_of_silence(self):
        """More connections than may wait are closed at once; the others still can say who they are."""

        def dialogue(first):
            port = first.socket.getpeername()[1]
            first.say(b"P")
            waiting = [first, *(Talk(port) for _ in range(4))]
            refused = [Talk(port) for _ in range(5)]
            try:
                assert [client.rest() for client in refused] == [b""] * 5
                for client in waiting:
                    client.say(v1("192.0.2.1")[client is first :])
                return [client.hear()[:3] for client in waiting]
            finally:
                for client in waiting[1:] + refused:
                    client.close()

        def check(found):
            assert found[0] == ["220"] * 5

        return self.run_dialogue(dialogue).addCallback(check)
