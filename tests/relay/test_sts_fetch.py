"""Policies over real HTTPS on loopback: the good ones arrive, and nothing a host does gets any other through."""

import random
import shutil
import ssl
import tempfile
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.internet.tcp import Connection
from twisted.trial.unittest import TestCase

from requiretls_mta.dns.answer import Status
from requiretls_mta.relay import sts_fetch
from requiretls_mta.relay.sts_fetch import FetchFailure, PolicyHosts
from requiretls_mta.tls.client import client_context
from requiretls_mta.tls.mta_sts import MOST_OCTETS
from tests.lab.ca import CA, DAY
from tests.lab.https import Page, PolicyServer, policy
from tests.relay.fakes import FakeResolver

GOOD = policy("mx.a.test")
SERVFAIL = {"status": Status.FAILURE, "rcode": "SERVFAIL", "detail": "the server failed"}


class Fetching(TestCase):
    timeout = 20

    def setUp(self):
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        self.ca, self.other = CA(folder / "ca"), CA(folder / "other", "Other Root")
        self.server = PolicyServer("127.0.0.61", 0, self.ca)
        self.addCleanup(self.server.close)
        self.resolver = FakeResolver({("mta-sts.a.test", "A"): ["127.0.0.61"]})
        self.context = client_context(str(self.ca.roots))
        self.hosts = PolicyHosts(reactor, self.resolver, lambda: self.context, port=self.server.port)
        self.addCleanup(self.quiet)

    @inlineCallbacks
    def quiet(self):
        """Until no connection and no timer is left, but for the one of this very test."""
        while len(reactor.getDelayedCalls()) > 1 or any(isinstance(r, Connection) for r in reactor.getReaders()):
            turn = Deferred()
            reactor.callLater(0.01, turn.callback, None)
            yield turn

    def fetch(self, body=GOOD, **options):
        self.server.serve("a.test", body, **options)
        return self.hosts.fetch("a.test")

    @inlineCallbacks
    def assert_fails(self, result, words, body=GOOD, **options):
        found = yield self.fetch(body, **options)
        assert isinstance(found, FetchFailure), found
        assert (found.result, found.asked) == (result, True), found
        assert words in found.detail, found
        assert found.detail.isprintable()

    @inlineCallbacks
    def test_a_policy_is_fetched(self):
        """GET of the well-known path; the name in SNI and Host; no cookie, and nothing that could be cached."""
        found = yield self.fetch()
        assert found == GOOD
        ((name, request),) = self.server.requests
        line, *headers = request.decode().rstrip().split("\r\n")
        assert line == "GET /.well-known/mta-sts.txt HTTP/1.1"
        assert name == "mta-sts.a.test"
        assert sorted(headers) == ["Connection: close", "Host: mta-sts.a.test", "User-Agent: requiretls-mta"]

    @inlineCallbacks
    def test_ways_to_say_the_same(self):
        """Chunks, the end of the connection in TLS, LF, parameters of the media type, a wildcard in the certificate."""
        for options in (
            {"framing": "chunked"},
            {"framing": "close"},
            {"media_type": "TEXT/Plain"},
            {"media_type": "text/plain ;charset=latin1; x=y"},
            {"files": self.ca.host("*.a.test")},
            {"files": self.ca.intermediate().host("x.test", "mta-sts.a.test")},
            {"body": GOOD * (MOST_OCTETS // len(GOOD))},
        ):
            body = options.pop("body", GOOD)
            found = yield self.fetch(body, **options)
            assert found == body, (options, found)

    @inlineCallbacks
    def test_only_a_good_certificate_is_told_what_we_want(self):
        """RFC 8461 3.3: trusted, in time, with the policy host's DNS-ID; else not even the request is sent."""
        for files, words in (
            (self.ca.host("a.test"), "does not bear the name mta-sts.a.test"),
            (self.ca.host("x.mta-sts.a.test"), "does not bear the name"),
            (self.ca.host("*.test"), "does not bear the name"),
            (self.ca.host("127.0.0.61"), "does not bear the name"),
            (self.ca.common_name_only("mta-sts.a.test"), "does not bear the name"),
            (self.ca.expired("mta-sts.a.test"), "expired"),
            (self.ca.host("mta-sts.a.test", valid_from=DAY, valid_to=2 * DAY), "not yet valid"),
            (self.other.host("mta-sts.a.test"), "unable to get local issuer certificate"),
        ):
            yield self.assert_fails("sts-webpki-invalid", words, files=files)
        assert self.server.requests == []

    @inlineCallbacks
    def test_roots_are_those_of_now(self):
        """A reload of `relay.trust` counts from the next fetch on."""
        files = self.other.host("mta-sts.a.test")
        yield self.assert_fails("sts-webpki-invalid", "issuer", files=files)
        self.context = client_context(str(self.other.roots))
        found = yield self.fetch(files=files)
        assert found == GOOD

    @inlineCallbacks
    def test_old_tls_is_none(self):
        """TLS 1.2 at least."""
        self.server.only = ssl.TLSVersion.TLSv1_1
        yield self.assert_fails("sts-policy-fetch-error", "handshake")
        self.server.only = ssl.TLSVersion.TLSv1_2
        found = yield self.fetch()
        assert found == GOOD

    @inlineCallbacks
    def test_only_200_counts_and_nothing_is_followed(self):
        """RFC 8461 3.3: redirects MUST NOT be followed."""
        for status in ("301 Moved", "302 Found", "307 Moved", "204 No Content", "206 Partial", "404 No", "500 Oh"):
            headers = ["Location: https://mta-sts.a.test/.well-known/mta-sts.txt", "Set-Cookie: a=b"]
            yield self.assert_fails("sts-policy-fetch-error", status[:3], status=status, headers=headers)
        assert len(self.server.requests) == 7

    @inlineCallbacks
    def test_only_plain_text_counts(self):
        """RFC 8461 3.2: pages that users may put there are no policies."""
        for media_type in ("text/html", "text/plainer", "application/octet-stream", "", None):
            yield self.assert_fails("sts-policy-fetch-error", "media type", media_type=media_type)
        yield self.assert_fails("sts-policy-fetch-error", "media type", headers=["Content-Type: text/html"])

    @inlineCallbacks
    def test_too_much_is_none(self):
        """64 KiB of policy, and not much more of anything else: header fields, chunks, interim responses."""
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
        yield self.assert_fails("sts-policy-fetch-error", "octets", b"x" * (MOST_OCTETS + 1))
        yield self.assert_fails("sts-policy-fetch-error", "octets", b"x" * 10_000_000)
        yield self.assert_fails("sts-policy-fetch-error", "octets", raw=head + b"X: y\r\n" * 200_000)
        yield self.assert_fails("sts-policy-fetch-error", "octets", raw=b"HTTP/1.1 102 Wait\r\n\r\n" * 50_000)
        yield self.assert_fails(
            "sts-policy-fetch-error",
            "octets",
            raw=head + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 50_000,
        )

    @inlineCallbacks
    def test_what_breaks_off_is_none(self):
        """A policy cut short may lack its last hosts."""
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
        for raw in (
            b"",
            head,
            head + b"Content-Length: 1000\r\n\r\n" + GOOD,
            head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(GOOD), GOOD),
        ):
            yield self.assert_fails("sts-policy-fetch-error", "", raw=raw)
        yield self.assert_fails("sts-policy-fetch-error", "broke off", framing="cut")

    @inlineCallbacks
    def test_nonsense_is_none_and_troubles_nobody(self):
        """No traceback in the log: the host wrote it, not we."""
        for raw in (
            b"\x00" * 100,
            b"220 mx.a.test ESMTP\r\n",
            b"HTTP/1.1 two OK\r\n\r\n",
            b"HTTP/9.9 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\n: \r\n \r\n\r\n",
            b"HTTP/1.1 200 OK" + b"x" * 30_000,
        ):
            yield self.assert_fails("sts-policy-fetch-error", "", raw=raw)
        assert self.flushLoggedErrors() == []

    @inlineCallbacks
    def test_damaged_responses_end_and_trouble_nobody(self):
        """Good responses with octets lost, doubled or changed: octets or a failure, and no traceback."""
        rng, files = random.Random(8461), self.ca.host("mta-sts.a.test")
        kinds = [Page(body=GOOD, framing=framing).octets() for framing in ("length", "chunked", "close")]
        for number in range(150):
            raw = bytearray(kinds[number % 3])
            for _ in range(rng.randrange(1, 4)):
                start = rng.randrange(len(raw))
                end = min(len(raw), start + rng.randrange(9))
                raw[start:end] = rng.choice([b"", bytes(raw[start:end]) * 2, rng.randbytes(end - start), b"\r\n", b":"])
            found = yield self.fetch(raw=bytes(raw), files=files, framing="close")
            assert isinstance(found, FetchFailure | bytes), (raw, found)
        assert self.flushLoggedErrors() == []

    @inlineCallbacks
    def test_a_slow_host_ends_in_time(self):
        """One deadline for all of it: silence, and an octet now and then."""
        self.patch(sts_fetch, "DEADLINE", 0.5)
        yield self.assert_fails("sts-policy-fetch-error", "within 0.5 s", silent=True)
        yield self.assert_fails("sts-policy-fetch-error", "within 0.5 s", drip=0.02)

    @inlineCallbacks
    def test_others_wait_for_their_turn(self):
        """At most so many at once; who waits until the deadline was never asked, and is not to be blamed for it."""
        self.patch(sts_fetch, "DEADLINE", 0.5)
        self.patch(sts_fetch, "MOST_FETCHES", 1)
        self.hosts = PolicyHosts(reactor, self.resolver, lambda: self.context, port=self.server.port)
        slow, waiting, busy = self.fetch(silent=True), self.hosts.fetch("a.test"), self.hosts.fetch("a.test")
        found = yield gatherResults([slow, waiting, busy])
        assert [failure.asked for failure in found] == [True, True, False]
        found = yield self.fetch()
        assert found == GOOD

    def turn(self, seconds):
        turn = Deferred()
        reactor.callLater(seconds, turn.callback, None)
        return turn

    @inlineCallbacks
    def test_hosts_that_cannot_be_reached(self):
        """No address, a name server that fails, nobody listening; the next address is tried."""
        table = self.resolver.table
        table[("mta-sts.a.test", "A")] = []
        yield self.assert_fails("sts-policy-fetch-error", "has no address")
        table[("mta-sts.a.test", "A")] = SERVFAIL
        yield self.assert_fails("sts-policy-fetch-error", "cannot be looked up: the server failed")
        table[("mta-sts.a.test", "A")] = ["127.0.0.62"]
        yield self.assert_fails("sts-policy-fetch-error", "127.0.0.62: Connection was refused")
        table[("mta-sts.a.test", "A")] = ["127.0.0.62", "127.0.0.61"]
        found = yield self.fetch()
        assert found == GOOD

    @inlineCallbacks
    def test_cancelling_ends_the_connection(self):
        """When the service stops, nothing stays."""
        running = self.fetch(silent=True)
        yield self.turn(0.2)
        running.cancel()
        yield self.quiet()
        running.addErrback(lambda _: None)
