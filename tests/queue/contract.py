"""What every queue store must do; a store's tests inherit this and say how to make one."""

import attrs
from twisted.internet.defer import maybeDeferred
from zope.interface.verify import verifyObject

from requiretls_mta.message.outcome import Tried
from requiretls_mta.message.stored import BytesBody
from requiretls_mta.queue.ids import is_id
from requiretls_mta.queue.store import IQueueStore
from tests.queue.values import LATER, NEVER, NOW, OK, make_message, sent, settlement

LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcde\r\n" * 40_000


class StoreContract:
    """Mix into a trial TestCase. `make_store()`: a closed store on a fresh place; `again()`: one on the same place."""

    def make_store(self):
        raise NotImplementedError

    def again(self):
        raise NotImplementedError

    async def opened(self):
        store = self.make_store()
        await store.open()
        self.open_stores.append(store)
        return store

    async def reopened(self, store):
        await store.close()
        self.open_stores.remove(store)
        store = self.again()
        await store.open()
        self.open_stores.append(store)
        return store

    def setUp(self):
        self.open_stores = []

    async def tearDown(self):
        for store in self.open_stores:
            await store.close()

    async def put(self, store, lease=False, **fields):
        message = make_message(store.new_id(), **fields)
        return message, await store.accept([message], lease)

    async def stream(self, store, octets, **fields):
        message_id = store.new_id()
        writer = store.body(message_id)
        for start in range(0, len(octets), 60_000):
            writer.write(octets[start : start + 60_000])
        body = await maybeDeferred(writer.finish)
        return make_message(message_id, octets=octets, body=body, **fields)

    def test_provides_the_interface(self):
        """Names and signatures are checked."""
        verifyObject(IQueueStore, self.make_store())

    async def test_one_message_is_leased_by_its_id(self):
        """Whether it is due or held or not; with all who are not settled yet, and not twice."""
        store = await self.opened()
        message, (lease,) = await self.put(store, recipients=3, lease=True)
        assert await store.lease(message.id) is None
        await store.settle([settlement(lease, only=[0])])
        await store.release([message.id])
        await store.hold(message.id, True)
        lease = await store.lease(message.id)
        assert lease.message.id == message.id and [entry.number for entry in lease.entries] == [1, 2]
        assert await store.lease(message.id) is None and not await store.remove(message.id)
        await store.settle([settlement(lease)])
        assert await store.lease(message.id) is None and await store.rows() == ()
        assert await store.lease("0" * 16) is None

    async def test_ids(self):
        """Ids have their form, and grow."""
        store = await self.opened()
        ids = [store.new_id() for _ in range(1000)]
        assert all(map(is_id, ids))
        assert sorted(set(ids)) == ids

    async def test_a_message_comes_back_as_it_was(self):
        """Every field survives acceptance, restart and claim."""
        store = await self.opened()
        message, leases = await self.put(store, recipients=3, origin="list", parent="0123456789abcdef")
        assert leases == ()
        store = await self.reopened(store)
        (lease,) = await store.claim(10, NOW)
        assert attrs.evolve(lease.message, body=message.body) == message
        assert lease.message.body.read(0, 1 << 20) == message.body.data
        assert lease.message.body.size == message.body.size
        assert sent(lease.message) == sent(message)
        assert [e.recipient for e in lease.entries] == list(message.envelope.recipients)
        assert [(e.number, e.state, e.attempts, e.last_reply) for e in lease.entries] == [
            (n, "queued", 0, "") for n in range(3)
        ]

    async def test_accept_with_a_lease(self):
        """The lease holds what a claim would give, and no claim gives it again."""
        store = await self.opened()
        message, (lease,) = await self.put(store, lease=True, recipients=2)
        assert lease.message == message
        assert [e.number for e in lease.entries] == [0, 1]
        assert await store.claim(10, NOW + 1e6) == ()
        assert await store.next_due() is None
        await store.settle([settlement(lease)])
        assert await store.rows() == ()

    async def test_a_large_body_streams_through(self):
        """A large body, accepted with a lease or without, is read in pieces, and survives a restart."""
        store = await self.opened()
        message = await self.stream(store, LARGE)
        (lease,) = await store.accept([message], True)
        assert sent(lease.message) == sent(message)
        store = await self.reopened(store)
        (lease,) = await store.claim(1, NOW)
        assert sent(lease.message) == sent(message)
        assert lease.message.body.read(17, 5) == LARGE[17:22]
        await store.settle([settlement(lease)])
        assert await store.rows() == ()

    async def test_several_messages_share_a_body(self):
        """Offspring with the body of its parent keeps it when the parent is gone."""
        for octets in (LARGE, b"a: b\r\n\r\nc\r\n"):
            store = await self.opened()
            message = await self.stream(store, octets)
            expected = sent(message)
            (lease,) = await store.accept([message], True)
            child = attrs.evolve(lease.message, id=store.new_id(), parent=message.id, origin="list")
            await store.settle([settlement(lease, offspring=(child,))])
            store = await self.reopened(store)
            (lease,) = await store.claim(10, NOW)
            assert lease.message.parent == message.id
            assert sent(lease.message) == expected
            await store.settle([settlement(lease)])

    async def test_a_large_body_in_memory_is_taken_too(self):
        """Reports bring their octets; how many does not matter."""
        store = await self.opened()
        _, (lease,) = await self.put(store, octets=LARGE, lease=True)
        assert lease.message.body.read(0, 10) == LARGE[:10]
        store = await self.reopened(store)
        assert sent((await store.claim(1, NOW))[0].message).endswith(LARGE[2:])

    async def test_the_longest_due_come_first(self):
        """Claims are in the order of due times, within the limit, and leave out what is not due or held."""
        store = await self.opened()
        ids = {}
        for late in (5, 1, 9, 3):
            message, _ = await self.put(store, received=NOW - late)
            ids[late] = message.id
        await self.put(store, received=NOW + 1)
        assert await store.hold(ids[9], True)
        assert await store.next_due() == NOW - 5
        assert [x.message.id for x in await store.claim(2, NOW)] == [ids[5], ids[3]]
        assert [x.message.id for x in await store.claim(10, NOW)] == [ids[1]]
        assert await store.claim(10, NOW) == ()
        assert await store.next_due() == NOW + 1
        assert await store.hold(ids[9], False)
        assert [x.message.id for x in await store.claim(10, NOW)] == [ids[9]]
        assert not await store.hold(store.new_id(), True)

    async def test_some_wait_some_are_done(self):
        """Each recipient goes its own way; only those due are leased; the last one takes the message along."""
        store = await self.opened()
        message, (lease,) = await self.put(store, lease=True, recipients=3)
        a, b, c = (
            settlement(lease, reply, again=again, only={n}).settled[0]
            for n, reply, again in ((0, OK, None), (1, LATER, NOW + 60), (2, LATER, NOW + 90))
        )
        await store.settle([attrs.evolve(settlement(lease), settled=(a, b, c))])
        assert await store.next_due() == NOW + 60
        assert await store.claim(1, NOW + 59) == ()
        (lease,) = await store.claim(1, NOW + 60)
        assert [(e.number, e.attempts, e.last_reply) for e in lease.entries] == [(1, 1, str(LATER))]
        assert len(lease.message.envelope.recipients) == 3
        (row,) = await store.rows()
        assert [e.state for e in row.entries] == ["delivered", "queued", "queued"]
        await store.settle([settlement(lease, NEVER)])
        (row,) = await store.rows()
        assert [e.state for e in row.entries] == ["delivered", "failed", "queued"]
        (lease,) = await store.claim(1, NOW + 90)
        await store.settle([settlement(lease)])
        assert await store.rows() == ()
        assert await store.message(message.id) is None

    async def test_a_delay_is_told_once_whatever_restarts(self):
        """Who was warned and what was tried is known to the next attempt, of each recipient on its own."""
        store = await self.opened()
        _, (lease,) = await self.put(store, lease=True, recipients=2)
        plain = settlement(lease, LATER, again=NOW + 60)
        tried = (Tried(NOW - 0.5, "451 a"), Tried(NOW, 'ü "b"'))
        told = attrs.evolve(plain.settled[1], warned=True, tried=tried)
        await store.settle([attrs.evolve(plain, settled=(plain.settled[0], told))])
        store = await self.reopened(store)
        (lease,) = await store.claim(1, NOW + 60)
        assert [(e.warned, e.tried) for e in lease.entries] == [(False, ()), (True, tried)]

    async def test_a_part_of_a_lease_can_be_settled(self):
        """What was not attempted stays as it was."""
        store = await self.opened()
        _, (lease,) = await self.put(store, lease=True, recipients=2)
        await store.settle([settlement(lease, only={0})])
        (lease,) = await store.claim(1, NOW)
        assert [(e.number, e.attempts) for e in lease.entries] == [(1, 0)]
        await store.settle([settlement(lease, only=set())])
        (lease,) = await store.claim(1, NOW)
        assert [e.number for e in lease.entries] == [1]

    async def test_a_settlement_without_its_lease_is_refused(self):
        """Twice settled, or after a restart: the failure is told, and the other settlements of the batch hold."""
        store = await self.opened()
        _, (first,) = await self.put(store, lease=True)
        _, (second,) = await self.put(store, lease=True)
        await store.settle([settlement(first)])
        child = make_message(store.new_id())
        results = await store.settle([settlement(first, offspring=(child,)), settlement(second)])
        assert [result is None for result in results] == [False, True], "it was settled twice"
        assert await store.rows() == ()

    async def test_leases_end_with_the_store(self):
        """What was leased when the store was closed is due again."""
        store = await self.opened()
        message, _ = await self.put(store, lease=True)
        store = await self.reopened(store)
        (lease,) = await store.claim(1, NOW)
        assert lease.message.id == message.id

    async def test_offspring_enters_with_the_outcome(self):
        """The report is queued when the failed message is gone."""
        store = await self.opened()
        message, (lease,) = await self.put(store, lease=True)
        report = make_message(store.new_id(), origin="report", parent=message.id)
        await store.settle([settlement(lease, NEVER, offspring=(report,))])
        (row,) = await store.rows()
        assert row.id == report.id
        (lease,) = await store.claim(5, NOW)
        assert (lease.message.parent, lease.message.origin) == (message.id, "report")

    async def test_several_messages_enter_together_or_not_at_all(self):
        """One that cannot enter keeps its fellows out, and hurts nobody else."""
        store = await self.opened()
        good, bad = make_message(store.new_id()), make_message(store.new_id(), recipients=0)
        other = self.put(store)
        try:
            await store.accept([good, bad])
        except ValueError:
            pass
        else:
            raise AssertionError("a message without recipients entered")
        message, _ = await other
        assert [row.id for row in await store.rows()] == [message.id]

    async def test_an_id_is_taken_once(self):
        """A second message of the same id is refused, and the first one keeps its body."""
        store = await self.opened()
        message = await self.stream(store, LARGE)
        await store.accept([message])
        for octets in (b"x: y\r\n\r\n", LARGE[::-1]):
            try:
                await store.accept([attrs.evolve(message, body=BytesBody(octets))])
            except Exception:
                continue
            raise AssertionError("two messages have one id")
        (lease,) = await store.claim(10, NOW)
        assert sent(lease.message) == sent(message)

    async def test_the_tool_sees_and_acts(self):
        """rows, message, retry and remove, on messages at rest and under way."""
        store = await self.opened()
        message, (lease,) = await self.put(store, lease=True)
        other, _ = await self.put(store, received=NOW + 500, tag=None)
        first, second = await store.rows()
        assert (first.id, first.sender, first.tag, first.held) == (message.id, '"a b"@example.org', "required", False)
        assert (first.size, first.received, second.tag) == (message.size, NOW, None)
        assert sent(await store.message(other.id)) == sent(other)
        assert not await store.remove(message.id)
        assert not await store.remove("0" * 16)
        await store.settle([settlement(lease, LATER, again=NOW + 1000)])
        assert await store.retry(message.id, NOW) == 1
        assert await store.retry("0" * 16, NOW) == 0
        assert [x.message.id for x in await store.claim(9, NOW)] == [message.id]
        assert await store.retry(None, NOW) == 2
        assert [x.message.id for x in await store.claim(9, NOW)] == [other.id]
        store = await self.reopened(store)
        assert await store.remove(message.id)
        assert [row.id for row in await store.rows()] == [other.id]

    async def test_a_body_given_up_leaves_no_trace(self):
        """Aborted while it arrives, once it is whole, or twice; and never once the message is accepted."""
        store = await self.opened()
        for octets in (b"small", LARGE):
            writer = store.body(store.new_id())
            writer.write(octets)
            writer.abort()
            writer.abort()
            writer = store.body(store.new_id())
            writer.write(octets)
            finished = maybeDeferred(writer.finish)
            writer.abort()
            await finished
            message_id = store.new_id()
            writer = store.body(message_id)
            writer.write(octets)
            message = make_message(message_id, octets=octets, body=await maybeDeferred(writer.finish))
            accepted = store.accept([message])
            writer.abort()
            await accepted
            writer.abort()
        store = await self.reopened(store)
        leases = await store.claim(10, NOW)
        assert [lease.message.body.read(0, 1 << 20) for lease in leases] == [b"small", LARGE]
        await store.settle([settlement(lease) for lease in leases])
        await self.check_no_trace(store)

    async def check_no_trace(self, store):
        """A store that keeps files looks for them here."""

    async def test_the_clock_goes_back(self):
        """A retry waits no longer than its own pause when the clock is set back."""
        store = await self.opened()
        _, (lease,) = await self.put(store, lease=True)
        assert await store.claim(1, NOW) == ()
        await store.settle([settlement(lease, LATER, again=NOW + 60)])
        back = NOW - 86400
        assert await store.claim(1, back) == ()
        assert await store.claim(1, back + 59) == ()
        assert len(await store.claim(1, back + 60)) == 1

    async def test_very_many_recipients(self):
        """A thousand recipients, and several such messages in one group."""
        store = await self.opened()
        work = [self.put(store, recipients=1000, lease=True) for _ in range(3)]
        leases = [(await one)[1][0] for one in work]
        await store.settle([settlement(lease, LATER, again=NOW + 5) for lease in leases])
        leases = await store.claim(10, NOW + 5)
        assert [len(lease.entries) for lease in leases] == [1000] * 3
        assert await store.claim(10, NOW + 5) == ()
