"""The embedded store over a real reactor."""

import errno
import os
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path

import attrs
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, gatherResults, maybeDeferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from requiretls_mta.queue.files import StoreLocked
from requiretls_mta.queue.schema import SchemaError
from requiretls_mta.queue.settings import QueueSettings
from requiretls_mta.queue.shard import NotLeased
from requiretls_mta.queue.sqlite import SQLiteStore
from requiretls_mta.queue.store import StoreFull
from tests.queue.contract import LARGE, StoreContract
from tests.queue.values import LATER, NOW, OCTETS, make_message, settlement


class SQLiteStoreTests(StoreContract, TestCase):
    """The contract, and what only files and threads can do wrong."""

    def setUp(self):
        super().setUp()
        self.place = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.place)
        self.number = 0
        self.settings = QueueSettings()

    def make_store(self):
        self.number += 1
        return self.again()

    def again(self):
        return SQLiteStore(reactor, self.shard, wall=time.time, settings=self.settings)

    @property
    def shard(self):
        return self.place / f"{self.number}"

    def bodies(self):
        return sorted(path.name for path in (self.shard / "bodies").iterdir())

    async def check_no_trace(self, store):
        assert await store.rows() == ()
        assert self.bodies() == []

    async def test_modes(self):
        """Folders 0700 and files 0600, whatever the umask, and whatever they were before."""
        for umask in (0o000, 0o777):
            before = os.umask(umask)
            try:
                store = self.make_store()
                await store.open()
                message = await self.stream(store, LARGE)
                await store.accept([message, make_message(store.new_id())])
                paths = [self.shard, *self.shard.rglob("*")]
                assert len(paths) == 7
                for path in paths:
                    assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
                await store.close()
            finally:
                os.umask(before)

    async def test_one_process_at_a_time(self):
        """A second store on the same folder is told who is there; when the first one is closed it opens."""
        store = await self.opened()
        second = self.again()
        error = await self.assertFailure(second.open(), StoreLocked)
        assert str(self.shard) in str(error)
        assert str(os.getpid()) in str(error)
        await self.reopened(store)

    async def test_a_foreign_or_newer_file_is_refused(self):
        """Such a file is named and left alone."""
        for statement, word in (("CREATE TABLE t (x)", "no queue"), ("PRAGMA user_version = 99", "version 99")):
            store = self.make_store()
            self.shard.mkdir()
            db = sqlite3.connect(self.shard / "queue.db")
            db.execute(statement)
            db.commit()
            db.close()
            error = await self.assertFailure(store.open(), SchemaError)
            assert word in str(error)
            assert str(self.shard) in str(error)

    async def test_what_arrives_together_commits_together(self):
        """A hundred messages of one turn are one transaction; those that come during a commit are the next."""
        store = await self.opened()
        works = [self.put_soon(store) for _ in range(100)]
        await gatherResults(works)
        assert store.commits == 1
        works = [self.put_soon(store) for _ in range(10)]
        await deferLater(reactor, 0, lambda: None)
        works += [self.put_soon(store) for _ in range(10)]
        await gatherResults(works)
        assert store.commits <= 3
        leases = await store.claim(200, NOW)
        before = store.commits
        await gatherResults([store.settle([settlement(lease)]) for lease in leases[:60]])
        await store.settle([settlement(lease) for lease in leases[60:]])
        assert store.commits == before + 2
        assert await store.rows() == ()

    def put_soon(self, store, **fields):
        return store.accept([make_message(store.new_id(), **fields)])

    async def test_one_bad_change_does_not_hurt_its_group(self):
        """A message refused by the tables fails alone, with its body; so does a settlement with such offspring."""
        store = await self.opened()
        taken, (lease,) = await self.put(store, lease=True)
        twin = make_message(taken.id)
        good, bad = self.put_soon(store, octets=LARGE), store.accept([make_message(store.new_id(), octets=LARGE), twin])
        settled = store.settle([settlement(lease, offspring=(make_message(store.new_id()), twin))])
        await good
        await self.assertFailure(bad, sqlite3.IntegrityError)
        (trouble,) = await settled
        assert isinstance(trouble, sqlite3.IntegrityError)
        assert len(await store.rows()) == 2
        assert len(self.bodies()) == 1
        assert len(await store.claim(10, NOW)) == 1, "a settlement that failed leaves its lease"

    async def test_a_full_disk(self):
        """StoreFull; the writer lives on; outcomes wait for space instead of being forgotten."""
        store = await self.opened()
        _, (lease,) = await self.put(store, lease=True)
        db = store._shard._db
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages}").fetchall()
        many = [self.put_soon(store, octets=OCTETS * 5000) for _ in range(3)]
        for work in many:
            await self.assertFailure(work, StoreFull)
        report = make_message(store.new_id(), octets=OCTETS * 5000)
        settled = store.settle([settlement(lease, offspring=(report,))])
        await deferLater(reactor, 0.05, lambda: None)
        assert not settled.called
        assert await store.claim(10, NOW) == ()
        db.execute("PRAGMA max_page_count = 1000000").fetchall()
        assert await settled == (None,)
        assert [row.id for row in await store.rows()] == [report.id]
        await self.put(store)

    async def test_verbs_on_a_full_disk(self):
        """Whatever the shard was asked, what it says for want of space is StoreFull."""
        store = await self.opened()

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        self.patch(store._shard, "hold", full)
        self.patch(store._shard, "claim", full)
        await self.assertFailure(store.hold("x", True), StoreFull)
        await self.assertFailure(store.claim(1, NOW), StoreFull)

    async def test_outcomes_that_wait_for_space_are_told_at_the_end(self):
        """Closing tries once more and then says what was lost."""
        store = await self.opened()
        _, (lease,) = await self.put(store, lease=True)
        db = store._shard._db
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages}").fetchall()
        settled = store.settle([settlement(lease, offspring=(make_message(store.new_id(), octets=OCTETS * 5000),))])
        await deferLater(reactor, 0.05, lambda: None)
        await self.reopened(store)
        (trouble,) = await settled
        assert isinstance(trouble, StoreFull)

    async def test_no_space_for_a_file(self):
        """A body that cannot be written is StoreFull at write or at finish, and leaves no trace."""
        store = await self.opened()
        writer = store.body(store.new_id())
        writer.write(LARGE)
        os.close(writer._fd)
        writer._fd = os.open("/dev/full", os.O_WRONLY)
        with self.assertRaises(StoreFull):
            writer.write(LARGE)
        writer.abort()
        writer = store.body(store.new_id())
        writer.write(LARGE)
        writer.write(b"x")
        os.close(writer._fd)
        writer._fd = os.open("/dev/full", os.O_WRONLY)
        await self.assertFailure(maybeDeferred(writer.finish), StoreFull)
        writer.abort()
        store = await self.reopened(store)
        await self.check_no_trace(store)

    async def test_all_sessions_share_one_budget_of_memory(self):
        """Beyond it small bodies go to files at once, and are whole all the same."""
        self.settings = QueueSettings(memory=100_000)
        store = await self.opened()
        writers = {}
        for _ in range(5):
            message_id = store.new_id()
            writers[message_id] = store.body(message_id)
        for piece in (b"a" * 30_000, b"b" * 30_000, b"c"):
            for writer in writers.values():
                writer.write(piece)
            assert store._budget.used <= 100_000
        assert len(self.bodies()) > 0
        for message_id, writer in writers.items():
            body = await maybeDeferred(writer.finish)
            await store.accept([make_message(message_id, octets=b"a" * 30_000 + b"b" * 30_000 + b"c", body=body)])
        assert store._budget.used == 0
        whole = {lease.message.body.read(0, 1 << 20) for lease in await store.claim(9, NOW)}
        assert whole == {b"a" * 30_000 + b"b" * 30_000 + b"c"}

    async def test_many_octets_one_by_one(self):
        """Chunks of one octet cost no more memory than their octets, large or small."""
        store = await self.opened()
        writer = store.body(store.new_id())
        for _ in range(200_000):
            writer.write(b"x")
        assert len(writer._buffer) < 70_000
        assert (await maybeDeferred(writer.finish)).read(0, 1 << 20) == b"x" * 200_000

    async def test_fresh_bodies_do_not_pile_up(self):
        """A fresh lease keeps a small body in memory, and reads a larger one from where it is."""
        store = await self.opened()
        octets = b"a: b\r\n\r\n" + b"z" * 50_000
        _, (small,) = await self.put(store, lease=True)
        _, (larger,) = await self.put(store, lease=True, octets=octets)
        assert type(small.message.body).__name__ == "BytesBody"
        assert type(larger.message.body).__name__ == "BlobBody"
        assert larger.message.body.read(0, 1 << 20) == octets
        assert larger.message.body.read(50_007, 9) == b"z"
        assert larger.message.body.read(50_008, 9) == b""

    async def test_after_the_end_nothing_is_accepted(self):
        """A closed store fails what comes late; it never hangs."""
        store = await self.opened()
        work = self.put_soon(store)
        late = store.body(store.new_id())
        late.write(LARGE)
        await self.reopened(store)
        await work
        await self.assertFailure(self.put_soon(store), Exception)
        late.abort()
        assert len(await self.open_stores[0].rows()) == 1
        assert self.bodies() == []

    async def test_a_saturated_reactor_does_not_starve_the_writer(self):
        """With the reactor busy all the time, groups still come through in moments."""
        store = await self.opened()
        busy = True

        def burn():
            end = time.perf_counter() + 0.0005
            while time.perf_counter() < end:
                pass
            if busy:
                reactor.callLater(0, burn)

        for _ in range(4):
            reactor.callLater(0, burn)
        started = time.perf_counter()
        try:
            for _ in range(10):
                _, (lease,) = await self.put(store, lease=True)
                await store.settle([settlement(lease, LATER, again=NOW + 1)])
        finally:
            busy = False
        assert time.perf_counter() - started < 5

    async def test_who_gives_up_waiting_loses_nothing(self):
        """A cancelled accept is stored, its aborted body too; its lease and a cancelled claim's are free again."""
        store = await self.opened()
        message_id = store.new_id()
        writer = store.body(message_id)
        writer.write(LARGE)
        message = make_message(message_id, octets=LARGE, body=await maybeDeferred(writer.finish))
        for begin in (lambda: store.accept([message], True), lambda: store.claim(10, NOW)):
            work = begin()
            work.cancel()
            await self.assertFailure(work, CancelledError)
            writer.abort()
            await store.rows()
            await store.next_due()
        (lease,) = await store.claim(10, NOW)
        assert lease.message.body.read(0, 1 << 20) == LARGE

    async def test_a_settlement_names_its_trouble(self):
        """NotLeased says which message."""
        store = await self.opened()
        message, (lease,) = await self.put(store, lease=True)
        await store.settle([settlement(lease)])
        (trouble,) = await store.settle([settlement(lease)])
        assert isinstance(trouble, NotLeased) and message.id in str(trouble)

    async def test_a_report_that_cannot_be_read_does_not_hurt_other_settlements(self):
        """Its parent stays leased; what else ended in the same turn is stored."""
        store = await self.opened()
        _, (bad,) = await self.put(store, lease=True)
        _, (good,) = await self.put(store, lease=True)
        report = make_message(store.new_id())
        report = attrs.evolve(report, envelope=attrs.evolve(report.envelope, recipients=()))
        results = await store.settle([settlement(bad, offspring=(report,)), settlement(good)])
        assert isinstance(results[0], ValueError) and results[1] is None
        assert [row.id for row in await store.rows()] == [bad.message.id]
