"""DANE and MTA-STS on the walk: what the recipient's domain publishes binds every message that does not waive it."""

import hashlib

import attrs
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.internet.defer import inlineCallbacks

from requiretls_mta.dns.answer import Status
from requiretls_mta.message.envelope import Tag
from requiretls_mta.message.outcome import Deferred, Delivered, Failed
from requiretls_mta.relay.route import NoPolicy
from requiretls_mta.relay.static_routes import parse_route
from requiretls_mta.tls.policy import Level, Policies
from tests.relay.fakes import FakePolicy
from tests.relay.walking import Walking, message
from tests.smtp.fake_mx import GOOD

SERVFAIL = {"status": Status.FAILURE, "rcode": "SERVFAIL"}
ONE = "secret-rcpt@one.test"


def ee(files):
    """The record that is recommended."""
    info = files.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"3 1 1 {hashlib.sha256(info).hexdigest()}"


def ta(ca, matching=1):
    octets = ca.certificate.public_bytes(Encoding.DER)
    return f"2 0 {matching} {hashlib.sha256(octets).hexdigest() if matching else octets.hex()}"


class OfPolicies(Walking):
    """Both hosts are found by signed MX records, unless a test says otherwise."""

    def publish(self, place, *records):
        self.resolver.table[f"_{self.number}._tcp.mx{place}.there.test", "TLSA"] = list(records)

    def unsigned(self):
        """Only the addresses of the hosts are signed."""
        for domain in ("there.test", "one.test"):
            self.resolver.resolve(domain, "MX").addCallback(self._insecurely, domain)

    def _insecurely(self, answer, domain):
        self.resolver.table[domain, "MX"] = {
            "status": Status.INSECURE,
            "rcode": "NOERROR",
            "records": answer.records,
        }

    def policy(self, mode, *mx, newer=None, domains=("there.test", "one.test")):
        self.policies.table = {domain: FakePolicy(mode, *mx) for domain in domains}
        self.policies.newer = newer

    def told(self):
        return self.events.of("tls")[-1]

    @inlineCallbacks
    def untagged(self, to="r@one.test"):
        got = yield self.one(message(None, sender="other@here.test", octets=b"\r\nx\r\n"), to)
        return got


class DANE(OfPolicies):
    """RFC 7672, for tagged and for untagged mail."""

    @inlineCallbacks
    def test_c03_the_record_alone_authenticates(self):
        """Self-signed by nobody who is trusted, expired, another's name."""
        odd = self.other.expired("x.test")
        self.publish(1, ee(odd))
        first = self.mx(files=odd)
        got = yield self.one(message(), approved=[first])
        assert isinstance(got, Delivered) and got.host == "mx1.there.test", got
        assert (got.security.auth, got.security.mx_security, got.security.requiretls) == ("dane-ee", "dnssec", True)
        told = self.told()
        assert (told["dane"], told["auth"], told["policy_type"], told["result"]) == ("usable", "dane-ee", "tlsa", None)
        assert told["policy_strings"] == (ee(odd),) and told["policy_domain"] == "mx1.there.test"

    @inlineCallbacks
    def test_c04_a_trust_anchor_needs_a_name(self):
        """The MX host's or the domain's; with another the next host, and alone 5.7.10."""
        below = self.other.intermediate()
        for names, good in ((["mx1.there.test"], True), (["one.test"], True), (["x.test"], False)):
            self.manager.close()
            self.publish(1, ta(below))
            first = self.mx(files=below.host(*names))
            got = yield self.one(message(), ONE, approved=[first] if good else [])
            assert (got.reply.enhanced, got.security and got.security.auth) == (
                ("2.0.0", "dane-ta") if good else ("5.7.10", None)
            ), (names, got)
            self.drop(first)
        assert self.told()["result"] == "certificate-host-mismatch"

    @inlineCallbacks
    def test_a_session_is_worth_what_it_proves_to_each_domain(self):
        """The name of one domain in the certificate says nothing to mail for the other: no ride on its session."""
        self.publish(1, ta(self.other, 0))
        first = self.mx(files=self.other.host("one.test"))
        assert isinstance((yield self.one(message(), ONE, approved=[first])), Delivered)
        got = yield self.one(message(), "secret-rcpt@there.test", approved=[first])
        assert isinstance(got, Deferred) and [c.step.value for c in got.causes] == ["authenticate", "connect"]
        assert len(first.messages) == 1 and first.connections == 2

    @inlineCallbacks
    def test_records_that_changed_are_heeded_by_the_next_message(self):
        """A kept session is judged anew by the records of the day."""
        self.publish(1, ee(self.good[0]))
        first = self.mx()
        assert isinstance((yield self.untagged()), Delivered)
        self.publish(1, "3 1 1 " + "00" * 32)
        assert (yield self.untagged()).reply.enhanced == "4.7.5"
        self.publish(1)
        assert isinstance((yield self.untagged()), Delivered)
        assert len(first.messages) == 2

    @inlineCallbacks
    def test_no_match_stops_all_mail(self):
        """Tagged 5.7.10, untagged later, for a host that PKIX would believe; whoever waived TLS passes (C41)."""
        self.publish(1, ee(self.good[1]))
        first = self.mx()
        got = yield self.one(message(), ONE)
        assert isinstance(got, Failed) and got.reply.enhanced == "5.7.10" and "TLSA" in got.reply.text
        got = yield self.untagged()
        assert isinstance(got, Deferred) and got.reply.enhanced == "4.7.5"
        assert self.told()["result"] == "certificate-not-trusted"
        assert not first.messages and b"MAIL" not in first.tls + first.clear
        assert isinstance((yield self.one(message(Tag.OPTIONAL), ONE)), Delivered)
        assert self.told()["policy_type"] is None

    @inlineCallbacks
    def test_no_match_at_one_host_is_a_match_at_the_next(self):
        """The walk goes on, for untagged mail too."""
        self.publish(1, ee(self.good[1]))
        self.publish(2, ee(self.good[1]))
        first, second = self.mx(1), self.mx(2)
        got = yield self.one(message(), approved=[second])
        assert got.host == "mx2.there.test" and isinstance(got, Delivered)
        assert (yield self.untagged("r@there.test")).host == "mx2.there.test"
        assert not first.messages

    @inlineCallbacks
    def test_no_tls_stops_all_mail(self):
        """RFC 7672 2.2: not in the clear, however TLS was lost, whether a record can be used or not."""
        for records in ([ee(self.good[0])], ["1 1 1 " + "00" * 32]):
            self.publish(1, *records)
            for options in ({"clear": GOOD}, {"starttls": "502 no"}, {"starttls": "454 no"}, {"break_handshake": True}):
                self.manager.close()
                first = self.mx(**options)
                got = yield self.untagged()
                assert isinstance(got, Deferred) and got.reply.enhanced == "4.7.5", (options, got)
                assert b"MAIL" not in first.clear + first.tls
                self.drop(first)
        first = self.mx(clear=GOOD)
        assert isinstance((yield self.one(message(Tag.OPTIONAL), ONE)), Delivered)

    @inlineCallbacks
    def test_c16_records_that_cannot_be_looked_up(self):
        """Not connected to, deferred as 4.7.5, tagged or not; the next host is tried; C43: not even asked for."""
        name = f"_{self.number}._tcp.mx1.there.test", "TLSA"
        self.resolver.table[name] = SERVFAIL
        first = self.mx(1)
        for whole in (message(), message(None)):
            got = yield self.one(whole, ONE)
            assert isinstance(got, Deferred) and got.reply.enhanced == "4.7.5", got
        assert first.connections == 0
        told = self.told()
        assert (told["dane"], told["result"], told["address"]) == ("unknown", "dnssec-invalid", None)
        second = self.mx(2)
        assert (yield self.one(message(), approved=[second])).host == "mx2.there.test"
        self.resolver.asked.clear()
        assert isinstance((yield self.one(message(Tag.OPTIONAL), ONE)), Delivered)
        assert name not in self.resolver.asked

    @inlineCallbacks
    def test_c17_an_unsigned_host_is_not_asked_about(self):
        """Its TLSA records would not count, and its name servers may choke on them."""
        self.resolver.table["mx1.there.test", "A"] = {
            "status": Status.INSECURE,
            "rcode": "NOERROR",
            "records": (yield self.resolver.resolve("mx1.there.test", "A")).records,
        }
        name = f"_{self.number}._tcp.mx1.there.test", "TLSA"
        self.resolver.table["mx1.there.test", "AAAA"] = {"status": Status.INSECURE, "rcode": "NOERROR"}
        self.resolver.table[name] = SERVFAIL
        first = self.mx()
        got = yield self.one(message(), ONE, approved=[first])
        assert got.security.auth == "pkix" and name not in self.resolver.asked
        self.unsigned()
        self.policy("enforce", "mx1.there.test")
        got = yield self.one(message(), ONE, approved=[first])
        assert (got.security.auth, got.security.mx_security) == ("pkix", "mta-sts")

    @inlineCallbacks
    def test_c18_nothing_usable(self):
        """TLS for untagged mail; for a tag not enough, unless MTA-STS and PKIX vouch for the host."""
        self.publish(1, "1 1 1 " + "00" * 32, "3 1 9 00")
        first = self.mx()
        got = yield self.one(message(), ONE)
        assert isinstance(got, Failed) and got.reply.enhanced == "5.7.10", got
        assert isinstance((yield self.untagged()), Delivered)
        told = self.told()
        assert (told["dane"], told["policy_type"], told["result"]) == ("unusable", "tlsa", "tlsa-invalid")
        assert "usage 1" in told["detail"]
        self.policy("enforce", "mx1.there.test")
        got = yield self.one(message(), ONE, approved=[first])
        assert isinstance(got, Delivered) and got.security.auth == "pkix"
        self.manager.close()
        self.policies.table = {"one.test": NoPolicy(problem="the web is down", temporary=True)}
        assert (yield self.one(message(), ONE, approved=[first])).reply.enhanced == "4.7.5"

    @inlineCallbacks
    def test_c06_an_unsigned_mx_is_not_mended_by_its_host(self):
        """Half DANE: not even connected to for a tag; enforced for what goes without (RFC 7672 2.2.1)."""
        self.unsigned()
        self.publish(1, ee(self.good[1]))
        first = self.mx()
        got = yield self.one(message(), ONE)
        assert isinstance(got, Failed) and got.reply.enhanced == "5.7.10" and first.connections == 0
        assert (yield self.untagged()).reply.enhanced == "4.7.5"
        self.publish(1, ee(self.good[0]))
        got = yield self.untagged()
        assert (got.security.auth, got.security.mx_security) == ("dane-ee", "none")

    @inlineCallbacks
    def test_the_name_asked_for_is_the_base_domain(self):
        """RFC 7672 8.1: SNI for a host that is an alias."""
        records = (yield self.resolver.resolve("mx1.there.test", "A")).records
        end = {"status": Status.SECURE, "rcode": "NOERROR", "records": records, "canonical": "end.test."}
        self.resolver.table["mx1.there.test", "A"] = end
        self.resolver.table[f"_{self.number}._tcp.end.test", "TLSA"] = [ta(self.other, 0)]
        first = self.mx(files=self.other.host("end.test"))
        got = yield self.one(message(), ONE, approved=[first])
        assert got.security.auth == "dane-ta" and first.server_names == ["end.test"]

    @inlineCallbacks
    def test_a_configured_host_has_records_too(self):
        """RFC 7672 2.2.2: a `[host]` route, at its port."""
        self.lookup = attrs.evolve(self.lookup, static={"*": parse_route(f"smtp:[mx1.there.test]:{self.number}")})
        self.publish(1, ee(self.other.host("mx1.there.test")))
        first = self.mx()
        assert (yield self.one(message(), ONE)).reply.enhanced == "5.7.10"
        self.lookup = attrs.evolve(self.lookup, dane=False)
        got = yield self.one(message(), ONE, approved=[first])
        assert (got.security.auth, got.security.mx_security) == ("pkix", "not-applicable")

    @inlineCallbacks
    def test_levels_do_not_weaken_what_the_domain_wants(self):
        """`disable` makes ordinary mail of a tagged one, and ordinary mail is held to DANE."""
        self.publish(1, ee(self.good[1]))
        self.mx()
        for level in (Level.OPPORTUNISTIC_STARTTLS, Level.OPPORTUNISTIC, Level.DISABLE):
            self.settings = attrs.evolve(self.settings, levels=Policies(default=level))
            got = yield self.one(message(), ONE)
            assert isinstance(got, Deferred) and got.reply.enhanced == "4.7.5", (level, got)


class STS(OfPolicies):
    """RFC 8461, for tagged and for untagged mail."""

    def setUp(self):
        super().setUp()
        self.unsigned()

    @inlineCallbacks
    def test_c02_a_policy_vouches(self):
        """Unsigned MX, listed, PKIX."""
        self.policy("enforce", "mx1.there.test")
        first = self.mx()
        got = yield self.one(message(), ONE, approved=[first])
        assert (got.security.auth, got.security.mx_security, got.security.requiretls) == ("pkix", "mta-sts", True)
        told = self.told()
        assert (told["policy_type"], told["sts_mode"], told["policy_domain"]) == ("sts", "enforce", "one.test")
        assert told["policy_mx"] == ("mx1.there.test",) and told["policy_strings"] == ("mode: enforce",)

    @inlineCallbacks
    def test_c30_a_policy_may_list_the_domain_itself(self):
        """No MX records, and nothing signed: 5.7.10, unless the policy lists the domain's own name."""
        self.resolver.table["alone.test", "MX"] = {"status": Status.INSECURE, "rcode": "NOERROR"}
        self.resolver.table["alone.test", "A"] = self.resolver.table["mx1.there.test", "A"]
        first, to = self.mx(files=self.ca.host("alone.test")), "secret-rcpt@alone.test"
        assert (yield self.one(message(), to)).reply.enhanced == "5.7.10"
        self.policy("enforce", "alone.test", domains=("alone.test",))
        got = yield self.one(message(), to, approved=[first])
        assert isinstance(got, Delivered) and got.security.mx_security == "mta-sts", got

    @inlineCallbacks
    def test_c07_only_one_that_is_enforced(self):
        """Testing and none do not vouch; testing does where the operator says so."""
        first = self.mx()
        for mode in ("testing", "none"):
            self.policy(mode, "mx1.there.test")
            assert (yield self.one(message(), ONE)).reply.enhanced == "5.7.10"
        assert first.connections == 0
        self.lookup = attrs.evolve(self.lookup, testing_vouches=True)
        self.policy("testing", "mx1.there.test")
        got = yield self.one(message(), ONE, approved=[first])
        assert isinstance(got, Delivered) and got.security.mx_security == "mta-sts"

    @inlineCallbacks
    def test_c08_host_by_host(self):
        """MX1 is not listed: not connected to, tagged or not; MX2 is."""
        self.policy("enforce", "mx2.there.test")
        first, second = self.mx(1), self.mx(2)
        assert (yield self.one(message(), approved=[second])).host == "mx2.there.test"
        assert (yield self.untagged("r@there.test")).host == "mx2.there.test"
        assert isinstance((yield self.untagged()), Deferred) and first.connections == 0
        told = self.told()
        assert (told["mx"], told["result"], told["address"]) == ("mx1.there.test", "validation-failure", None)
        assert (yield self.one(message(), ONE, approved=[second])).reply.enhanced == "5.7.10"

    @inlineCallbacks
    def test_enforced_for_untagged_mail(self):
        """No TLS, a bad certificate: later. In testing mode it only is told. C41: TLS-optional mail goes."""
        for options, result in (
            ({"clear": GOOD}, "starttls-not-supported"),
            ({"break_handshake": True}, "validation-failure"),
            ({"files": self.other.host("mx1.there.test")}, "certificate-not-trusted"),
            ({"files": self.ca.host("x.test")}, "certificate-host-mismatch"),
            ({"files": self.ca.expired("mx1.there.test")}, "certificate-expired"),
        ):
            for mode, kind in (("enforce", Deferred), ("testing", Delivered), ("none", Delivered)):
                self.manager.close()
                self.policy(mode, "mx1.there.test")
                first = self.mx(**options)
                got = yield self.untagged()
                assert isinstance(got, kind), (options, mode, got)
                if mode != "none":
                    assert (self.told()["result"], self.told()["sts_mode"]) == (result, mode)
                self.drop(first)
            self.policy("enforce", "mx1.there.test")
            first = self.mx(**options)
            assert isinstance((yield self.one(message(Tag.OPTIONAL), ONE)), Delivered)
            assert self.policies.asked.count("one.test") % 3 == 0
            self.drop(first)

    @inlineCallbacks
    def test_a_policy_that_cannot_be_had(self):
        """Announced, but not to be fetched: a tag waits, untagged mail does not (RFC 8461 3.3)."""
        self.policies.table = {"one.test": NoPolicy(problem="x", result="sts-webpki-invalid", temporary=True)}
        self.mx()
        got = yield self.one(message(), ONE)
        assert isinstance(got, Deferred) and got.reply.enhanced == "4.7.5", got
        assert self.told()["result"] == "sts-webpki-invalid"
        assert isinstance((yield self.untagged()), Delivered)
        assert (self.told()["policy_type"], self.told()["result"]) == ("sts", "sts-webpki-invalid")

    @inlineCallbacks
    def test_c51_a_newer_policy_is_looked_for_first(self):
        """RFC 8461 5.1 (3): before a tagged message fails for good; what it fails of then is told."""
        self.policy("enforce", "old.test", newer=FakePolicy("enforce", "mx1.there.test"))
        first = self.mx()
        assert isinstance((yield self.one(message(), ONE, approved=[first])), Delivered)
        self.policies.newer = NoPolicy()
        got = yield self.one(message(), ONE, approved=[first])
        assert isinstance(got, Failed) and "neither DNSSEC nor" in got.reply.text
        self.policies.newer = None
        assert "does not list the host" in (yield self.one(message(), ONE, approved=[first])).reply.text

    @inlineCallbacks
    def test_dane_comes_first(self):
        """RFC 8461 2: what fails DANE no policy mends. DANE alone is enough where the MX records are signed."""
        self.publish(1, ee(self.good[1]))
        self.policy("enforce", "mx1.there.test")
        first = self.mx()
        assert (yield self.one(message(), ONE)).reply.enhanced == "5.7.10"
        assert isinstance((yield self.untagged()), Deferred)
        self.publish(1, ee(self.good[0]))
        got = yield self.one(message(), ONE, approved=[first])
        assert (got.security.auth, got.security.mx_security) == ("dane-ee", "mta-sts")
        self.policy("enforce", "elsewhere.test")
        assert (yield self.one(message(), ONE, approved=[first])).reply.enhanced == "5.7.10"
        assert isinstance((yield self.untagged()), Deferred)
        self.resolver.table["one.test", "MX"] = ["10 mx1.there.test."]
        got = yield self.one(message(), ONE, approved=[first])
        assert (got.security.auth, got.security.mx_security) == ("dane-ee", "dnssec")


class Relaxed(OfPolicies):
    """What the operator lets pass is told each time."""

    def waived(self):
        return [(e["mx"], e["policy"], e["step"]) for e in self.events.of("policy")]

    @inlineCallbacks
    def test_a_promise_that_was_relaxed_is_told(self):
        """By a level, or by a policy in testing mode; once per delivery, and never for what RFC 8689 lets pass."""
        first = self.mx(inside=GOOD)
        self.settings = attrs.evolve(self.settings, levels=Policies(default=Level.OPPORTUNISTIC))
        assert isinstance((yield self.one(message(), ONE, judged=False)), Delivered)
        assert self.waived() == [("mx1.there.test", "opportunistic", "requiretls")]
        assert isinstance((yield self.one(message(None), "r@one.test", approved=[first])), Delivered)
        assert isinstance((yield self.one(message(Tag.OPTIONAL), "r@one.test", approved=[first])), Delivered)
        self.drop(first)
        self.manager.close()
        self.settings = attrs.evolve(self.settings, levels=Policies())
        first = self.mx()
        assert isinstance((yield self.one(message(), ONE, approved=[first])), Delivered)
        assert len(self.waived()) == 1
        self.unsigned()
        self.lookup = attrs.evolve(self.lookup, testing_vouches=True)
        self.policy("testing", "mx1.there.test")
        assert isinstance((yield self.one(message(), ONE, approved=[first])), Delivered)
        assert self.waived()[1:] == [("mx1.there.test", "enforce", "lookup")]
