"""Call-outs over LMTP: what the server says of a mailbox, what is remembered of it, and what happens without it."""

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks, maybeDeferred
from twisted.internet.task import Clock

from requiretls_mta.message import reply
from requiretls_mta.message.address import parse_mailbox
from requiretls_mta.relay import callout
from requiretls_mta.relay.callout import Callout, OfServer
from requiretls_mta.relay.dial import connector
from requiretls_mta.relay.lookup import RouteFinder
from requiretls_mta.relay.static_routes import parse_route
from tests.relay.fakes import FakeResolver
from tests.relay.walking import Walking

PLAIN = ("PIPELINING",)


def address(local="a"):
    return parse_mailbox(f"{local}@there.test", utf8=True)


class Asking(Walking):
    """Over TCP; the clock of the cache is moved by hand."""

    def setUp(self):
        super().setUp()
        self.lookup = attrs.evolve(self.lookup, static={"*": parse_route(f"lmtp:[127.0.0.31]:{self.number}")})
        self.clock = Clock()
        finder = RouteFinder(FakeResolver({}), lambda: self.lookup)
        self.callout = Callout(self.clock, OfServer(self.clock, finder, lambda: self.settings, connector(reactor)))

    def ask(self, local="a"):
        return maybeDeferred(self.callout.ask, address(local))

    @inlineCallbacks
    def test_yes_is_remembered_for_an_hour(self):
        """MAIL with the empty sender, RCPT, QUIT; no DATA."""
        server = self.mx(clear=PLAIN)
        assert (yield self.ask()) is None
        assert (yield self.ask("A")) is None
        assert server.connections == 1
        assert b"MAIL FROM:<>\r\nRCPT TO:<a@there.test>\r\n" in server.clear
        assert "DATA" not in server.verbs
        self.clock.advance(callout.KNOWN_FOR + 1)
        assert (yield self.ask()) is None
        assert server.connections == 2

    @inlineCallbacks
    def test_no_is_remembered_for_minutes(self):
        """550 5.1.1, whatever the server's own text is."""
        server = self.mx(clear=PLAIN, replies={"RCPT": "550 5.1.1 <a@there.test> user unknown"})
        assert (yield self.ask()) == reply.UNKNOWN_RECIPIENT
        assert (yield self.ask()) == reply.UNKNOWN_RECIPIENT
        assert server.connections == 1
        self.clock.advance(callout.UNKNOWN_FOR + 1)
        assert (yield self.ask()) == reply.UNKNOWN_RECIPIENT
        assert server.connections == 2

    @inlineCallbacks
    def test_a_full_mailbox_is_not_unknown(self):
        """Its reply is passed on."""
        self.mx(clear=PLAIN, replies={"RCPT": "552 5.2.2 quota exceeded"})
        got = yield self.ask()
        assert (got.code, got.enhanced) == (552, "5.2.2")

    @inlineCallbacks
    def test_trouble_is_temporary_and_not_remembered(self):
        """No server, a greeting that is none, 4xx, a connection that ends: 451 each."""
        assert (yield self.ask()) == reply.CANNOT_VERIFY
        self.mx(clear=PLAIN, replies={"RCPT": ["450 4.2.1 busy"], "MAIL": ["250 ok", "550 5.7.1 no"]})
        assert (yield self.ask()) == reply.CANNOT_VERIFY
        assert (yield self.ask()) == reply.CANNOT_VERIFY
        assert (yield self.ask()) is None

    @inlineCallbacks
    def test_the_same_question_is_asked_once(self):
        """Those who come meanwhile wait for the answer."""
        server = self.mx(clear=PLAIN)
        assert (yield gatherResults([self.ask() for _ in range(5)])) == [None] * 5
        assert server.connections == 1

    @inlineCallbacks
    def test_utf8_is_asked_where_it_is_spoken(self):
        """And is unknown where its mail could not be delivered either."""
        server = self.mx(clear=PLAIN)
        assert (yield self.ask("jürgen")) == reply.UNKNOWN_RECIPIENT
        server.options["clear"] = ("SMTPUTF8",)
        self.clock.advance(callout.UNKNOWN_FOR + 1)
        assert (yield self.ask("jürgen")) is None
        assert "MAIL FROM:<> SMTPUTF8\r\nRCPT TO:<jürgen@there.test>\r\n".encode() in server.clear

    @inlineCallbacks
    def test_a_silent_server_holds_nobody_for_long(self):
        """451 at the deadline; and with too many questions open, at once."""
        silent = Callout(self.clock, OfServer(self.clock, _Silent(), lambda: self.settings))
        asked = [silent.ask(address(f"u{n}")) for n in range(callout.MOST_WAITING + 1)]
        assert asked.pop() == reply.CANNOT_VERIFY
        assert not any(d.called for d in asked)
        self.clock.advance(callout.DEADLINE)
        assert (yield gatherResults(asked)) == [reply.CANNOT_VERIFY] * callout.MOST_WAITING
        assert silent._turn.tokens == callout.AT_ONCE
        last = silent.ask(address())
        silent.close()
        assert (yield last) == reply.CANNOT_VERIFY
        assert silent._running == set() and self.clock.getDelayedCalls() == []


class _Silent:
    def find(self, domain, *, policy=True):
        return Deferred()
