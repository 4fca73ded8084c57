"""What waits to be reported: added up, bounded, due once, forgotten in time."""

import random
import sqlite3

import attrs
import pytest

from requiretls_mta.report import tlsrpt_store as store
from requiretls_mta.report.ledger import open_ledger
from requiretls_mta.report.tlsrpt_session import DAY, Failure, Policy, Session
from requiretls_mta.report.tlsrpt_store import FIRST_PAUSE, KEPT, LONGEST_DELAY, PERSISTENCE, SETTLE

TODAY = 20_000
MIDNIGHT = (TODAY + 1) * float(DAY)
POLICY = Policy("sts", "a.test", ("mode: enforce",))
FAILURE = Failure("certificate-expired", "", "mx.a.test", "192.0.2.1", "why")
GOOD = Session(TODAY, "a.test", POLICY, None)
BAD = attrs.evolve(GOOD, failure=FAILURE)


@pytest.fixture
def ledger(tmp_path):
    connection = open_ledger(tmp_path / "tlsrpt.db", store.SCHEMA)
    yield connection
    connection.close()


def claim(ledger, now, limit=10):
    return store.claim(ledger, now=now, limit=limit, rng=random.Random(1))


def due_of(ledger, domain="a.test"):
    (due,) = ledger.execute("SELECT due FROM reports WHERE domain = ?", (domain,)).fetchone()
    return due


def test_sessions_add_up(ledger):
    """Over several writes; by policy, failures by their details, most frequent first."""
    other = attrs.evolve(BAD, failure=attrs.evolve(FAILURE, receiving_ip="192.0.2.2"))
    tlsa = attrs.evolve(GOOD, policy=Policy("tlsa", "mx.a.test", ("3 1 1 AB",)))
    store.count(ledger, {GOOD: 2, BAD: 1, tlsa: 1})
    store.count(ledger, {GOOD: 3, BAD: 1, other: 5})
    store.count(ledger, {attrs.evolve(GOOD, day=TODAY + 1): 1, attrs.evolve(GOOD, domain="b.test"): 1})
    first, second = store.counts(ledger, TODAY, "a.test")
    assert (first.policy, first.successful, first.failed) == (POLICY, 5, 7)
    assert list(first.failures.items()) == [(other.failure, 5), (FAILURE, 2)]
    assert (second.policy, second.successful, second.failed, second.failures) == (tlsa.policy, 1, 0, {})
    assert store.counts(ledger, TODAY, "c.test") == []


def test_failures_are_bounded(ledger, monkeypatch):
    """What comes on top is counted by its result type; no session is lost."""
    monkeypatch.setattr(store, "MOST_FAILURES", 3)
    sessions = {
        attrs.evolve(BAD, failure=Failure(result, reason=str(n))): 1
        for result in ("certificate-expired", "validation-failure")
        for n in range(5)
    }
    store.count(ledger, sessions)
    (one,) = store.counts(ledger, TODAY, "a.test")
    assert one.failed == 10 == sum(one.failures.values())
    assert one.failures[Failure("certificate-expired")] == 2
    assert one.failures[Failure("validation-failure")] == 5


def test_policies_are_bounded(ledger, monkeypatch):
    """Of one domain, and of all of a day."""
    monkeypatch.setattr(store, "MOST_DOMAIN_POLICIES", 3)
    monkeypatch.setattr(store, "MOST_POLICIES", 5)
    for domain in ("a.test", "b.test"):
        for n in range(5):
            store.count(ledger, {attrs.evolve(GOOD, domain=domain, policy=Policy("sts", f"{n}")): 1})
    assert len(store.counts(ledger, TODAY, "a.test")) == 3
    assert len(store.counts(ledger, TODAY, "b.test")) == 2
    store.count(ledger, {attrs.evolve(GOOD, policy=Policy("sts", "0")): 1})
    assert store.counts(ledger, TODAY, "a.test")[0].successful == 2


def test_a_day_is_reported_when_it_is_over(ledger):
    """Some time after midnight, at random within four hours (RFC 8460 4.1)."""
    store.count(ledger, {GOOD: 1, attrs.evolve(GOOD, domain="b.test"): 1})
    assert claim(ledger, MIDNIGHT + SETTLE - 1) == []
    assert ledger.execute("SELECT count(*) FROM reports").fetchone() == (0,)
    assert claim(ledger, MIDNIGHT + SETTLE) == []
    due = [due_of(ledger, domain) for domain in ("a.test", "b.test")]
    assert due[0] != due[1] and all(MIDNIGHT < when <= MIDNIGHT + SETTLE + LONGEST_DELAY for when in due)
    assert claim(ledger, min(due) - 1) == []
    claimed = claim(ledger, max(due))
    assert {(one.day, one.domain) for one in claimed} == {(TODAY, "a.test"), (TODAY, "b.test")}
    assert len({one.unique for one in claimed}) == 2 and all(one.unique.isalnum() for one in claimed)


def test_a_late_start_is_no_crowd(ledger):
    """Reports of the days when nobody was running are spread as well."""
    store.count(ledger, {GOOD: 1})
    now = MIDNIGHT + 2.5 * DAY
    assert claim(ledger, now) == []
    assert now < due_of(ledger) <= now + LONGEST_DELAY


def test_what_is_claimed_is_tried_again_ever_more_rarely(ledger):
    """RFC 8460 5.5: pauses that double, for 24 hours from the first attempt; the report keeps its name."""
    store.count(ledger, {BAD: 1})
    claim(ledger, MIDNIGHT + SETTLE)
    start = now = due_of(ledger)
    names, pauses = set(), []
    while claimed := claim(ledger, now):
        names.add(claimed[0].unique)
        assert claim(ledger, now) == []
        pauses.append(due_of(ledger) - now)
        now = due_of(ledger)
    assert pauses == [FIRST_PAUSE * 2**n for n in range(len(pauses))]
    assert now - pauses[-1] < start + PERSISTENCE <= now
    assert len(names) == 1
    assert store.counts(ledger, TODAY, "a.test") == [] and due_of(ledger) is None


def test_a_report_is_sent_once(ledger):
    """One per domain and day, even if counts of that day come late."""
    store.count(ledger, {BAD: 1})
    claim(ledger, MIDNIGHT + SETTLE)
    now = due_of(ledger)
    (one,) = claim(ledger, now)
    store.finish(ledger, one.day, one.domain)
    assert ledger.execute("SELECT count(*) FROM failures").fetchone() == (0,)
    store.count(ledger, {BAD: 1})
    assert claim(ledger, now + DAY) == []


def test_a_restart_changes_nothing(ledger, tmp_path):
    """Due times and names are on disk."""
    store.count(ledger, {BAD: 1})
    claim(ledger, MIDNIGHT + SETTLE)
    due = due_of(ledger)
    again = sqlite3.connect(tmp_path / "tlsrpt.db")
    assert claim(again, due - 1) == []
    assert [one.domain for one in claim(again, due)] == ["a.test"]
    again.commit()
    assert claim(ledger, due) == []
    again.close()


def test_only_so_many_at_once(ledger):
    """The others are still due."""
    store.count(ledger, {attrs.evolve(GOOD, domain=f"{n}.test"): 1 for n in range(5)})
    claim(ledger, MIDNIGHT + SETTLE)
    found = [len(claim(ledger, MIDNIGHT + DAY, limit=2)) for _ in range(4)]
    assert found == [2, 2, 1, 0]


def test_everything_is_forgotten_in_time(ledger):
    """Counts, reports, and which messages carried some."""
    store.count(ledger, {BAD: 1})
    store.add_carrier(ledger, "q1", MIDNIGHT - 1)
    claim(ledger, MIDNIGHT + SETTLE)
    assert store.carriers(ledger) == {"q1"}
    claim(ledger, MIDNIGHT + SETTLE + KEPT * DAY)
    for table in ("policies", "failures", "reports", "carriers"):
        assert ledger.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
