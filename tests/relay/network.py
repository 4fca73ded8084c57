"""Several MTAs of ours on one clock, without sockets: reception, admission, schedule and reports are real, hops rolled.

A process may end at any commit, before it or behind it, and comes back over the same store. `X-Root` in a message says
which of the messages it is that a client gave us; of a report or a reply its Message-ID does.
"""

import collections
import itertools
import random
import re

import attrs
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.task import Clock

from requiretls_mta.message import header as headers
from requiretls_mta.message.address import Address
from requiretls_mta.message.content import ContentScanner
from requiretls_mta.message.envelope import Tag
from requiretls_mta.message.outcome import Cause, Delivered, Failed, Security, Step
from requiretls_mta.message.outcome import Deferred as Postponed
from requiretls_mta.message.profile import Profile
from requiretls_mta.message.reply import Reply
from requiretls_mta.queue.store import StoreFull
from requiretls_mta.receive.admission import Admission
from requiretls_mta.receive.interfaces import Answer
from requiretls_mta.receive.reception import ReceptionStation
from requiretls_mta.receive.responders import AutoReplies
from requiretls_mta.receive.settings import Settings
from requiretls_mta.relay.destination import Way
from requiretls_mta.relay.retry import RetrySettings
from requiretls_mta.relay.schedule import Schedule
from requiretls_mta.relay.settings import ScheduleSettings
from requiretls_mta.report.dsn import Reports, ReportSettings
from requiretls_mta.smtp.interfaces import Peer, Session
from tests.receive.fakes import FakeWriter, RecordedEvents
from tests.relay.fakes import MemoryStore
from tests.report.rfc3464 import read

SECRET = b"the secret subject"
OK, NO, LATER = Reply(250, "2.0.0", "ok"), Reply(550, "5.1.1", "no such user"), Reply(450, "4.2.0", "busy")
LOST = Reply(451, "4.4.2", "connection lost: whether it was taken is not known")
RETRY = RetrySettings(
    pauses=(60.0, 300.0), lifetime=7200.0, bounce_lifetime=3600.0, tagged_lifetime=1800.0, delay_warning=1200.0
)
FEW = {"leases": 2, "share": 1, "parked": 1, "claim": 1}
MOST_TROUBLE = 3
"""Crashes, full disks and broken reporters, of each at the most; all in all the end must come."""


class Store(MemoryStore):
    """What outlives a process; notes what each message came to, as it was committed."""

    def __init__(self, network, node):
        super().__init__()
        self.network, self.node, self.write_error = network, node, None

    def new_id(self):
        return f"{next(self.network.ids):016}"

    def body(self, message_id):
        return FakeWriter(self)

    def accept(self, messages, lease=False):
        for message in messages:
            self.network.entered(self.node, message)
        return super().accept(messages, lease)

    def settle(self, settlements):
        done = super().settle(settlements)
        for settlement in settlements:
            self.network.settled(self.node, settlement)
        return done


class Responder:
    """Answers everything."""

    name = "answers"

    def respond(self, envelope, recipient, header):
        return Answer(body="I am away.")


class Truth(RecordedEvents):
    """Notes what is told of a message that is in no queue and never was."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def emit(self, event, /, **fields):
        super().emit(event, **fields)
        for name in ("queue_id", "report", "reply_id"):
            if name in fields and fields[name] not in self.network.messages:
                self.network.untrue.append((event, fields))
        if event == "discarded" and "recipient" in fields:
            self.network.unheard.append((self.network.messages[fields["queue_id"]], fields["recipient"]))


class Process:
    """One life of a node: all that a crash takes away. It is the store as its parts see it, and their transport."""

    def __init__(self, node):
        self.node, self.network, self.dead = node, node.network, False
        clock, self.events = self.network.clock, Truth(self.network)
        self.new_id, self.body = node.store.new_id, node.store.body
        self.reports = Reports(
            settings=lambda: ReportSettings(hostname=node.domain, bounce=node.bounce),
            new_id=node.store.new_id,
            wall=clock.seconds,
        )
        self.replies = AutoReplies(
            responders=[Responder()],
            memory=node,
            settings=lambda: node.settings,
            profile=lambda: Profile.RFC8689,
            to_all=lambda about, replies: self.admission.to_all(about, replies),
            new_id=node.store.new_id,
            wall=clock.seconds,
        )
        self.schedule = Schedule(
            store=self,
            choose=lambda r: Way(self, r.address.domain, 5),
            report=self.report,
            clock=clock,
            wall=clock.seconds,
            events=self.events,
            settings=lambda: node.bounds,
            rng=random.Random(1),
            respond=self.replies if node.answers else None,
        )
        self.admission = Admission(self, self.schedule, lambda: node.settings, self.events, self.reports.expanded)
        self.station = ReceptionStation(
            store=self,
            admission=self.admission,
            settings=lambda: node.settings,
            events=self.events,
            wall=clock.seconds,
            trusted=True,
        )
        self.schedule.start()

    def die(self):
        """Without a word; the next life begins a while later."""
        self.dead = True
        self.network.clock.callLater(30, self.node.start)

    # --- the store ----------------------------------------------------------------------------------------------------
    def accept(self, messages, lease=False):
        if not self.dead and self.network.happens("full"):
            return fail(StoreFull("no space"))
        return self._commit(lambda: self.node.store.accept(messages, lease))

    def settle(self, settlements):
        if not self.dead and self.network.happens("broken"):
            self.die()  # nothing is stored any more until somebody restarts it
            return fail(OSError("the disk is gone"))
        return self._commit(lambda: self.node.store.settle(settlements))

    def _commit(self, commit):
        crash = not self.dead and self.network.happens("crash")
        if crash and self.network.rng.random() < 0.5:
            self.die()
        if self.dead:
            return Deferred()
        done = commit()
        if crash:
            self.die()
        return Deferred() if crash else done

    def claim(self, limit, now):
        return Deferred() if self.dead else self.node.store.claim(limit, now)

    def lease(self, message_id):
        return Deferred() if self.dead else self.node.store.lease(message_id)

    def release(self, message_ids):
        return Deferred() if self.dead else self.node.store.release(message_ids)

    def next_due(self):
        return Deferred() if self.dead else self.node.store.next_due()

    # --- reports ------------------------------------------------------------------------------------------------------
    def report(self, message, told):
        if self.network.happens("no report"):
            raise RuntimeError("no report can be written")
        return self.admission.to_all(message, self.reports(message, told))

    # --- in -----------------------------------------------------------------------------------------------------------
    def receive(self, envelope, octets):
        """A transaction with a client: the reply to each recipient, and the reply to the message; LOST without one."""
        session = Session(
            id="s",
            peer=Peer(address="192.0.2.1", listener="mx"),
            service="mx",
            helo="client.test",
            protocol="ESMTPS",
        )
        transaction = self.station.begin(session)
        assert transaction.mail(attrs.evolve(envelope, recipients=())).is_positive
        rcpts = [transaction.rcpt(recipient) for recipient in envelope.recipients]
        taken = tuple(r for r, reply in zip(envelope.recipients, rcpts, strict=True) if reply.is_positive)
        if not taken:
            return rcpts, None
        assert transaction.data(attrs.evolve(envelope, recipients=taken)) is None
        transaction.write(octets)
        scanner = ContentScanner(1 << 20)
        scanner.feed(octets)
        replies = []
        maybeDeferred(transaction.end, scanner.finish(), scanner.header).addCallback(replies.append)
        (end,) = replies or [LOST]
        return rcpts, end

    # --- out ----------------------------------------------------------------------------------------------------------
    def deliver(self, message, recipients):
        """Into a mailbox, or to the next hop."""
        if self.dead:
            return Deferred()
        domain = recipients[0].address.domain
        if domain == self.node.domain:
            return succeed([self.to_mailbox(message, recipient) for recipient in recipients])
        hop = self.network.hops[self.node.number].get(domain)
        if hop is None:
            return succeed([Failed(recipient=r, reply=Reply(550, "5.1.2", "no such domain")) for r in recipients])
        return succeed(self.relay(message, recipients, self.network.nodes[hop]))

    def to_mailbox(self, message, recipient):
        if recipient.address.local.startswith("unknown"):
            return Failed(recipient=recipient, reply=NO)
        if self.network.rng.random() < self.network.trouble:
            return Postponed(recipient=recipient, reply=LATER, host="this")
        self.network.delivered.add(self.network.ended(message, recipient))
        return Delivered(recipient=recipient, reply=OK, host="this", in_mailbox=True)

    def relay(self, message, recipients, peer):
        rng, required = self.network.rng, message.envelope.tag is Tag.REQUIRED
        if peer.process.dead or rng.random() < self.network.trouble:
            cause = Cause(host=peer.domain, step=Step.CONNECT, detail="refused", temporary=True)
            reply = Reply(451, "4.4.1", str(cause))
            return [Postponed(recipient=r, reply=reply, host=peer.domain, causes=(cause,)) for r in recipients]
        others = message.envelope.sender is None and message.origin not in ("report", "reply")
        if required and not peer.keyword and not others:
            cause = Cause(host=peer.domain, step=Step.REQUIRETLS, detail="no keyword", temporary=False)
            reply = Reply(550, "5.7.30", str(cause))
            return [Failed(recipient=r, reply=reply, host=peer.domain, causes=(cause,)) for r in recipients]
        replies = [
            rng.choice((OK, OK, OK, NO, LATER)) if rng.random() < self.network.trouble else OK for _ in recipients
        ]
        taken = [number for number, reply in enumerate(replies) if reply is OK]
        if taken:
            envelope = self.as_sent(message, [recipients[number] for number in taken], peer)
            rcpts, end = peer.process.receive(envelope, b"".join(message.pieces()))
            for number, rcpt in zip(taken, rcpts, strict=True):
                replies[number] = end if rcpt.is_positive else rcpt
        return [_outcome(r, reply, peer) for r, reply in zip(recipients, replies, strict=True)]

    def as_sent(self, message, recipients, peer):
        """What the peer is told: without DSN of no parameters, without keyword of no tag."""
        envelope, required = message.envelope, message.envelope.tag is Tag.REQUIRED
        if not peer.dsn:
            recipients = [attrs.evolve(r, notify=None, orcpt=None) for r in recipients]
            envelope = attrs.evolve(envelope, ret=None, envid=None)
        # TLS-Required: No is a field of the message, not of its envelope.
        tag = Tag.REQUIRED if required and peer.keyword else None
        return attrs.evolve(envelope, recipients=tuple(recipients), tag=tag)


class Node:
    """One MTA: `nI.test` is local to it; `dsn` and `keyword` are what it offers to others."""

    def __init__(self, network, number, *, aliases, lists, rules):
        rng = network.rng
        self.network, self.number, self.domain = network, number, f"n{number}.test"
        self.dsn, self.keyword = rng.random() < 0.7, rng.random() < 0.7
        self.bounce = rng.choice(["requiretls-then-redacted", "requiretls-only", "redacted"])
        self.answers, self.answered = rng.random() < 0.3, {}
        few = rng.random() < 0.3
        self.bounds = ScheduleSettings(retry=RETRY, idle_check=600.0, **(FEW if few else {}))
        self.store = Store(network, self)
        self.settings = Settings(
            hostname=self.domain,
            local_domains=frozenset({self.domain}),
            aliases={key: targets for key, targets in aliases.items() if key.endswith(self.domain)},
            lists={key: each for key, each in lists.items() if key.endswith(self.domain)},
            rules=rules,
            received_hops=8,
        )
        self.start()

    def silence(self, sender, recipient, message_id):
        """Whether the sender has heard from the recipient, by a reply to another message."""
        return self.answered.get((sender, recipient), message_id) != message_id or None

    def note(self, sender, recipient, message_id):
        """It has now."""
        self.answered[sender, recipient] = message_id
        return succeed(True)

    def start(self):
        """A new life: nothing is leased."""
        self.store.leased.clear()
        self.process = Process(self)


def _outcome(r, reply, peer):
    more = {"recipient": r, "reply": reply, "host": peer.domain, "security": Security()}
    if reply.is_positive:
        return Delivered(**more, dsn_relayed=peer.dsn)
    return Failed(**more, command="RCPT") if reply.is_permanent else Postponed(**more, command="RCPT")


class Network:
    """`count` nodes; `trouble` is how often a hop or a mailbox fails, `disaster` how often a process or its disk."""

    def __init__(self, rng, count, *, trouble, disaster, aliases, lists, rules=()):
        self.rng, self.trouble, self.disaster, self.clock = rng, trouble, disaster, Clock()
        self.impatience = rng.choice([0.0, 0.0, 0.1])
        self.ids = itertools.count()
        self.disasters = collections.Counter()
        self.messages = {}
        """Every message that was ever committed, by id."""
        self.roots = {}
        """Message-ID of a report: which message it is about, and the queue id of the one that it reports on."""
        self.ends = collections.Counter()
        """(root, reverse path, recipient): how often it came to an end."""
        self.delivered, self.silent = set(), set()
        """The same of those who got it, and of those who failed while nobody was told."""
        self.given_up = []
        """Where a protected report of ours ended without another form of it, and why."""
        self.replies = []
        """Committed automatic replies, behind what they answer."""
        self.unheard = []
        """A message and a recipient of whose success no report could be written."""
        self.untrue = []
        """Events about what is on no disk."""
        self.told = []
        """Where a report was committed, the message that it is about, and the report."""
        self.hops = {number: {} for number in range(count)}
        for destination in range(count):
            known = [destination]
            for number in range(count):
                if number != destination:
                    self.hops[number][f"n{destination}.test"] = rng.choice(known)
                    known.append(number)
        self.nodes = [Node(self, number, aliases=aliases, lists=lists, rules=rules) for number in range(count)]

    def happens(self, what):
        """Whether this disaster happens now."""
        if self.disasters[what] >= MOST_TROUBLE or self.rng.random() >= self.disaster:
            return False
        self.disasters[what] += 1
        return True

    @property
    def most_copies(self):
        """What a message may become: whoever crashes sends again, also what has been there before on its way."""
        return 3 ** (self.disasters["crash"] + self.disasters["broken"])

    def send(self, envelope, root):
        """Give a message to the first node until it has taken it; who was taken into the envelope."""
        field = b"TLS-Required: No\r\n" if envelope.tag is Tag.OPTIONAL else b""
        to = ", ".join(str(recipient.address) for recipient in envelope.recipients).encode()
        octets = b"X-Root: %d\r\n%sTo: %s\r\nSubject: %s\r\n\r\nbody\r\n" % (root, field, to, SECRET)
        envelope = attrs.evolve(envelope, tag=envelope.tag if envelope.tag is Tag.REQUIRED else None)
        for _ in range(20):
            if not self.nodes[0].process.dead:
                rcpts, end = self.nodes[0].process.receive(envelope, octets)
                if end is None or not end.is_temporary:
                    assert end is None or end.is_positive, end
                    return [r for r, reply in zip(envelope.recipients, rcpts, strict=True) if reply.is_positive]
            self.clock.advance(60)
        raise AssertionError("the message is not taken")

    def run(self):
        """Until every queue is empty."""
        end = self.clock.seconds() + 100 * 3600
        while any(node.store.messages for node in self.nodes):
            assert self.clock.seconds() < end, "a message is still queued"
            if self.rng.random() < self.impatience:
                self.operate()
            self.clock.advance(max(self.clock.getDelayedCalls()[0].getTime() - self.clock.seconds(), 0))

    def operate(self):
        """Somebody gives a message up that is in a queue, or tries to."""
        node = self.rng.choice([node for node in self.nodes if node.store.messages])
        node.process.schedule.give_up(self.rng.choice(sorted(node.store.messages)))

    def next_hop(self, node, recipient):
        """The node that a node gives mail for this address to."""
        return self.nodes[self.hops[node.number][recipient.rpartition("@")[2]]]

    # --- what was committed -------------------------------------------------------------------------------------------
    def entered(self, node, message):
        """A message is in a queue."""
        self.messages[message.id] = message
        if message.origin == "reply":
            self.replies.append((self.messages[message.parent], message))
        if message.origin == "report":
            parent = self.messages[message.parent]
            self.told.append((node, parent, message))
            if not is_report(parent.body.data):
                for recipient, action in told(message).items():
                    if action == "failed":
                        self.ends[self.root(parent), parent.envelope.reverse_path, recipient] += 1

    def settled(self, node, settlement):
        """An attempt's end is in a queue: who failed without being told of, has come to an end."""
        message = settlement.lease.message
        reports = [each for each in settlement.offspring if each.origin == "report"]
        for one in settlement.settled:
            outcome = one.outcome
            if not one.final or not isinstance(outcome, Failed):
                continue
            recipient = outcome.recipient
            if is_report(message.body.data):
                goes_on = any(recipient in report.envelope.recipients for report in reports)
                if not goes_on and message.origin == "report" and message.envelope.tag is Tag.REQUIRED:
                    self.given_up.append((node, outcome.reply))
            else:
                goes_on = any(told(r).get(str(recipient.address)) == "failed" for r in reports)
            if not goes_on:
                self.silent.add(self.ended(message, recipient))

    def ended(self, message, recipient):
        """A recipient got it, or failed in silence; under which of `ends` that is counted."""
        which = self.root(message), message.envelope.reverse_path, str(recipient.address)
        self.ends[which] += 1
        return which

    def root(self, message):
        """Which message it is: the number of a client's, or the Message-ID of a report or reply."""
        found = [f.value for f in headers.fields(message.header()) if f.name == b"x-root"]
        return int(found[0]) if found else message_id(message.body.data)


def is_report(octets):
    return b"multipart/report" in octets.partition(b"\r\n\r\n")[0]


def message_id(octets):
    return re.search(rb"\nMessage-ID: (.*)\r\n", octets)[1].decode()


def told(report):
    """What a report tells: action of each final recipient."""
    return read(report.body.data).actions()


def address(text):
    local, _, domain = text.partition("@")
    return Address(local, domain)
