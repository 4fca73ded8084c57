"""Looks at the store: when it is asked, for how much, and what happens when it does not answer."""

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from requiretls_mta.message.outcome import Deferred as Postponed
from requiretls_mta.queue.store import Lease, StoreFull
from requiretls_mta.relay.claims import Claims
from requiretls_mta.relay.settings import ScheduleSettings
from tests.relay.test_schedule import LATER, Bench, Scripted, delivered, message


class Store:
    """Has so many due messages, and then the next at a time."""

    def __init__(self, due=0, following=None):
        self.due, self.following, self.asked = due, following, []

    def claim(self, limit, now):
        self.asked.append((limit, now))
        count = min(limit, self.due)
        self.due -= count
        return succeed(tuple(Lease(message=message(n), entries=()) for n in range(count)))

    def next_due(self):
        return succeed(self.following)


@attrs.define
class Work:
    """Room for so many; claims are begun and looks counted."""

    room: int = 500
    is_full: bool = False
    taken: int = 0
    looks: int = 0

    def claimed(self, leases):
        self.room -= len(leases)
        self.taken += len(leases)

    def looked(self):
        self.looks += 1


class Looks:
    """Claims on a clock of their own; `wall` is the other clock's lead."""

    def __init__(self, store, work=None, **settings):
        self.clock, self.store, self.work, self.wall = Clock(), store, work or Work(), 0.0
        self.claims = Claims(
            store=store,
            clock=self.clock,
            wall=lambda: self.clock.seconds() + self.wall,
            settings=lambda: ScheduleSettings(**settings),
            work=self.work,
        )
        self.claims.start()
        self.turn()

    def turn(self, seconds=0.0):
        self.clock.pump([0, 0, seconds, 0, 0])

    @property
    def times(self):
        return [now for _, now in self.store.asked]


def test_as_long_as_there_is_more_it_is_asked_at_once():
    """No more at a time than is asked for, and no more in all than there is room for."""
    looks = Looks(Store(due=900), claim=200)
    assert [limit for limit, _ in looks.store.asked] == [200, 200, 100]
    assert looks.work.taken == 500 and looks.work.looks == 3
    looks.turn(59)
    assert len(looks.store.asked) == 3
    looks.work.room = 7
    looks.claims.look()
    assert looks.store.asked[3][0] == 7


def test_it_is_asked_when_the_next_is_due_and_every_now_and_then():
    """The store's own word counts, but not for longer than the pause; what is due already is not asked for wildly."""
    for following, asked in ((25.0, 25.0), (None, 60.0), (1000.0, 60.0), (-5.0, 0.05)):
        looks = Looks(Store(following=following))
        assert looks.times == [0.0]
        looks.turn(asked - 0.01)
        assert looks.times == [0.0]
        looks.turn(0.02)
        assert looks.times[1:2] and looks.times[1] < asked + 0.02


def test_a_clock_that_was_set_back_makes_no_pause_longer():
    """The pause is counted from what the store was asked for."""
    store = Store()
    store.next_due = Deferred
    looks = Looks(store)
    due = Deferred()
    store.next_due = lambda: due
    looks.turn(5)
    looks.claims.look()
    looks.wall = -1e6
    due.callback(15.0)
    looks.turn(10.5)
    assert len(looks.times) == 3


def test_one_look_at_a_time():
    """A word while the store is being asked is heard afterwards, once."""
    store = Store(due=1)
    answers = [Deferred(), succeed(())]
    store.claim = lambda limit, now: store.asked.append((limit, now)) or answers[len(store.asked) - 1]
    looks = Looks(store)
    for _ in range(3):
        looks.claims.look()
    assert len(store.asked) == 1 and looks.claims.looking
    answers[0].callback(())
    looks.turn()
    assert len(store.asked) == 2 and not looks.claims.looking


def test_behind_full_destinations_it_is_looked_now_and_then():
    """What is due for them may hide mail for others; that is no reason to ask without a pause."""
    looks = Looks(Store(due=10**6, following=0.0), Work(room=10**6, is_full=True), full_check=10.0)
    for _ in range(30):
        looks.turn(1)
        looks.claims.look()
    assert looks.times == [0.0, 10.0, 20.0, 30.0]


def test_those_left_of_a_message_are_attempted_on_time():
    """While some of it were attempted, nobody knew when the others are due."""
    first = iter([True] * 2)

    def answer(recipients):
        if next(first, False):
            return succeed([Postponed(recipient=r, reply=LATER) for r in recipients])
        return succeed(delivered(recipients))

    transport = Scripted(answer)
    bench = Bench(transport, idle_check=1e6)
    bench.schedule.start()
    bench.submit(message(1, ["a@x.test", "b@z.test"]))
    for _ in range(61):
        bench.turn(1)
    assert len(transport.calls) == 4 and bench.store.messages == {}


def test_a_claim_that_comes_back_after_stop_goes_back():
    """The store may answer when it is too late."""
    bench = Bench(Scripted())
    claimed, ready = [], Deferred()
    bench.store.accept([message(1)], lease=True).addCallback(claimed.extend)
    bench.store.claim = lambda limit, now: ready
    bench.schedule.start()
    stopped = bench.schedule.stop()
    assert not stopped.called
    ready.callback(tuple(claimed))
    assert stopped.called and bench.store.leased == set()


class Broken(SynchronousTestCase):
    """A store that does not answer."""

    def test_a_queue_that_cannot_be_read(self):
        """It is asked again in a while, not at once and for ever; with space again, all goes on."""
        transport = Scripted(lambda rs: succeed(delivered(rs)))
        for trouble, traces in ((StoreFull("no space"), 0), (OSError("disk"), 3)):
            bench = Bench(transport)
            asked, claim = [], bench.store.claim
            bench.store.claim = lambda *_, asked=asked, trouble=trouble: asked.append(0) or fail(trouble)
            bench.schedule.start()
            bench.submit(message(1))
            assert len(asked) == 2
            bench.turn(9.9)
            assert len(asked) == 2
            bench.turn(0.2)
            assert len(asked) == 3
            assert len(self.flushLoggedErrors(OSError)) == traces
            bench.store.claim = claim
            bench.turn(10.1)
            assert bench.store.messages == {}
            stopped = bench.schedule.stop()
            assert stopped.called and not bench.clock.getDelayedCalls()
