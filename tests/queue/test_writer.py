"""The queue written by a process beside the service: what any store does, and what happens when one of the two dies."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from requiretls_mta.queue import writing
from requiretls_mta.queue.sqlite import SQLiteStore
from requiretls_mta.queue.store import StoreFull
from requiretls_mta.queue.writer import Writer
from tests.queue.contract import LARGE, StoreContract
from tests.queue.values import LATER, NOW, OCTETS, make_message, settlement


class WriterTests(StoreContract, TestCase):
    """The contract once more, and the writer's own troubles."""

    def setUp(self):
        super().setUp()
        self.place = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.place)
        self.number = 0
        self.writers = []

    def make_store(self):
        self.number += 1
        return self.again()

    def again(self):
        self.writers.append(Writer(reactor))
        return SQLiteStore(reactor, self.place / f"{self.number}", wall=time.time, writer=self.writers[-1])

    async def check_no_trace(self, store):
        assert await store.rows() == ()
        assert not list((self.place / f"{self.number}" / "bodies").iterdir())

    @property
    def process(self):
        return self.writers[-1]._process

    def watch(self, store):
        """Groups that the thread had to write."""
        groups = []
        apply = store._shard.apply
        self.patch(store._shard, "apply", lambda changes: groups.append(len(changes)) or apply(changes))
        return groups

    async def test_messages_come_and_go_by_the_writer(self):
        """Many at once are few commits, and the thread has none of it."""
        store = await self.opened()
        by_thread = self.watch(store)
        leases = [lease for _, (lease,) in await gatherResults([self.put_soon(store) for _ in range(20)])]
        await store.settle([settlement(lease, LATER, again=NOW + 60) for lease in leases[:10]])
        await store.settle([settlement(lease, offspring=(make_message(store.new_id()),)) for lease in leases[10:]])
        assert len(await store.rows()) == 20
        assert not by_thread
        assert store.commits <= 6

    async def test_a_large_group_is_the_threads(self):
        """So many that handing them over would cost more than it saves."""
        store = await self.opened()
        by_thread = self.watch(store)
        await gatherResults([self.put_soon(store) for _ in range(50)])
        assert by_thread == [50]

    def put_soon(self, store, **fields):
        message = make_message(store.new_id(), **fields)
        return store.accept([message], lease=True).addCallback(lambda leases: (message, leases))

    async def test_files_are_the_threads_work(self):
        """What concerns files as well is not given away; the rest of such a group goes with it."""
        store = await self.opened()
        by_thread = self.watch(store)
        large = await self.stream(store, LARGE)
        (lease,) = await store.accept([large], lease=True)
        assert not by_thread  # the file was there already
        await store.settle([settlement(lease)])
        assert by_thread == [1]
        await self.check_no_trace(store)

    async def test_a_writer_that_is_killed_is_not_missed(self):
        """Whatever moment it is: each message is accepted once, settled once, and the queue goes on without it."""
        for moment in (0, 0.0005, 0.001, 0.002, 0.004):
            store = await self.opened()
            leases = [lease for _, (lease,) in await gatherResults([self.put_soon(store) for _ in range(11)])]
            report = make_message(store.new_id(), origin="report")
            work = [self.put_soon(store) for _ in range(12)]
            work += [store.settle([settlement(lease)]) for lease in leases[1:]]
            work.append(store.settle([settlement(leases[0], offspring=(report,))]))
            await deferLater(reactor, moment, self.process.kill)
            await gatherResults(work)
            assert len(await store.rows()) == 13
            await self.put(store)
            assert len(await store.rows()) == 14

    async def test_an_answer_that_was_lost(self):
        """The group is in the tables, but nobody said so: it is found there, and not written again."""
        store = await self.opened()
        _, (lease,) = await self.put_soon(store)
        by_thread = self.watch(store)
        write = self.writers[-1].write

        def lost(changes):
            # As if the process died between its commit and its word.
            return write(changes).addCallback(lambda _: self.process.kill() or "lost")

        self.patch(self.writers[-1], "write", lost)
        report = make_message(store.new_id(), origin="report")
        accepted = self.put_soon(store)
        settled = store.settle([settlement(lease, offspring=(report,))])
        message, _ = await accepted
        await settled
        assert not by_thread
        assert {row.id for row in await store.rows()} == {message.id, report.id}

    async def test_a_full_disk(self):
        """The writer's trouble is told as the thread's would be."""
        store = await self.opened()
        pages = store._shard._db.execute("PRAGMA page_count").fetchone()[0]

        def full(changes):
            return write((changes[0] * 0 + [(1,)], *changes[1:]))  # a row of the wrong width: an error in SQLite

        write = self.writers[-1].write
        self.patch(self.writers[-1], "write", full)
        store._shard._db.execute(f"PRAGMA max_page_count = {pages}").fetchall()
        await self.assertFailure(self.put_soon(store, octets=OCTETS * 5000), StoreFull)
        store._shard._db.execute("PRAGMA max_page_count = 1000000").fetchall()
        await self.put(store)

    async def test_signals_for_the_service(self):
        """Whoever stops the service stops its writer by closing the store, and by nothing else."""
        store = await self.opened()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self.process.send_signal(number)
        by_thread = self.watch(store)
        await self.put(store)
        assert not by_thread
        await self.reopened(store)
        assert self.writers[0]._process.returncode == 0

    async def test_no_process_at_all(self):
        """Where none can be started the thread does its work."""
        self.patch(sys, "executable", "/nonexistent/python")
        store = await self.opened()
        await self.put(store)
        assert len(await store.rows()) == 1
        self.flushLoggedErrors()


def test_the_writer_ends_with_the_service(tmp_path):
    """Killed or not: when nobody is at the other end, it goes, and the lock with it."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.queue.crashing", str(tmp_path / "0"), "1"],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent.parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)},
    )
    with child:
        assert child.stdout.readline() == b"open\n"
        (writer,) = (
            int(number)
            for children in Path(f"/proc/{child.pid}/task").glob("*/children")  # of each thread
            for number in children.read_text().split()
            if writing.__file__.encode() in Path(f"/proc/{number}/cmdline").read_bytes()
        )
        child.kill()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{writer}/cmdline").exists() and Path(f"/proc/{writer}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "the writer lives on"
        time.sleep(0.01)


def test_it_needs_nothing_but_the_standard_library():
    """Run with no site-packages at all, it starts."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import runpy; runpy.run_path({writing.__file__!r})"], check=False
    )
    assert done.returncode == 0
