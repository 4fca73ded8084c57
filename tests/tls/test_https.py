"""HTTPS towards strangers, over real TLS on loopback."""

import shutil
import tempfile
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.internet.tcp import Connection
from twisted.trial.unittest import TestCase

from requiretls_mta.dns.answer import Status
from requiretls_mta.tls.client import client_context
from requiretls_mta.tls.https import HTTPS, HTTPSError, Request
from tests.lab.ca import CA
from tests.lab.web import WebServer
from tests.relay.fakes import FakeResolver


class Requests(TestCase):
    timeout = 20

    def setUp(self):
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        self.ca, self.other = CA(folder / "ca"), CA(folder / "other", "Other Root")
        self.server = WebServer("127.0.0.62", self.ca.host("r.test"))
        self.addCleanup(self.server.close)
        self.resolver = FakeResolver({("r.test", "A"): ["127.0.0.62"], ("s.test", "A"): ["127.0.0.62"]})
        context = client_context(str(self.ca.roots))
        self.https = HTTPS(reactor, self.resolver, lambda: context)
        self.addCleanup(self.quiet)

    @inlineCallbacks
    def quiet(self):
        """Until no connection and no timer is left, but for the one of this very test."""
        while len(reactor.getDelayedCalls()) > 1 or any(isinstance(r, Connection) for r in reactor.getReaders()):
            turn = Deferred()
            reactor.callLater(0.01, turn.callback, None)
            yield turn

    def request(self, host="r.test", **options):
        port = options.setdefault("port", self.server.port)
        options = {"method": b"GET", "uri": f"https://{host}:{port}/x?y", "limit": 100} | options
        return self.https.request(Request(host=host, **options))

    @inlineCallbacks
    def fails(self, words, *, untrusted=False, **options):
        try:
            found = yield self.request(**options)
        except HTTPSError as error:
            assert words in str(error), error
            assert error.untrusted is untrusted
            assert str(error).isprintable()
        else:
            raise AssertionError(found)

    @inlineCallbacks
    def test_a_request_and_its_response(self):
        """The name in SNI and Host, our headers, the octets of the body; nothing else is sent along."""
        self.server.answer = b"HTTP/1.1 201 Created\r\nX-Y: z\r\nContent-Length: 2\r\n\r\nok"
        response = yield self.request(method=b"POST", headers={b"Content-Type": b"a/b"}, body=b"\0octets\r\n" * 10_000)
        assert (response.code, response.body) == (201, b"ok")
        assert response.headers.getRawHeaders(b"x-y") == [b"z"]
        ((name, head, body),) = self.server.requests
        assert name == "r.test" and body == b"\0octets\r\n" * 10_000
        line, *headers = head.decode().rstrip().split("\r\n")
        assert line == "POST /x?y HTTP/1.1"
        assert sorted(headers) == [
            "Connection: close",
            "Content-Length: 90000",
            "Content-Type: a/b",
            f"Host: r.test:{self.server.port}",
            "User-Agent: requiretls-mta",
        ]

    @inlineCallbacks
    def test_nobody_hears_it_before_the_name_is_proved(self):
        """Another name, another root, too late: not one octet of the request."""
        yield self.fails("does not bear the name s.test", host="s.test", untrusted=True)
        self.server.present(self.other.host("r.test"))
        yield self.fails("unable to get local issuer", untrusted=True)
        self.server.present(self.ca.expired("r.test"))
        yield self.fails("expired", untrusted=True)
        assert self.server.requests == []

    @inlineCallbacks
    def test_redirects_are_not_followed(self):
        """They are a response like any other."""
        self.server.answer = b"HTTP/1.1 302 Found\r\nLocation: https://s.test/\r\nContent-Length: 0\r\n\r\n"
        response = yield self.request()
        assert response.code == 302 and len(self.server.requests) == 1

    @inlineCallbacks
    def test_a_body_that_is_not_wanted_is_not_waited_for(self):
        """The header says all."""
        self.server.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nslow"
        self.server.hangs = True
        response = yield self.request(limit=0)
        assert (response.code, response.body) == (200, b"")

    @inlineCallbacks
    def test_responses_are_bounded(self):
        """One octet more than the limit tells that there is more; far more ends the connection."""
        self.server.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 150\r\n\r\n" + b"x" * 150
        response = yield self.request()
        assert response.body == b"x" * 101
        self.server.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 9_000_000
        yield self.fails("more than")
        self.server.answer = b"HTTP/1.1 200 OK\r\nX: " + b"y" * 9_000_000
        yield self.fails("")

    @inlineCallbacks
    def test_what_is_no_response(self):
        """Garbage, a broken-off body, silence of the DNS."""
        for answer, words in (
            (b"garbage\r\n\r\n", "cannot be read"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: \x1b[31m\r\n\r\nx", "cannot be read"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", "cannot be read"),
            (b"HTTP/1.1 200 OK\r\n\r\nx", "broke off"),
            (b"", "cannot be read"),
        ):
            self.server.answer = answer
            yield self.fails(words)
        yield self.fails("r.test cannot be reached: 127.0.0.62", port=1)
        yield self.fails("has no address", host="nobody.test")
        self.resolver.table["r.test", "A"] = {"status": Status.FAILURE, "rcode": "SERVFAIL"}
        yield self.fails("cannot be looked up", host="r.test")

    @inlineCallbacks
    def test_it_ends_when_it_is_cancelled(self):
        """The caller bounds the time; the connection goes with it."""
        self.server.answer, self.server.hangs = b"", True
        asking = self.request()
        reactor.callLater(0.3, asking.cancel)
        yield self.assertFailure(asking, CancelledError)
