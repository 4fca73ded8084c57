"""The whitelist check through the real resolver, against a scripted name server; scenarios by number."""

import socket
from collections import Counter

import dns.message
import dns.rdatatype
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater
from twisted.trial import unittest

from requiretls_mta.checks.dnswl import DNSWLCheck
from requiretls_mta.checks.dnswl_rules import ListSettings, client_of, judge, query_name, selftest_names
from requiretls_mta.checks.interfaces import Client, Subject, Tools
from requiretls_mta.dns import wire
from requiretls_mta.dns.answer import Answer, Status
from requiretls_mta.dns.resolver import StubResolver
from requiretls_mta.dns.settings import Settings
from requiretls_mta.message.authres import AuthenticationResults, write
from tests.checks.fakes import RecordedEvents
from tests.dns.fakes import FakeNameServer, Say, denial, garbage, rrsets, secure, wrong_case, wrong_id, wrong_question

ZONE = "list.dnswl.example"
LIST = ListSettings(zone=ZONE, display_zone=ZONE)
NAMES = selftest_names(ZONE)
HERE = f"dns.zone={ZONE} dns.sec=na"
LISTED = f"dnswl=pass {HERE} policy.ip=127.0.0.2"
SOA = f"{ZONE}. 300 IN SOA ns.{ZONE}. h.{ZONE}. 1 7200 900 1209600 300"


def name(client="192.0.2.1"):
    return query_name(client_of(client), ZONE)


def a(*codes, ttl=60, **more):
    return Say(records=tuple(f"{name()} {ttl} IN A {code}" for code in codes), **more)


def txt(text, **more):
    return Say(records=(f'{name()} 60 IN TXT "{text}"',), **more)


class Ahead:
    """The reactor in the future, for those who look at the clock."""

    ahead = 0.0

    def __getattr__(self, name):
        return getattr(reactor, name)

    def seconds(self):
        return reactor.seconds() + self.ahead


class WhitelistTestCase(unittest.TestCase):
    """One list on one server, or several that serve the same."""

    timeout = 20

    def setUp(self):
        self.servers = []
        self.server = self.more()
        self.events = RecordedEvents()

    def more(self, **options):
        server = FakeNameServer(reactor).start(**options)
        self.addCleanup(server.stop)
        server.otherwise(denial("NXDOMAIN", soa=SOA))
        server.on(NAMES.listed, "A", Say(records=(f"{NAMES.listed} 60 IN A 127.0.0.2",)))
        self.servers.append(server)
        return server

    def check(self, clock=reactor, **settings):
        stub = StubResolver(
            clock, Settings(servers=tuple(s.address for s in self.servers), **{"timeout": 2.0} | settings)
        )
        self.addCleanup(stub.close)
        tools = Tools(clock=reactor, resolver=stub, events=self.events, settings={"dnswl": (LIST,)}.get)
        check = DNSWLCheck(tools)
        check.startService()
        self.addCleanup(check.stopService)
        return check

    async def ask(self, check, client="192.0.2.1"):
        verdict = await check.begin(Subject(client=Client(session="s1", address=client)))
        field = write(AuthenticationResults("mta.example.org", verdict.results)).decode().replace("\r\n", "")
        return field.partition("; ")[2]

    async def says(self, expected, **settings):
        found = await self.ask(self.check(**settings))
        assert found == expected, found


class Answers(WhitelistTestCase):
    """What comes over the wire, and what it comes to."""

    async def test_7_a_mapped_client_is_asked_as_ipv4(self):
        """The server has heard of exactly these names."""
        self.server.on(name(), "A", a("127.0.0.2"))
        check = self.check()
        assert await self.ask(check, "::ffff:192.0.2.1") == LISTED
        assert Counter((q.name, q.rdtype) for q in self.server.asked) == Counter(
            [
                (name(), "A"),
                (name(), "TXT"),
                (".", "SOA"),
                (NAMES.listed, "A"),
                (NAMES.unlisted, "A"),
                (NAMES.unlisted_v6, "A"),
            ]
        )

    async def test_8_servfail(self):
        """Temporary."""
        self.server.on(name(), "A", Say(rcode="SERVFAIL"))
        await self.says(f"dnswl=temperror reason=servfail {HERE}")

    async def test_9_no_reply(self):
        """Temporary, as soon as the resolver gives up."""
        self.server.on(name(), "A", Say(silent=True))
        await self.says(f"dnswl=temperror reason=timeout {HERE}", timeout=0.3)

    async def test_10_refused(self):
        """By all servers: the list does not want us."""
        self.server.on(name(), "A", Say(rcode="REFUSED"))
        await self.says(f"dnswl=permerror reason=refused {HERE}")

    async def test_11_refused_by_one(self):
        """Another one may answer."""
        self.server.on(name(), "A", Say(rcode="REFUSED"))
        self.more().on(name(), "A", a("127.0.0.2"))
        await self.says(LISTED)

    async def test_12_refused_by_one_and_broken_at_the_other(self):
        """Nobody knows."""
        self.server.on(name(), "A", Say(rcode="REFUSED"))
        self.more().on(name(), "A", Say(rcode="SERVFAIL"))
        await self.says(f"dnswl=temperror reason=servfail {HERE}")

    async def test_50_51_52_53_55_dnssec(self):
        """AD counts from a server that is believed, and that has shown by the root that it validates."""
        self.server.on(".", "SOA", secure(". 60 IN SOA a. b. 1 1 1 1 1"))
        cases = [
            (True, secure(*a("127.0.0.2").records), txt("a.example", ad=True), "pass", "yes"),
            (True, secure(*a("127.0.0.2").records), txt("a.example"), "pass", "no"),
            (True, a("127.0.0.2"), txt("a.example", ad=True), "pass", "no"),
            (True, denial("NXDOMAIN", soa=SOA, ad=True), denial("NXDOMAIN", soa=SOA, ad=True), "none", "yes"),
            (False, secure(*a("127.0.0.2").records), txt("a.example", ad=True), "pass", "na"),
        ]
        for trust, a_says, txt_says, result, sec in cases:
            self.server.on(name(), "A", a_says)
            self.server.on(name(), "TXT", txt_says)
            found = await self.ask(self.check(trust_ad=trust))
            assert found.startswith(f"dnswl={result} dns.zone={ZONE} dns.sec={sec}"), (found, trust, result, sec)

    async def test_56_57_58_extended_errors(self):
        """Bogus, over quota, and somebody who filters."""
        cases = [
            (Say(rcode="SERVFAIL", ede=(6,)), f"dnswl=temperror reason=bogus {HERE}"),
            (Say(rcode="SERVFAIL", ede=(32,)), f"dnswl=permerror reason=over-quota {HERE}"),
            (Say(rcode="REFUSED", ede=(32,)), f"dnswl=permerror reason=over-quota {HERE}"),
            (a("127.0.0.2", ede=(17,)), f"dnswl=permerror reason=filtered {HERE}"),
            (denial("NXDOMAIN", soa=SOA, ede=(15,)), f"dnswl=permerror reason=filtered {HERE}"),
        ]
        for say, expected in cases:
            self.server.on(name(), "A", say)
            await self.says(expected)

    async def test_59_truncated(self):
        """The rest comes by TCP, or not at all."""
        self.server.on(name(), "A", a("127.0.0.2", truncated=True))
        await self.says(LISTED)
        self.servers = []
        self.more(tcp=False).on(name(), "A", a("127.0.0.2", truncated=True))
        assert "dnswl=temperror" in await self.ask(self.check())

    async def test_60_without_edns(self):
        """A server that knows no EDNS is asked without it from then on."""
        self.server.on(name(), "A", a("127.0.0.2", knows_edns=False))
        check = self.check()
        assert await self.ask(check) == LISTED
        await self.ask(check, "192.0.2.77")
        assert not any(q.edns for q in self.server.asked if q.name == name("192.0.2.77"))

    async def test_61_62_packets_that_are_no_reply(self):
        """Garbage, another id, another question, other letter case: the right one still comes."""
        self.server.on(name(), "A", a("127.0.0.2", before=(garbage, wrong_id, wrong_question, wrong_case)))
        await self.says(LISTED, mix_case=True)

    async def test_62_a_reply_from_another_port(self):
        """Right in everything but whence it comes."""

        def stray(query, reply):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                assert other.sendto(reply.replace(b"\x7f\0\0\2", b"\x7f\0\0\3"), self.server.peer)
            return garbage(query, reply)

        self.server.on(name(), "A", a("127.0.0.2", before=(stray,)))
        await self.says(LISTED)

    async def test_63_only_malformed_replies(self):
        """Not a denial."""
        self.server.on(name(), "A", a("127.0.0.2", before=(garbage,), garbage_only=True))
        await self.says(f"dnswl=temperror reason=malformed {HERE}", timeout=0.3)

    async def test_64_aliases(self):
        """Followed, but not for ever."""
        alias = f"{name()} 60 IN CNAME x.example."
        self.server.on(name(), "A", Say(records=(alias, "x.example. 60 IN A 127.0.0.2")))
        await self.says(LISTED)
        self.server.on(name(), "A", Say(records=(alias, f"x.example. 60 IN CNAME {name()}")))
        await self.says(f"dnswl=temperror reason=malformed {HERE}")
        self.server.on(name(), "A", Say(rcode="NXDOMAIN", records=(alias,), authority=(SOA,)))
        await self.says(f"dnswl=none {HERE}")

    async def test_65_records_that_were_not_asked_for(self):
        """Another type, another owner: nothing."""
        for record in (f"{name()} 60 IN AAAA ::1", "other.example. 60 IN A 127.0.0.2"):
            self.server.on(name(), "A", Say(records=(record,), authority=(SOA,)))
            await self.says(f"dnswl=none {HERE}")

    async def test_66_time_to_live(self):
        """Asked again for each message with a TTL of 0, else when it is over: answers at 61 s, denials at 300 s."""
        clock = Ahead()
        check = self.check(clock)
        denied = f"dnswl=none {HERE}"
        self.server.on(name(), "A", a("127.0.0.2", ttl=60), denial("NXDOMAIN", soa=SOA), a("127.0.0.3", ttl=0))
        self.server.on(name(), "TXT", denial(soa=SOA))  # NXDOMAIN would be one for A too
        told = []
        for seconds in (0, 59, 61, 360, 362):
            clock.ahead = seconds
            told.append(await self.ask(check))
        changed = LISTED.replace("127.0.0.2", "127.0.0.3")
        assert told == [LISTED, LISTED, denied, denied, changed], told

    async def test_66_no_time_to_live(self):
        """Kept for as long as it says, so not at all with 0."""
        for ttl, times in ((0, 2), (60, 1)):
            self.server.asked.clear()
            self.server.on(name(), "A", a("127.0.0.2", ttl=ttl))
            self.server.on(name(), "TXT", denial(soa=SOA))
            check = self.check()
            assert [await self.ask(check), await self.ask(check)] == [LISTED, LISTED]
            assert self.server.count(name(), "A") == times

    async def test_67_fifty_sessions_of_one_client(self):
        """One question each for A and TXT, and the last who waits is still answered."""
        self.server.on(name(), "A", a("127.0.0.2", delay=0.3))
        check = self.check()
        waiting = [check.begin(Subject(client=Client(session="s1", address="192.0.2.1"))) for _ in range(50)]
        for one in waiting[:49]:
            one.addErrback(lambda _: None).cancel()
        await gatherResults(waiting[:49])
        (verdict,) = await gatherResults(waiting[49:])
        assert verdict.results[0].result == "pass"
        assert (self.server.count(name(), "A"), self.server.count(name(), "TXT")) == (1, 1)

    async def test_86_a_reply_behind_the_end(self):
        """Nobody is disturbed by it."""
        self.server.on(name(), "A", a("127.0.0.2", delay=0.1))
        one = self.check().begin(Subject(client=Client(session="s1", address="192.0.2.1")))
        one.addErrback(lambda _: None).cancel()
        await deferLater(reactor, 0.2, lambda: None)


QUERY = wire.build(wire.parse_name(name()), dns.rdatatype.A, id=77)


def reply(*records):

    made = dns.message.make_response(dns.message.from_wire(QUERY.wire), recursion_available=True)
    made.answer.extend(rrsets(records))
    return made.to_wire()


GOOD = reply(f"{name()} 60 IN A 127.0.0.2", f"{name()} 60 IN A 127.0.0.3")


@given(st.lists(st.tuples(st.integers(12, len(GOOD) - 1), st.integers(0, 255)), max_size=4), st.binary(max_size=20))
def test_88_replies_with_flipped_octets(changes, tail):
    """Never an exception, and never a pass without a code of 127/8 at the name that was asked for."""
    octets = bytearray(GOOD)
    for place, octet in changes:
        octets[place] = octet
    read = wire.read(QUERY, bytes(octets) + tail)
    if isinstance(read, wire.Unusable) or read.problem or read.rcode not in ("NOERROR", "NXDOMAIN"):
        return
    found = judge(
        Answer(name=name(), rdtype="A", status=Status.INSECURE, rcode=read.rcode, records=read.records, ede=read.ede),
        LIST,
    )
    if found.result == "pass":
        assert found.codes
        assert all(code.packed[0] == 127 and code.packed in bytes(octets) for code in found.codes)
