"""The ends of leases: one transaction for those of a turn, told when it is on disk, and not when it is not."""

import attrs
import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from requiretls_mta.message.envelope import Notify
from requiretls_mta.message.offspring import NONE, News, Offspring
from requiretls_mta.message.outcome import Deferred as Postponed
from requiretls_mta.message.outcome import Delivered, Failed
from tests.receive.fakes import RecordedEvents
from tests.relay.test_schedule import LATER, NO, OK, Bench, Scripted, delivered, message


def asking(subject, *locals_):
    """These of its recipients want to hear of everything."""
    recipients = tuple(
        attrs.evolve(r, notify=frozenset(Notify) - {Notify.NEVER}) if r.address.local in locals_ else r
        for r in subject.envelope.recipients
    )
    return attrs.evolve(subject, envelope=attrs.evolve(subject.envelope, recipients=recipients))


def test_replies_enter_with_the_settlement_of_what_they_answer():
    """One transaction; of those in whose mailboxes it has arrived, not of those to whom it was passed on."""
    asked = []

    def answer(recipients):
        return succeed(
            [attrs.evolve(one, in_mailbox=one.recipient.address.local == "a") for one in delivered(recipients)]
        )

    def respond(about, arrived):
        asked.append((about.id, [one.recipient.address.local for one in arrived]))
        return succeed(Offspring((message(9, ["s@y.test"], sender=None),)))

    bench = Bench(Scripted(answer), respond=respond)
    bench.schedule.start()
    bench.submit(message(1, ["a@x.test", "b@x.test"]), message(2, ["c@x.test"]))
    assert asked == [("0000000000000001", ["a"])]
    with_reply, without, *_ = sorted(bench.store.settlements, key=lambda one: one.lease.message.id)
    assert [one.id for one in with_reply.offspring] == ["0000000000000009"]
    assert with_reply.lease.message.id == "0000000000000001" and without.offspring == ()


def test_nothing_is_settled_before_its_reply_is_on_record():
    """Others do not wait for it; whoever stops the schedule does."""
    replies = Deferred()
    bench = Bench(
        Scripted(lambda recipients: succeed([attrs.evolve(one, in_mailbox=True) for one in delivered(recipients)])),
        respond=lambda about, arrived: replies if about.id.endswith("1") else succeed(NONE),
    )
    bench.schedule.start()
    bench.submit(message(1, ["a@x.test"]), message(2, ["b@x.test"]))
    assert [one.lease.message.id[-1] for one in bench.store.settlements] == ["2"]
    stopped = bench.schedule.stop()
    assert not stopped.called
    replies.callback(Offspring((message(9, ["s@y.test"], sender=None),)))
    bench.turn()
    assert [one.id[-1] for one in bench.store.settlements[1].offspring] == ["9"]
    assert stopped.called


def test_a_failure_gives_birth_to_its_report_in_the_same_settlement():
    """The recipient's end and the report are one transaction."""
    report = message(9, ["s@y.test"], sender=None)

    def answer(recipients):
        return succeed([Failed(recipient=r, reply=NO) for r in recipients])

    bench = Bench(Scripted(answer), report=lambda m, failed: Offspring((report,)) if m.envelope.sender else NONE)
    bench.schedule.start()
    bench.submit(message(1))
    assert bench.store.settlements[0].offspring == (report,)
    assert [f["queue_id"] for f in bench.events.of("bounced")] == ["0000000000000001", "0000000000000009"]
    assert bench.store.messages == {}


class Unstored(SynchronousTestCase):
    """News of messages that enter with a settlement."""

    def test_they_are_told_when_it_is_on_disk(self):
        """And never, where it is not: the report is no more than an intention."""
        no = Scripted(lambda rs: succeed([Failed(recipient=r, reply=NO) for r in rs]))
        for trouble in (None, OSError("disk")):
            news = News("reported", {"report": f"{9:016}"})
            bench = Bench(no, report=lambda *_, news=news: Offspring((message(9, sender=None),), (news,)))
            commit = Deferred()
            bench.store.settle = lambda settlements, commit=commit: commit
            bench.schedule.start()
            bench.submit(message(1))
            assert bench.events.seen == []
            commit.callback((trouble,))
            names = [name for name, _ in bench.events.seen]
            assert names == (["unsettled"] if trouble else ["reported", "bounced"])
            assert len(self.flushLoggedErrors(OSError)) == bool(trouble)


@pytest.mark.parametrize("event", ["delivered", "deferred", "bounced", "expired"])
def test_nothing_is_told_before_it_is_on_disk(event):
    """A crash before the commit makes it happen again: it has not happened yet."""
    outcome = {"delivered": Delivered, "bounced": Failed}.get(event, Postponed)
    bench = Bench(Scripted(lambda rs: succeed([outcome(recipient=r, reply=LATER, host="mx") for r in rs])))
    bench.clock.advance(1e6 if event == "expired" else 0)
    settle, commit = bench.store.settle, Deferred()
    bench.store.settle = lambda settlements: commit.addCallback(lambda _: settle(settlements))
    bench.schedule.start()
    bench.submit(message(1))
    assert bench.events.seen == []
    commit.callback(None)
    assert [name for name, _ in bench.events.seen] == [event]


def test_the_births_of_reports_are_for_the_trace():
    """Once they are stored."""
    put = []

    class Told(RecordedEvents):
        def put(self, event, write):
            put.append((event, write()))

    transport = Scripted(lambda rs: succeed([Failed(recipient=r, reply=NO) for r in rs]))
    bench = Bench(transport, report=lambda *_: Offspring((message(9, sender=None),)), trace=Told())
    settle, commit = bench.store.settle, Deferred()
    bench.store.settle = lambda settlements: commit.addCallback(lambda _: settle(settlements))
    bench.schedule.start()
    bench.submit(message(1))
    assert put == []
    commit.callback(None)
    ((event, members),) = put
    assert event == "queued" and f'"queue_id":"{9:016}"' in members


class Broken(SynchronousTestCase):
    """A disk that does not take it."""

    def test_a_settlement_that_fails_leaves_the_message(self):
        """What the disk does not take is repeated some day, not forgotten; and not before a restart, and says so."""
        transport = Scripted(lambda rs: succeed(delivered(rs)))
        bench = Bench(transport)
        bench.store.fail = OSError("disk")
        bench.schedule.start()
        bench.submit(message(1))
        bench.turn(3600)
        assert list(bench.store.messages) == ["0000000000000001"] and len(transport.calls) == 1
        assert len(self.flushLoggedErrors(OSError)) == 1
        assert bench.events.of("delivered") == []
        (event,) = bench.events.of("unsettled")
        assert event["outcome"] == "delivered" and event["error"] == "disk" and event["recipient"] == "r@x.test"
        assert event["reply"] == str(OK) and bench.schedule._leases == 0

    def test_a_success_that_cannot_be_reported_is_over_and_the_operator_hears_of_it(self):
        """Neither lost in silence, nor sent again; whoever failed beside it stays, and nobody else is told of."""

        def answer(recipients):
            return succeed(
                [Failed(recipient=r, reply=NO) if r.address.local == "bad" else delivered([r])[0] for r in recipients]
            )

        def report(about, told):
            raise ZeroDivisionError

        for sender, stored in (("s@y.test", True), (None, True), ("s@y.test", False)):
            transport = Scripted(answer)
            bench = Bench(transport, report=report)
            bench.store.fail = None if stored else OSError("disk")
            bench.schedule.start()
            bench.submit(asking(message(1, ["a@x.test", "bad@x.test", "quiet@x.test"], sender=sender), "a", "bad"))
            heard = [(f["level"], f["recipient"], f["action"]) for f in bench.events.of("discarded")]
            assert heard == ([("error", "a@x.test", "relayed")] if sender and stored else [])
            bench.turn(5 * 3600)
            assert [calls for _, calls in transport.calls[1:]] == ([["bad"]] if stored else [])
            self.flushLoggedErrors(ZeroDivisionError, OSError)

    def test_what_cannot_be_told_has_happened_all_the_same(self):
        """The others are told of, and all make room."""
        bench = Bench(Scripted(lambda rs: succeed(delivered(rs))))
        emit = bench.events.emit

        def breaks(event, /, **fields):
            if fields["queue_id"] == f"{1:016}":
                raise ZeroDivisionError
            emit(event, **fields)

        bench.events.emit = breaks
        bench.schedule.start()
        bench.submit(*(message(n) for n in range(3)))
        assert [f["queue_id"] for f in bench.events.of("delivered")] == [f"{0:016}", f"{2:016}"]
        assert bench.store.messages == {} and bench.schedule._leases == 0
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

    def test_of_a_batch_each_is_told_for_itself(self):
        """One settlement is refused, the others are stored."""
        bench = Bench(Scripted(lambda rs: succeed(delivered(rs))))
        settle = bench.store.settle
        bench.store.settle = lambda settlements: settle(settlements[1:]) and succeed((OSError("disk"), None, None))
        bench.schedule.start()
        bench.submit(*(message(n) for n in range(3)))
        assert list(bench.store.messages) == [f"{0:016}"]
        assert [f["queue_id"] for f in bench.events.of("unsettled")] == [f"{0:016}"]
        assert [f["queue_id"] for f in bench.events.of("delivered")] == [f"{1:016}", f"{2:016}"]
        assert len(self.flushLoggedErrors(OSError)) == 1
