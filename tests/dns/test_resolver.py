"""The stub against scripted name servers, over real sockets."""

import errno
import os
import socket
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import Clock, deferLater
from twisted.trial import unittest

from requiretls_mta.dns.answer import Status
from requiretls_mta.dns.resolver import StubResolver
from requiretls_mta.dns.settings import Settings
from tests.dns.fakes import (
    FakeNameServer,
    Say,
    denial,
    garbage,
    secure,
    wrong_case,
    wrong_id,
    wrong_question,
)

MX = "good.test. 60 IN MX 10 mx.good.test."


class ClockedReactor:
    """Sockets of the real reactor, time of a clock."""

    def __init__(self):
        self.clock = Clock()
        self.callLater = self.clock.callLater
        self.seconds = self.clock.seconds
        self.addReader = reactor.addReader
        self.removeReader = reactor.removeReader
        self.connectTCP = reactor.connectTCP


def sockets():
    """How many sockets this process has open."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            found += os.readlink(link).startswith("socket:")
        except OSError as error:
            assert error.errno == errno.ENOENT
    return found


def unused_port():
    """A port on which nobody listens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def turns():
    """Let real packets arrive."""
    return deferLater(reactor, 0.05, lambda: None)


class ResolverTestCase(unittest.TestCase):
    """One fake server, one stub."""

    timeout = 20

    def setUp(self):
        self.server = FakeNameServer(reactor).start()
        self.addCleanup(self.server.stop)

    def more(self, **options):
        """Another fake server."""
        server = FakeNameServer(reactor, **options).start()
        self.addCleanup(server.stop)
        return server

    def stub(self, *servers, reactor=reactor, **settings):
        """A stub that asks these servers, by default the one of setUp."""
        options = {"trust_ad": True, "timeout": 3.0, **settings}
        addresses = tuple(getattr(s, "address", s) for s in servers or (self.server,))
        resolver = StubResolver(reactor, Settings(servers=addresses, **options))
        self.addCleanup(resolver.close)
        return resolver


class Answers(ResolverTestCase):
    """What the caller is told."""

    async def test_a_secure_answer(self):
        """AD=1 of a server that is believed."""
        self.server.on("good.test.", "MX", secure(MX))
        answer = await self.stub().resolve("Good.test", "MX")
        assert answer.status is Status.SECURE
        assert (answer.name, answer.rdtype, answer.canonical, answer.ttl) == ("good.test.", "MX", "good.test.", 60)
        assert [r.to_text() for r in answer.records] == ["10 mx.good.test."]
        assert answer.server == f"127.0.0.1:{self.server.port}"

    async def test_ad_of_a_stranger_is_nothing(self):
        """AD=1 without trust."""
        self.server.on("good.test.", "MX", secure(MX))
        answer = await self.stub(trust_ad=False).resolve("good.test", "MX")
        assert answer.status is Status.INSECURE

    async def test_an_insecure_answer(self):
        """AD=0."""
        self.server.on("good.test.", "MX", Say(records=(MX,)))
        assert (await self.stub().resolve("good.test", "MX")).status is Status.INSECURE

    async def test_secure_denials(self):
        """AD counts on NXDOMAIN and NODATA too."""
        self.server.on("nx.test.", "MX", denial("NXDOMAIN", ad=True))
        self.server.on("empty.test.", "MX", denial(ad=True))
        stub = self.stub()
        nx = await stub.resolve("nx.test", "MX")
        empty = await stub.resolve("empty.test", "MX")
        assert (nx.rcode, nx.is_secure, nx.exists, nx.ttl) == ("NXDOMAIN", True, False, 300)
        assert (empty.rcode, empty.is_secure, empty.exists, empty.is_failure) == ("NOERROR", True, False, False)

    async def test_bogus_by_extended_error(self):
        """EDE 6 to 12 say that data did not verify; no other server is asked."""
        other = self.more()
        other.on("bad.test.", "MX", Say(records=("bad.test. 60 IN MX 1 mx.test.",)))
        for code in (6, 7, 12):
            self.server.on("bad.test.", "MX", Say(rcode="SERVFAIL", ede=(code,)))
            answer = await self.stub(self.server, other).resolve("bad.test", "MX")
            assert (answer.status, answer.rcode, answer.ede) == (Status.BOGUS, "SERVFAIL", (code,))
        assert other.asked == []

    async def test_bogus_by_asking_unchecked(self):
        """SERVFAIL, but data with CD=1: the server would not vouch for them."""
        self.server.on("bad.test.", "MX", Say(rcode="SERVFAIL"))
        self.server.on_unchecked("bad.test.", "MX", Say(records=("bad.test. 60 IN MX 1 mx.test.",)))
        answer = await self.stub().resolve("bad.test", "MX")
        assert (answer.status, answer.records) == (Status.BOGUS, ())

    async def test_servfail_is_a_failure(self):
        """SERVFAIL with CD=1 as well: nobody knows."""
        self.server.on("bad.test.", "MX", Say(rcode="SERVFAIL", ede=(22,)))
        answer = await self.stub().resolve("bad.test", "MX")
        assert (answer.status, answer.rcode, answer.ede) == (Status.FAILURE, "SERVFAIL", (22,))
        assert "No reachable authority" in answer.detail
        assert [a.checking_disabled for a in self.server.asked] == [False, True]

    async def test_what_is_no_name_fails_without_a_question(self):
        """The caller need not check what strangers wrote."""
        stub = self.stub()
        for name, rdtype in (
            ("a..b", "MX"),
            ("", "MX"),
            ("bücher.test", "A"),
            ("good.test", "NONSENSE"),
            ("good.test", "ANY"),
        ):
            answer = await stub.resolve(name, rdtype)
            assert (answer.status, answer.rcode) == (Status.FAILURE, "MALFORMED")
        assert self.server.asked == []

    async def test_an_endless_alias_is_malformed(self):
        """A loop inside the answer."""
        self.server.on("a.test.", "MX", Say(records=("a.test. 1 IN CNAME b.test.", "b.test. 1 IN CNAME a.test.")))
        assert (await self.stub().resolve("a.test", "MX")).rcode == "MALFORMED"

    async def test_ipv6_servers(self):
        """Over ::1, UDP and TCP."""
        try:
            server = self.more(host="::1")
        except Exception as error:
            raise unittest.SkipTest("no IPv6 here") from error
        server.on("good.test.", "MX", secure(MX, truncated=True))
        answer = await self.stub(server).resolve("good.test", "MX")
        assert answer.is_secure
        assert answer.server == f"[::1]:{server.port}"


class Transports(ResolverTestCase):
    """UDP, TCP, and forged packets between."""

    async def test_truncation_leads_to_tcp(self):
        """The partial reply is forgotten; messages may come in any pieces."""
        big = tuple(f"big.test. 60 IN MX {i} mx{i}.{'x' * 60}.test." for i in range(700))
        for tcp in ("whole", "split", "behind"):
            self.server.on("big.test.", "MX", secure(*big, truncated=True, tcp=tcp))
            answer = await self.stub().resolve("big.test", "MX")
            assert (len(answer.records), answer.is_secure) == (700, True), tcp
        assert [a.transport for a in self.server.asked] == ["udp", "tcp"] * 3

    async def test_tcp_that_fails(self):
        """A hang-up in the middle of the message, or a closed port: no partial answers."""
        self.server.on("good.test.", "MX", Say(records=(MX,), truncated=True, tcp="hangup"))
        answer = await self.stub().resolve("good.test", "MX")
        assert (answer.status, answer.rcode) == (Status.FAILURE, "NETWORK")
        lame = FakeNameServer(reactor).start(tcp=False)
        self.addCleanup(lame.stop)
        lame.on("good.test.", "MX", Say(records=(MX,), truncated=True))
        assert (await self.stub(lame).resolve("good.test", "MX")).rcode == "NETWORK"

    async def test_forged_packets_are_ignored(self):
        """Wrong id, wrong question, nonsense; then the right reply."""
        self.server.on("good.test.", "MX", secure(MX, before=(wrong_id, wrong_question, garbage, lambda q, r: b"")))
        stub = self.stub()
        assert (await stub.resolve("good.test", "MX")).is_secure
        assert stub.unusable == 4
        assert len(self.server.asked) == 1

    async def test_a_flood_of_forged_packets_leads_to_tcp(self):
        """Where somebody guesses that hard, UDP is no place to ask."""
        self.server.on("good.test.", "MX", secure(MX, before=(wrong_id,) * 20))
        assert (await self.stub().resolve("good.test", "MX")).is_secure
        assert [a.transport for a in self.server.asked] == ["udp", "tcp"]

    async def test_only_malformed_replies(self):
        """Told as such, when the time is over."""
        self.server.on("good.test.", "MX", Say(before=(garbage,), garbage_only=True))
        answer = await self.stub(timeout=0.4).resolve("good.test", "MX")
        assert (answer.status, answer.rcode) == (Status.FAILURE, "MALFORMED")

    async def test_random_case_is_demanded_back(self):
        """A reply in other case is not believed by UDP; TCP need not care."""
        self.server.on("averyverylongname.test.", "A", Say(records=("averyverylongname.test. 60 IN A 192.0.2.1",)))
        stub = self.stub(mix_case=True)
        assert (await stub.resolve("averyverylongname.test", "A")).exists
        assert self.server.asked[0].name != "averyverylongname.test."
        self.server.on("good.test.", "MX", Say(records=(MX,), before=(wrong_case,)))
        answer = await stub.resolve("good.test", "MX")
        assert [r.to_text() for r in answer.records] == ["10 mx.good.test."], "the random case stays inside"
        assert [a.transport for a in self.server.asked] == ["udp", "udp", "tcp"]

    async def test_ids_and_ports_differ(self):
        """Each question from a socket of its own."""
        stub = self.stub()
        await gatherResults([stub.resolve(f"n{i}.test", "A") for i in range(50)])
        assert len({a.message.id for a in self.server.asked}) > 40

    async def test_a_server_without_edns(self):
        """FORMERR: asked again without, and from then on."""
        self.server.on("good.test.", "MX", Say(records=(MX,), knows_edns=False))
        stub = self.stub()
        assert (await stub.resolve("good.test", "MX")).exists
        await stub.resolve("other.test", "MX")
        assert [a.edns for a in self.server.asked] == [True, False, False]


class Servers(ResolverTestCase):
    """Several of them, some better than others."""

    def setUp(self):
        super().setUp()
        self.second = self.more()
        self.second.on("good.test.", "MX", secure(MX))

    async def test_refusals_and_failures_lead_to_the_next(self):
        """REFUSED, SERVFAIL, referral: the second one knows."""
        for say in (Say(rcode="REFUSED"), Say(rcode="SERVFAIL"), Say(authority=("test. 60 IN NS ns.test.",))):
            self.server.on("good.test.", "MX", say)
            assert (await self.stub(self.server, self.second).resolve("good.test", "MX")).is_secure

    async def test_the_failure_that_is_told(self):
        """REFUSED only when all refuse."""
        for first, second, rcode in (
            ("REFUSED", "SERVFAIL", "SERVFAIL"),
            ("SERVFAIL", "REFUSED", "SERVFAIL"),
            ("REFUSED", "REFUSED", "REFUSED"),
            ("NOTAUTH", "REFUSED", "NOTAUTH"),
        ):
            self.server.on("bad.test.", "MX", Say(rcode=first))
            self.second.on("bad.test.", "MX", Say(rcode=second))
            answer = await self.stub(self.server, self.second).resolve("bad.test", "MX")
            assert (answer.status, answer.rcode) == (Status.FAILURE, rcode)

    async def test_a_closed_port_costs_no_time(self):
        """ICMP says so at once."""
        closed = ("127.0.0.1", unused_port())
        begun = reactor.seconds()
        assert (await self.stub(closed, self.second).resolve("good.test", "MX")).is_secure
        answer = await self.stub(closed).resolve("good.test", "MX")
        assert (answer.status, answer.rcode) == (Status.FAILURE, "NETWORK")
        assert reactor.seconds() - begun < 1.0

    async def test_a_silent_server_gets_a_third(self):
        """Then the next is asked; and a reply that comes late still counts."""
        clocked = ClockedReactor()
        self.server.otherwise(Say(silent=True))
        stub = self.stub(self.server, self.second, reactor=clocked, timeout=6.0)
        waiting = stub.resolve("good.test", "MX")
        clocked.clock.advance(1.9)
        await turns()
        assert (len(self.server.asked), len(self.second.asked)) == (1, 0)
        clocked.clock.advance(0.2)
        assert (await waiting).is_secure
        await stub.resolve("other.test", "MX")
        assert len(self.server.asked) == 1, "a server that was silent is asked last for a while"

    async def test_a_late_reply_counts(self):
        """The first server is slow, the second silent."""
        clocked = ClockedReactor()
        self.server.on("slow.test.", "MX", secure("slow.test. 60 IN MX 1 mx.test.", delay=0.2))
        self.second.otherwise(Say(silent=True))
        waiting = self.stub(self.server, self.second, reactor=clocked, timeout=6.0).resolve("slow.test", "MX")
        clocked.clock.advance(2.1)
        assert (await waiting).is_secure

    async def test_a_lost_packet_is_sent_again(self):
        """With one server too."""
        clocked = ClockedReactor()
        self.server.on("good.test.", "MX", Say(silent=True), secure(MX))
        waiting = self.stub(reactor=clocked, timeout=6.0).resolve("good.test", "MX")
        await turns()
        clocked.clock.advance(2.0)
        assert (await waiting).is_secure

    async def test_the_time_of_all_together(self):
        """`timeout` is the whole, however many are silent, and no timer or socket is left."""
        before = sockets()
        clocked = ClockedReactor()
        for server in (self.server, self.second):
            server.otherwise(Say(silent=True))
        stub = self.stub(self.server, self.second, reactor=clocked, timeout=6.0)
        waiting = stub.resolve("slow.test", "MX")
        clocked.clock.pump([0.1] * 59)
        self.assertNoResult(waiting)
        clocked.clock.pump([0.1] * 2)
        answer = self.successResultOf(waiting)
        assert (answer.status, answer.rcode) == (Status.FAILURE, "TIMEOUT")
        clocked.clock.advance(0)
        assert clocked.clock.getDelayedCalls() == []
        assert sockets() == before


class Sharing(ResolverTestCase):
    """Cache, coalescing, limits, and the end."""

    async def test_fifty_sessions_ask_once(self):
        """One question for all who want the same; 49 go away, the last one gets the answer."""
        self.server.on("good.test.", "MX", secure(MX, delay=0.05))
        stub = self.stub()
        waiting = [stub.resolve("GOOD.test", "MX") for _ in range(50)]
        for waiter in waiting[:49]:
            waiter.cancel()
            self.failureResultOf(waiter, CancelledError)
        assert (await waiting[49]).is_secure
        assert self.server.count("good.test.", "MX") == 1

    async def test_when_all_have_gone_nobody_asks(self):
        """The sockets close with the last waiter; who comes after asks anew."""
        self.server.on("good.test.", "MX", Say(silent=True), secure(MX))
        stub = self.stub()
        before = sockets()
        waiting = [stub.resolve("good.test", "MX") for _ in range(3)]
        await turns()
        for waiter in waiting:
            waiter.cancel()
            self.failureResultOf(waiter, CancelledError)
        await turns()
        assert sockets() == before
        assert (await stub.resolve("good.test", "MX")).is_secure

    async def test_cancelling_inside_an_answer(self):
        """A waiter that gives up the others while it is told."""
        self.server.on("good.test.", "MX", secure(MX))
        stub = self.stub()
        first, second = stub.resolve("good.test", "MX"), stub.resolve("good.test", "MX")
        told = Deferred()
        first.addCallback(lambda _: second.cancel()).addBoth(told.callback)
        await told
        self.failureResultOf(second, CancelledError)

    async def test_answers_are_kept_for_their_ttl(self):
        """TTL 60 for 60 seconds, SERVFAIL for 15, TTL 0 not at all."""
        clocked = ClockedReactor()
        stub = self.stub(reactor=clocked)
        self.server.on("good.test.", "MX", secure(MX))
        self.server.on("zero.test.", "A", Say(records=("zero.test. 0 IN A 192.0.2.1",)))
        self.server.on("bad.test.", "A", Say(rcode="SERVFAIL", ede=(6,)))
        names = (("good.test.", "MX"), ("zero.test.", "A"), ("bad.test.", "A"))
        for step, counts in ((0, (1, 1, 1)), (1, (1, 2, 1)), (15, (1, 3, 2)), (43, (1, 4, 3)), (2, (2, 5, 3))):
            clocked.clock.advance(step)
            for name in names:
                await stub.resolve(*name)
            assert tuple(self.server.count(*name) for name in names) == counts

    async def test_too_many_at_once(self):
        """Those beyond the limit fail at once, and are not kept as failures."""
        self.server.on("a.test.", "A", Say(silent=True))
        self.server.on("b.test.", "A", Say(records=("b.test. 60 IN A 192.0.2.1",)))
        stub = self.stub(in_flight=1)
        first = stub.resolve("a.test", "A")
        answer = self.successResultOf(stub.resolve("b.test", "A"))
        assert (answer.status, answer.rcode) == (Status.FAILURE, "NETWORK")
        first.cancel()
        self.failureResultOf(first, CancelledError)
        assert (await stub.resolve("b.test", "A")).exists

    async def test_strangers_leave_some_to_others(self):
        """What checks ask is chosen by whoever connects; mail is still delivered when all of that hangs."""
        for name in ("a.test.", "b.test."):
            self.server.on(name, "A", Say(silent=True))
        self.server.on("c.test.", "A", Say(records=("c.test. 60 IN A 192.0.2.1",)))
        stub = self.stub(in_flight=2, reserved=1)
        waiting = [stub.for_strangers.resolve("a.test", "A"), stub.for_strangers.resolve("a.test", "A")]
        answer = self.successResultOf(stub.for_strangers.resolve("b.test", "A"))
        assert (answer.status, answer.rcode) == (Status.FAILURE, "NETWORK")
        assert (await stub.resolve("c.test", "A")).exists
        assert (await stub.for_strangers.resolve("c.test", "A")).exists  # known by now
        for one in waiting:
            one.cancel()
            self.failureResultOf(one, CancelledError)

    async def test_no_sockets_left_to_open(self):
        """Out of descriptors is a failure of the look-up, not of the program."""
        self.patch(socket, "socket", lambda *_: (_ for _ in ()).throw(OSError(errno.EMFILE, "Too many open files")))
        answer = await self.stub().resolve("good.test", "MX")
        assert (answer.status, answer.rcode) == (Status.FAILURE, "NETWORK")
        assert "Too many open files" in answer.detail

    async def test_close(self):
        """Who waits is answered, by UDP and TCP; afterwards nothing is open, and nothing is asked."""
        before = sockets()
        self.server.on("udp.test.", "MX", Say(silent=True))
        self.server.on("tcp.test.", "MX", Say(truncated=True, delay=0.01, tcp="never"))
        stub = self.stub()
        waiting = [stub.resolve("udp.test", "MX"), stub.resolve("tcp.test", "MX")]
        await turns()
        assert self.server.asked[-1].transport == "tcp"
        await stub.close()
        for waiter in waiting:
            assert self.successResultOf(waiter).rcode == "NETWORK"
        assert self.successResultOf(stub.resolve("good.test", "MX")).detail == "the resolver is closed"
        await turns()
        assert sockets() == before
