"""The schedule on a clock of its own: every lease settled once, retries, lifetimes, concurrency, stopping."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from requiretls_mta.message.address import Address
from requiretls_mta.message.content import Content
from requiretls_mta.message.envelope import Envelope, Recipient, Tag
from requiretls_mta.message.offspring import NONE, Offspring
from requiretls_mta.message.outcome import Cause, Delivered, Step
from requiretls_mta.message.outcome import Deferred as Postponed
from requiretls_mta.message.reply import Reply
from requiretls_mta.message.stored import BytesBody, Message
from requiretls_mta.relay.destination import Way
from requiretls_mta.relay.retry import RetrySettings, lifetime_of, next_attempt
from requiretls_mta.relay.schedule import Schedule
from requiretls_mta.relay.settings import ScheduleSettings
from tests.receive.fakes import RecordedEvents
from tests.relay.fakes import MemoryStore

OK, LATER, NO = Reply(250, "2.0.0", "ok"), Reply(451, "4.3.0", "later"), Reply(550, "5.1.1", "no")


def message(number=1, recipients=("r@x.test",), tag=None, sender="s@y.test", received=0.0):
    def address(text):
        return Address(*text.split("@"))

    return Message(
        id=f"{number:016}",
        envelope=Envelope(
            sender=address(sender) if sender else None,
            recipients=tuple(Recipient(address(r)) for r in recipients),
            tag=tag,
        ),
        body=BytesBody(b"\r\n"),
        content=Content(size=2, header_end=0),
        received=received,
    )


class Scripted:
    """A transport that answers as told, or when told."""

    def __init__(self, answer=None):
        self.answer, self.calls, self.waiting = answer, [], []

    def deliver(self, message, recipients):
        self.calls.append((message.id, [r.address.local for r in recipients]))
        if self.answer is None:
            self.waiting.append((Deferred(), recipients))
            return self.waiting[-1][0]
        return self.answer(recipients)

    def finish(self):
        done, recipients = self.waiting.pop(0)
        done.callback(delivered(recipients))


def delivered(recipients):
    return [Delivered(recipient=r, reply=OK, host="mx") for r in recipients]


class Bench:
    def __init__(self, transport, concurrency=2, report=lambda *_: NONE, respond=None, trace=None, **settings):
        self.clock, self.store, self.events = Clock(), MemoryStore(), RecordedEvents()
        self.schedule = Schedule(
            store=self.store,
            choose=lambda r: Way(transport, r.address.domain, concurrency),
            report=report,
            clock=self.clock,
            wall=self.clock.seconds,
            events=self.events,
            settings=lambda: ScheduleSettings(**settings),
            respond=respond,
            rng=random.Random(1),
            trace=trace,
        )

    def submit(self, *messages):
        self.store.accept(messages)
        self.schedule.wake()
        self.turn()

    def turn(self, seconds=0):
        for _ in range(6):
            self.clock.advance(0)
        self.clock.advance(seconds)
        for _ in range(6):
            self.clock.advance(0)


def test_a_due_message_is_attempted_and_settled():
    """From the store to the transport and out of the queue, with one event per recipient."""
    transport = Scripted(lambda rs: succeed(delivered(rs)))
    bench = Bench(transport)
    bench.schedule.start()
    bench.submit(message(1, ["a@x.test", "b@x.test", "c@z.test"]))
    assert sorted(transport.calls) == [("0000000000000001", ["a", "b"]), ("0000000000000001", ["c"])]
    assert bench.store.messages == {}
    assert [f["recipient"] for f in bench.events.of("delivered")] == ["a@x.test", "b@x.test", "c@z.test"]


def test_fresh_leases_need_no_look_into_the_store():
    """take() attempts what admission hands over."""
    transport = Scripted(lambda rs: succeed(delivered(rs)))
    bench = Bench(transport)
    bench.schedule.start()
    bench.turn()
    leases = []
    bench.store.accept([message()], lease=True).addCallback(leases.extend)
    bench.schedule.take(leases)
    bench.turn()
    assert len(transport.calls) == 1 and bench.store.messages == {}


def test_a_postponed_recipient_comes_back_alone():
    """Those delivered are done; the other is tried after its pause, shortened by at most a fifth."""
    first = iter([True])

    def answer(recipients):
        if next(first, False):
            return succeed([*delivered(recipients[:1]), Postponed(recipient=recipients[1], reply=LATER)])
        return succeed(delivered(recipients))

    transport = Scripted(answer)
    bench = Bench(transport)
    bench.schedule.start()
    bench.submit(message(1, ["a@x.test", "b@x.test"]))
    deferred = bench.events.of("deferred")[0]
    assert deferred["reply"] == "451 4.3.0 later" and deferred["attempt"] and len(deferred["delays"]) == 4
    assert deferred["next_attempt"].startswith("1970-01-01T00:00:") and deferred["next_attempt"].endswith("Z")
    bench.turn(47)
    assert len(transport.calls) == 1
    bench.turn(13.1)
    assert transport.calls[1:] == [("0000000000000001", ["b"])]
    assert bench.events.of("delivered")[1]["attempts"] == 2


class Broken(SynchronousTestCase):
    def test_a_transport_that_breaks_only_postpones(self):
        """A bug of ours loses no message and stops nobody else."""
        bench = Bench(Scripted(lambda rs: fail(ZeroDivisionError())))
        bench.schedule.start()
        bench.submit(message(1))
        assert bench.events.of("deferred")[0]["reply"].startswith("451 4.3.0")
        assert list(bench.store.messages) == ["0000000000000001"]
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1


def test_concurrency_is_counted_per_destination():
    """Two at once to each; the third waits for one of its own."""
    transport = Scripted()
    bench = Bench(transport)
    bench.schedule.start()
    bench.submit(*(message(n, [f"r@{'x' if n < 4 else 'z'}.test"]) for n in range(5)))
    assert [call[0][-1] for call in transport.calls] == ["0", "1", "4"]
    transport.finish()
    bench.turn()
    assert [call[0][-1] for call in transport.calls] == ["0", "1", "4", "2"]


def test_the_work_in_hand_is_bounded():
    """What does not fit stays in the store until there is room."""
    transport = Scripted()
    bench = Bench(transport, concurrency=100, leases=3)
    bench.schedule.start()
    bench.submit(*(message(n) for n in range(5)))
    assert len(transport.calls) == 3
    assert not bench.schedule.has_room
    transport.finish()
    bench.turn()
    assert len(transport.calls) == 4


def unreachable(recipients):
    cause = Cause(host="mx", step=Step.CONNECT, detail="connection refused", temporary=True)
    return [Postponed(recipient=r, reply=LATER, causes=(cause,)) for r in recipients]


def test_one_destination_does_not_take_all_the_room():
    """Beyond its share messages are parked by their ids; others find room; the parked ones come when there is room."""
    transport = Scripted()
    bench = Bench(transport, concurrency=1, leases=10, share=4)
    bench.schedule.start()
    bench.submit(*(message(n) for n in range(30)))
    bench.submit(message(90, ["r@other.test"]))
    assert [call[0][-2:] for call in transport.calls] == ["00", "90"]
    while transport.waiting:
        transport.finish()
        bench.turn()
    assert bench.store.messages == {}
    assert bench.schedule._parked == bench.schedule._leases == 0


def test_those_that_wait_for_a_dead_destination_share_its_fate():
    """One refused connection answers for all that wait; each is deferred with its reason."""
    transport = Scripted()
    bench = Bench(transport, concurrency=1)
    bench.schedule.start()
    bench.submit(*(message(n) for n in range(5)))
    done, recipients = transport.waiting.pop()
    done.callback(unreachable(recipients))
    bench.turn()
    assert len(transport.calls) == 1
    assert len(bench.events.of("deferred")) == 5


def test_stopping_waits_for_running_attempts_only():
    """What waits is not begun; what runs is settled first."""
    transport = Scripted()
    bench = Bench(transport, concurrency=1)
    bench.schedule.start()
    bench.submit(message(1), message(2))
    stopped = bench.schedule.stop()
    bench.turn()
    assert not stopped.called
    transport.finish()
    bench.turn()
    assert stopped.called
    assert len(transport.calls) == 1
    assert list(bench.store.messages) == ["0000000000000002"]


def test_an_idle_schedule_stops_at_once():
    """Nothing to wait for."""
    bench = Bench(Scripted())
    bench.schedule.start()
    bench.turn()
    assert bench.schedule.stop().called
    assert bench.clock.getDelayedCalls() == []


def test_time_runs_out():
    """At the end of its life a postponed recipient fails with 5.4.7 and the last reply."""
    bench = Bench(Scripted(lambda rs: succeed([Postponed(recipient=r, reply=LATER) for r in rs])))
    bench.schedule.start()
    bench.submit(message(1, tag=Tag.REQUIRED))
    for _ in range(400):
        bench.turn(60)
    (expired,) = bench.events.of("expired")
    assert expired["reply"] == "550 5.4.7 delivery time expired; last: 451 4.3.0 later"
    assert expired["delay"] == pytest.approx(4 * 3600, abs=61)
    assert bench.store.messages == {}


SETTINGS = RetrySettings()


@given(
    attempts=st.integers(1, 50),
    age=st.floats(0, 6 * 86400),
    tag=st.sampled_from([None, *Tag]),
    sender=st.sampled_from(["s@y.test", None]),
    seed=st.integers(),
)
def test_pauses_are_only_shortened_and_the_last_attempt_is_at_the_end(attempts, age, tag, sender, seed):
    """By at most a fifth; never behind the end of the lifetime; None only when it is over."""
    subject = message(tag=tag, sender=sender)
    due = next_attempt(subject, attempts, age, SETTINGS, random.Random(seed))
    end = lifetime_of(subject, SETTINGS)
    if age >= end:
        assert due is None
        return
    pause = SETTINGS.pauses[min(attempts, 5) - 1]
    assert due <= min(age + pause, end)
    assert due >= min(age + pause * 0.8, end)


def test_lifetimes():
    """Five days, a day for reports, four hours where TLS is required."""
    assert lifetime_of(message(), SETTINGS) == 5 * 86400
    assert lifetime_of(message(sender=None), SETTINGS) == 86400
    assert lifetime_of(message(tag=Tag.REQUIRED), SETTINGS) == 4 * 3600
    assert lifetime_of(message(tag=Tag.OPTIONAL), SETTINGS) == 5 * 86400


class GivenUp(SynchronousTestCase):
    """The operator's word."""

    def begin(self, report=None):
        self.told = []

        def remember(about, told):
            self.told += told
            return Offspring((message(9, ["s@y.test"], sender=None),))

        bench = Bench(
            Scripted(lambda rs: succeed([Postponed(recipient=r, reply=LATER) for r in rs])), report=report or remember
        )
        bench.schedule.start()
        bench.submit(message(1, ["a@x.test", "b@x.test"]))
        return bench

    def give_up(self, bench, number=1):
        done = bench.schedule.give_up(f"{number:016}")
        bench.turn()
        return self.successResultOf(done)

    def test_all_who_have_not_got_it_have_failed_and_one_report_says_why(self):
        """Between two attempts; settled like any failure, told like one."""
        bench = self.begin()
        assert self.give_up(bench) is True
        assert [one.outcome.reply.enhanced for one in self.told] == ["5.3.0", "5.3.0"]
        assert all("operator" in str(fields["reply"]) for fields in bench.events.of("bounced"))
        assert f"{1:016}" not in bench.store.messages
        assert [len(one.offspring) for one in bench.store.settlements if one.offspring] == [1]
        assert self.give_up(bench) is False and len(self.told) == 2

    def test_not_while_it_is_attempted(self):
        """Its recipient may be told yes at this very moment."""
        transport = Scripted()
        bench = Bench(transport)
        bench.schedule.start()
        bench.submit(message())
        assert self.give_up(bench) is False
        transport.finish()
        bench.turn()
        assert [f["recipient"] for f in bench.events.of("delivered")] == ["r@x.test"] and not bench.events.of("bounced")

    def test_what_is_not_there_cannot_be_given_up(self):
        """Nor is anything else."""
        bench = self.begin()
        assert self.give_up(bench, 7) is False and f"{1:016}" in bench.store.messages

    def test_nobody_is_given_up_in_silence(self):
        """Without a report the message stays."""

        def fails(about, told):
            raise ValueError

        bench = self.begin(fails)
        assert self.give_up(bench) is False and f"{1:016}" in bench.store.messages
        self.flushLoggedErrors(ValueError)

    def test_what_cannot_be_stored_is_not_done(self):
        """And nobody waits for ever."""
        bench = self.begin()
        bench.store.fail = OSError("disk")
        assert self.give_up(bench) is False
        self.flushLoggedErrors(OSError)
