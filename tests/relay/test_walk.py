"""The walk over MX hosts, against servers that misbehave at every step: client scenarios of REQUIRETLS, numbered."""

import shutil
import socket
import tempfile

import attrs
from twisted.internet.defer import inlineCallbacks

from requiretls_mta.dns.answer import Status
from requiretls_mta.message.address import parse_mailbox
from requiretls_mta.message.envelope import Notify, Recipient, Tag
from requiretls_mta.message.outcome import Deferred as Postponed
from requiretls_mta.message.outcome import Delivered, Failed, Step
from requiretls_mta.message.profile import Profile
from requiretls_mta.relay.static_routes import parse_route
from requiretls_mta.tls.policy import Level, Policies
from tests.relay.walking import FIRST, OCTETS, Walking, message
from tests.smtp.fake_mx import GOOD, FakeMX


class Walk(Walking):
    """One scenario each."""

    @inlineCallbacks
    def test_c01_everything_holds(self):
        """Signed MX, PKIX name, keyword: MAIL with REQUIRETLS and RET=HDRS, the octets as they were."""
        first = self.mx()
        asked = Recipient(parse_mailbox("secret-rcpt@there.test"), frozenset({Notify.FAILURE}), "rfc822;x@y")
        got = yield self.one(message(ret="FULL", envid="e1"), asked, approved=[first])
        assert isinstance(got, Delivered)
        assert (got.security.auth, got.security.requiretls, got.security.mx_security) == ("pkix", True, "dnssec")
        assert first.messages == [OCTETS]
        assert b"REQUIRETLS RET=HDRS ENVID=e1\r\n" in first.tls
        assert b"NOTIFY=FAILURE ORCPT=rfc822;x@y\r\n" in first.tls

    @inlineCallbacks
    def test_c53_all_that_is_told_of_an_attempt_bears_its_name(self):
        """Its TLS sessions and its outcomes, good or bad, with the seconds they took; the next attempt has another."""
        self.mx(1, replies={"RCPT": "451 4.2.1 later"}, inside=(*GOOD, "REQUIRETLS"))
        self.mx(2, inside=GOOD)
        names = []
        for domain in ("one.test", "there.test"):
            outcomes = yield self.send(message(None), f"r@{domain}", f"r@{domain}")
            (name,) = {outcome.attempt for outcome in outcomes}
            assert {e["attempt"] for e in self.events.of("tls")[len(names) :]} <= {name}
            assert name and name not in names and all(sum(outcome.delays) > 0 for outcome in outcomes)
            names.append(name)
        (outcome,) = yield self.send(message(None), "r@nowhere.test")
        assert isinstance(outcome, Failed) and outcome.attempt not in ("", *names)

    @inlineCallbacks
    def test_c05_an_unsigned_mx_is_not_even_connected_to(self):
        """5.7.10 from the look-up alone."""
        first = self.mx()
        self.resolver.status = Status.INSECURE
        got = yield self.one(message())
        assert isinstance(got, Failed) and got.reply.enhanced == "5.7.10"
        assert first.connections == 0

    @inlineCallbacks
    def walk_on(self, code, *, promised=False, **options):
        """MX1 as told, MX2 good: delivered there. Then MX1 alone: `code`."""
        first, second = self.mx(1, **options), self.mx(2)
        approved = [first, second] if promised else [second]
        got = yield self.one(message(), approved=approved)
        assert isinstance(got, Delivered) and got.host == "mx2.there.test", got
        assert first.messages == []
        got = yield self.one(message(), "secret-rcpt@one.test", approved=approved)
        assert got.reply.enhanced == code, got
        assert isinstance(got, Failed if code.startswith("5") else Postponed)
        return got

    def test_c09_c12_no_starttls(self):
        """The next host; alone 5.7.10."""
        return self.walk_on("5.7.10", clear=GOOD)

    def test_c10_c11_no_keyword(self):
        """The next host; alone 5.7.30."""
        return self.walk_on("5.7.30", inside=GOOD)

    def test_c11_no_keyword_in_the_draft_profile(self):
        """The code of the draft that RFC 8689 grew from."""
        self.settings = attrs.evolve(self.settings, profile=Profile.DRAFT_03)
        return self.walk_on("5.7.4", inside=GOOD)

    def test_c13_wrong_name(self):
        """The next host; alone 5.7.10. C33: the recipient's domain in the certificate does not help."""
        return self.walk_on("5.7.10", files=self.ca.host("there.test", "one.test"))

    def test_c13_untrusted(self):
        """Another CA's certificate with the right name."""
        return self.walk_on("5.7.10", files=self.other.host("mx1.there.test"))

    def test_c13_expired(self):
        """The right name, too late."""
        return self.walk_on("5.7.10", files=self.ca.expired("mx1.there.test"))

    def test_c34_a_wildcard_stands_for_one_label(self):
        """*.test is not mx1.there.test."""
        return self.walk_on("5.7.10", files=self.ca.host("*.test"))

    def test_c35_a_common_name_is_no_name(self):
        """RFC 9525: CN-ID does not count."""
        return self.walk_on("5.7.10", files=self.ca.common_name_only("mx1.there.test"))

    def test_c21_the_keyword_in_the_clear_does_not_count(self):
        """Only the EHLO inside TLS promises."""
        return self.walk_on("5.7.30", clear=("STARTTLS", "REQUIRETLS"), inside=GOOD)

    def test_c22_only_an_exact_keyword_counts(self):
        """Not in the server's name, not as part of a word, not as a parameter."""
        return self.walk_on("5.7.30", inside=("XREQUIRETLS", "AUTH REQUIRETLS"), name="REQUIRETLS hello")

    @inlineCallbacks
    def test_c23_case_does_not_matter(self):
        """RFC 5321 2.4."""
        first = self.mx(inside=("requiretls",))
        got = yield self.one(message(), approved=[first])
        assert isinstance(got, Delivered) and b"MAIL FROM:<secret-sender@here.test> REQUIRETLS\r\n" in first.tls

    @inlineCallbacks
    def test_c24_an_injected_reply_is_noticed(self):
        """Octets behind the 220 would become the EHLO reply inside TLS."""
        got = yield self.walk_on("5.7.10", behind=b"250-mx\r\n250 REQUIRETLS\r\n")
        assert "in the clear behind" in got.reply.text

    @inlineCallbacks
    def test_c25_ehlo_refused_inside_tls(self):
        """No HELO for a promise."""
        yield self.walk_on("5.7.30", replies={"EHLO": [None, "502 no", None, "502 no"]})
        assert "HELO" not in self.servers[0].verbs

    def test_c26_starttls_later(self):
        """454 is temporary."""
        return self.walk_on("4.7.5", starttls="454 4.7.0 later")

    def test_c26_starttls_refused(self):
        """502 is not."""
        return self.walk_on("5.7.10", starttls="502 no")

    def test_c26_handshake_fails(self):
        """The next host; alone 5.7.10."""
        return self.walk_on("5.7.10", break_handshake=True)

    def test_c28_the_keyword_promised_and_refused(self):
        """Never again without it."""
        return self.walk_on("5.7.30", promised=True, replies={"MAIL": ["555 5.5.4 what", "555 5.5.4 what"]})

    @inlineCallbacks
    def test_c14_one_unreachable_host_keeps_the_message(self):
        """MX1 lacks the keyword, MX2 refuses the connection: deferred."""
        self.mx(1, inside=GOOD)
        got = yield self.one(message())
        assert isinstance(got, Postponed) and got.reply.enhanced == "4.4.1"
        assert [cause.step for cause in got.causes] == [Step.REQUIRETLS, Step.CONNECT]

    @inlineCallbacks
    def test_c27_untagged_mail_goes_without(self):
        """No STARTTLS, a failed handshake, a certificate of nobody's: ordinary mail goes on."""
        for options in ({"clear": GOOD}, {"break_handshake": True}, {"files": self.other.host("x.test")}):
            self.manager.close()
            first = self.mx(**options)
            got = yield self.one(message(None))
            assert isinstance(got, Delivered) and got.host == "mx1.there.test", (options, got)
            assert b"REQUIRETLS" not in first.clear + first.tls
            self.drop(first)

    @inlineCallbacks
    def test_c29_later_is_later(self):
        """4xx to MAIL at every host: deferred with that reply."""
        first = self.mx(1, replies={"MAIL": "451 4.3.0 not now"})
        second = self.mx(2, replies={"MAIL": "451 4.3.0 not now"})
        got = yield self.one(message(), approved=[first, second])
        assert isinstance(got, Postponed) and got.reply.enhanced == "4.3.0"

    @inlineCallbacks
    def test_c38_untagged_mail_may_ride_along_never_the_reverse(self):
        """A session good enough for a promise is shared; one in the clear is not."""
        first = self.mx()
        yield self.one(message(), approved=[first])
        yield self.one(message(None), approved=[first])
        assert first.connections == 1 and len(first.messages) == 2
        self.drop(first)
        self.manager.close()
        first = self.mx(inside=GOOD)
        yield self.one(message(None, sender="other@here.test", octets=b"\r\n"), "r@there.test")
        got = yield self.one(message(), "secret-rcpt@one.test")
        assert got.reply.enhanced == "5.7.30" and len(first.messages) == 1

    @inlineCallbacks
    def test_c39_sessions_of_optional_mail_are_its_own(self):
        """What was opened for `TLS-Required: No` carries nothing else."""
        for tag in (None, Tag.REQUIRED):
            self.manager.close()
            first = self.mx()
            yield self.one(message(Tag.OPTIONAL, b"\r\n", sender="other@here.test"), "r@there.test")
            got = yield self.one(message(tag), approved=[first])
            assert isinstance(got, Delivered) and first.connections == 2, (tag, got)
            self.drop(first)

    @inlineCallbacks
    def test_c41_c42_tls_optional(self):
        """TLS is tried first, unverified will do, and none at all."""
        for options in ({"files": self.other.host("x.test")}, {"break_handshake": True}, {"starttls": "454 no"}):
            self.manager.close()
            first = self.mx(**options)
            got = yield self.one(message(Tag.OPTIONAL))
            assert isinstance(got, Delivered), (options, got)
            assert "STARTTLS" in first.verbs
            self.drop(first)

    @inlineCallbacks
    def test_c44_a_server_that_wants_tls_and_cannot(self):
        """530 to MAIL after the handshake failed: the sender is told."""
        self.mx(break_handshake=True, replies={"MAIL": "530 5.7.0 Must issue STARTTLS"})
        got = yield self.one(message(Tag.OPTIONAL))
        assert isinstance(got, Failed) and got.reply.enhanced == "5.7.0"

    @inlineCallbacks
    def test_c47_a_smarthost_by_name(self):
        """`[host]` is a secure look-up; its certificate must bear that name."""
        self.lookup = attrs.evolve(self.lookup, static={"*": parse_route(f"smtp:[mx1.there.test]:{self.number}")})
        self.resolver.status = Status.INSECURE
        first = self.mx()
        assert isinstance((yield self.one(message(), approved=[first])), Delivered)
        self.drop(first)
        self.manager.close()
        self.mx(files=self.good[1])
        assert (yield self.one(message())).reply.enhanced == "5.7.10"

    @inlineCallbacks
    def test_c48_lmtp_over_tcp_is_held_to_it(self):
        """With keyword sent, without 5.7.30; one reply per recipient."""
        self.lookup = attrs.evolve(self.lookup, static={"*": parse_route(f"lmtp:[mx1.there.test]:{self.number}")})
        first = self.mx(lmtp=True, replies={".": ("250 2.0.0 a", "450 4.2.0 b")})
        a, b = yield self.send(message(), "secret-rcpt@a.test", "secret-rcpt2@a.test", approved=[first])
        assert isinstance(a, Delivered) and isinstance(b, Postponed)
        assert "LHLO" in first.verbs and "EHLO" not in first.verbs
        self.drop(first)
        self.manager.close()
        self.mx(lmtp=True, inside=GOOD)
        assert (yield self.one(message())).reply.enhanced == "5.7.30"

    @inlineCallbacks
    def test_c48_a_socket_on_this_machine_is_the_end_of_the_way(self):
        """RFC 8689 4.4: a tagged message goes over a UNIX socket, where there is no TLS and no keyword."""
        path = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, path)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(f"{path}/lmtp")
        listening.listen()
        boxes = FakeMX(listening=listening, lmtp=True, clear=GOOD)
        self.addCleanup(boxes.close)
        self.lookup = attrs.evolve(self.lookup, static={"*": parse_route(f"lmtp:unix:{path}/lmtp")})
        got = yield self.one(message())
        assert isinstance(got, Delivered) and boxes.messages == [OCTETS], got
        assert "STARTTLS" not in boxes.verbs and b"REQUIRETLS" not in boxes.clear

    @inlineCallbacks
    def test_c49_levels(self):
        """opportunistic+starttls wants some TLS; opportunistic and disable take what there is."""
        for level, options, expected in (
            (Level.OPPORTUNISTIC_STARTTLS, {"files": self.other.host("x.test")}, "2.0.0"),
            (Level.OPPORTUNISTIC_STARTTLS, {"clear": GOOD}, "5.7.10"),
            (Level.OPPORTUNISTIC, {"clear": GOOD}, "2.0.0"),
            (Level.DISABLE, {}, "2.0.0"),
        ):
            self.manager.close()
            self.settings = attrs.evolve(self.settings, levels=Policies(levels={"one.test": level}))
            first = self.mx(**options)
            whole = message(sender="other@here.test", octets=b"\r\nx\r\n")
            got = yield self.one(whole, "r@one.test")
            assert got.reply.enhanced == expected, (level, got)
            keyword = b"REQUIRETLS" in first.clear + first.tls
            assert keyword == (level is Level.OPPORTUNISTIC_STARTTLS and expected == "2.0.0")
            self.drop(first)

    @inlineCallbacks
    def test_a_report_of_somebody_elses_is_not_held_back(self):
        """RFC 8689 5: empty reverse path, protected if possible; our own reports, and replies, are held to it."""
        self.mx(clear=GOOD)
        whole = message(sender=None)
        assert isinstance((yield self.one(whole)), Delivered)
        for origin in ("report", "reply"):
            own = attrs.evolve(whole, origin=origin)
            assert (yield self.one(own, "r@one.test")).reply.enhanced == "5.7.10"

    @inlineCallbacks
    def test_a_report_goes_first_where_it_is_protected(self):
        """RFC 8689 5: the second host keeps the promise, so the first is passed over; else the first is taken."""
        first, second = self.mx(1, clear=GOOD), self.mx(2)
        got = yield self.one(message(sender=None))
        assert (got.host, got.security.requiretls) == ("mx2.there.test", True)
        self.drop(second)
        self.manager.close()
        got = yield self.one(message(sender=None))
        assert (got.host, got.security.tls_version) == ("mx1.there.test", None)
        assert len(first.messages) == 1

    @inlineCallbacks
    def test_c32_an_address_literal(self):
        """Only a certificate that bears the address will do for a tag."""
        for files, code in ((self.ca.host(FIRST), "2.0.0"), (self.good[0], "5.7.10")):
            self.manager.close()
            first = self.mx(files=files)
            approved = [first] if code == "2.0.0" else []
            got = yield self.one(message(), f"secret-rcpt@[{FIRST}]", approved=approved)
            assert got.reply.enhanced == code, got
            self.drop(first)

    @inlineCallbacks
    def test_recipients_are_judged_one_by_one(self):
        """Refused ones fail, others are delivered; with all refused nothing is sent, and the session goes on."""
        for keywords in (GOOD, ("8BITMIME",), (*GOOD, "CHUNKING")):
            self.manager.close()
            first = self.mx(inside=keywords, replies={"RCPT": ["250 ok", "550 5.1.1 no", "450 4.2.0 later", "550 no"]})
            got = yield self.send(message(None), "a@there.test", "b@there.test", "c@there.test")
            assert [type(o) for o in got] == [Delivered, Failed, Postponed], keywords
            got = yield self.send(message(None), "d@there.test")
            assert [type(o) for o in got] == [Failed]
            got = yield self.send(message(None), "e@there.test")
            assert [type(o) for o in got] == [Delivered], (keywords, got)
            assert first.messages[0] == first.messages[-1] == OCTETS
            self.drop(first)

    @inlineCallbacks
    def test_octets_arrive_as_they_are(self):
        """Dots at line starts, no CRLF at the end, large: by DATA and by BDAT."""
        for keywords in (GOOD, (*GOOD, "CHUNKING")):
            for octets in (b"\r\n.\r\n..\r\n.x", b"\r\n" + b".line\r\n" * 60_000):
                self.manager.close()
                first = self.mx(inside=keywords)
                got = yield self.one(message(None, octets))
                assert isinstance(got, Delivered)
                whole = octets if "CHUNKING" in keywords or octets.endswith(b"\r\n") else octets + b"\r\n"
                assert first.messages == [whole]
                self.drop(first)

    @inlineCallbacks
    def test_lost_behind_the_final_dot(self):
        """Nobody knows whether it was taken: deferred, and not given to the next host now."""
        first, second = self.mx(1, close="."), self.mx(2)
        got = yield self.one(message(), approved=[first])
        assert isinstance(got, Postponed) and "is not known" in got.reply.text
        assert second.connections == 0
        assert len(first.messages) == 0

    @inlineCallbacks
    def test_lost_before_it(self):
        """Hung up at MAIL: the next host."""
        first, second = self.mx(1, close="MAIL"), self.mx(2)
        got = yield self.one(message(), approved=[first, second])
        assert got.host == "mx2.there.test"

    @inlineCallbacks
    def test_c52_utf8_is_judged_behind_the_promise(self):
        """The host keeps promises but has no SMTPUTF8: the next host; alone 5.6.7; 5.7.30 comes before it."""
        to = "secret-rcpt-ä@there.test"
        first, second = self.mx(1, inside=("8BITMIME", "REQUIRETLS")), self.mx(2)
        got = yield self.one(message(smtputf8=True), to, approved=[second])
        assert isinstance(got, Delivered) and got.host == "mx2.there.test", got
        assert b" SMTPUTF8" in second.tls and first.messages == []
        got = yield self.one(message(smtputf8=True), to.replace("there", "one"), approved=[second])
        assert isinstance(got, Failed) and got.reply.enhanced == "5.6.7", got
        self.drop(first)
        self.manager.close()
        self.mx(1, inside=("8BITMIME",))
        got = yield self.one(message(smtputf8=True), to.replace("there", "one"), approved=[second])
        assert isinstance(got, Failed) and got.reply.enhanced == "5.7.30", got

    @inlineCallbacks
    def test_8bit_and_utf8(self):
        """5.6.3 and 5.6.7 where the host cannot; 7-bit goes as it is; domains as A-labels."""
        self.mx(clear=("PIPELINING",))
        eight = message(None, b"Subject: x\r\n\r\n\xc3\xa4\r\n", body="8BITMIME")
        assert (yield self.one(eight, "r@one.test")).reply.enhanced == "5.6.3"
        undeclared = message(None, b"Subject: x\r\n\r\n\xc3\xa4\r\n")
        assert isinstance((yield self.one(undeclared, "r@one.test")), Delivered)
        assert (yield self.one(message(None), "ä@one.test")).reply.enhanced == "5.6.7"
        seven = message(None, body="8BITMIME", sender="s@bücher.test", smtputf8=True)
        assert isinstance((yield self.one(seven, "r@one.test")), Delivered)
        assert b"MAIL FROM:<s@xn--bcher-kva.test>\r\n" in self.servers[0].clear

    @inlineCallbacks
    def test_permanent_refusals_of_the_sender(self):
        """5xx to MAIL of untagged mail fails at once."""
        first, second = self.mx(1, replies={"MAIL": "550 5.1.8 who"}), self.mx(2)
        got = yield self.one(message(None))
        assert isinstance(got, Failed) and got.reply.enhanced == "5.1.8"
        assert second.connections == 0 and first.connections == 1
