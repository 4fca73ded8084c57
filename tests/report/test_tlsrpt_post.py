"""Reports posted to a real HTTPS server on loopback."""

import shutil
import tempfile
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from requiretls_mta.report.tlsrpt_post import DEADLINE, Poster
from requiretls_mta.report.tlsrpt_record import parse_records
from requiretls_mta.tls.client import client_context
from requiretls_mta.tls.https import HTTPS
from tests.lab.ca import CA
from tests.lab.web import WebServer
from tests.relay.fakes import FakeResolver


class Posting(TestCase):
    timeout = 20

    def setUp(self):
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        ca = CA(folder / "ca")
        self.server = WebServer("127.0.0.63", ca.host("r.test"))
        self.addCleanup(self.server.close)
        context = client_context(str(ca.roots))
        self.clock = Clock()
        resolver = FakeResolver({(name, "A"): ["127.0.0.63"] for name in ("r.test", "s.test")})
        self.post = Poster(self.clock, HTTPS(reactor, resolver, lambda: context))

    def target(self, host="r.test"):
        (target,) = parse_records([f"v=TLSRPTv1; rua=https://{host}:{self.server.port}/v1/tlsrpt".encode()])
        return target

    @inlineCallbacks
    def test_a_file_is_taken(self):
        """RFC 8460 5.4: POST, the media type, the file as it is; 200 or 201."""
        for status in (b"200 OK", b"201 Created", b"204 No Content"):
            self.server.answer = b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % status
            trouble = yield self.post(self.target(), b"\x1f\x8b the file")
            assert trouble == ""
        _, head, body = self.server.requests[0]
        assert head.startswith(b"POST /v1/tlsrpt HTTP/1.1\r\n")
        assert b"\r\nContent-Type: application/tlsrpt+gzip\r\n" in head
        assert body == b"\x1f\x8b the file"
        assert self.clock.getDelayedCalls() == []

    @inlineCallbacks
    def test_a_file_is_not_taken(self):
        """Other answers, redirects among them, and servers that cannot prove their name."""
        for status in (b"302 Found\r\nLocation: https://s.test/", b"500 No", b"404 No"):
            self.server.answer = b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % status
            trouble = yield self.post(self.target(), b"x")
            assert trouble == f"r.test answered with HTTP status {int(status[:3])}"
        assert len(self.server.requests) == 3
        trouble = yield self.post(self.target("s.test"), b"x")
        assert "does not bear the name s.test" in trouble
        assert len(self.server.requests) == 3

    @inlineCallbacks
    def test_a_server_that_hangs(self):
        """It gets a minute for all of it."""
        self.server.answer, self.server.hangs = b"", True
        posting = self.post(self.target(), b"x")
        reactor.callLater(0.3, self.clock.advance, DEADLINE)
        trouble = yield posting
        assert "did not answer within 60 s" in trouble
