"""How fast the embedded queue takes messages, and what a million of them cost.

    python bench/queue_store.py commit       # forms of group commit, on an idle and on a saturated reactor
    python bench/queue_store.py depth --messages 1000000

`commit` runs closed loops: each client computes a quarter of a millisecond (a session's work), hands over a message and
waits for its commit. `--busy` adds work that fills every turn of the reactor, with system calls between, as relaying
does. The forms:

    rows      the whole group in a thread, one execution per row
    reactor   rows inserted on the reactor thread, only COMMIT in the thread
    store     what the store does: the whole group in a thread, a constant number of statements

each with the reactor's short pauses while a group is under way, and without them.
"""

import argparse
import itertools
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from twisted.internet import epollreactor
from twisted.internet.defer import Deferred

from requiretls_mta.message.address import Address
from requiretls_mta.message.content import Content
from requiretls_mta.message.envelope import Envelope, Recipient
from requiretls_mta.message.stored import BytesBody, Message
from requiretls_mta.queue import lane, schema, writing
from requiretls_mta.queue.changes import Accept, Group, encode
from requiretls_mta.queue.shard import Shard
from requiretls_mta.queue.sqlite import SQLiteStore

WORK = 0.00025


def spin(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def new_message(message_id, octets):
    return Message(
        id=message_id,
        envelope=Envelope(
            sender=Address("sender", "example.org"), recipients=(Recipient(Address("someone", "example.net")),)
        ),
        body=BytesBody(octets),
        content=Content(size=len(octets), header_end=0),
        prepend=b"Received: from client by server\r\n" * 6,
        received=time.time(),
        listener="mx",
    )


class Plain:
    """The two other forms, on the same writing."""

    def __init__(self, reactor, folder, *, inserts_here):
        self.reactor, self.folder, self.inserts_here = reactor, folder, inserts_here
        self.db = writing.connect(str(folder / "queue.db"))
        self.db.execute("PRAGMA page_size = 8192").close()
        self.db.execute("PRAGMA journal_mode = WAL").close()
        self.db.execute("PRAGMA wal_autocheckpoint = 2000").fetchall()
        schema.migrate(self.db, "bench")
        self.seq, self.commits = 0, 0
        self.lane = lane.Lane(reactor, "bench", self.work)
        self.lane.start()
        self.ids = (f"{n:016}" for n in itertools.count())
        self.waiting, self.busy = [], False

    def new_id(self):
        return next(self.ids)

    def insert(self, group):
        db = self.db
        db.execute("BEGIN IMMEDIATE")
        db.executemany(f"INSERT INTO entering VALUES ({','.join('?' * len(group.messages[0]))})", group.messages)

    def work(self, jobs):
        for group in [self.gather(jobs)] if not self.inserts_here else ():
            self.insert(group)
        self.db.execute("COMMIT")
        self.commits += 1
        return [None] * len(jobs)

    def gather(self, rows):
        group = Group(self.seq)
        for one in rows:
            group.add(one, lease=False)
        self.seq = group.seq
        return group

    def accept(self, messages):
        rows = encode(messages[0], self.folder, 1 << 20)
        if not self.inserts_here:
            return self.lane.submit(rows)
        done = Deferred()
        self.waiting.append((rows, done))
        if len(self.waiting) == 1:
            self.reactor.callLater(0, self.flush)
        return done

    def flush(self):
        if self.busy or not self.waiting:
            return
        waiting, self.waiting = self.waiting, []
        self.busy = True
        self.insert(self.gather([rows for rows, _ in waiting]))
        self.lane.submit(None).addCallback(self.committed, waiting)

    def committed(self, _, waiting):
        self.busy = False
        self.flush()
        for _, done in waiting:
            done.callback(None)


def run_commit(args):
    """One measurement, in a process of its own."""
    epollreactor.install()
    from twisted.internet import reactor  # noqa: PLC0415  only now is it the one just installed

    if not args.pauses:
        lane._PATIENCE = 1e9
    folder = Path(tempfile.mkdtemp(dir=args.folder))
    octets = b"Subject: load\r\n\r\n" + b"x" * (args.size - 17)
    delays = []
    one, other = socket.socketpair()

    def fill():
        for _ in range(4):
            spin(args.busy / 4000)
            one.send(b"x" * 100)
            other.recv(200)
        reactor.callLater(0, fill)

    async def client(store):
        while len(delays) < args.messages:
            spin(WORK)
            started = time.perf_counter()
            await store.accept([new_message(store.new_id(), octets)])
            delays.append(time.perf_counter() - started)
            turn = Deferred()
            reactor.callLater(0, turn.callback, None)
            await turn
        if reactor.running and not args.over:
            args.over = True
            reactor.stop()

    async def main():
        if args.form == "store":
            store = SQLiteStore(reactor, folder, wall=time.time)
            await store.open()
        else:
            store = Plain(reactor, folder, inserts_here=args.form == "reactor")
        args.store, args.started, args.over = store, time.perf_counter(), False
        for _ in range(args.clients):
            Deferred.fromCoroutine(client(store))
        if args.busy:
            reactor.callLater(0, fill)
        reactor.callLater(args.limit, reactor.stop)

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(main()))
    reactor.run()
    seconds = time.perf_counter() - args.started
    delays.sort()
    middle, last = (delays[int(len(delays) * q)] * 1000 for q in (0.5, 0.99))
    group = len(delays) / max(args.store.commits, 1)
    print(f"{len(delays) / seconds:.0f} {middle:.1f} {last:.1f} {group:.1f}")
    shutil.rmtree(folder)


def commit(args):
    """All forms, interleaved, medians."""
    cases = [(c, b, f, p) for c in (10, 100) for b in (0.0, 0.5) for f in ("rows", "reactor", "store") for p in (1, 0)]
    results = {case: [] for case in cases}
    for _ in range(args.rounds):
        for case in cases:
            clients, busy, form, pauses = case
            command = [sys.executable, __file__, "one", "--form", form, "--clients", str(clients), "--busy", str(busy)]
            command += ["--pauses", str(pauses), "--size", str(args.size), "--folder", args.folder]
            command += ["--messages", str(args.messages)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results[case].append([float(word) for word in output.split()])
    print("clients  busy ms  form     pauses   per second (least)   p50 ms   p99 ms (worst)   group")
    for (clients, busy, form, pauses), runs in results.items():
        rate, middle, last, group = (statistics.median(column) for column in zip(*runs, strict=True))
        least, worst = min(run[0] for run in runs), max(run[2] for run in runs)
        print(
            f"{clients:7}  {busy:7}  {form:8} {'yes' if pauses else 'no':6} {rate:12.0f} ({least:5.0f})"
            f" {middle:8.1f} {last:8.1f} ({worst:7.1f}) {group:7.1f}"
        )


def depth(args):
    """Fill a shard, open it again, and look for the one message that is due."""
    folder = Path(tempfile.mkdtemp(dir=args.folder))
    octets = b"Subject: load\r\n\r\n" + b"x" * args.size
    with Shard(folder, wall=time.time) as shard:
        for start in range(0, args.messages, 1000):
            work = [new_message(shard.new_id(), octets) for _ in range(min(1000, args.messages - start))]
            rows = [encode(message, shard.files.folder, 1 << 20) for message in work]
            assert shard.apply([Accept(tuple(rows))]) == [None]
        shard._db.execute("UPDATE message SET due = due + 3600000000")
        shard._db.execute("UPDATE recipient SET next_attempt = next_attempt + 3600000000")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    with Shard(folder, wall=time.time) as shard:
        opened = time.perf_counter() - started
        times = []
        for _ in range(50):
            message = new_message(shard.new_id(), octets)
            assert shard.apply([Accept((encode(message, shard.files.folder, 1 << 20),))]) == [None]
            started = time.perf_counter()
            (lease,) = shard.claim(200, time.time())
            times.append(time.perf_counter() - started)
            assert lease.message.id == message.id
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        started = time.perf_counter()
        count = len(shard.rows())
        listed = time.perf_counter() - started
    size = sum(path.stat().st_size for path in folder.rglob("*")) / 2**20
    print(
        f"{count} messages, {size:.0f} MiB on disk: opened in {opened * 1000:.1f} ms, the one due found in"
        f" {statistics.median(times) * 1000:.2f} ms (worst {max(times) * 1000:.2f}), peak memory grew by"
        f" {grown / 1024:.1f} MiB; listing all took {listed:.1f} s"
    )
    shutil.rmtree(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["commit", "depth", "one"])
    parser.add_argument("--folder", default=".", help="where the databases are made: a real disk")
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=10240)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--busy", type=float, default=0.0, help="milliseconds of work in each turn of the reactor")
    parser.add_argument("--form", choices=["rows", "reactor", "store"], default="store")
    parser.add_argument("--pauses", type=int, default=1)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds after which a run is ended")
    args = parser.parse_args()
    {"commit": commit, "depth": depth, "one": run_commit}[args.what](args)


if __name__ == "__main__":
    main()
