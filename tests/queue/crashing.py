"""A process that accepts and settles as fast as it can until it is killed; says on its output what was acknowledged."""

import hashlib
import os
import random
import sys
import time
from pathlib import Path

from twisted.internet.defer import Deferred, maybeDeferred

from tests.queue.values import NEVER, content_of, make_message, settlement

SIZES = (10, 3_000, 140_000, 600_000)


def octets_of(message_id, size):
    """What the body of this message must be."""
    seed = hashlib.sha256(message_id.encode()).hexdigest().encode()
    return b"Subject: " + seed + b"\r\n\r\n" + (seed * (size // 64 + 1))[:size] + b"\r\n"


def say(*words):
    os.write(1, (" ".join(words) + "\n").encode())


async def session(store, rng):
    while True:
        message_id, size = store.new_id(), rng.choice(SIZES)
        octets = octets_of(message_id, size)
        writer = store.body(message_id)
        for start in range(0, len(octets), 50_000):
            writer.write(octets[start : start + 50_000])
        body = await maybeDeferred(writer.finish)
        say("begin", message_id, str(size))
        message = make_message(message_id, octets=octets, body=body)
        leases = await store.accept([message], rng.random() < 0.7)
        say("accepted", message_id)
        if not leases:
            leases = await store.claim(rng.choice((1, 3)), time.time())
        for lease in leases:
            report_id = store.new_id()
            report = octets_of(report_id, rng.choice(SIZES))
            child = make_message(report_id, octets=report, origin="report", parent=lease.message.id, received=4e9)
            assert child.content == content_of(report)
            await store.settle([settlement(lease, NEVER, offspring=(child,))])
            say("settled", lease.message.id)


def main():
    from twisted.internet import reactor

    from requiretls_mta.queue.sqlite import SQLiteStore
    from requiretls_mta.queue.writer import Writer

    store = SQLiteStore(reactor, Path(sys.argv[1]), wall=time.time, writer=Writer(reactor))
    rng = random.Random(sys.argv[2])

    async def run():
        await store.open()
        say("open")
        for _ in range(8):
            Deferred.fromCoroutine(session(store, rng)).addErrback(lambda failure: say("broken", repr(failure)))

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(run()))
    reactor.run()


if __name__ == "__main__":
    main()
