"""The embedded store on a real disk and reactor: durable groups, leases, settlements, and what crashes leave."""

import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import attrs
from twisted.internet import reactor
from twisted.internet.defer import gatherResults, inlineCallbacks
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from requiretls_mta.message.address import Address
from requiretls_mta.message.content import Content
from requiretls_mta.message.envelope import Envelope, Notify, Recipient, Tag
from requiretls_mta.message.outcome import Deferred as Postponed
from requiretls_mta.message.outcome import Delivered, Failed
from requiretls_mta.message.reply import Reply
from requiretls_mta.message.stored import BytesBody, Message
from requiretls_mta.queue.bodies import FileBody
from requiretls_mta.queue.shard import Shard
from requiretls_mta.queue.sqlite import SQLiteStore
from requiretls_mta.queue.store import IQueueStore, Settled, Settlement, StoreError, StoreFull

OK, LATER = Reply(250, "2.0.0", "ok"), Reply(451, "4.3.0", "later")


def message(store, data=b"Subject: x\r\n\r\nbody\r\n", recipients=1, **changes):
    envelope = Envelope(
        sender=Address("s ö", "x.test"),
        recipients=tuple(
            Recipient(Address(f"r{n}", "y.test"), frozenset({Notify.FAILURE, Notify.DELAY}), "rfc822;o")
            for n in range(recipients)
        ),
        tag=Tag.REQUIRED,
        body="8BITMIME",
        smtputf8=True,
        ret="HDRS",
        envid="e+2Bx",
        size=99,
    )
    whole = Message(
        id=store.new_id(),
        envelope=envelope,
        body=BytesBody(data),
        content=Content(size=len(data), header_end=12, eight_bit_body=True, longest_line=10, dot_at_line_start=True),
        prepend=b"Received: x\r\n",
        cuts=((2, 5),),
        received=100.0,
        origin="smtp",
        parent="p",
        listener="mx",
    )
    return attrs.evolve(whole, **changes)


def settlement(lease, *outcomes, offspring=()):
    return Settlement(
        lease=lease,
        settled=tuple(
            Settled(number=e.number, outcome=o, final=not isinstance(o, Postponed), next_attempt=200.0)
            for e, o in zip(lease.entries, outcomes, strict=True)
        ),
        offspring=offspring,
    )


def delivered(lease):
    return [Delivered(recipient=e.recipient, reply=OK, host="h") for e in lease.entries]


class StoreCase(TestCase):
    timeout = 60

    @inlineCallbacks
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.now = 150.0
        yield self.reopen()

    @inlineCallbacks
    def reopen(self):
        if hasattr(self, "store"):
            yield self.store.close()
        self.store = SQLiteStore(reactor, self.folder / "shards" / "0", wall=lambda: self.now)
        yield self.store.open()

    def tearDown(self):
        return self.store.close()


class Store(StoreCase):
    """What every store must do."""

    def test_interface(self):
        """The zope interface is provided."""
        verifyObject(IQueueStore, self.store)

    @inlineCallbacks
    def test_a_message_comes_back_as_it_was_accepted(self):
        """Envelope, tag, DSN parameters, trace block, cuts, content and octets survive a restart."""
        told = message(self.store, recipients=2)
        assert (yield self.store.accept([told])) == ()
        yield self.reopen()
        (lease,) = yield self.store.claim(10, self.now)
        assert lease.message == told
        assert [e.recipient for e in lease.entries] == list(told.envelope.recipients)

    @inlineCallbacks
    def test_what_is_claimed_is_claimed_once(self):
        """Neither a second claim nor a lease at acceptance hands the same message out twice."""
        yield self.store.accept([message(self.store)])
        assert len((yield self.store.claim(10, self.now))) == 1
        assert (yield self.store.claim(10, self.now)) == ()
        (lease,) = yield self.store.accept([message(self.store)], lease=True)
        assert (yield self.store.claim(10, self.now)) == ()
        yield self.store.settle([settlement(lease, Postponed(recipient=lease.entries[0].recipient, reply=LATER))])
        assert (yield self.store.claim(10, 199.0)) == ()
        (again,) = yield self.store.claim(10, 200.0)
        assert (again.entries[0].attempts, again.entries[0].last_reply) == (1, "451 4.3.0 later")

    @inlineCallbacks
    def test_the_longest_due_come_first(self):
        """Order of claims, and their limit; next_due tells of what is not handed out."""
        for received in (30.0, 10.0, 20.0, 500.0):
            yield self.store.accept([message(self.store, received=received)])
        leases = yield self.store.claim(2, self.now)
        assert [lease.message.received for lease in leases] == [10.0, 20.0]
        assert (yield self.store.next_due()) == 30.0
        yield self.store.claim(5, self.now)
        assert (yield self.store.next_due()) == 500.0

    @inlineCallbacks
    def test_recipients_are_settled_one_by_one(self):
        """Those done stay done; the message goes when nothing is left."""
        (lease,) = yield self.store.accept([message(self.store, recipients=3)], lease=True)
        first, second, third = lease.entries
        yield self.store.settle(
            [
                settlement(
                    lease,
                    Delivered(recipient=first.recipient, reply=OK, host="h"),
                    Postponed(recipient=second.recipient, reply=LATER),
                    Failed(recipient=third.recipient, reply=Reply(550, "5.1.1", "no")),
                )
            ]
        )
        (row,) = yield self.store.rows()
        assert [e.state for e in row.entries] == ["delivered", "queued", "failed"]
        (again,) = yield self.store.claim(10, 200.0)
        assert [e.number for e in again.entries] == [1]
        yield self.store.settle([settlement(again, *delivered(again))])
        assert (yield self.store.rows()) == ()

    @inlineCallbacks
    def test_a_report_is_born_with_the_settlement(self):
        """Offspring is there exactly when the recipient is done."""
        (lease,) = yield self.store.accept([message(self.store)], lease=True)
        report = message(self.store, origin="report", parent=lease.message.id)
        yield self.store.settle([settlement(lease, *delivered(lease), offspring=(report,))])
        (row,) = yield self.store.rows()
        assert row.id == report.id

    @inlineCallbacks
    def test_hold_release_retry_remove(self):
        """What the tool does."""
        told = message(self.store, received=1e6)
        yield self.store.accept([told])
        assert (yield self.store.hold(told.id, True))
        assert (yield self.store.claim(10, 1e9)) == ()
        assert (yield self.store.next_due()) is None
        (row,) = yield self.store.rows()
        assert (row.held, row.tag, row.sender, row.size) == (True, "required", '"s ö"@x.test', told.size)
        assert (yield self.store.retry(None, self.now)) == 0
        assert (yield self.store.hold(told.id, False))
        assert len((yield self.store.claim(10, self.now))) == 1
        assert not (yield self.store.remove(told.id))
        other = message(self.store, received=1e6)
        yield self.store.accept([other])
        assert (yield self.store.retry(other.id, self.now)) == 1
        assert (yield self.store.message(other.id)) == other
        assert (yield self.store.remove(other.id))
        assert (yield self.store.message(other.id)) is None
        assert not (yield self.store.hold("nosuch", True))


class OnDisk(StoreCase):
    """What is particular to the embedded store."""

    @inlineCallbacks
    def test_a_large_body_is_a_file_while_it_arrives(self):
        """Private, under its final name before the row, gone with the message."""
        old = os.umask(0)
        self.addCleanup(os.umask, old)
        told = message(self.store)
        writer = self.store.body(told.id)
        data = os.urandom(50_000)
        for _ in range(20):
            writer.write(data)
        bodies = self.folder / "shards/0/bodies"
        assert [p.name for p in bodies.iterdir()] == [f"{told.id}.tmp"]
        body = yield writer.finish()
        assert isinstance(body, FileBody)
        assert body.size == 1_000_000 and body.read(50_000, 50_000) == data
        (path,) = bodies.iterdir()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        yield self.store.accept([attrs.evolve(told, body=body, content=attrs.evolve(told.content, size=body.size))])
        yield self.reopen()
        (lease,) = yield self.store.claim(1, self.now)
        assert lease.message.body.read(0, 10) == data[:10]
        yield self.store.settle([settlement(lease, *delivered(lease))])
        assert list(bodies.iterdir()) == []
        for path in (self.folder / "shards/0").iterdir():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path

    @inlineCallbacks
    def test_a_body_that_was_given_up_leaves_no_trace(self):
        """abort() at any time; and a restart removes what a crash left."""
        writer = self.store.body("a" * 16)
        writer.write(b"x" * 300_000)
        writer.abort()
        writer.abort()
        left = self.store.body("b" * 16)
        left.write(b"x" * 300_000)
        finished = self.store.body("c" * 16)
        finished.write(b"x" * 300_000)
        yield finished.finish()
        assert sorted(p.name[0] for p in (self.folder / "shards/0/bodies").iterdir()) == ["b", "c"]
        yield self.reopen()
        assert list((self.folder / "shards/0/bodies").iterdir()) == []

    def test_all_sessions_together_hold_a_bounded_amount(self):
        """Beyond the budget even small bodies go to files."""
        self.store._memory.limit = 100_000
        writers = [self.store.body(self.store.new_id()) for _ in range(4)]
        for writer in writers:
            writer.write(b"x" * 40_000)
        assert self.store._memory.used == 80_000
        assert len(list((self.folder / "shards/0/bodies").iterdir())) == 2
        for writer in writers:
            writer.abort()
        assert self.store._memory.used == 0

    @inlineCallbacks
    def test_what_comes_together_is_committed_together(self):
        """100 messages at once cost a handful of commits, not 100."""
        before = self.store.groups
        yield gatherResults([self.store.accept([message(self.store)]) for _ in range(100)])
        assert self.store.groups - before == 1

    @inlineCallbacks
    def test_one_bad_message_does_not_take_the_others_along(self):
        """A duplicate id fails alone; its group is committed."""
        twice = message(self.store)
        yield self.store.accept([twice])
        good = [message(self.store) for _ in range(3)]
        work = [self.store.accept([m]) for m in (good[0], twice, *good[1:])]
        results = yield gatherResults([w.addErrback(lambda f: f.check(StoreError)) for w in work])
        assert results == [(), StoreError, (), ()]
        assert len((yield self.store.rows())) == 4

    @inlineCallbacks
    def test_a_full_disk_is_said_and_survived(self):
        """SQLITE_FULL becomes StoreFull; with room again, messages are accepted again."""
        db = self.store._shard.db
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages}")
        yield self.assertFailure(self.store.accept([message(self.store, os.urandom(100_000))]), StoreFull)
        db.execute("PRAGMA max_page_count = 1000000")
        yield self.store.accept([message(self.store)])
        assert len((yield self.store.rows())) == 1

    @inlineCallbacks
    def test_what_cannot_be_settled_is_left_alone_for_a_while(self):
        """It may have been delivered: not at once again, but not lost either."""
        (lease,) = yield self.store.accept([message(self.store)], lease=True)
        twin = message(self.store)
        yield self.store.accept([twin])
        bad = settlement(lease, *delivered(lease), offspring=(twin,))
        yield self.assertFailure(self.store.settle([bad]), StoreError)
        assert lease.message.id not in [x.message.id for x in (yield self.store.claim(10, self.now))]
        self.now += 301
        assert lease.message.id in [x.message.id for x in (yield self.store.claim(10, self.now))]

    @inlineCallbacks
    def test_s31_an_unreadable_tag_counts_as_required(self):
        """A promise may have been made."""
        yield self.store.accept([message(self.store)])
        self.store._shard.db.execute("UPDATE message SET tag = 'future'")
        (lease,) = yield self.store.claim(1, self.now)
        assert lease.message.envelope.tag is Tag.REQUIRED

    def test_a_second_process_is_kept_out(self):
        """The lock names itself."""
        with self.assertRaisesRegex(StoreError, "another process owns this queue"):
            Shard(self.folder / "shards/0").open()

    def test_ids_sort_and_never_repeat(self):
        """Also when the clock is set back."""
        ids = [self.store.new_id() for _ in range(1000)]
        self.now -= 100
        ids += [self.store.new_id() for _ in range(1000)]
        assert ids == sorted(set(ids))
        assert all(len(i) == 16 and set(i) <= set("0123456789abcdefghjkmnpqrstvwxyz") for i in ids)

    @inlineCallbacks
    def test_a_newer_schema_is_refused(self):
        """Rather than misread."""
        yield self.store.close()
        db = sqlite3.connect(self.folder / "shards/0/queue.db")
        db.execute("PRAGMA user_version = 99")
        db.close()
        store = SQLiteStore(reactor, self.folder / "shards/0", wall=lambda: self.now)
        yield self.assertFailure(store.open(), StoreError)
        db = sqlite3.connect(self.folder / "shards/0/queue.db")
        db.execute("PRAGMA user_version = 1")
        db.close()
        yield self.reopen_fresh()

    @inlineCallbacks
    def reopen_fresh(self):
        self.store = SQLiteStore(reactor, self.folder / "shards/0", wall=lambda: self.now)
        yield self.store.open()


CRASHER = """
import sys
from pathlib import Path
from twisted.internet import reactor
sys.path.insert(0, sys.argv[2])
from requiretls_mta.queue.sqlite import SQLiteStore
from tests.queue.test_sqlite import message, settlement, delivered
store = SQLiteStore(reactor, Path(sys.argv[1]), wall=lambda: 150.0)
def say(*words):
    sys.stdout.write(" ".join(words) + "\\n"); sys.stdout.flush()
def more(_=None):
    m = message(store, b"x" * 3000)
    store.accept([m], lease=True).addCallback(taken)
def taken(leases):
    (lease,) = leases
    say("accepted", lease.message.id)
    if ord(lease.message.id[-1]) % 2:
        report = message(store, origin="report", parent=lease.message.id)
        store.settle([settlement(lease, *delivered(lease), offspring=(report,))]).addCallback(
            lambda _: say("settled", lease.message.id))
    reactor.callLater(0, more)
store.open().addCallback(lambda _: [more() for _ in range(20)])
reactor.run()
"""


class Crash(TestCase):
    """kill -9 at random moments."""

    timeout = 120

    def test_what_was_acknowledged_is_there_and_reports_are_never_doubled(self):
        """Every accepted message is in the queue, or replaced by exactly one report; none is torn."""
        root = str(Path(__file__).parent.parent.parent)
        for seed in range(6):
            folder = Path(tempfile.mkdtemp())
            self.addCleanup(shutil.rmtree, folder)
            process = subprocess.Popen(
                [sys.executable, "-c", CRASHER, str(folder / "q"), root], stdout=subprocess.PIPE, text=True
            )
            process.stdout.readline()
            time.sleep(random.Random(seed).uniform(0.05, 0.6))
            process.send_signal(signal.SIGKILL)
            lines = [
                line.split()
                for line in process.stdout.read().splitlines()
                if line.endswith(tuple("abcdefghjkmnpqrstvwxyz0123456789"))
            ]
            process.wait()
            process.stdout.close()
            shard = Shard(folder / "q")
            shard.open()
            try:
                self.check(shard, lines)
            finally:
                shard.close()

    def check(self, shard, lines):
        found = {row.id: shard.message(row.id) for row in shard.rows()}
        reports = [m.parent for m in found.values() if m.origin == "report"]
        assert len(reports) == len(set(reports))
        for verb, queue_id in (line for line in lines if len(line) == 2):
            if verb == "accepted":
                assert (queue_id in found) != (queue_id in reports), queue_id
            else:
                assert queue_id in reports
        assert all(len(m.body.read(0, 1 << 20)) == m.content.size for m in found.values())
        assert len(lines) > 20


def test_the_next_due_message_is_found_by_an_index(tmp_path):
    """No scan and no sorting, whatever the size of the queue."""
    shard = Shard(tmp_path)
    shard.open()
    try:
        plan = " ".join(
            str(row)
            for row in shard.db.execute(
                "EXPLAIN QUERY PLAN SELECT message, next_attempt FROM recipient "
                "WHERE next_attempt IS NOT NULL ORDER BY next_attempt"
            )
        )
        assert "recipient_due" in plan
        assert "TEMP B-TREE" not in plan
    finally:
        shard.close()
