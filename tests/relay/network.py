"""Several MTAs of ours on one clock, without sockets: schedule, admission and reports are real, the hops are rolled."""

import itertools
import random

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from requiretls_mta.message.address import Address
from requiretls_mta.message.content import ContentScanner
from requiretls_mta.message.envelope import Tag
from requiretls_mta.message.outcome import Cause, Delivered, Failed, Security, Step
from requiretls_mta.message.outcome import Deferred as Postponed
from requiretls_mta.message.reply import Reply
from requiretls_mta.message.stored import BytesBody, Message
from requiretls_mta.receive.admission import Admission
from requiretls_mta.receive.settings import Settings
from requiretls_mta.relay.destination import Way
from requiretls_mta.relay.retry import RetrySettings
from requiretls_mta.relay.schedule import Schedule, ScheduleSettings
from requiretls_mta.report.dsn import Reports, ReportSettings
from tests.receive.fakes import RecordedEvents
from tests.relay.fakes import MemoryStore

SECRET = b"the secret subject"
OK, NO, LATER = Reply(250, "2.0.0", "ok"), Reply(550, "5.1.1", "no such user"), Reply(450, "4.2.0", "busy")
RETRY = RetrySettings(
    pauses=(60.0, 300.0), lifetime=7200.0, bounce_lifetime=3600.0, tagged_lifetime=1800.0, delay_warning=1200.0
)


class Store(MemoryStore):
    """Lets the network know every message as it is queued."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def new_id(self):
        return f"{next(self.network.ids):016}"

    def accept(self, messages, lease=False):
        self.network.messages |= {message.id: message for message in messages}
        return super().accept(messages, lease)


class Node:
    """One MTA: `nI.test` is local to it; `dsn` and `keyword` are what it offers to others."""

    def __init__(self, network, number, aliases):
        rng = network.rng
        self.network, self.number, self.domain = network, number, f"n{number}.test"
        self.dsn, self.keyword = rng.random() < 0.7, rng.random() < 0.7
        bounce = rng.choice(["requiretls-then-redacted", "requiretls-only", "redacted"])
        self.store, self.events = Store(network), RecordedEvents()
        own = {key: targets for key, targets in aliases.items() if key.endswith(self.domain)}
        self.settings = Settings(hostname=self.domain, local_domains=frozenset({self.domain}), aliases=own)
        self.reports = Reports(
            settings=lambda: ReportSettings(hostname=self.domain, bounce=bounce),
            new_id=self.store.new_id,
            wall=network.clock.seconds,
            events=self.events,
        )
        self.schedule = Schedule(
            store=self.store,
            choose=lambda r: Way(self, r.address.domain, 5),
            report=self.report,
            clock=network.clock,
            wall=network.clock.seconds,
            events=self.events,
            settings=lambda: ScheduleSettings(retry=RETRY, idle_check=1e9),
            rng=random.Random(1),
        )
        self.admission = Admission(self.store, self.schedule, lambda: self.settings, self.events, self.expanded)
        self.schedule.start()

    def report(self, message, told):
        return self.born(message, self.admission.to_all(self.reports(message, told)))

    def expanded(self, message, aliases, lists):
        return self.born(message, self.reports.expanded(message, aliases, lists))

    def born(self, parent, reports):
        """Keep what comes into the world; and what must never come."""
        assert len(reports) <= 1
        for report in reports:
            assert report.envelope.sender is None and report.parent == parent.id
            assert parent.envelope.sender is not None or parent.origin == "report"
            if parent.envelope.tag is Tag.REQUIRED and report.envelope.tag is not Tag.REQUIRED:
                assert SECRET not in report.body.data
            self.network.roots[report.id] = self.network.roots[parent.id]
            self.network.reports.append((self, parent, report))
        return reports

    def take(self, message, root):
        """Accept a message, as at the end of its data."""
        self.network.roots[message.id] = root
        done = []
        Deferred.fromCoroutine(self.admission.admit(message)).addCallback(done.append)
        assert done == [None]

    # --- the transport ------------------------------------------------------------------------------------------------
    def deliver(self, message, recipients):
        """Into a mailbox, or to the next hop."""
        domain = recipients[0].address.domain
        if domain == self.domain:
            return succeed([self.to_mailbox(message, recipient) for recipient in recipients])
        hop = self.network.hops[self.number].get(domain)
        if hop is None:
            return succeed([Failed(recipient=r, reply=Reply(550, "5.1.2", "no such domain")) for r in recipients])
        return succeed(self.relay(message, recipients, self.network.nodes[hop]))

    def to_mailbox(self, message, recipient):
        roll = self.network.rng.random()
        if recipient.address.local.startswith("unknown"):
            return Failed(recipient=recipient, reply=NO)
        if roll < self.network.trouble:
            return Postponed(recipient=recipient, reply=LATER, host="this")
        self.network.mailboxes.append((self.network.roots[message.id], str(recipient.address), message))
        return Delivered(recipient=recipient, reply=OK, host="this", in_mailbox=True)

    def relay(self, message, recipients, peer):
        rng, required = self.network.rng, message.envelope.tag is Tag.REQUIRED
        if rng.random() < self.network.trouble:
            cause = Cause(host=peer.domain, step=Step.CONNECT, detail="refused", temporary=True)
            reply = Reply(451, "4.4.1", str(cause))
            return [Postponed(recipient=r, reply=reply, host=peer.domain, causes=(cause,)) for r in recipients]
        others = message.envelope.sender is None and message.origin != "report"
        if required and not peer.keyword and not others:
            cause = Cause(host=peer.domain, step=Step.REQUIRETLS, detail="no keyword", temporary=False)
            reply = Reply(550, "5.7.30", str(cause))
            return [Failed(recipient=r, reply=reply, host=peer.domain, causes=(cause,)) for r in recipients]
        replies = [
            rng.choice((OK, OK, OK, NO, LATER)) if rng.random() < self.network.trouble else OK for _ in recipients
        ]
        taken = [r for r, reply in zip(recipients, replies, strict=True) if reply is OK]
        if taken:
            peer.take(self.as_sent(message, taken, peer), self.network.roots[message.id])
        return [_outcome(r, reply, peer) for r, reply in zip(recipients, replies, strict=True)]

    def as_sent(self, message, recipients, peer):
        """What the peer makes of it: without DSN it knows of no parameters, without keyword of no tag."""
        required = message.envelope.tag is Tag.REQUIRED
        if not peer.dsn:
            recipients = [attrs.evolve(r, notify=None, orcpt=None) for r in recipients]
        return attrs.evolve(
            message,
            id=peer.store.new_id(),
            envelope=attrs.evolve(
                message.envelope,
                recipients=tuple(recipients),
                tag=None if required and not peer.keyword else message.envelope.tag,
            ),
            received=self.network.clock.seconds(),
            origin="smtp",
            parent=None,
        )


def _outcome(recipient, reply, peer):
    more = {"recipient": recipient, "reply": reply, "host": peer.domain, "security": Security()}
    if reply is OK:
        return Delivered(**more, dsn_relayed=peer.dsn)
    return Failed(**more, command="RCPT") if reply is NO else Postponed(**more, command="RCPT")


class Network:
    """`count` nodes; `trouble` is how often a hop or a mailbox fails."""

    def __init__(self, rng, count, trouble, aliases):
        self.rng, self.trouble, self.clock = rng, trouble, Clock()
        self.ids = itertools.count()
        self.roots, self.messages, self.reports, self.mailboxes = {}, {}, [], []
        self.hops = {number: {} for number in range(count)}
        for destination in range(count):
            known = [destination]
            for number in range(count):
                if number != destination:
                    self.hops[number][f"n{destination}.test"] = rng.choice(known)
                    known.append(number)
        self.nodes = [Node(self, number, aliases) for number in range(count)]

    def send(self, number, envelope, root):
        """Give a message to a node."""
        octets = b"From: s\r\nSubject: " + SECRET + b"\r\n\r\nbody\r\n"
        scanner = ContentScanner(1000)
        scanner.feed(octets)
        node = self.nodes[number]
        message = Message(id=node.store.new_id(), envelope=envelope, body=BytesBody(octets), content=scanner.finish())
        node.take(message, root)

    def run(self):
        """Until every queue is empty."""
        end = self.clock.seconds() + 100 * 3600
        while any(node.store.messages for node in self.nodes):
            assert self.clock.seconds() < end, "a message is still queued"
            self.clock.advance(max(self.clock.getDelayedCalls()[0].getTime() - self.clock.seconds(), 0))


def address(text):
    local, _, domain = text.partition("@")
    return Address(local, domain)
