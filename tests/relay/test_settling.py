"""Delays: who is told of them, when, and how often; what is remembered of attempts for the report."""

import random

import attrs
import pytest
from twisted.internet.defer import succeed
from twisted.trial.unittest import SynchronousTestCase

from requiretls_mta.message.address import Address
from requiretls_mta.message.envelope import Notify, Recipient, Tag
from requiretls_mta.message.offspring import NONE
from requiretls_mta.message.outcome import Deferred as Postponed
from requiretls_mta.message.outcome import Failed, Tried
from requiretls_mta.queue.store import Entry, Lease
from requiretls_mta.relay.retry import RetrySettings
from requiretls_mta.relay.settling import keep_unreported, settle
from requiretls_mta.report.dsn_rules import Action, Told
from tests.relay.test_schedule import LATER, NO, Bench, Scripted, message

HOURS = 3600.0
RETRY = RetrySettings()


def later(recipients):
    return succeed([Postponed(recipient=r, reply=LATER) for r in recipients])


class Delays:
    """A schedule whose recipients are postponed for ever, and what it told when."""

    def __init__(self, subject):
        self.told = []
        self.bench = Bench(Scripted(later), report=self.report)
        self.bench.schedule.start()
        self.bench.submit(subject)

    def report(self, message, told):
        self.told += [
            (self.bench.clock.seconds(), one.action.value, str(one.outcome.recipient.address)) for one in told
        ]
        return NONE

    def wait(self, hours):
        for _ in range(int(hours * 60)):
            self.bench.turn(60)


def test_a_delay_is_told_once_and_on_time():
    """At `delay_warning`, by an attempt made then; the next thing to hear is the end."""
    delays = Delays(message())
    delays.wait(3.9)
    assert delays.told == []
    delays.wait(120)
    (at, action, recipient), (end, last, _) = delays.told
    assert at == pytest.approx(4 * HOURS, abs=61) and end == pytest.approx(120 * HOURS, abs=61)
    assert (action, last, recipient) == ("delayed", "failed", "r@x.test")


@pytest.mark.parametrize(
    ("changes", "notify", "told"),
    [
        ({}, {"DELAY"}, ["delayed", "failed"]),
        ({}, {"FAILURE"}, ["failed"]),
        ({}, {"NEVER"}, ["failed"]),
        ({"tag": Tag.OPTIONAL}, None, ["delayed", "failed"]),
        ({"tag": Tag.REQUIRED}, None, ["failed"]),
        ({"sender": None}, None, ["failed"]),
    ],
)
def test_who_is_told_of_a_delay(changes, notify, told):
    """Whoever asked for it or for nothing; never of a report; not where the end comes at the same time."""
    subject = message(**changes)
    recipient = Recipient(Address("r", "x.test"), None if notify is None else frozenset(map(Notify, notify)))
    delays = Delays(attrs.evolve(subject, envelope=attrs.evolve(subject.envelope, recipients=(recipient,))))
    delays.wait(121)
    assert [action for _, action, _ in delays.told] == told


def settled(outcome, *, now, entry=None, retry=RETRY, **changes):
    """How one recipient is settled at this time."""
    lease = Lease(message=message(**changes), entries=(entry or Entry(number=0, recipient=outcome.recipient),))
    (one,) = settle(lease, {0: outcome}, now, retry, random.Random(1))
    return one


POSTPONED = Postponed(recipient=Recipient(Address("r", "x.test")), reply=LATER)


def test_whoever_was_warned_is_not_warned_again():
    """Whatever restarts in between: the entry knows."""
    first = settled(POSTPONED, now=5 * HOURS)
    assert first.told.action is Action.DELAYED and first.told.until == 120 * HOURS
    assert first.settled.warned
    entry = Entry(number=0, recipient=POSTPONED.recipient, attempts=1, warned=True)
    second = settled(POSTPONED, now=9 * HOURS, entry=entry)
    assert second.told is None and second.settled.warned


def test_a_warning_that_cannot_be_written_is_still_owed():
    """And who failed unheard stays in the queue."""
    kept = keep_unreported(settled(POSTPONED, now=5 * HOURS), 99.0)
    assert not kept.settled.warned and not kept.settled.final
    tried = (Tried(1.0, "451 x"),)
    entry = Entry(number=0, recipient=POSTPONED.recipient, attempts=1, warned=True, tried=tried)
    kept = keep_unreported(settled(Failed(recipient=POSTPONED.recipient, reply=NO), now=5.0, entry=entry), 99.0)
    assert isinstance(kept.settled.outcome, Postponed) and kept.settled.next_attempt == 99.0
    assert kept.settled.warned and kept.settled.tried == tried


def test_the_first_and_the_last_attempts_are_remembered():
    """Of hundreds a few, each cut: the report needs no more."""
    entry = Entry(number=0, recipient=POSTPONED.recipient)
    for number in range(20):
        reply = LATER.with_text(f"{number} " + "x" * 1000)
        end = settled(attrs.evolve(POSTPONED, reply=reply), now=float(number), entry=entry)
        entry = attrs.evolve(entry, attempts=number + 1, tried=end.settled.tried)
    assert [one.at for one in entry.tried] == [0.0, 16.0, 17.0, 18.0, 19.0]
    assert max(len(one.reply) for one in entry.tried) <= 256
    end = settled(Failed(recipient=POSTPONED.recipient, reply=NO), now=20.0, entry=entry)
    assert end.told == Told(action=Action.FAILED, outcome=end.settled.outcome, tried=entry.tried)


class Broken(SynchronousTestCase):
    def test_a_reporter_that_breaks_warns_later(self):
        """The delay is told by the next attempt, and again only once."""
        calls = []

        def report(message, told):
            calls.append([one.action.value for one in told])
            if len(calls) == 1:
                raise ZeroDivisionError
            return NONE

        bench = Bench(Scripted(later), report=report)
        bench.schedule.start()
        bench.submit(message())
        for _ in range(20 * 60):
            bench.turn(60)
        assert calls == [["delayed"], ["delayed"]]
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1
