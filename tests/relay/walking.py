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
        self.servers = []
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

    @inlineCallbacks
    def quiet(self):
        """Until no connection and no timer is left, but for the one of this very test."""
        self.manager.close()
        while len(reactor.getDelayedCalls()) > 1 or any(
            isinstance(reader, Connection) for reader in reactor.getReaders()
        ):
            turn = Deferred()
            reactor.callLater(0.01, turn.callback, None)
            yield turn

    def mx(self, place=1, **options):
        options.setdefault("files", self.good[place - 1])
        server = FakeMX((FIRST, SECOND)[place - 1], options.pop("port", self.number), **options)
        self.addCleanup(server.close)
        self.servers.append(server)
        return server

    def drop(self, server):
        server.close()
        self.servers.remove(server)

    @inlineCallbacks
    def send(self, whole, *to, approved=()):
        """Outcomes; and the invariant: no octet of a tagged message where it was not approved."""
        to = to or ("secret-rcpt@there.test",)
        recipients = [r if isinstance(r, Recipient) else Recipient(parse_mailbox(r, utf8=True)) for r in to]
        whole = attrs.evolve(whole, envelope=attrs.evolve(whole.envelope, recipients=tuple(recipients)))
        outcomes = yield self.manager.deliver(whole, recipients)
        if whole.envelope.tag is Tag.REQUIRED and whole.envelope.sender:
            for server in self.servers:
                for word in (b"secret-sender", b"secret-rcpt", SECRET):
                    assert word not in server.clear, server.clear
                    assert server in approved or word not in server.tls, server.tls
        return outcomes

    @inlineCallbacks
    def one(self, whole, *to, approved=()):
        (outcome,) = yield self.send(whole, *to, approved=approved)
        return outcome
