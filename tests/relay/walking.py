"""A relay manager on real sockets, two mail servers that do as told, and the invariant that holds for all tests."""

import random
import shutil
import tempfile
from pathlib import Path

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.tcp import Connection
from twisted.trial.unittest import TestCase

from requiretls_mta.message.address import parse_mailbox
from requiretls_mta.message.content import ContentScanner
from requiretls_mta.message.envelope import Envelope, Recipient, Tag
from requiretls_mta.message.stored import BytesBody, Message
from requiretls_mta.relay.lookup import LookupSettings, RouteFinder
from requiretls_mta.relay.manager import RelayManager
from requiretls_mta.relay.settings import RelaySettings
from requiretls_mta.smtp.client import Timeouts
from requiretls_mta.tls.client import client_context
from tests.lab.ca import CA
from tests.lab.mta import free_port
from tests.receive.fakes import RecordedEvents
from tests.relay.fakes import FakePolicies, FakeResolver
from tests.smtp.fake_mx import FakeMX

SECRET = b"the secret body"
WORDS = (b"secret-sender", b"secret-rcpt", SECRET)
"""What of a tagged message nobody else may read, its envelope included."""
OCTETS = b"Subject: x\r\n\r\n.dot\r\n" + SECRET + b"\r\n"
FIRST, SECOND = "127.0.0.31", "127.0.0.32"


def message(tag=Tag.REQUIRED, octets=OCTETS, sender="secret-sender@here.test", **changes):
    scanner = ContentScanner(1 << 20)
    scanner.feed(octets)
    envelope = Envelope(sender=parse_mailbox(sender, utf8=True) if sender else None, tag=tag, **changes)
    return Message(id="q" * 16, envelope=envelope, body=BytesBody(octets), content=scanner.finish())


class Walking(TestCase):
    """Server 1 is mx1.there.test, server 2 mx2; there.test has both, one.test only the first."""

    timeout = 15

    def setUp(self):
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        self.ca, self.other = CA(folder / "ca"), CA(folder / "other", "Other Root")
        self.good = [self.ca.host(f"mx{n}.there.test") for n in (1, 2)]
        self.number = free_port(FIRST, SECOND)
        self.settings = RelaySettings(
            hostname="here.test",
            context=client_context(str(self.ca.roots)),
            timeouts=Timeouts(connect=2, greeting=1, hello=1, handshake=2, mail=1, rcpt=1, data=1, chunk=2, end=1),
            idle=1.0,
        )
        self.lookup = LookupSettings(port=self.number)
        self.events = RecordedEvents()
        self.watch()
        self.resolver = FakeResolver(
            {
                ("there.test", "MX"): ["10 mx1.there.test.", "20 mx2.there.test."],
                ("one.test", "MX"): ["10 mx1.there.test."],
                ("mx1.there.test", "A"): [FIRST],
                ("mx2.there.test", "A"): [SECOND],
            }
        )
        self.policies = FakePolicies({})
        finder = RouteFinder(self.resolver, lambda: self.lookup, random.Random(1), self.policies)
        self.manager = RelayManager(reactor, finder=finder, settings=lambda: self.settings, events=self.events)
        self.addCleanup(self.quiet)

    def watch(self, *servers):
        """What the invariant is judged by: the servers that there were, those approved, and what went unprotected."""
        self.servers, self.dropped, self.approved, self.open = [*servers], [], set(), b""

    @inlineCallbacks
    def quiet(self):
        """Until no connection and no timer is left, but for the one of this very test; then all is judged."""
        self.manager.close()
        yield self.until(
            lambda: (
                len(reactor.getDelayedCalls()) <= 1
                and not any(isinstance(reader, Connection) for reader in reactor.getReaders())
            )
        )
        servers = self.servers + self.dropped
        yield self.until(lambda: all(server.has_all for server in servers))
        self.keeps_the_promise(servers, [word for word in WORDS if word not in self.open])

    @inlineCallbacks
    def until(self, holds):
        while not holds():
            turn = Deferred()
            reactor.callLater(0.01, turn.callback, None)
            yield turn

    def keeps_the_promise(self, servers, words=WORDS):
        """The invariant: no octet of a tagged message outside of the sessions that were approved."""
        for server in servers:
            for session in server.sessions:
                for word in words:
                    assert word not in session.outside, session.outside[:1000]
                    good = server in self.approved and "REQUIRETLS" in session.keywords
                    assert good or word not in session.tls, session.tls[:1000]

    def mx(self, place=1, **options):
        options.setdefault("files", self.good[place - 1])
        server = FakeMX((FIRST, SECOND)[place - 1], options.pop("port", self.number), **options)
        self.addCleanup(server.close)
        self.servers.append(server)
        return server

    def drop(self, server):
        server.close()
        self.servers.remove(server)
        self.dropped.append(server)

    @inlineCallbacks
    def send(self, whole, *to, approved=(), judged=True):
        """Outcomes; `approved` are the servers whose sessions may be sent a tagged message."""
        to = to or ("secret-rcpt@there.test",)
        recipients = [r if isinstance(r, Recipient) else Recipient(parse_mailbox(r, utf8=True)) for r in to]
        whole = attrs.evolve(whole, envelope=attrs.evolve(whole.envelope, recipients=tuple(recipients)))
        judged = judged and whole.envelope.tag is Tag.REQUIRED and whole.envelope.sender
        self.approved.update(approved)
        if not judged:
            # What is sent without a promise, too, is not judged when the test is over.
            self.open += repr(whole.envelope).encode() + OCTETS
        outcomes = yield self.manager.deliver(whole, recipients)
        if judged:
            self.keeps_the_promise(self.servers)
        return outcomes

    @inlineCallbacks
    def one(self, whole, *to, **about):
        (outcome,) = yield self.send(whole, *to, **about)
        return outcome
