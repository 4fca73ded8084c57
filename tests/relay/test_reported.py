"""From real sessions to what is observed and reported: the event `tls` as its subscribers understand it."""

import attrs
from twisted.internet.defer import inlineCallbacks

from requiretls_mta.message.envelope import Tag
from requiretls_mta.relay.route import NoPolicy
from requiretls_mta.relay.static_routes import parse_route
from requiretls_mta.report.observation import host_of, observed
from requiretls_mta.report.tlsrpt_session import Policy, Session, session_of
from tests.relay.test_policies import ONE, SERVFAIL, OfPolicies, ee
from tests.relay.walking import FIRST, message
from tests.smtp.fake_mx import GOOD

MX = "mx1.there.test"


class Reported(OfPolicies):
    """What the last session comes to."""

    def session(self):
        return session_of(self.told(), 0.0)

    def known(self):
        """Feature to its value; False for what is missing."""
        return {name: s.current or False for name, s in observed(self.told(), 1.0).sightings.items()}

    def failed(self, result, policy, reason, *, connected=True):
        """The session failed in this way."""
        session = self.session()
        assert (session.domain, session.policy) == ("one.test", policy)
        places = ("127.0.0.1", MX, FIRST) if connected else ("", MX, "")
        found = attrs.astuple(session.failure)
        assert found[:4] == (result, *places) and reason in found[4], found

    @inlineCallbacks
    def test_dane(self):
        """That holds, and that does not; known by the TLSA base domain, told to whom the mail is for."""
        good = ee(self.good[0])
        self.publish(1, good)
        self.mx()
        yield self.untagged()
        assert host_of(self.told()) == ("one.test", MX)
        assert self.session() == Session(0, "one.test", Policy("tlsa", MX, (good,)), None)
        assert self.known() == {
            "starttls": "yes",
            "requiretls": "yes",
            "tls_version": "TLSv1.3",
            "auth": "dane-ee",
            "dnssec": "yes",
            "dane": "usable",
        }
        other = ee(self.good[1])
        self.publish(1, other)
        yield self.untagged()
        self.failed("certificate-not-trusted", Policy("tlsa", MX, (other,)), "TLSA")
        assert self.known()["auth"] is False

    @inlineCallbacks
    def test_records_that_cannot_be_had(self):
        """A host that was passed over: nothing of it was seen, but why it was."""
        self.resolver.table[f"_{self.number}._tcp.{MX}", "TLSA"] = SERVFAIL
        self.mx()
        yield self.untagged()
        self.failed("dnssec-invalid", Policy("tlsa", MX), "", connected=False)
        assert self.known() == {"dnssec": "yes"}

    @inlineCallbacks
    def test_mta_sts(self):
        """The policy's text and patterns; a host that it does not list; one that cannot be had."""
        self.unsigned()
        self.policy("enforce", MX)
        self.mx()
        yield self.untagged()
        policy = Policy("sts", "one.test", ("mode: enforce",), (MX,))
        assert self.session() == Session(0, "one.test", policy, None)
        assert (self.known()["mta_sts"], self.known()["dnssec"], self.known()["dane"]) == ("enforce", False, False)
        self.policy("enforce", "x.test")
        yield self.untagged()
        self.failed(
            "validation-failure", attrs.evolve(policy, mx=("x.test",)), "does not list the host", connected=False
        )
        self.manager.close()
        self.policies.table = {"one.test": NoPolicy(problem="no good", result="sts-webpki-invalid", temporary=True)}
        yield self.untagged()
        self.failed("sts-webpki-invalid", Policy("sts", "one.test"), "no good")

    @inlineCallbacks
    def test_no_policy(self):
        """TLS is a success, whoever it is with; the lack of it is a failure, though the mail went."""
        self.unsigned()
        server = self.mx(files=self.other.host("x.test"), inside=GOOD)
        yield self.untagged()
        policy = Policy("no-policy-found", "one.test")
        assert self.session() == Session(0, "one.test", policy, None)
        assert (self.known()["auth"], self.known()["requiretls"]) == (False, False)
        self.drop(server)
        self.manager.close()
        self.mx(clear=GOOD)
        yield self.untagged()
        self.failed("starttls-not-supported", policy, "")
        assert self.known()["starttls"] is False and "tls_version" not in self.known()

    @inlineCallbacks
    def test_who_waived_tls_is_not_told_of(self):
        """No policy was asked for, so none was broken; what the host offers is seen all the same."""
        self.publish(1, ee(self.good[1]))
        self.mx()
        yield self.one(message(Tag.OPTIONAL), ONE)
        assert self.session() is None
        assert "dane" not in self.known() and self.known()["requiretls"] == "yes"

    @inlineCallbacks
    def test_a_smarthost_is_told_of_itself(self):
        """RFC 8460 1.1; a configured host is nobody's business."""
        self.lookup = attrs.evolve(self.lookup, static={"*": parse_route(f"smtp:one.test:{self.number}")})
        self.publish(1, ee(self.good[0]))
        self.mx()
        yield self.untagged("r@elsewhere.test")
        assert self.session().domain == "one.test" and host_of(self.told()) == ("elsewhere.test", MX)
        self.manager.close()
        self.lookup = attrs.evolve(self.lookup, static={"*": parse_route(f"smtp:[{MX}]:{self.number}")})
        yield self.untagged("r@elsewhere.test")
        assert self.told()["mx"] == MX and self.session() is None

    @inlineCallbacks
    def test_failures_have_a_type_of_the_standard(self):
        """As long as they are of TLS at all."""
        self.unsigned()
        self.policy("testing", MX)
        policy = Policy("sts", "one.test", ("mode: testing",), (MX,))
        for options, result in (
            ({"files": self.ca.host("x.test")}, "certificate-host-mismatch"),
            ({"files": self.ca.expired(MX)}, "certificate-expired"),
            ({"break_handshake": True}, "validation-failure"),
        ):
            server = self.mx(**options)
            yield self.untagged()
            self.failed(result, policy, "")
            self.drop(server)
            self.manager.close()
