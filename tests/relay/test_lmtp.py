"""LMTP: each recipient's own reply counts, even where the session breaks between two (RFC 2033 4.2)."""

import attrs
from twisted.internet.defer import inlineCallbacks

from requiretls_mta.message.outcome import Deferred as Postponed
from requiretls_mta.message.outcome import Delivered, Failed
from requiretls_mta.relay.static_routes import parse_route
from tests.relay.walking import OCTETS, Walking, message

TO = ("a@there.test", "b@there.test", "c@there.test")


class LMTP(Walking):
    """Over TCP, with an ordinary message."""

    def host(self, **options):
        self.lookup = attrs.evolve(self.lookup, static={"*": parse_route(f"lmtp:[mx1.there.test]:{self.number}")})
        return self.mx(lmtp=True, **options)

    @inlineCallbacks
    def test_one_reply_each(self):
        """Yes, never and later."""
        first = self.host(replies={".": ("250 2.0.0 a", "552 5.2.2 full", "450 4.2.0 busy")})
        got = yield self.send(message(None), *TO)
        assert [type(o) for o in got] == [Delivered, Failed, Postponed]
        assert first.messages == [OCTETS]

    @inlineCallbacks
    def test_replies_go_to_those_who_were_accepted(self):
        """With one refused at RCPT, the replies belong to the others."""
        self.host(
            replies={"RCPT": ["250 ok", "550 5.1.1 no", "250 ok"], ".": ("250 2.0.0 a", "450 4.2.0 busy")},
        )
        got = yield self.send(message(None), *TO)
        assert [type(o) for o in got] == [Delivered, Failed, Postponed]
        assert got[1].reply.enhanced == "5.1.1"

    @inlineCallbacks
    def test_lost_between_two_replies(self):
        """Who was told yes has the message and does not get it again; of the others nobody knows."""
        self.host(closed="DATA", replies={".": ("250 2.0.0 a",)})
        got = yield self.send(message(None), *TO)
        assert [type(o) for o in got] == [Delivered, Postponed, Postponed], got
        assert all("is not known" in o.reply.text for o in got[1:])

    @inlineCallbacks
    def test_421_between_two_replies(self):
        """It is its recipient's reply and the session's end."""
        self.host(closed="DATA", replies={".": ("250 2.0.0 a", "421 4.3.2 stopping")})
        got = yield self.send(message(None), *TO)
        assert [type(o) for o in got] == [Delivered, Postponed, Postponed]
        assert got[1].reply.enhanced == "4.3.2" and "is not known" in got[2].reply.text

    @inlineCallbacks
    def test_lost_before_any_reply(self):
        """Nobody was told anything."""
        self.host(close=".")
        got = yield self.send(message(None), *TO)
        assert [type(o) for o in got] == [Postponed] * 3
        assert all("is not known" in o.reply.text for o in got)

    @inlineCallbacks
    def test_what_counts_as_final_delivery(self):
        """The yes of the local mailbox (RFC 3461 5.2.3); from elsewhere it may be a relay's (RFC 2033 4.2)."""
        self.host(clear=("PIPELINING",))
        for local in (False, True):
            (route,) = self.lookup.static.values()
            self.lookup = attrs.evolve(self.lookup, static={"*": attrs.evolve(route, local=local)})
            (got,) = yield self.send(message(None), TO[0])
            assert (got.in_mailbox, got.dsn_relayed) == (local, False)
