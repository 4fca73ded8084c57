"""The database of what is counted and observed: another writer, a broken file, a full disk."""

import sqlite3
import stat
import threading

import pytest
from twisted.internet.defer import Deferred

from requiretls_mta.report.ledger import Ledger, open_ledger, transact

SCHEMA = "CREATE TABLE IF NOT EXISTS t (n INTEGER)"


class Threads:
    """Just enough of a reactor: what comes from the thread is done at once, in the thread."""

    def callFromThread(self, work, *args, **kwargs):
        work(*args, **kwargs)


@pytest.fixture
def ledger(tmp_path):
    made = Ledger(Threads(), tmp_path / "a.db", SCHEMA)
    made.start()
    yield made
    made.stop()


def wait(done: Deferred):
    """The result, whichever thread brings it."""
    came, results = threading.Event(), []
    done.addBoth(lambda result: (results.append(result), came.set()))
    assert came.wait(10)
    return results[0]


def add(connection):
    connection.execute("INSERT INTO t VALUES (1)")
    return "done"


def count(path):
    connection = sqlite3.connect(path)
    (number,) = connection.execute("SELECT count(*) FROM t").fetchone()
    connection.close()
    return number


def test_work_is_done_in_one_transaction_of_a_private_file(ledger, tmp_path):
    """0600 whatever the umask; what has been done is on disk."""
    assert wait(ledger.run(add)) == "done"
    assert count(tmp_path / "a.db") == 1
    assert stat.S_IMODE((tmp_path / "a.db").stat().st_mode) == 0o600


def test_what_fails_halfway_leaves_nothing(ledger, tmp_path, caplog):
    """A bug is no half-written transaction, and the next work finds all in order."""

    def broken(connection):
        add(connection)
        raise ZeroDivisionError

    assert wait(ledger.run(broken)) is None
    assert count(tmp_path / "a.db") == 0
    assert wait(ledger.run(add)) == "done"


def test_what_was_given_is_done_before_the_end(tmp_path):
    """A stop loses nothing."""
    ledger = Ledger(Threads(), tmp_path / "a.db", SCHEMA)
    ledger.start()
    for _ in range(50):
        ledger.run(add)
    ledger.stop()
    assert count(tmp_path / "a.db") == 50


def test_another_process_that_writes_is_waited_for(ledger, tmp_path):
    """Several workers, and the tool, share the file."""
    other = open_ledger(tmp_path / "a.db", SCHEMA)
    other.execute("BEGIN IMMEDIATE")
    done = ledger.run(add)
    other.execute("COMMIT")
    assert wait(done) == "done"
    assert transact(other, add) == "done"
    other.close()
    assert count(tmp_path / "a.db") == 2


@pytest.mark.parametrize("octets", [b"this is no database" * 100, b"SQLite format 3\0" + b"\xff" * 4000])
def test_a_broken_file_is_put_aside(ledger, tmp_path, octets):
    """A new one is begun; the old one stays for whoever wants to look at it."""
    (tmp_path / "a.db").write_bytes(octets)
    (tmp_path / "a.db-journal").write_bytes(b"garbage")
    assert wait(ledger.run(add)) == "done"
    assert count(tmp_path / "a.db") == 1
    assert (tmp_path / "a.broken").read_bytes() == octets


def test_a_file_that_cannot_be_written_costs_what_was_to_be_written(tmp_path):
    """Nothing fails over it, and it goes on when the trouble is over."""
    folder = tmp_path / "not yet there"
    ledger = Ledger(Threads(), folder / "a.db", SCHEMA)
    ledger.start()
    assert wait(ledger.run(add)) is None
    folder.mkdir()
    assert wait(ledger.run(add)) == "done"
    ledger.stop()
    assert count(folder / "a.db") == 1


def test_no_link_is_followed(ledger, tmp_path):
    """Whoever can write into the folder must not have other files written."""
    (tmp_path / "a.db").symlink_to(tmp_path / "elsewhere")
    assert wait(ledger.run(add)) is None
    assert not (tmp_path / "elsewhere").exists()
