"""A small database under `state/shared`, worked on in a thread of its own: what is counted and observed, never mail.

Several processes may have it open. Whatever happens to it is logged once and costs what was to be written, no more.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

T = TypeVar("T")

BUSY = 5.0
"""Seconds to wait for another process that writes."""


def open_ledger(path: Path, schema: str) -> sqlite3.Connection:
    """Open, or create (0600 whatever the umask). Raises `sqlite3.Error` or `OSError`. Blocks."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.fchmod(fd, 0o600)
    os.close(fd)
    connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
    try:
        # No write-ahead log: a reader that comes after a crash must find everything in one file and its journal.
        connection.executescript(schema)
    except BaseException:
        connection.close()
        raise
    return connection


def transact(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """Do `work` wholly or not at all, with nobody else writing meanwhile. Blocks."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # some errors have ended the transaction already
            connection.execute("ROLLBACK")
        raise
    return result


class Ledger:
    """The thread, and the connection that lives in it. `reactor` provides IReactorFromThreads."""

    _log = Logger()

    def __init__(self, reactor: Any, path: Path, schema: str) -> None:
        self._reactor = reactor
        self._path = path
        self._schema = schema
        self._pool = ThreadPool(0, 1, name=path.stem)
        self._connection: sqlite3.Connection | None = None
        self._troubled = False

    def start(self) -> None:
        """From now on there is a thread."""
        self._pool.start()

    def stop(self) -> None:
        """Finish what was given, then close. Blocks for as long as that takes."""
        if self._pool.started:
            self._pool.stop()
        self._close()

    def run(self, work: Callable[[sqlite3.Connection], T]) -> Deferred[T | None]:
        """The result of `work`, done as one transaction in the thread; None when the file did not allow it.

        To cancel it is not to wait any more; the work is done all the same.
        """
        done: Deferred[T | None] = deferToThreadPool(self._reactor, self._pool, self._run, work)
        return done.addCallbacks(self._well, self._trouble)

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return self._attempt(work)
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:  # its subclasses are other troubles
                raise
            # It is no database any more. What was in it is not worth a service that has to be mended by hand.
            self._log.error("{file} is broken ({error}); a new one is begun", file=str(self._path), error=str(error))
            self._close()
            self._path.with_name(f"{self._path.name}-journal").unlink(missing_ok=True)
            self._path.replace(self._path.with_suffix(".broken"))
            return self._attempt(work)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _attempt(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is None:
            self._connection = open_ledger(self._path, self._schema)
        return transact(self._connection, work)

    def _well(self, result: T) -> T:
        self._troubled = False
        return result

    def _trouble(self, failure: Failure) -> Failure | None:
        if failure.check(CancelledError):
            return failure
        if not failure.check(sqlite3.Error, OSError):
            self._log.failure("{file} cannot be worked on", failure, file=str(self._path))
        elif not self._troubled:
            self._troubled = True
            self._log.error(
                "{file}: {error}; what was to be noted is lost", file=str(self._path), error=failure.getErrorMessage()
            )
        return None
