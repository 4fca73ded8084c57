"""Observations: which host supports what, learned from the sessions of ordinary mail, kept in `state/shared`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.interfaces import IDelayedCall

from requiretls_mta.report.ledger import Ledger, open_ledger, transact
from requiretls_mta.report.observation import FEATURES, Host, Sighting, host_of, observed

KEPT = 366 * 86400.0
"""Seconds for which a host that is not met any more is remembered."""
MOST = 20_000
"""Hosts; those met longest ago go first."""
MOST_WAITING = 2000
"""Hosts that wait to be written; what is met beyond them will be met again."""
PAUSE = 10.0
"""Seconds between two writes."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS hosts (
    domain TEXT NOT NULL, mx TEXT NOT NULL, first REAL NOT NULL, last REAL NOT NULL, sightings TEXT NOT NULL,
    PRIMARY KEY (domain, mx)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS hosts_last ON hosts (last);
"""

Hosts = Mapping[tuple[str, str], Host]
"""By (domain, MX host)."""


def ledger_path(state: Path) -> Path:
    """Where a service keeps its observations."""
    return state / "shared" / "observe.db"


class Notes:
    """Subscribes to `tls` events, and keeps what they tell until somebody takes it."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._hosts: dict[tuple[str, str], Host] = {}

    def emit(self, event: str, /, **fields: Any) -> None:
        """Take one event."""
        if event != "tls" or (key := host_of(fields)) is None:
            return
        new, known = observed(fields, self._wall()), self._hosts.get(key)
        if known is not None:
            self._hosts[key] = known | new
        elif len(self._hosts) < MOST_WAITING:
            self._hosts[key] = new

    def take(self) -> Hosts:
        """What has come since the last time."""
        hosts, self._hosts = self._hosts, {}
        return hosts


class Observations:
    """The subscriber of a running service: writes what it noted every `PAUSE` seconds, off the reactor thread."""

    def __init__(self, reactor: Any, path: Path, wall: Callable[[], float]) -> None:
        self._reactor = reactor
        self._wall = wall
        self._notes = Notes(wall)
        self._ledger = Ledger(reactor, path, SCHEMA)
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """The state folder is there."""
        self._ledger.start()

    def emit(self, event: str, /, **fields: Any) -> None:
        """Take one event."""
        self._notes.emit(event, **fields)
        if event == "tls" and self._timer is None:
            self._timer = self._reactor.callLater(PAUSE, self._write)

    def stop(self) -> None:
        """Write what waits, and end."""
        if self._timer is not None:
            self._timer.cancel()
            self._write()
        self._ledger.stop()

    def _write(self) -> None:
        self._timer = None
        hosts = self._notes.take()
        if hosts:
            self._ledger.run(partial(note, hosts=hosts, now=self._wall()))


def record(path: Path, hosts: Hosts, now: float) -> None:
    """Write from a process that is not the service. Blocks; raises `sqlite3.Error` or `OSError`."""
    connection = open_ledger(path, SCHEMA)
    try:
        transact(connection, partial(note, hosts=hosts, now=now))
    finally:
        connection.close()


def known(path: Path, domain: str | None = None) -> list[tuple[str, str, Host]]:
    """(domain, MX host, what is known), in that order; no file yet is nothing known. Blocks; raises as `record`."""
    if not path.exists():
        return []
    connection = open_ledger(path, SCHEMA)
    try:
        rows = connection.execute(
            "SELECT domain, mx, first, last, sightings FROM hosts WHERE ?1 IS NULL OR domain = ?1 ORDER BY 1, 2",
            (domain,),
        )
        return [(row[0], row[1], Host(row[2], row[3], _read(row[4]))) for row in rows]
    finally:
        connection.close()


def note(connection: sqlite3.Connection, *, hosts: Hosts, now: float) -> None:
    """Add to what is known, and forget what is old or too much; inside a transaction."""
    for (domain, mx), host in hosts.items():
        found = connection.execute(
            "SELECT first, last, sightings FROM hosts WHERE domain = ? AND mx = ?", (domain, mx)
        ).fetchone()
        whole = host if found is None else Host(found[0], found[1], _read(found[2])) | host
        connection.execute(
            "INSERT OR REPLACE INTO hosts VALUES (?, ?, ?, ?, ?)",
            (domain, mx, whole.first, whole.last, _written(whole.sightings)),
        )
    connection.execute("DELETE FROM hosts WHERE last < ?", (now - KEPT,))
    (count,) = connection.execute("SELECT count(*) FROM hosts").fetchone()
    if count > MOST:
        connection.execute(
            "DELETE FROM hosts WHERE (domain, mx) IN (SELECT domain, mx FROM hosts ORDER BY last LIMIT ?)",
            (count - MOST,),
        )


def _written(sightings: Mapping[str, Sighting]) -> str:
    return json.dumps({feature: attrs.astuple(sighting) for feature, sighting in sightings.items()})


def _read(text: str) -> dict[str, Sighting]:
    return dict(_sightings(json.loads(text)))


def _sightings(found: Mapping[str, list[Any]]) -> Iterator[tuple[str, Sighting]]:
    """Features of later versions are passed over."""
    for feature, values in found.items():
        if feature in FEATURES:
            yield feature, Sighting(*values)
