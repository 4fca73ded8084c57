"""What `explain` says, held against what the relay then does; and what it says to servers, octet by octet."""

import random

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks

from requiretls_mta.dns.answer import Status
from requiretls_mta.message.address import parse_mailbox
from requiretls_mta.message.outcome import Delivered, Step
from requiretls_mta.relay.explain import explain
from requiretls_mta.relay.explanation import Prospect
from requiretls_mta.relay.lookup import RouteFinder
from requiretls_mta.relay.route import NoPolicy
from requiretls_mta.relay.static_routes import parse_route
from requiretls_mta.smtp.login import Login
from requiretls_mta.tls.policy import Level, Policies
from tests.relay.fakes import FakePolicy
from tests.relay.test_policies import SERVFAIL, OfPolicies, ee, ta
from tests.relay.walking import message
from tests.smtp.fake_mx import GOOD

ONE = "secret-rcpt@one.test"
BOTH = "secret-rcpt@there.test"


class Explaining(OfPolicies):
    """Explains, then sends, to the same servers."""

    def explain(self, to=BOTH, **options):
        finder = RouteFinder(self.resolver, lambda: self.lookup, random.Random(1), self.policies)
        return explain(reactor, parse_mailbox(to), finder=finder, settings=self.settings, events=self.events, **options)

    @inlineCallbacks
    def both(self, to=BOTH):
        """The explanation, after the relay was seen to do as it says, in the same words."""
        for server in self.servers:
            server.verbs.clear()
        said = yield self.explain(to)
        for server in self.servers:
            assert set(server.verbs) <= {"EHLO", "STARTTLS", "QUIT"}, server.verbs
        got = yield self.one(message(), to, approved=self.servers)
        if isinstance(got, Delivered):
            assert (said.prospect, said.status, said.reply) == (Prospect.DELIVERABLE, "2.0.0", None), (said, got)
            chosen = said.chosen
            assert (chosen.host.name, chosen.proved and chosen.proved.auth, chosen.tls and chosen.tls.version) == (
                got.host,
                got.security.auth,
                got.security.tls_version,
            )
            assert said.mx_security.value == got.security.mx_security
        else:
            assert str(said.reply) == str(got.reply), (said, got)
            expected = Prospect.TEMPORARY if got.reply.is_temporary else Prospect.UNDELIVERABLE
            assert said.prospect is expected
        return said

    def failing(self, said, place=0):
        return [step.step.value for step in said.visits[place].steps if not step.ok and step.reached]


class Scenarios(Explaining):
    """One each, most of them client scenarios of REQUIRETLS."""

    @inlineCallbacks
    def test_everything_holds(self):
        """Both hosts are met, in the order of the walk, though the first would do."""
        self.mx(1), self.mx(2)
        said = yield self.both()
        assert [(v.host.name, v.host.preference, v.address) for v in said.visits] == [
            ("mx1.there.test", 10, "127.0.0.31"),
            ("mx2.there.test", 20, "127.0.0.32"),
        ]
        first = said.visits[0]
        assert [step.step.value for step in first.steps] == [
            "lookup",
            "connect",
            "starttls",
            "authenticate",
            "requiretls",
        ]
        assert all(step.ok and step.detail and step.clause for step in first.steps)
        assert (first.prospect, first.proved.auth, first.waived) == (Prospect.DELIVERABLE, "pkix", None)
        assert first.certificates[0].names == ("mx1.there.test",)
        assert "Lab Root CA" in first.certificates[0].issuer

    @inlineCallbacks
    def test_what_it_says_to_servers(self):
        """EHLO, STARTTLS, EHLO, QUIT, and nothing else, to whoever would take the message and to whoever would not."""
        first, second = self.mx(1), self.mx(2, inside=GOOD)
        yield self.explain()
        for server in (first, second):
            assert (server.clear, server.tls) == (b"EHLO here.test\r\nSTARTTLS\r\n", b"EHLO here.test\r\nQUIT\r\n")
            assert (server.connections, server.messages) == (1, [])

    @inlineCallbacks
    def test_each_way_to_fail(self):
        """The step, the words and the code are those of the report."""
        files = self.good[0]
        for options, step in (
            ({"inside": GOOD}, "requiretls"),
            ({"clear": ("STARTTLS", "REQUIRETLS"), "inside": GOOD}, "requiretls"),
            ({"clear": GOOD}, "starttls"),
            ({"starttls": "502 no"}, "starttls"),
            ({"starttls": "454 later"}, "starttls"),
            ({"break_handshake": True}, "starttls"),
            ({"behind": b"250 REQUIRETLS\r\n"}, "starttls"),
            ({"files": self.other.host("mx1.there.test")}, "authenticate"),
            ({"files": self.ca.host("there.test", "one.test")}, "authenticate"),
            ({"files": self.ca.expired("mx1.there.test")}, "authenticate"),
            ({"files": self.ca.common_name_only("mx1.there.test")}, "authenticate"),
            ({"greeting": "554 no"}, "connect"),
            ({"greeting": "421 later"}, "connect"),
            ({"greeting": "nonsense"}, "connect"),
            ({"close": "EHLO"}, "connect"),
            ({"replies": {"EHLO": "502 no"}}, "starttls"),
            ({"replies": {"EHLO": [None, "502 no", None, "502 no"]}}, "requiretls"),
        ):
            self.manager.close()
            server = self.mx(1, **{"files": files, **options})
            said = yield self.both(ONE)
            assert self.failing(said)[0] == step, (options, said)
            (visit,) = said.visits
            assert visit.cause.step.value == step
            self.drop(server)

    @inlineCallbacks
    def test_nobody_is_there(self):
        """Temporary; what could not be reached says so."""
        said = yield self.both(ONE)
        (visit,) = said.visits
        assert (visit.prospect, visit.cause.detail) == (Prospect.TEMPORARY, "connection refused")
        assert [step.reached for step in visit.steps] == [True, True, False, False, False]

    @inlineCallbacks
    def test_one_fault_does_not_hide_the_next(self):
        """No secure look-up, another's certificate, no keyword: all three are told; the code is that of the first."""
        self.unsigned()
        self.mx(1, files=self.other.host("x.test"), inside=GOOD)
        said = yield self.explain(ONE)
        assert self.failing(said) == ["lookup", "authenticate", "requiretls"]
        assert (said.status, said.visits[0].cause.step, said.mx_security.value) == ("5.7.10", Step.LOOKUP, "none")
        assert said.visits[0].tls.version == "TLSv1.3"
        yield self.both(ONE)

    @inlineCallbacks
    def test_temporary_and_definite(self):
        """One host that cannot be reached keeps the message; the walk's order is that of the causes."""
        self.mx(1, inside=GOOD)
        said = yield self.both()
        assert [v.prospect for v in said.visits] == [Prospect.UNDELIVERABLE, Prospect.TEMPORARY]
        assert (said.prospect, said.status) == (Prospect.TEMPORARY, "4.4.1")

    @inlineCallbacks
    def test_dane(self):
        """Which record matched, which did not count, and why."""
        odd = self.other.expired("x.test")
        wrong, unusable = "3 1 1 " + "00" * 32, "1 1 1 " + "11" * 32
        self.publish(1, wrong, ee(odd), unusable)
        self.mx(1, files=odd)
        said = yield self.both(ONE)
        (visit,) = said.visits
        assert visit.proved.auth == "dane-ee" and "TLSA 3 1 1" in visit.steps[3].detail
        checked = {c.record: (c.matches, c.detail) for c in visit.tlsa}
        assert checked[ee(odd)] == (True, "")
        assert checked[wrong] == (False, "no TLSA record matches what the host presented")
        assert checked[unusable][1].startswith("unusable: usage 1")
        assert visit.certificates[0].spki_sha256 == ee(odd)[6:]

    @inlineCallbacks
    def test_dane_says_no(self):
        """Wrong digest, wrong name below the anchor, nothing usable, no answer."""
        below = self.other.intermediate()
        for records, files, status, step in (
            ([ee(self.good[1])], self.good[0], "5.7.10", "authenticate"),
            ([ta(below)], below.host("x.test"), "5.7.10", "authenticate"),
            ([ta(below)], below.host("one.test"), "2.0.0", None),
            (["1 1 1 " + "00" * 32], self.good[0], "5.7.10", "authenticate"),
            (SERVFAIL, self.good[0], "4.7.5", "lookup"),
        ):
            self.manager.close()
            self.publish(1, *records) if isinstance(records, list) else self.resolver.table.__setitem__(
                (f"_{self.number}._tcp.mx1.there.test", "TLSA"), records
            )
            server = self.mx(1, files=files)
            said = yield self.both(ONE)
            assert (said.status, next(iter(self.failing(said)), None)) == (status, step), said
            self.drop(server)

    @inlineCallbacks
    def test_mta_sts(self):
        """A policy vouches, does not list the host, or cannot be had."""
        self.unsigned()
        self.mx(1), self.mx(2)
        for policy, status, security in (
            (FakePolicy("enforce", "mx2.there.test"), "2.0.0", "mta-sts"),
            (FakePolicy("enforce", "mx.elsewhere.test"), "5.7.10", "none"),
            (FakePolicy("testing", "mx1.there.test"), "5.7.10", "none"),
            (NoPolicy(problem="HTTP status 500", result="sts-policy-fetch-error", temporary=True), "4.7.5", "none"),
        ):
            self.manager.close()
            self.policies.table = {"there.test": policy}
            said = yield self.both()
            assert (said.status, said.mx_security.value) == (status, security), said
        assert "HTTP status 500" in said.visits[0].steps[0].detail

    @inlineCallbacks
    def test_a_newer_policy(self):
        """Looked for before anything is called undeliverable, as the relay does (RFC 8461 5.1)."""
        self.unsigned()
        self.policy("enforce", "mx.elsewhere.test", newer=FakePolicy("enforce", "mx1.there.test"))
        self.mx(1)
        said = yield self.both(ONE)
        assert (said.status, said.mx_security.value) == ("2.0.0", "mta-sts")

    @inlineCallbacks
    def test_what_the_operator_lets_pass(self):
        """The steps are RFC 8689's; the verdict is ours, and names what was waived."""
        for level, options, waived in (
            (Level.OPPORTUNISTIC_STARTTLS, {"inside": GOOD, "files": self.other.host("x.test")}, "authenticate"),
            (Level.OPPORTUNISTIC, {"clear": GOOD}, "starttls"),
            (Level.OPPORTUNISTIC, {"break_handshake": True}, "starttls"),
            (Level.DISABLE, {"inside": GOOD}, "requiretls"),
        ):
            self.manager.close()
            self.settings = attrs.evolve(self.settings, levels=Policies(Level.ENFORCE, {"one.test": level}))
            server = self.mx(1, **options)
            said = yield self.explain(ONE)
            assert said.prospect is Prospect.DELIVERABLE and said.level is level
            assert said.visits[0].waived.step.value == waived == self.failing(said)[0]
            # Octets in the clear are what the operator asked for.
            (got,) = yield self.send(message(), ONE, judged=False)
            assert isinstance(got, Delivered), (level, options, got)
            self.drop(server)

    @inlineCallbacks
    def test_a_login_that_could_not_be_used(self):
        """Without authenticated TLS it is not even tried: temporary, as the relay has it; and never tried here."""
        self.settings = attrs.evolve(
            self.settings,
            levels=Policies(Level.OPPORTUNISTIC_STARTTLS),
            logins={"mx1.there.test": Login("me", b"password")},
        )
        server = self.mx(1, inside=(*GOOD, "REQUIRETLS", "AUTH PLAIN"), files=self.other.host("x.test"))
        said = yield self.both(ONE)
        assert said.prospect is Prospect.TEMPORARY and said.visits[0].logs_in
        self.drop(server)
        self.manager.close()
        server = self.mx(1, inside=(*GOOD, "REQUIRETLS", "AUTH PLAIN"))
        said = yield self.explain(ONE)
        assert said.prospect is Prospect.DELIVERABLE and "AUTH" not in server.verbs

    @inlineCallbacks
    def test_several_addresses(self):
        """Each is met; one good one is enough, and a definite no outweighs one that cannot be reached."""
        self.resolver.table["mx1.there.test", "A"] = ["127.0.0.32", "127.0.0.31"]
        server = self.mx(1)
        said = yield self.both(ONE)
        assert [v.prospect for v in said.visits] == [Prospect.TEMPORARY, Prospect.DELIVERABLE]
        self.drop(server)
        self.manager.close()
        self.mx(1, inside=GOOD)
        said = yield self.both(ONE)
        assert said.status == "5.7.30"

    @inlineCallbacks
    def test_no_hosts_at_all(self):
        """Null MX, no such domain, bogus, no address: as the relay says it."""
        table = self.resolver.table
        table["null.test", "MX"] = ["0 ."]
        table["gone.test", "MX"] = {"status": Status.SECURE, "rcode": "NXDOMAIN"}
        table["bad.test", "MX"] = {"status": Status.BOGUS, "rcode": "SERVFAIL"}
        table["empty.test", "MX"] = ["10 nowhere.test."]
        for domain, status, security in (
            ("null.test", "5.1.10", "dnssec"),
            ("gone.test", "5.1.2", "dnssec"),
            ("bad.test", "4.7.5", "none"),
            ("empty.test", "5.4.4", "dnssec"),
        ):
            said = yield self.both(f"secret-rcpt@{domain}")
            assert (said.status, said.mx_security.value) == (status, security), said
        (visit,) = said.visits
        assert visit.address is None and self.failing(said) == ["lookup"]

    @inlineCallbacks
    def test_the_domain_itself_is_the_host(self):
        """RFC 5321 5.1: signed that it has no MX records."""
        self.resolver.table["mx1.there.test", "MX"] = []
        self.mx(1)
        said = yield self.both("secret-rcpt@mx1.there.test")
        assert said.route.implicit and said.status == "2.0.0"
        assert "no MX records" in said.visits[0].steps[0].detail

    @inlineCallbacks
    def test_where_nothing_is_looked_up(self):
        """A configured host, and an address literal."""
        self.lookup = attrs.evolve(
            self.lookup, static={"routed.test": parse_route(f"smtp:[mx1.there.test]:{self.number}")}
        )
        self.mx(1, files=self.ca.host("mx1.there.test", "127.0.0.31"))
        for to in ("secret-rcpt@routed.test", "secret-rcpt@[127.0.0.31]"):
            said = yield self.both(to)
            assert (said.status, said.mx_security.value) == ("2.0.0", "not-applicable")
            assert "nothing to look up" in said.visits[0].steps[0].detail

    @inlineCallbacks
    def test_tls_from_the_first_octet(self):
        """smtps: routes."""
        self.lookup = attrs.evolve(self.lookup, static={"*": parse_route(f"smtps:[mx1.there.test]:{self.number}")})
        self.mx(1, implicit=True)
        said = yield self.both(ONE)
        assert said.status == "2.0.0"

    @inlineCallbacks
    def test_a_local_socket(self):
        """Nobody is connected to: nothing has to be proved (RFC 8689 4.4)."""
        self.lookup = attrs.evolve(self.lookup, static={"*": parse_route("lmtp:unix:/nowhere/lmtp")})
        said = yield self.explain(ONE)
        assert (said.is_local, said.status, said.visits) == (True, "2.0.0", ())
        assert said.mx_security.value == "not-applicable"

    @inlineCallbacks
    def test_it_ends_in_time(self):
        """A host that never greets is temporary, its session ended; the others are told as they are."""
        self.settings = attrs.evolve(self.settings, timeouts=attrs.evolve(self.settings.timeouts, handshake=60))
        self.mx(1, stall=True), self.mx(2)
        said = yield self.explain(deadline=0.5)
        assert [v.prospect for v in said.visits] == [Prospect.TEMPORARY, Prospect.DELIVERABLE]
        assert "0.5 seconds" in said.visits[0].cause.detail

    @inlineCallbacks
    def test_name_servers_that_are_silent(self):
        """Temporary, for the domain as for a host."""
        answer = self.resolver.resolve

        def resolve(name, rdtype):
            return Deferred() if name == silent else answer(name, rdtype)

        self.resolver.resolve = resolve
        self.mx(2)
        silent = "there.test"
        said = yield self.explain(deadline=0.2)
        assert (said.status, said.visits) == ("4.4.3", ())
        silent = "mx1.there.test"
        said = yield self.explain(deadline=0.2)
        assert [v.prospect for v in said.visits] == [Prospect.TEMPORARY, Prospect.DELIVERABLE]
        assert self.failing(said) == ["lookup"]

    def test_few_connections_at_a_time(self):
        """Many addresses of many hosts: ten at once, all of them in the end, told in the order of the walk."""
        addresses = [f"127.0.0.{number}" for number in range(100, 110)]
        for place in (1, 2):
            self.resolver.table[f"mx{place}.there.test", "A"] = addresses
        waiting = []

        def connect(host, address, settings):
            waiting.append(Deferred())
            return waiting[-1]

        done = self.explain(connect=connect)
        while waiting:
            waiting.pop(0).errback(OSError("no"))
            assert len(waiting) <= 10
        said = self.successResultOf(done)
        assert [v.address for v in said.visits] == addresses * 2

    @inlineCallbacks
    def test_what_is_observed(self):
        """Each session is told by the event of ordinary mail, without a queue id."""
        self.mx(1), self.mx(2, inside=GOOD)
        yield self.explain()
        told = {event["mx"]: event for event in self.events.of("tls")}
        assert [told[f"mx{n}.there.test"]["keyword"] for n in (1, 2)] == [True, False]
        assert {event["queue_id"] for event in told.values()} == {""}
