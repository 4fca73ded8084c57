"""TLS reports of the whole service: yesterday's sessions, told today by mail and over HTTPS, over a restart."""

import email
import email.policy
import gzip
import json
import random
import shutil
import tempfile
import time
from pathlib import Path

import dkim
from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.trial.unittest import TestCase

from requiretls_mta.report import tlsrpt_store as store
from requiretls_mta.report.ledger import open_ledger, transact
from requiretls_mta.report.tlsrpt_session import DAY, Failure, Policy, Session
from requiretls_mta.service.build import make_service
from requiretls_mta.service.config import load_config
from tests.lab.ca import CA
from tests.lab.web import WebServer
from tests.receive.fakes import RecordedEvents
from tests.receive.signatures import RSA, pem, record
from tests.relay.fakes import FakeResolver

YESTERDAY = int(time.time() // DAY) - 1


class Service(TestCase):
    timeout = 60

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.ca = CA(self.folder / "ca")
        self.web = WebServer("127.0.0.64", self.ca.host("r.test"))
        self.addCleanup(self.web.close)
        (self.folder / "config.toml").write_text(
            f"""hostname = "mx.here.test"
state = "state"
[listen.mx]
endpoint = "tcp:0:interface=127.0.0.1"
service = "mx"
[domains]
local = ["rua.test"]
[delivery]
maildir = "mail/{{domain}}/{{local}}"
[relay]
trust = "{self.ca.roots}"
[tlsrpt]
enabled = true
contact = "mailto:tls@here.test"
[[dkim.sign]]
domain = "here.test"
selector = "r1"
key = "key.pem"
"""
        )
        (self.folder / "key.pem").write_bytes(pem(RSA))
        self.config = load_config(self.folder / "config.toml")
        self.events = RecordedEvents()
        self.resolver = FakeResolver(
            {
                ("_smtp._tls.there.test", "TXT"): [
                    f'"v=TLSRPTv1; rua=mailto:a@rua.test" ",https://r.test:{self.web.port}/x"'
                ],
                ("r.test", "A"): ["127.0.0.64"],
            }
        )

    @inlineCallbacks
    def start(self):
        service = make_service(self.config, reactor, resolver=self.resolver, events=self.events)
        service.startService()
        yield self.until(lambda: service.is_accepting)
        return service

    @inlineCallbacks
    def until(self, condition):
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, self.events.seen
            turn = Deferred()
            reactor.callLater(0.02, turn.callback, None)
            yield turn

    def ledger(self, work):
        connection = open_ledger(self.folder / "state" / "shared" / "tlsrpt.db", store.SCHEMA)
        try:
            return transact(connection, work)
        finally:
            connection.close()

    def counted(self, connection):
        """Sessions of yesterday, whose report is due now."""
        session = Session(YESTERDAY, "there.test", Policy("no-policy-found", "there.test"), None)
        failure = Failure("starttls-not-supported", "127.0.0.1", "mx.there.test", "192.0.2.1")
        store.count(connection, {session: 2, Session(YESTERDAY, "there.test", session.policy, failure): 1})
        store.claim(connection, now=(YESTERDAY + 1) * DAY + 400.0, limit=1, rng=random.Random(1))
        connection.execute("UPDATE reports SET due = 0")

    @inlineCallbacks
    def test_yesterday_is_reported_once(self):
        """In the mailbox and at the server, the same file; nothing more after a restart."""
        service = yield self.start()
        yield service.stopService()
        self.ledger(self.counted)
        service = yield self.start()
        yield self.until(lambda: self.events.of("delivered") and self.web.requests)
        yield self.until(lambda: self.ledger(lambda c: store.counts(c, YESTERDAY, "there.test")) == [])
        yield service.stopService()
        service = yield self.start()
        yield service.stopService()
        ((_, _, posted),) = self.web.requests
        (file,) = (self.folder / "mail/rua.test/a/new").iterdir()
        assert dkim.verify(file.read_bytes(), dnsfunc=lambda name, timeout=5: record(RSA))
        message = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
        assert " d=here.test; s=r1;" in message["DKIM-Signature"]
        assert message["TLS-Required"] == "No" and message["TLS-Report-Domain"] == "there.test"
        assert message["Return-Path"] == "<>"
        _, attached = message.iter_parts()
        assert attached.get_content() == posted
        report = json.loads(gzip.decompress(posted))
        assert report["contact-info"] == "tls@here.test"
        assert report["policies"][0]["summary"] == {
            "total-successful-session-count": 2,
            "total-failure-session-count": 1,
        }
        told = {fields["to"].partition(":")[0]: fields["reason"] for fields in self.events.of("tlsrpt")}
        assert told == {"mailto": None, "https": None}
        ((queued),) = self.events.of("queued")
        assert queued["requiretls"] == "optional"
        assert self.ledger(store.carriers) == {queued["queue_id"]}

    @inlineCallbacks
    def test_nothing_is_counted_or_sent_unless_it_is_asked_for(self):
        """Off by default."""
        text = (self.folder / "config.toml").read_text().replace("enabled = true", "enabled = false")
        (self.folder / "config.toml").write_text(text)
        self.config = load_config(self.folder / "config.toml")
        service = yield self.start()
        yield service.stopService()
        assert not (self.folder / "state/shared/tlsrpt.db").exists()
