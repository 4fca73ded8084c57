"""The schedule under stress: what breaks, what is slow, what stops; each lease ends once and nobody is in the way."""

import random

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from requiretls_mta.message.offspring import NONE, Offspring
from requiretls_mta.message.outcome import Deferred as Postponed
from requiretls_mta.message.outcome import Failed
from requiretls_mta.relay.destination import Way
from tests.relay.test_schedule import LATER, NO, Bench, Scripted, delivered, message, unreachable


def last(transport):
    """The numbers of the messages that were attempted, in order."""
    return [int(queue_id) for queue_id, _ in transport.calls]


class Broken(SynchronousTestCase):
    """Bugs of others: the message stays, is tried again, and stops nobody else."""

    def test_a_transport_that_forgets_an_outcome(self):
        """Too few outcomes are none: all are postponed, in one settlement."""
        bench = Bench(Scripted(lambda rs: succeed(delivered(rs[:1]))))
        bench.schedule.start()
        bench.submit(message(1, ["a@x.test", "b@x.test"]))
        assert [f["reply"][:9] for f in bench.events.of("deferred")] == ["451 4.3.0"] * 2
        assert len(bench.store.settlements) == 1 and bench.schedule._leases == 0
        assert len(self.flushLoggedErrors(ValueError)) == 1

    def test_a_transport_that_raises_at_once(self):
        """An exception instead of a Deferred is no other case."""

        def broken(recipients):
            raise ZeroDivisionError

        bench = Bench(Scripted(broken))
        bench.schedule.start()
        bench.submit(message(1))
        assert len(bench.events.of("deferred")) == 1 and bench.schedule._leases == 0
        self.flushLoggedErrors(ZeroDivisionError)

    def test_nobody_can_be_chosen_for_one_recipient(self):
        """It is postponed; the other recipient and the other message go out."""
        transport = Scripted(lambda rs: succeed(delivered(rs)))
        bench = Bench(transport)

        def choose(recipient):
            if recipient.address.domain == "bad.test":
                raise ZeroDivisionError
            return Way(transport, recipient.address.domain, 2)

        bench.schedule._choose = choose
        bench.schedule.start()
        bench.submit(message(1, ["a@bad.test", "b@x.test"]), message(2, ["c@bad.test"]), message(3))
        assert [f["recipient"] for f in bench.events.of("deferred")] == ["a@bad.test", "c@bad.test"]
        assert len(bench.events.of("delivered")) == 2
        assert bench.store.leased == set() and len(bench.store.settlements) == 3
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 2

    def test_a_report_that_cannot_be_written(self):
        """Nobody is given up in silence, and who was delivered is done."""
        broken = [True]

        def report(message, failed):
            if broken:
                raise ZeroDivisionError
            if message.envelope.sender is None:
                return NONE
            report = attrs.evolve(message, id=f"{7:016}", envelope=attrs.evolve(message.envelope, sender=None))
            return Offspring((report,))

        def answer(recipients):
            return succeed(
                [Failed(recipient=r, reply=NO) if r.address.local == "bad" else delivered([r])[0] for r in recipients]
            )

        transport = Scripted(answer)
        bench = Bench(transport, report=report)
        bench.schedule.start()
        bench.submit(message(1, ["a@x.test", "bad@x.test"]))
        (deferred,) = bench.events.of("deferred")
        assert deferred["reply"] == "451 4.3.0 failed, but no report could be written: 550 5.1.1 no"
        assert bench.events.of("bounced") == []
        broken.clear()
        for _ in range(242):
            bench.turn(60)
        assert transport.calls[1] == (f"{1:016}", ["bad"])
        assert [f["recipient"] for f in bench.events.of("bounced")][:1] == ["bad@x.test"]
        assert bench.store.settlements[1].offspring
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1


def test_hundreds_that_are_over_at_once():
    """Attempts that need no network (a refusal from the cache) end one after the other, not one inside the other."""
    transport = Scripted()
    bench = Bench(transport, concurrency=1)
    bench.schedule.start()
    bench.submit(*(message(n) for n in range(480)))
    transport.answer = lambda rs: succeed(delivered(rs))
    transport.finish()
    for _ in range(3):
        bench.turn()
    assert last(transport) == list(range(480))
    assert bench.store.messages == {} and bench.schedule._leases == 0
    assert bench.schedule._destinations == {}


def test_a_host_that_takes_no_more_connections_is_not_dead():
    """While it serves others, a refused connection is that attempt's own trouble."""
    transport = Scripted()
    bench = Bench(transport, concurrency=2)
    bench.schedule.start()
    bench.submit(*(message(n) for n in range(30)))
    bench.clock.advance(1)
    transport.finish()
    done, recipients = transport.waiting.pop(0)
    done.callback(unreachable(recipients))
    bench.turn()
    assert len(bench.events.of("deferred")) == 1
    assert len(transport.waiting) == 2


def test_it_is_dead_when_nobody_was_answered_since_the_attempt_began():
    """An answer of long ago says nothing about now."""
    transport = Scripted()
    bench = Bench(transport, concurrency=1)
    bench.schedule.start()
    bench.submit(*(message(n) for n in range(30)))
    transport.finish()
    bench.turn()
    transport.finish()
    bench.turn(1)
    transport.finish()
    bench.clock.advance(1)
    done, recipients = transport.waiting.pop(0)
    done.callback(unreachable(recipients))
    bench.turn()
    # The attempt that just failed began in the same second as the last answer: not dead yet. The next one shows it.
    bench.turn(1)
    done, recipients = transport.waiting.pop(0)
    done.callback(unreachable(recipients))
    bench.turn()
    assert transport.waiting == []
    assert len(bench.events.of("deferred")) == 27


def test_a_full_destination_is_not_in_the_way():
    """When no more can be parked, others come through: fresh ones at once, due ones at the next look past it."""
    transport = Scripted()
    bench = Bench(transport, concurrency=1, leases=10, share=4, parked=8, claim=5)
    bench.schedule.start()
    bench.submit(*(message(n) for n in range(40)))
    assert bench.schedule._parked == 8
    leases = []
    assert bench.schedule.has_room_for(message(80, ["r@fresh.test"]))
    assert bench.schedule.has_room_for(message(80, ["r@x.test", "r@fresh.test"]))
    assert not bench.schedule.has_room_for(message(81)), "neither attempted nor parked: not even leased"
    bench.store.accept([message(80, ["r@fresh.test"]), message(81)], lease=True).addCallback(leases.extend)
    bench.schedule.take(leases)
    assert last(transport) == [0, 80]
    bench.turn()
    assert f"{81:016}" not in bench.store.leased, "its destination has its share: it waits in the store"
    bench.submit(message(90, ["r@other.test"]))
    for _ in range(12):
        bench.turn(10)
    assert 90 in last(transport)
    assert {f["reply"] for f in bench.events.of("deferred")} == {
        "451 4.4.5 too many messages wait for this destination already"
    }
    for _ in range(400):
        while transport.waiting:
            transport.finish()
            bench.turn()
        bench.turn(60)
    assert bench.store.messages == {} and bench.store.leased == set()
    assert sorted(last(transport)) == sorted({*range(40), 80, 81, 90})


def test_a_share_of_one_lets_its_parked_ones_come():
    """The smallest share is no dead end."""
    transport = Scripted()
    bench = Bench(transport, concurrency=1, share=1)
    bench.schedule.start()
    bench.submit(*(message(n) for n in range(9)))
    while transport.waiting:
        transport.finish()
        bench.turn()
    assert bench.store.messages == {}


def test_what_is_handed_in_too_late_or_too_much_goes_back():
    """No attempt begins after stop(), and none beyond the bound; the store keeps them."""
    transport = Scripted()
    bench = Bench(transport, leases=2)
    bench.schedule.start()
    bench.turn()
    leases = []
    bench.store.accept([message(n) for n in range(4)], lease=True).addCallback(leases.extend)
    bench.schedule.take(leases)
    bench.turn()
    assert last(transport) == [0, 1]
    assert bench.store.leased == {f"{n:016}" for n in range(2)}
    stopped = bench.schedule.stop()
    leases = []
    bench.store.accept([message(5)], lease=True).addCallback(leases.extend)
    bench.schedule.take(leases)
    transport.finish()
    transport.finish()
    bench.turn()
    assert stopped.called and last(transport) == [0, 1]
    assert bench.store.leased == set()
    assert sorted(int(queue_id) for queue_id in bench.store.messages) == [2, 3, 5]


KINDS = ("ok", "later", "no", "dead", "short", "broken", "slow ok", "slow later", "slow dead", "slow broken")


class Whatever(SynchronousTestCase):
    """Any order of anything."""

    @settings(max_examples=60, deadline=None)
    @given(
        kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=25),
        concurrency=st.integers(1, 3),
        share=st.integers(1, 4),
        parked=st.integers(1, 6),
        leases=st.integers(1, 8),
        seed=st.integers(0, 9),
    )
    def test_every_recipient_ends_once(self, kinds, seed, *, concurrency, share, parked, leases):
        """Whatever transports do, in whatever bounds: all ends, nobody is delivered twice, nothing stays leased."""
        rng, script = random.Random(seed), iter(kinds)

        def outcomes(kind, recipients):
            match kind:
                case "later":
                    return succeed([Postponed(recipient=r, reply=LATER) for r in recipients])
                case "no":
                    return succeed([Failed(recipient=r, reply=NO) for r in recipients])
                case "dead":
                    return succeed(unreachable(recipients))
                case "short":
                    return succeed([])
                case "broken":
                    return fail(ZeroDivisionError())
                case _:
                    return succeed(delivered(recipients))

        def answer(recipients):
            kind = next(script, "ok")
            if not kind.startswith("slow "):
                return outcomes(kind, recipients)
            done = Deferred()
            bench.clock.callLater(rng.randint(1, 200), done.callback, None)
            return done.addCallback(lambda _: outcomes(kind[5:], recipients))

        bench = Bench(Scripted(answer), concurrency, share=share, parked=parked, leases=leases, claim=3)
        bench.schedule.start()
        domains = ("x.test", "x.test", "x.test", "y.test", "z.test")
        for number in range(20):
            bench.store.accept([message(number, [f"{n}@{rng.choice(domains)}" for n in range(rng.randint(1, 3))])])
        wanted = {(key, n) for key, (m, _) in bench.store.messages.items() for n in range(len(m.envelope.recipients))}
        bench.schedule.wake()
        for _ in range(600):
            bench.turn(60)
            if not bench.store.messages:
                break
        self.flushLoggedErrors(ZeroDivisionError, ValueError)
        assert bench.store.messages == {} and bench.store.leased == set()
        assert bench.schedule._leases == bench.schedule._parked == 0
        ended = [(f["queue_id"], f["recipient"][0]) for e in ("delivered", "bounced") for f in bench.events.of(e)]
        assert len(ended) == len(set(ended)) == len(wanted)
        assert bench.schedule._destinations == {}
        assert bench.schedule.stop().called
