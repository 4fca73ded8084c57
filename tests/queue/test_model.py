"""The shard against a dictionary: whatever is done in whatever order, both know the same."""

import shutil
import tempfile
from pathlib import Path

import attrs
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from requiretls_mta.queue.changes import Accept, encode, encode_settlement
from requiretls_mta.queue.settings import QueueSettings
from requiretls_mta.queue.shard import Shard
from requiretls_mta.queue.store import Settled, Settlement
from tests.queue.values import LATER, NEVER, NOW, OK, make_message, outcome, sent

SETTINGS = QueueSettings(row_limit=64)


@attrs.define
class Known:
    message: object
    octets: bytes
    entries: dict
    """Number -> [state, attempts, next attempt]."""
    held: bool = False
    leased: bool = False

    @property
    def queued(self):
        return {n: e for n, e in self.entries.items() if e[0] == "queued"}


class QueueMachine(RuleBasedStateMachine):
    """Accepts, claims, settles, holds, removes, and is opened anew at any time."""

    leases = Bundle("leases")

    @initialize()
    def begin(self):
        self.place = Path(tempfile.mkdtemp())
        self.now = NOW
        self.known = {}
        self.generation = 0
        self.open()

    def open(self):
        self.shard = Shard(self.place, wall=lambda: self.now, settings=SETTINGS)
        self.shard.open()

    def teardown(self):
        self.shard.close()
        shutil.rmtree(self.place)

    def make(self, recipients, filling, wait=0, **fields):
        octets = b"a: b\r\n\r\n" + b"z" * filling
        message = make_message(
            self.shard.new_id(), recipients=recipients, octets=octets, received=self.now + wait, **fields
        )
        entries = {n: ["queued", 0, message.received] for n in range(recipients)}
        return message, Known(message, sent(message), entries)

    def encoded(self, message):
        return encode(message, self.shard.files.folder, SETTINGS.row_limit)

    def granted(self, leases):
        for lease in leases:
            self.known[lease.message.id].leased = True
        return multiple(*((self.generation, lease) for lease in leases))

    @rule(target=leases, recipients=st.integers(1, 3), filling=st.sampled_from([0, 10, 200]), wait=st.integers(0, 9))
    def accept(self, recipients, filling, wait):
        message, known = self.make(recipients, filling, wait)
        assert self.shard.apply([Accept((self.encoded(message),))]) == [None]
        self.known[message.id] = known
        return multiple()

    @rule(target=leases, limit=st.integers(1, 3), wait=st.integers(0, 9))
    def claim(self, limit, wait):
        self.now += wait
        due = sorted(
            (min(e[2] for e in known.queued.values()), key)
            for key, known in self.known.items()
            if not known.held and not known.leased
        )
        assert self.shard.next_due() == (due[0][0] if due else None)
        expected = [at for at, _ in due if at <= self.now][:limit]
        leases = self.shard.claim(limit, self.now)
        assert [min(e.next_attempt for e in lease.entries) for lease in leases] == expected
        for lease in leases:
            known = self.known[lease.message.id]
            assert not known.held
            assert not known.leased
            assert sent(lease.message) == known.octets
            wanted = {n for n, e in known.queued.items() if e[2] <= self.now}
            assert {e.number for e in lease.entries} == wanted
        return self.granted(leases)

    @rule(
        taken=st.lists(consumes(leases), min_size=1, max_size=3),
        replies=st.lists(st.sampled_from([OK, LATER, NEVER, None]), min_size=3, max_size=3),
        wait=st.integers(1, 20),
        birth=st.booleans(),
    )
    def settle(self, taken, replies, wait, birth):
        changes, expected = [], []
        # Leases end with the process that took them: nobody is left to settle those from before a reopening.
        for lease in (lease for generation, lease in taken if generation == self.generation):
            key = lease.message.id
            known = self.known.get(key)
            valid = known is not None and known.leased
            settled = []
            for entry, reply in zip(lease.entries, replies, strict=False):
                if reply is None:
                    continue
                again = self.now + wait if reply is LATER else 0.0
                settled.append(
                    Settled(number=entry.number, outcome=outcome(entry, reply), next_attempt=again, final=not again)
                )
            child, child_known = self.make(1, 200, parent=key)
            work = Settlement(lease=lease, settled=tuple(settled), offspring=(child,) if birth else ())
            changes.append(encode_settlement(work, self.shard.files.folder, SETTINGS.row_limit))
            expected.append(valid)
            if not valid:
                continue
            for one in settled:
                _, attempts, _ = known.entries[one.number]
                state = "queued" if not one.final else "delivered" if one.outcome.reply is OK else "failed"
                known.entries[one.number] = [state, attempts + 1, one.next_attempt]
            known.leased = False
            if not known.queued:
                del self.known[key]
            if birth:
                self.known[child.id] = child_known
        assert [result is None for result in self.shard.apply(changes)] == expected

    @rule(data=st.data(), held=st.booleans())
    def hold(self, data, held):
        if self.known:
            key = data.draw(st.sampled_from(sorted(self.known)))
            assert self.shard.hold(key, held)
            self.known[key].held = held

    @rule(data=st.data())
    def remove(self, data):
        if self.known:
            key = data.draw(st.sampled_from(sorted(self.known)))
            assert self.shard.remove(key) is not self.known[key].leased
            if not self.known[key].leased:
                del self.known[key]

    @rule()
    def retry(self):
        assert self.shard.retry_all(self.now) == len(self.known)
        for known in self.known.values():
            for entry in known.queued.values():
                entry[2] = self.now

    @rule()
    def reopen(self):
        self.shard.close()
        self.generation += 1
        for known in self.known.values():
            known.leased = False
        self.open()

    @invariant()
    def rows_are_known(self):
        rows = {row.id: row for row in self.shard.rows()}
        assert rows.keys() == self.known.keys()
        for key, row in rows.items():
            known = self.known[key]
            assert row.held == known.held
            for entry in row.entries:
                state, attempts, at = known.entries[entry.number]
                assert (entry.state, entry.attempts) == (state, attempts)
                assert state != "queued" or entry.next_attempt == at
        files = {path.name for path in self.shard.files.folder.iterdir()}
        assert files == {key for key, known in self.known.items() if known.message.body.size > SETTINGS.row_limit}


QueueMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestQueueMachine = QueueMachine.TestCase
