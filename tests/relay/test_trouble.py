"""Servers that break off, stall, lie and ramble: each attempt ends, with the outcome of the server's last word."""

import ssl

import attrs
import pytest
from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks

from requiretls_mta.dns.answer import Status
from requiretls_mta.message.envelope import Tag
from requiretls_mta.message.outcome import Deferred as Postponed
from requiretls_mta.message.outcome import Delivered, Failed, Step
from requiretls_mta.relay.static_routes import parse_route
from requiretls_mta.tls.client import Handshake
from tests.relay.walking import OCTETS, SECRET, Walking, message
from tests.smtp.fake_mx import GOOD

CHUNKING = (*GOOD, "CHUNKING", "REQUIRETLS")
LARGE = b"\r\n" + b"x" * 70 + b"\r\n"
TALK = tuple(f"X-{'FILLER' * 8}-{number}" for number in range(20))


class Trouble(Walking):
    """One kind each."""

    @inlineCallbacks
    def test_a_long_ehlo_is_read_to_its_end(self):
        """Keywords behind much talk count, in the clear and in TLS."""
        first = self.mx(clear=(*TALK, "STARTTLS"), inside=(*TALK, "REQUIRETLS"))
        got = yield self.one(message(), approved=[first])
        assert isinstance(got, Delivered) and got.security.requiretls, got

    @inlineCallbacks
    def test_a_handshake_whose_facts_cannot_be_read(self):
        """Whatever a certificate makes our readers do: no session, and the attempt ends."""

        def broken(handshake, connection):
            raise ValueError("no certificate is like this")

        self.patch(Handshake, "facts", broken)
        first = self.mx()
        got = yield self.one(message(), "secret-rcpt@one.test")
        assert isinstance(got, Failed) and got.reply.enhanced == "5.7.10"
        assert first.messages == []

    @inlineCallbacks
    def test_an_early_refusal_ends_the_transfer(self):
        """552 while the octets flow, and no reading any more: that is the reply, not a time-out without end."""
        self.mx(early="552 5.3.4 too big")
        got = yield self.one(message(None, LARGE * 200_000), "r@one.test")
        assert isinstance(got, Failed) and got.reply.enhanced == "5.3.4", got

    @inlineCallbacks
    def test_an_early_yes_is_none(self):
        """250 before the octets were read promises nothing."""
        self.mx(early="250 2.0.0 taken")
        got = yield self.one(message(None, LARGE * 200_000), "r@one.test")
        assert isinstance(got, Postponed), got

    @inlineCallbacks
    def test_hung_up_in_the_middle_of_the_message(self):
        """Inside TLS, while octets wait to be written: deferred, and the attempt ends."""
        first = self.mx(early="")
        reactor.callLater(0.6, first.over.set)
        got = yield self.one(message(None, LARGE * 200_000), "r@one.test")
        assert isinstance(got, Postponed), got

    @inlineCallbacks
    def test_hung_up_behind_a_refusal(self):
        """550 to MAIL or RCPT and then the connection closed: refused, not to be repeated."""
        for verb, keywords in (("MAIL", GOOD), ("RCPT", GOOD), ("MAIL", CHUNKING), ("MAIL", ()), ("RCPT", ())):
            self.manager.close()
            first = self.mx(inside=keywords, closed=verb, replies={verb: "550 5.7.1 go away"})
            got = yield self.one(message(None), "r@one.test")
            assert isinstance(got, Failed) and got.reply.enhanced == "5.7.1", (verb, keywords, got)
            self.drop(first)

    @inlineCallbacks
    def test_c28_hung_up_behind_the_refused_keyword(self):
        """555 to MAIL with REQUIRETLS and closed: lacks REQUIRETLS."""
        first = self.mx(closed="MAIL", replies={"MAIL": "555 5.5.4 what"})
        got = yield self.one(message(), "secret-rcpt@one.test", approved=[first])
        assert isinstance(got, Failed) and got.reply.enhanced == "5.7.30", got

    @inlineCallbacks
    def test_421_to_mail_is_for_the_next_host(self):
        """Even where the octets of the message were sent along: a host that said no to MAIL has not taken it."""
        for keywords in (GOOD, CHUNKING):
            self.manager.close()
            first = self.mx(1, inside=keywords, closed="MAIL", replies={"MAIL": "421 4.7.0 busy"})
            second = self.mx(2)
            got = yield self.one(message(None))
            assert isinstance(got, Delivered) and got.host == "mx2.there.test", (keywords, got)
            assert "busy" in got.causes[0].detail
            self.drop(first)
            self.drop(second)

    @inlineCallbacks
    def test_only_2xx_is_a_delivery(self):
        """A 3xx behind the final dot or to RCPT promises nothing."""
        for replies in ({".": "354 go on"}, {"RCPT": "354 go on"}, {"BDAT": "354 go on"}):
            self.manager.close()
            first = self.mx(inside=CHUNKING if "BDAT" in replies else GOOD, replies=replies)
            got = yield self.one(message(None), "r@one.test")
            assert isinstance(got, Postponed), (replies, got)
            self.drop(first)

    @inlineCallbacks
    def test_c26_the_handshake_never_ends(self):
        """Tagged: the next host, alone deferred."""
        first, second = self.mx(1, stall=True), self.mx(2)
        got = yield self.one(message(), approved=[second])
        assert b"STARTTLS\r\n\x16\x03" in first.clear  # all that it was sent was looked at for the message
        assert isinstance(got, Delivered) and got.host == "mx2.there.test"
        got = yield self.one(message(), "secret-rcpt@one.test", approved=[second])
        assert isinstance(got, Postponed) and got.causes[0].step is Step.STARTTLS, got

    @inlineCallbacks
    def test_c27_c42_whoever_needs_no_tls_goes_without(self):
        """A handshake that never ends, or a connection lost over STARTTLS, keeps no ordinary mail."""
        for tag in (None, Tag.OPTIONAL):
            for options in ({"stall": True}, {"close": "STARTTLS"}):
                self.manager.close()
                first = self.mx(**options)
                got = yield self.one(message(tag), "r@one.test")
                assert isinstance(got, Delivered) and got.security.tls_version is None, (options, got)
                self.drop(first)

    @pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
    @inlineCallbacks
    def test_c36_old_versions_do_not_count(self):
        """TLS 1.0 and 1.1 are no TLS: 5.7.10, naming the step; who needs none goes without."""
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            first = self.mx(maximum=version)
            got = yield self.one(message(), "secret-rcpt@one.test")
            assert isinstance(got, Failed) and got.reply.enhanced == "5.7.10", got
            assert got.causes[0].step is Step.STARTTLS and "version" in got.causes[0].detail, got
            got = yield self.one(message(None), "r@one.test")
            assert isinstance(got, Delivered) and got.security.tls_version is None, got
            self.drop(first)
            self.manager.close()

    @inlineCallbacks
    def test_c37_each_domain_for_itself(self):
        """One domain's host keeps the promise, the other's does not, in either order."""
        self.resolver.table["two.test", "MX"] = ["10 mx2.there.test."]
        first = self.mx(1)
        self.mx(2, inside=GOOD)
        for domains in (("one.test", "two.test"), ("two.test", "one.test")):
            for domain in domains:
                got = yield self.one(message(), f"secret-rcpt@{domain}", approved=[first])
                assert got.reply.enhanced == ("2.0.0" if domain == "one.test" else "5.7.30")

    @inlineCallbacks
    def test_c46_the_header_goes_along(self):
        """`TLS-Required: No` is relayed as it came, and MAIL carries no keyword."""
        octets = b"tls-required:\r\n\tnO \r\n" + OCTETS
        first = self.mx()
        yield self.one(message(Tag.OPTIONAL, octets))
        assert first.messages == [octets]
        assert b"REQUIRETLS" not in first.clear + first.tls

    def implicit(self, **options):
        route = parse_route(f"smtps:[mx1.there.test]:{self.number}")
        self.lookup = attrs.evolve(self.lookup, static={"*": route})
        return self.mx(implicit=True, **options)

    @inlineCallbacks
    def test_c45_c47_tls_from_the_first_octet(self):
        """smtps: promises are kept there; STARTTLS inside TLS is not taken; who asks for less takes unverified TLS."""
        first = self.implicit(inside=(*GOOD, "STARTTLS", "REQUIRETLS"))
        got = yield self.one(message(), approved=[first])
        assert isinstance(got, Delivered) and got.security.requiretls, got
        assert "STARTTLS" not in first.verbs and first.clear == b""
        self.drop(first)
        self.manager.close()
        first = self.implicit(files=self.other.host("x.test"))
        optional = message(Tag.OPTIONAL, b"\r\n", sender="other@here.test")
        assert isinstance((yield self.one(optional, "r@there.test")), Delivered)
        assert (yield self.one(message())).reply.enhanced == "5.7.10"
        assert first.clear == b""

    @inlineCallbacks
    def test_c45_smtps_never_goes_in_the_clear(self):
        """Where the handshake fails or never ends, nothing is sent."""
        for options in ({"stall": True}, {"maximum": ssl.TLSVersion.TLSv1_1}):
            first = self.implicit(**options)
            got = yield self.one(message(Tag.OPTIONAL))
            assert isinstance(got, Postponed), got
            assert first.connections == 1 and first.messages == []
            self.drop(first)

    @inlineCallbacks
    def test_a_kept_session_that_ended(self):
        """Its loss, or 421 to MAIL on it, says nothing about the host: a new session is tried."""
        for option in ({"replies": {"MAIL": ["250 ok", "421 4.7.0 enough"]}}, {"closed": "DATA"}):
            self.manager.close()
            first = self.mx(**option)
            yield self.one(message(None), "r@one.test")
            got = yield self.one(message(None), "r@one.test")
            assert isinstance(got, Delivered), got
            assert first.connections == 2 and len(first.messages) == 2
            self.drop(first)

    @inlineCallbacks
    def test_what_another_session_offered_is_no_offer(self):
        """The same host and certificate; only its first session offered the keyword, and only that one is used."""
        first = self.mx(replies={"EHLO": [None, None, None, "250 ok"]})
        assert isinstance((yield self.one(message(), "secret-rcpt@one.test", approved=[first])), Delivered)
        self.manager.close()
        got = yield self.one(message(), "secret-rcpt@one.test", approved=[first])
        assert isinstance(got, Failed) and got.reply.enhanced == "5.7.30"
        assert first.connections == 2 and len(first.messages) == 1

    @inlineCallbacks
    def test_how_the_host_was_found_is_told_of_this_message(self):
        """A session opened for an unsigned domain carries a signed one's mail: the facts are the latter's."""
        self.resolver.table["unsigned.test", "MX"] = {
            "status": Status.INSECURE,
            "rcode": "NOERROR",
            "ttl": 60,
            "records": (yield self.resolver.resolve("one.test", "MX")).records,
        }
        first = self.mx()
        got = yield self.one(message(None, sender="o@here.test", octets=b"\r\n"), "r@unsigned.test")
        assert got.security.mx_security == "none"
        got = yield self.one(message(), "secret-rcpt@one.test", approved=[first])
        assert got.security.mx_security == "dnssec" and first.connections == 1

    @inlineCallbacks
    def test_helo_for_whoever_needs_no_tls(self):
        """A server of 1982 gets ordinary mail, and is not asked twice for a promise."""
        first = self.mx(replies={"EHLO": "500 what"})
        assert isinstance(
            (yield self.one(message(None, sender="o@here.test", octets=b"\r\n"), "r@one.test")), Delivered
        )
        assert first.verbs[:3] == ["EHLO", "HELO", "MAIL"]
        self.manager.close()
        first.verbs.clear()
        got = yield self.one(message(), "secret-rcpt@one.test")
        assert got.reply.enhanced == "5.7.10" and "HELO" not in first.verbs

    @inlineCallbacks
    def test_354_though_nobody_will_have_it(self):
        """RFC 2920 3.1: all recipients refused, DATA answered 354 all the same; a lone dot, no octet of the message."""
        first = self.mx(replies={"RCPT": ["550 5.1.1 no"], "DATA": "354 go on"})
        got = yield self.one(message(), "secret-rcpt@one.test", approved=[first])
        assert isinstance(got, Failed) and got.reply.enhanced == "5.1.1"
        assert SECRET not in first.tls and b"DATA\r\n.\r\nRSET\r\n" in first.tls

    @inlineCallbacks
    def test_too_big_is_not_taken_for_a_missing_keyword(self):
        """The host's SIZE is smaller: 5.3.4, and MAIL is not even said."""
        first = self.mx(inside=("PIPELINING", "SIZE 20", "REQUIRETLS"))
        got = yield self.one(message(), "secret-rcpt@one.test")
        assert isinstance(got, Failed) and got.reply.enhanced == "5.3.4"
        assert b"MAIL" not in first.tls

    @inlineCallbacks
    def test_an_attempt_has_an_end(self):
        """When patience is over, the next host waits for the next attempt."""
        self.settings = attrs.evolve(self.settings, patience=0.0)
        self.mx(1, greeting="450 later")
        second = self.mx(2)
        got = yield self.one(message())
        assert isinstance(got, Postponed) and "not tried" in got.reply.text
        assert second.connections == 0

    @inlineCallbacks
    def test_a_body_that_breaks_off(self):
        """The attempt fails as a whole, and the server never sees an end of the message."""

        class Broken:
            size = 3_000_000

            def read(self, offset, length):
                if offset:
                    raise OSError("the disk is gone")
                return b"x" * length

        for keywords in (GOOD, CHUNKING):
            first = self.mx(inside=keywords)
            with pytest.raises(OSError, match="disk is gone"):
                yield self.one(attrs.evolve(message(None), body=Broken()), "r@one.test")
            assert first.messages == []
            self.drop(first)

    @inlineCallbacks
    def test_who_needs_utf8_holds_nobody_back(self):
        """Without SMTPUTF8, only the recipient with an internationalized local part fails."""
        first = self.mx(inside=("PIPELINING", "8BITMIME"))
        got = yield self.send(message(None), "a@one.test", "ä@one.test", "b@one.test")
        assert [outcome.reply.enhanced for outcome in got] == ["2.0.0", "5.6.7", "2.0.0"]
        assert first.messages == [OCTETS]

    @inlineCallbacks
    def test_what_a_host_took_is_delivered_whatever_breaks_behind_it(self):
        """A bug in what is done with the session afterwards must not send the message again."""
        first = self.mx()
        self.patch(self.manager._pool, "keep", lambda *_, **__: 1 / 0)
        got = yield self.one(message(None), "a@one.test")
        assert isinstance(got, Delivered) and len(first.messages) == 1
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

    @inlineCallbacks
    def test_a_part_that_breaks_off_repeats_no_other(self):
        """Those who need SMTPUTF8 go apart: a bug there is theirs."""
        first, go = self.mx(), self.manager._round

        def breaks(route, sending):
            return go(route, sending) if sending.recipients[0].address.is_ascii else 1 / 0

        self.patch(self.manager, "_round", breaks)
        got = yield self.send(message(None), "a@one.test", "ä@one.test", "b@one.test")
        assert [type(o) for o in got] == [Delivered, Postponed, Delivered]
        assert len(first.messages) == 1 and got[1].reply.enhanced == "4.3.0"
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1
