"""The clockwork of TLS reports: counting, the end of a day, sending, trying again, stopping."""

import gzip
import json
import random

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock

from requiretls_mta.message.address import Address
from requiretls_mta.message.envelope import Tag
from requiretls_mta.message.profile import Profile
from requiretls_mta.report import tlsrpt
from requiretls_mta.report import tlsrpt_store as store
from requiretls_mta.report.ledger import open_ledger, transact
from requiretls_mta.report.tlsrpt import PAUSE, POLL, TLSReports, TLSReportSettings
from requiretls_mta.report.tlsrpt_session import DAY
from requiretls_mta.report.tlsrpt_store import LONGEST_DELAY, PERSISTENCE
from tests.receive.fakes import RecordedEvents
from tests.report.test_dsn import parsed
from tests.report.test_observe import GOOD

TODAY = 20_000
RUA = b"v=TLSRPTv1; rua=mailto:r@there.test"
POST = b"v=TLSRPTv1; rua=https://r.test/x"
BAD = GOOD | {"result": "certificate-expired", "detail": "yesterday"}


class Ledger:
    """The real one's work, at once."""

    def __init__(self, path):
        self.connection = open_ledger(path, store.SCHEMA)
        self.started = self.stopped = False

    def start(self):
        self.started = True

    def stop(self):
        self.stopped = True
        self.connection.close()

    def run(self, work):
        return succeed(transact(self.connection, work))


class Bench:
    """Everything around the reports; the wall clock goes with the other one."""

    def __init__(self, path, records=None, profile=Profile.RFC8689):
        self.clock, self.path = Clock(), path
        self.base = (TODAY + 0.5) * DAY - self.clock.seconds()
        self.records = {"_smtp._tls.there.test": [RUA]} if records is None else records
        self.asked, self.admitted, self.posted, self.events = [], [], [], RecordedEvents()
        self.trouble, self.error = "", None
        self.profile = profile
        self.begin()

    def wall(self):
        return self.base + self.clock.seconds()

    def begin(self):
        self.ledger = Ledger(self.path)
        self.reports = TLSReports(
            self.clock,
            self.ledger,
            settings=TLSReportSettings(
                hostname="mx.here.test", contact=Address("tls", "here.test"), profile=self.profile
            ),
            lookup=self.lookup,
            post=self.post,
            admit=self.admit,
            new_id=lambda: f"{len(self.admitted):016}",
            wall=self.wall,
            events=self.events,
            rng=random.Random(1),
        )
        self.reports.start()

    def restart(self):
        self.reports.stop()
        assert self.ledger.stopped and self.clock.getDelayedCalls() == []
        self.begin()

    def lookup(self, name):
        self.asked.append(name)
        found = self.records.get(name, [])
        return found if isinstance(found, Deferred) else succeed(found)

    def post(self, target, file):
        self.posted.append((target, file))
        return self.trouble if isinstance(self.trouble, Deferred) else succeed(self.trouble)

    def admit(self, message):
        if self.error is not None:
            return fail(self.error)
        self.admitted.append(message)
        return succeed(None)

    def session(self, **fields):
        self.reports.emit("tls", **GOOD | fields)

    def go(self, seconds):
        """Time passes, a poll at a time."""
        self.clock.pump([POLL] * int(seconds // POLL + 1))


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "tlsrpt.db")


def report_of(message):
    _, file = parsed(message).iter_parts()
    return json.loads(gzip.decompress(file.get_content()))


def test_a_day_becomes_one_mail(bench):
    """What was counted; TLS-optional, with an empty reverse path, as a report of ours; once."""
    for _ in range(3):
        bench.session()
    bench.session(**BAD)
    bench.go(PAUSE)
    bench.session(**BAD)
    bench.go(0.4 * DAY)
    assert bench.admitted == [] and bench.asked == []
    bench.go(0.4 * DAY)
    (message,) = bench.admitted
    assert bench.asked == ["_smtp._tls.there.test"]
    assert message.origin == "report" and message.parent is None
    assert message.envelope.sender is None and message.envelope.tag is Tag.OPTIONAL
    assert [str(r.address) for r in message.envelope.recipients] == ["r@there.test"]
    assert message.envelope.body is None and not message.envelope.smtputf8
    assert message.content.size == message.body.size and message.content.header_end > 300
    whole = parsed(message)
    assert whole["TLS-Required"] == "No" and whole["Message-ID"] == f"<{message.id}@mx.here.test>"
    report = report_of(message)
    assert report["date-range"]["start-datetime"] == "2024-10-04T00:00:00Z"
    (policy,) = report["policies"]
    assert policy["summary"] == {"total-successful-session-count": 3, "total-failure-session-count": 2}
    (failure,) = policy["failure-details"]
    assert (failure["result-type"], failure["failed-session-count"]) == ("certificate-expired", 2)
    bench.go(2 * DAY)
    assert len(bench.admitted) == 1
    ((_, told),) = bench.events.seen
    assert (told["domain"], told["to"], told["queue_id"]) == ("there.test", "mailto:r@there.test", message.id)
    assert told["report_id"] == report["report-id"] and told["level"] == "info"


def test_the_draft_profile(tmp_path):
    """It names the field."""
    bench = Bench(tmp_path / "tlsrpt.db", profile=Profile.DRAFT_03)
    bench.session()
    bench.go(DAY)
    assert parsed(bench.admitted[0])["RequireTLS"] == "NO"


def test_a_day_becomes_one_post(tmp_path):
    """The file alone."""
    bench = Bench(tmp_path / "tlsrpt.db", {"_smtp._tls.there.test": [POST]})
    bench.session()
    bench.go(2 * DAY)
    ((target, file),) = bench.posted
    assert target.uri == "https://r.test/x"
    assert json.loads(gzip.decompress(file))["contact-info"] == "tls@here.test"
    assert bench.admitted == []


def test_every_destination_gets_it_and_one_is_enough(tmp_path):
    """RFC 8460 3: mail to several in one message; what fails beside what was taken is not repeated."""
    both = RUA + b",https://r.test/x,mailto:s@there.test"
    bench = Bench(tmp_path / "tlsrpt.db", {"_smtp._tls.there.test": [both]})
    bench.trouble = "status 500"
    bench.session()
    bench.go(3 * DAY)
    (message,) = bench.admitted
    assert [str(r.address) for r in message.envelope.recipients] == ["r@there.test", "s@there.test"]
    assert len(bench.posted) == 1
    told = [(fields["to"], fields["reason"], fields["level"]) for _, fields in bench.events.seen]
    assert told == [
        ("mailto:r@there.test", None, "info"),
        ("mailto:s@there.test", None, "info"),
        ("https://r.test/x", "status 500", "warn"),
    ]


def test_a_post_that_breaks_repeats_no_mail(tmp_path):
    """A bug is that destination's trouble; what the queue has taken is sent."""
    bench = Bench(tmp_path / "tlsrpt.db", {"_smtp._tls.there.test": [RUA + b",https://r.test/x"]})
    bench.post = lambda target, file: bench.posted.append(target) or fail(ZeroDivisionError())
    bench.restart()
    bench.session()
    bench.go(3 * DAY)
    assert len(bench.admitted) == len(bench.posted) == 1
    assert [fields["reason"] for _, fields in bench.events.seen] == [None, "it broke off here: ZeroDivisionError"]


def test_what_nobody_takes_is_tried_for_a_day(tmp_path):
    """The same file each time, then no more."""
    bench = Bench(tmp_path / "tlsrpt.db", {"_smtp._tls.there.test": [POST]})
    bench.trouble = "status 500"
    bench.session()
    bench.go(0.5 * DAY + LONGEST_DELAY + PERSISTENCE + DAY)
    assert 5 <= len(bench.posted) <= 8
    assert len({file for _, file in bench.posted}) == 1
    before = len(bench.posted)
    bench.go(DAY)
    assert len(bench.posted) == before


def test_a_full_queue_is_tried_again(bench):
    """Nothing is lost, and nothing said twice."""
    bench.session()
    bench.error = OSError("full")
    bench.go(0.5 * DAY + LONGEST_DELAY)
    assert bench.admitted == [] and bench.events.seen[0][1]["reason"].endswith("full")
    bench.error = None
    bench.go(0.5 * DAY)
    assert len(bench.admitted) == 1


@pytest.mark.parametrize("texts", [[], [b"v=spf1 -all"], [RUA, RUA], [b"v=TLSRPTv1; rua=ftp://x.test/"]])
def test_who_wants_no_reports_gets_none(tmp_path, texts):
    """Asked once a day, and what was counted is dropped."""
    bench = Bench(tmp_path / "tlsrpt.db", {"_smtp._tls.there.test": texts})
    bench.session()
    bench.go(2 * DAY)
    assert bench.admitted == bench.posted == bench.events.seen == []
    assert len(bench.asked) == 1
    assert bench.ledger.run(lambda c: store.counts(c, TODAY, "there.test")).result == []


def test_a_record_that_cannot_be_had_is_asked_for_again(tmp_path):
    """A name server in trouble costs no report."""
    bench = Bench(tmp_path / "tlsrpt.db", {"_smtp._tls.there.test": None})
    bench.session()
    bench.go(0.5 * DAY + LONGEST_DELAY)
    assert bench.admitted == [] and bench.asked
    bench.records["_smtp._tls.there.test"] = [RUA]
    bench.go(0.5 * DAY)
    assert len(bench.admitted) == 1


def test_sessions_that_carried_reports_are_not_reported(bench):
    """RFC 8460 3: else two sides could report for ever. Also behind a restart."""
    bench.session()
    bench.go(DAY)
    (message,) = bench.admitted
    bench.session(queue_id=message.id)
    bench.restart()
    bench.session(queue_id=message.id)
    bench.go(3 * DAY)
    assert len(bench.admitted) == 1
    bench.session(queue_id="another")
    bench.go(2 * DAY)
    assert len(bench.admitted) == 2


def test_a_restart_loses_no_counts_and_repeats_no_report(bench):
    """What waits is written at the stop."""
    bench.session()
    bench.restart()
    bench.session(**BAD)
    bench.restart()
    bench.go(DAY)
    (message,) = bench.admitted
    assert report_of(message)["policies"][0]["summary"] == {
        "total-successful-session-count": 1,
        "total-failure-session-count": 1,
    }
    bench.restart()
    bench.go(2 * DAY)
    assert len(bench.admitted) == 1


def test_a_stop_breaks_off_what_is_under_way(tmp_path):
    """It is due again at the next start; nothing is sent behind the stop."""
    bench = Bench(tmp_path / "tlsrpt.db", {"_smtp._tls.there.test": [POST + b",https://second.test/"]})
    bench.session()
    bench.trouble = hanging = Deferred()
    bench.go(0.5 * DAY + LONGEST_DELAY)
    assert len(bench.posted) == 1
    bench.reports.stop()
    assert bench.clock.getDelayedCalls() == []
    assert hanging.called and len(bench.posted) == 1
    hanging.addErrback(lambda failure: failure.trap(CancelledError))
    bench.trouble = ""
    bench.begin()
    bench.go(DAY)
    assert [target.host for target, _ in bench.posted] == ["r.test", "r.test", "second.test"]


def test_counting_is_bounded(bench, monkeypatch):
    """New kinds of sessions beyond the bound are not counted; those that are known still are."""
    monkeypatch.setattr(tlsrpt, "MOST_WAITING", 2)
    for name in ("a.test", "b.test", "c.test", "a.test"):
        bench.session(next_hop=name, policy_domain=name)
    bench.reports.emit("delivered", **GOOD)
    bench.go(PAUSE)
    rows = bench.ledger.connection.execute("SELECT domain, successful FROM policies ORDER BY domain").fetchall()
    assert rows == [("a.test", 2), ("b.test", 1)]


def test_an_event_of_another_day_is_counted_there(bench):
    """The day is that of the session, not of the writing."""
    bench.base += 0.5 * DAY - 1
    bench.session()
    bench.clock.advance(PAUSE)
    ((day,),) = bench.ledger.connection.execute("SELECT day FROM policies").fetchall()
    assert day == TODAY and bench.wall() > (TODAY + 1) * DAY


def test_a_bug_stops_nothing(bench, monkeypatch):
    """It is logged, and the next poll comes."""
    bench.session()
    monkeypatch.setattr(bench.reports, "_lookup", lambda name: 1 / 0)
    bench.go(0.5 * DAY + LONGEST_DELAY)
    monkeypatch.undo()
    bench.go(DAY)
    assert len(bench.admitted) == 1
