"""What waits to be reported, in a ledger: counts of each UTC day, and how far each report has come.

Plain functions on a connection, each to be run within one transaction. Everything in it is bounded in number and age.
"""

from __future__ import annotations

import random
import secrets
import sqlite3
from collections.abc import Collection, Mapping
from pathlib import Path

import attrs

from requiretls_mta.report.tlsrpt_format import PolicyCounts
from requiretls_mta.report.tlsrpt_session import DAY, Failure, Policy, Session

KEPT = 7
"""Days after which what could not be reported is forgotten."""
MOST_DOMAIN_POLICIES = 50
"""Policies of one domain that a report tells apart in one day: one for each MX host with DANE."""
MOST_POLICIES = 20_000
"""Policies of all domains, in one day."""
MOST_FAILURES = 100
"""Failures under one policy that differ; what comes on top is counted by its result type alone."""
SETTLE = 300.0
"""Seconds after midnight before a day is taken as complete; counts may still be under way."""
LONGEST_DELAY = 4 * 3600.0
"""Seconds by which a report is delayed at most (RFC 8460 4.1)."""
FIRST_PAUSE = 900.0
"""Seconds before the second attempt; each pause doubles the one before (RFC 8460 5.5)."""
PERSISTENCE = float(DAY)
"""Seconds from the first attempt for which a report is tried (RFC 8460 5.5)."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS policies (
    id INTEGER PRIMARY KEY, day INTEGER NOT NULL, domain TEXT NOT NULL, policy TEXT NOT NULL,
    successful INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0,
    UNIQUE (day, domain, policy)
);
CREATE TABLE IF NOT EXISTS failures (
    policy INTEGER NOT NULL, failure TEXT NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (policy, failure)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reports (
    day INTEGER NOT NULL, domain TEXT NOT NULL, name TEXT NOT NULL,
    due REAL, attempts INTEGER NOT NULL DEFAULT 0, first REAL,
    PRIMARY KEY (day, domain)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS carriers (queue_id TEXT PRIMARY KEY, day INTEGER NOT NULL) WITHOUT ROWID;
"""
# reports.due is NULL for a report that was sent, or given up: its day and domain never get another one.
# carriers: messages of ours that carry reports; their sessions are not counted.


def ledger_path(state: Path) -> Path:
    """Where a service keeps its counts."""
    return state / "shared" / "tlsrpt.db"


@attrs.frozen(kw_only=True)
class Due:
    """A report that is to be attempted now."""

    day: int
    domain: str
    unique: str


def count(connection: sqlite3.Connection, sessions: Mapping[Session, int]) -> None:
    """Add sessions, each as often as it says."""
    for session, times in sessions.items():
        policy = _policy_row(connection, session)
        if policy is None:
            continue
        if session.failure is None:
            connection.execute("UPDATE policies SET successful = successful + ? WHERE id = ?", (times, policy))
        else:
            connection.execute("UPDATE policies SET failed = failed + ? WHERE id = ?", (times, policy))
            _count_failure(connection, policy, session.failure, times)


def _policy_row(connection: sqlite3.Connection, session: Session) -> int | None:
    key = (session.day, session.domain, session.policy.dumped())
    find = "SELECT id FROM policies WHERE day = ? AND domain = ? AND policy = ?"
    found = connection.execute(find, key).fetchone()
    if found is None:
        (of_all,) = connection.execute("SELECT count(*) FROM policies WHERE day = ?", key[:1]).fetchone()
        (of_domain,) = connection.execute(
            "SELECT count(*) FROM policies WHERE day = ? AND domain = ?", key[:2]
        ).fetchone()
        if of_all >= MOST_POLICIES or of_domain >= MOST_DOMAIN_POLICIES:
            return None
        connection.execute("INSERT INTO policies (day, domain, policy) VALUES (?, ?, ?)", key)
        found = connection.execute(find, key).fetchone()
    row: int = found[0]
    return row


def _count_failure(connection: sqlite3.Connection, policy: int, failure: Failure, times: int) -> None:
    update = "UPDATE failures SET count = count + ? WHERE policy = ? AND failure = ?"
    if connection.execute(update, (times, policy, failure.dumped())).rowcount:
        return
    (number,) = connection.execute("SELECT count(*) FROM failures WHERE policy = ?", (policy,)).fetchone()
    if number >= MOST_FAILURES:
        failure = Failure(failure.result)
    connection.execute(
        "INSERT INTO failures VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count",
        (policy, failure.dumped(), times),
    )


def claim(connection: sqlite3.Connection, *, now: float, limit: int, rng: random.Random) -> list[Due]:
    """At most `limit` reports that are due.

    Their next attempt is set before this one is made, so that neither another process nor a restart repeats it early.
    """
    _begin_reports(connection, now, rng)
    claimed = []
    rows = connection.execute(
        "SELECT day, domain, name, attempts, coalesce(first, ?1) FROM reports WHERE due <= ?1 ORDER BY due LIMIT ?2",
        (now, limit),
    ).fetchall()
    for day, domain, unique, attempts, first in rows:
        if now >= first + PERSISTENCE:
            finish(connection, day, domain)
            continue
        connection.execute(
            "UPDATE reports SET due = ?, attempts = attempts + 1, first = ? WHERE day = ? AND domain = ?",
            (now + FIRST_PAUSE * 2**attempts, first, day, domain),
        )
        claimed.append(Due(day=day, domain=domain, unique=unique))
    return claimed


def _begin_reports(connection: sqlite3.Connection, now: float, rng: random.Random) -> None:
    """A report for each domain of each day that is over; what is too old is forgotten."""
    today = int((now - SETTLE) // DAY)
    forgotten = (today - KEPT,)
    connection.execute("DELETE FROM failures WHERE policy IN (SELECT id FROM policies WHERE day < ?)", forgotten)
    connection.execute("DELETE FROM policies WHERE day < ?", forgotten)
    connection.execute("DELETE FROM reports WHERE day < ?", forgotten)
    connection.execute("DELETE FROM carriers WHERE day < ?", forgotten)
    new = connection.execute(
        "SELECT DISTINCT day, domain FROM policies WHERE day < ?"
        " EXCEPT SELECT day, domain FROM reports ORDER BY day, domain",
        (today,),
    ).fetchall()
    for day, domain in new:
        # Whoever was not running at midnight makes no crowd afterwards either.
        due = max(now, (day + 1) * DAY) + rng.uniform(1.0, LONGEST_DELAY)
        connection.execute(
            "INSERT INTO reports (day, domain, name, due) VALUES (?, ?, ?, ?)", (day, domain, secrets.token_hex(8), due)
        )


def counts(connection: sqlite3.Connection, day: int, domain: str) -> list[PolicyCounts]:
    """What a report has to say."""
    found = []
    rows = connection.execute(
        "SELECT id, policy, successful, failed FROM policies WHERE day = ? AND domain = ? ORDER BY id", (day, domain)
    ).fetchall()
    for row, policy, successful, failed in rows:
        failures = connection.execute(
            "SELECT failure, count FROM failures WHERE policy = ? ORDER BY count DESC, failure", (row,)
        )
        found.append(
            PolicyCounts(
                policy=Policy.loaded(policy),
                successful=successful,
                failed=failed,
                failures={Failure.loaded(failure): times for failure, times in failures},
            )
        )
    return found


def finish(connection: sqlite3.Connection, day: int, domain: str) -> None:
    """The report was sent, is wanted by nobody, or is given up."""
    connection.execute(
        "DELETE FROM failures WHERE policy IN (SELECT id FROM policies WHERE day = ? AND domain = ?)", (day, domain)
    )
    connection.execute("DELETE FROM policies WHERE day = ? AND domain = ?", (day, domain))
    connection.execute("UPDATE reports SET due = NULL WHERE day = ? AND domain = ?", (day, domain))


def add_carrier(connection: sqlite3.Connection, queue_id: str, now: float) -> None:
    """A message that carries a report is about to enter the queue."""
    connection.execute("INSERT OR REPLACE INTO carriers VALUES (?, ?)", (queue_id, int(now // DAY)))


def carriers(connection: sqlite3.Connection) -> Collection[str]:
    """Their queue ids."""
    return {queue_id for (queue_id,) in connection.execute("SELECT queue_id FROM carriers")}
