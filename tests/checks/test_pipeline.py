"""The pipeline: what begins when, who waits for what, and what happens to checks that fail, dawdle or lie."""

import attrs
import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from requiretls_mta.checks import pipeline as pipeline_module
from requiretls_mta.checks.interfaces import Client, ICheck, Stage, Tools, Verdict
from requiretls_mta.checks.pipeline import GONE, Pipeline, load_checks, refusal_of
from requiretls_mta.message.authres import Result
from requiretls_mta.message.envelope import Envelope
from requiretls_mta.message.reply import OK, Reply
from requiretls_mta.message.stored import BytesBody
from tests.checks.fakes import FakeResolver, RecordedEvents

CLIENT = Client(session="s1", address="192.0.2.1", listener="mx")
ENVELOPE = Envelope(sender=None)
NO = Reply(550, "5.7.1", "No")


@implementer(ICheck)
class Check:
    """Answers what it is given; None: keeps its Deferred."""

    def __init__(self, name, stage=Stage.CONNECTION, needed=Stage.MESSAGE, answer=None, deadline=5.0):
        self.name, self.stage, self.needed, self.deadline, self.answer = name, stage, needed, deadline, answer
        self.subjects, self.deferreds, self.cancelled = [], [], 0

    def begin(self, subject):
        self.subjects.append(subject)
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is not None:
            return self.answer
        self.deferreds.append(Deferred(self._cancelled))
        return self.deferreds[-1]

    def _cancelled(self, _):
        self.cancelled += 1


class Bench:
    def __init__(self, *checks, applies=lambda _: True):
        self.clock, self.events = Clock(), RecordedEvents()
        self.pipeline = Pipeline(checks, clock=self.clock, events=self.events, applies=applies)

    def begin(self):
        self.session = self.pipeline.begin(CLIENT)
        return self.session

    def transaction(self):
        self.begin()
        return self.session.transaction("helo.example", ENVELOPE)


def result(deferred):
    """What it fired with, None if it has not."""
    return deferred.result if deferred.called else None


def message(transaction):
    return result(transaction.message(b"A: b\r\n", BytesBody(b"A: b\r\n\r\n")))


def verdict(name, refusal=None):
    return Verdict(check=name, results=(Result(name, "pass"),), refusal=refusal)


def test_without_checks_or_for_the_trusted_there_is_nothing():
    """An empty pipeline costs nothing; a trusted client is neither looked up nor delayed."""
    assert Bench().begin() is None
    check = Check("a")
    assert Bench(check, applies=lambda client: client.address != "192.0.2.1").begin() is None
    assert check.subjects == []


def test_each_check_begins_at_its_stage_with_what_is_known():
    """The connection's once for all transactions, the sender's for each, the message's at its end."""
    one, two, three = Check("a"), Check("b", Stage.SENDER), Check("c", Stage.MESSAGE, answer=verdict("c"))
    bench = Bench(one, two, three)
    bench.begin()
    assert [len(c.subjects) for c in (one, two, three)] == [1, 0, 0]
    assert one.subjects[0].client is CLIENT
    bench.session.transaction("x", ENVELOPE)
    second = bench.session.transaction("helo.example", ENVELOPE)
    assert [len(c.subjects) for c in (one, two, three)] == [1, 2, 0]
    assert (two.subjects[1].helo, two.subjects[1].envelope) == ("helo.example", ENVELOPE)
    assert two.cancelled == 1  # that of the transaction that is over
    waiting = second.message(b"A: b\r\n", BytesBody(b"A: b\r\n\r\nx"))
    assert three.subjects[0].header == b"A: b\r\n"
    assert three.subjects[0].body.data == b"A: b\r\n\r\nx"
    assert result(waiting) is None
    one.deferreds[0].callback(verdict("a"))
    two.deferreds[1].callback(verdict("b"))
    assert [v.check for v in result(waiting)] == ["a", "b", "c"]


def test_a_verdict_about_the_client_is_renewed_when_it_holds_no_longer():
    """As long as it says, for all transactions; then the next one asks anew, and waits for the answer."""
    check, other = Check("a"), Check("b", answer=verdict("b"))
    bench = Bench(check, other)
    transaction = bench.transaction()
    bench.clock.advance(4)
    check.deferreds[0].callback(attrs.evolve(verdict("a"), lifetime=60))
    bench.clock.advance(59)
    assert message(bench.session.transaction("x", ENVELOPE))[0].lifetime == 60 and len(check.subjects) == 1
    bench.clock.advance(1)
    assert message(transaction) is not None, "one that has begun keeps what it has"
    transaction = bench.session.transaction("x", ENVELOPE)
    assert message(transaction) is None
    check.deferreds[1].callback(verdict("a"))
    assert len(message(transaction)) == 2
    bench.clock.advance(1e6)
    assert message(bench.session.transaction("x", ENVELOPE)) is not None
    assert len(check.subjects) == 2 and len(other.subjects) == 1
    bench.session.stop()


def test_the_verdicts_have_the_house_s_order():
    """DNSWL, then SPF, DKIM and DMARC, then those of others by name, whenever they came."""
    names = ["zebra", "ant", "dmarc", "dnswl", "spf", "dkim"]
    found = message(Bench(*(Check(n, answer=succeed(verdict(n))) for n in names)).transaction())
    assert [v.check for v in found] == ["dnswl", "spf", "dkim", "dmarc", "ant", "zebra"]


def test_only_what_is_needed_at_rcpt_is_waited_for():
    """A check needed for the message delays no recipient."""
    late, early = Check("late"), Check("early", needed=Stage.RECIPIENT)
    transaction = Bench(late, early).transaction()
    waiting = transaction.refusal()
    assert isinstance(waiting, Deferred)
    early.deferreds[0].callback(verdict("early", NO))
    assert result(waiting) is NO
    assert transaction.refusal() is NO  # known now: nobody waits
    assert Bench(late).transaction().refusal() is None


def test_a_deadline_ends_the_waiting():
    """Seconds from the check's beginning; the verdict is empty, the message goes on, and somebody is told."""
    slow = Check("slow", needed=Stage.RECIPIENT, deadline=5.0)
    bench = Bench(slow)
    transaction = bench.transaction()
    bench.clock.advance(3)
    waiting = transaction.refusal()
    bench.clock.advance(2.1)
    assert waiting.called
    assert slow.cancelled == 1
    assert message(transaction) == (Verdict(check="slow"),)
    assert [(e, f["check"], f["reason"]) for e, f in bench.events.seen] == [("check", "slow", "timeout")]


def test_a_chained_answer_has_its_deadline_too():
    """A Deferred that has been called, and waits for the next one."""
    inner = Deferred()
    check = Check("a", answer=succeed(None).addCallback(lambda _: inner))
    bench = Bench(check)
    waiting = bench.transaction().message(b"", BytesBody(b""))
    assert not waiting.called
    bench.clock.advance(5)
    assert result(waiting) == (Verdict(check="a"),)
    assert bench.clock.getDelayedCalls() == []


def test_a_client_that_leaves_takes_its_checks_along():
    """Nothing goes on for nobody, and nobody who still waits is forgotten."""
    one, two = Check("a"), Check("b", Stage.SENDER)
    bench = Bench(one, two)
    waiting = bench.transaction().message(b"", BytesBody(b""))
    bench.session.stop()
    assert (one.cancelled, two.cancelled) == (1, 1)
    assert refusal_of(result(waiting)) is GONE
    assert bench.clock.getDelayedCalls() == []
    assert bench.events.seen == []


@pytest.mark.parametrize(
    "answer", [ValueError("a mistake"), "a text", verdict("a", OK)], ids=["raises", "no verdict", "refuses with a yes"]
)
def test_a_check_that_fails_is_no_reason_to_fail(answer):
    """It is logged, and counts for nothing."""
    good = Check("good", answer=verdict("good"))
    found = message(Bench(Check("a", answer=answer), good).transaction())
    assert [v for v in found if v.results] == [good.answer]
    assert not any(v.refusal for v in found)


def test_a_check_that_fails_later_is_no_reason_to_fail():
    """Likewise."""
    check = Check("a")
    transaction = Bench(check).transaction()
    check.deferreds[0].errback(ValueError("a mistake"))
    assert message(transaction) == (Verdict(check="a"),)


def test_a_check_may_have_nothing_to_say():
    """None: no verdict at all, so that nothing is reported as looked at; where no other follows, nothing is kept."""

    class Silent(Check):
        def begin(self, subject):
            return None

    assert Bench(Silent("a")).begin() is None
    assert message(Bench(Silent("a"), Silent("b", Stage.MESSAGE)).transaction()) == ()


TOOLS = Tools(clock=Clock(), resolver=FakeResolver(), events=RecordedEvents())


def test_the_house_s_checks_are_plugins():
    """Found as any other is."""
    assert [check.name for check in load_checks(TOOLS)] == ["dnswl", "iprev", "spf", "dkim", "arc", "dmarc"]


def test_plugins_that_fail_are_left_out(monkeypatch):
    """One that raises, one that makes something else, a second of the same name."""

    @attrs.define
    class Plugin:
        make: object

        def checks(self, tools):
            assert tools is TOOLS
            return self.make()

    def broken():
        raise RuntimeError("broken")

    made = [broken, lambda: [object()], lambda: [Check("b"), Check("b")], lambda: [Check("a")]]
    monkeypatch.setattr(pipeline_module, "getPlugins", lambda *_: [Plugin(make) for make in made])
    assert [check.name for check in load_checks(TOOLS)] == ["a", "b"]


def test_leaving_is_no_way_past_a_check():
    """Whoever hangs up behind the last dot, whichever check is at work then, has no message accepted."""
    for stage in (Stage.MESSAGE, Stage.CONCLUSION):
        check = Check("a", stage)
        bench = Bench(check)
        waiting = bench.transaction().message(b"", BytesBody(b""))
        assert result(waiting) is None
        bench.session.stop()
        assert check.cancelled == 1
        assert refusal_of(result(waiting)) is GONE


def test_conclusions_are_drawn_from_all_other_verdicts():
    """Begun when all others are there, those of checks that failed among them."""
    late = Check("late")
    last = Check("last", Stage.CONCLUSION, answer=verdict("last"))
    bench = Bench(late, Check("dkim", Stage.MESSAGE, answer=verdict("dkim")), last)
    waiting = bench.transaction().message(b"A: b\r\n", BytesBody(b"A: b\r\n\r\n"))
    assert last.subjects == []
    late.deferreds[0].errback(ValueError("a mistake"))
    assert [v.check for v in last.subjects[0].verdicts] == ["late", "dkim"]
    assert last.subjects[0].header == b"A: b\r\n"
    assert [v.check for v in result(waiting)] == ["dkim", "last", "late"]
