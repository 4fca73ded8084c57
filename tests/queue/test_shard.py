"""The synchronous core: the tables over versions and sizes, damage, files without rows."""

import sqlite3
import subprocess
import sys
import time

import attrs
import pytest

from requiretls_mta.message.envelope import Tag
from requiretls_mta.message.outcome import Tried
from requiretls_mta.queue import schema
from requiretls_mta.queue.changes import Accept, encode, encode_settlement
from requiretls_mta.queue.files import StoreLocked
from requiretls_mta.queue.schema import SchemaError, migrate
from requiretls_mta.queue.shard import NotLeased, Shard
from requiretls_mta.queue.store import StoreFull
from tests.queue.values import LATER, NOW, make_message, sent, settlement

LARGE = b"a: b\r\n\r\n" + b"x" * 300_000


@pytest.fixture
def shard(tmp_path):
    with Shard(tmp_path / "0", wall=lambda: NOW) as opened:
        yield opened


def accept(shard, *messages, lease=False):
    """Accept together; the failure, or None."""
    rows = tuple(encode(message, shard.files.folder, shard.settings.row_limit) for message in messages)
    return shard.apply([Accept(rows, lease)])[0]


def settle(shard, *settlements):
    return shard.apply([encode_settlement(x, shard.files.folder, shard.settings.row_limit) for x in settlements])


def put(shard, **fields):
    message = make_message(shard.new_id(), **fields)
    assert accept(shard, message) is None
    return message


def damage(shard, statement, *parameters):
    db = sqlite3.connect(shard.path)
    db.execute(statement, parameters)
    db.commit()
    db.close()


def test_an_empty_shard(shard):
    """Nothing is due, nothing is there."""
    assert shard.claim(10, NOW) == ()
    assert shard.next_due() is None
    assert shard.rows() == ()
    assert shard.retry_all(NOW) == 0
    assert shard.message("0" * 16) is None
    assert shard.apply([]) == []


def test_the_tool_works_without_a_service(tmp_path):
    """Open, look, act, close; then again."""
    with Shard(tmp_path / "0", wall=lambda: NOW) as shard:
        messages = [put(shard, received=NOW + n) for n in range(450)]
        assert [row.id for row in shard.rows()] == [message.id for message in messages]
        assert shard.hold(messages[0].id, True)
        assert shard.remove(messages[1].id)
    with Shard(tmp_path / "0", wall=lambda: NOW) as shard:
        assert len(shard.rows()) == 449
        assert shard.rows()[0].held
        assert sent(shard.message(messages[2].id)) == sent(messages[2])
        assert shard.retry_all(NOW) == 449
        assert len(shard.claim(1000, NOW)) == 448


def test_one_at_a_time(tmp_path, shard):
    """The lock names path and process, also to another process; a failed opening leaves no lock behind."""
    with pytest.raises(StoreLocked, match=str(shard.folder)):
        Shard(shard.folder, wall=time.time).open()
    code = "import sys; from pathlib import Path; from requiretls_mta.queue.shard import Shard\n"
    code += f"Shard(Path({str(shard.folder)!r}), wall=float).open()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "StoreLocked" in ended.stderr
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "queue.db").write_bytes(b"no database at all" * 100)
    for _ in range(2):
        with pytest.raises(sqlite3.DatabaseError, match=str(broken)):
            Shard(broken, wall=time.time).open()


def test_files_without_rows_are_removed_at_opening(tmp_path):
    """Half-written ones, whole ones that nobody accepted, and whatever else lies there; a queued body stays."""
    with Shard(tmp_path / "0", wall=lambda: NOW) as shard:
        message = put(shard, octets=LARGE)
        small = put(shard)
        for name in (shard.new_id(), shard.new_id() + ".part", "README", message.id + ".part", small.id):
            (shard.files.folder / name).write_bytes(b"x")
    with Shard(tmp_path / "0", wall=lambda: NOW) as shard:
        assert [path.name for path in shard.files.folder.iterdir()] == [message.id]
        assert sent(shard.message(message.id)) == sent(message)


def test_a_group_survives_its_bad_members(shard):
    """Each failure stands at its place; everything else is durable."""
    first, second = put(shard), put(shard, octets=LARGE)
    leases = shard.claim(2, NOW)
    limit, folder = shard.settings.row_limit, shard.files.folder
    good, report = make_message(shard.new_id()), make_message(shard.new_id(), octets=LARGE)
    twin = make_message(first.id, octets=LARGE)
    changes = [
        Accept((encode(good, folder, limit),)),
        Accept((encode(twin, folder, limit),)),
        encode_settlement(settlement(leases[0], offspring=(report,)), folder, limit),
        encode_settlement(settlement(leases[0]), folder, limit),
        encode_settlement(settlement(leases[1], LATER, again=NOW + 9), folder, limit),
    ]
    kinds = [type(result) for result in shard.apply(changes)]
    assert kinds == [type(None), sqlite3.IntegrityError, type(None), NotLeased, type(None)]
    assert {row.id for row in shard.rows()} == {good.id, report.id, second.id}
    assert {path.name for path in folder.iterdir()} == {report.id, second.id}


def test_full(shard):
    """SQLITE_FULL is StoreFull, in a group and alone; files placed for it are gone; the shard works on."""
    (pages,) = shard._db.execute("PRAGMA page_count").fetchone()
    shard._db.execute(f"PRAGMA max_page_count = {pages + 5}").fetchall()
    messages = [make_message(shard.new_id(), octets=b"a: b\r\n\r\n" + b"y" * 100_000) for _ in range(2)]
    for message in messages:
        assert isinstance(accept(shard, message, make_message(shard.new_id(), octets=LARGE)), StoreFull)
    assert list(shard.files.folder.iterdir()) == []
    put(shard)


def test_octets_that_are_not_what_they_say(shard):
    """A body shorter than it claims is refused before it is stored."""

    class Short:
        size = 10

        def read(self, offset, length):
            return b"123"

    with pytest.raises(ValueError, match="3 of 10"):
        accept(shard, attrs.evolve(make_message(shard.new_id()), body=Short()))


DAMAGE = [
    "UPDATE message SET tag = ?",
    "UPDATE message SET envelope = ?",
    "UPDATE message SET content = ?",
    "UPDATE message SET origin = ?, listener = ?1, parent = ?1",
    "UPDATE message SET prepend = ?",
    "UPDATE message SET received = ?",
    "UPDATE recipient SET recipient = ?",
    "UPDATE recipient SET state = ?",
    "UPDATE recipient SET attempts = ?",
    "UPDATE recipient SET last_reply = ?",
]


@pytest.mark.parametrize("value", ["future", b"\xff\x00\xfe", 7, 1.5, b"", '{"sender": 1}', "[" * 100_000, "\x00"])
@pytest.mark.parametrize("statement", DAMAGE)
def test_damage_and_the_future_do_not_stop_the_queue(shard, statement, value):
    """Text that is no UTF-8, other types, other versions' words: the message is attempted, its tag kept or REQUIRED."""
    put(shard, tag=Tag.OPTIONAL)
    damage(shard, statement, value)
    assert len(shard.rows()) == 1
    (lease,) = shard.claim(10, NOW)
    assert lease.message.envelope.tag is (Tag.REQUIRED if " tag" in statement else Tag.OPTIONAL)
    assert len(lease.entries) == 1
    assert lease.message.body.size == 17
    b"".join(lease.message.pieces())
    assert settle(shard, settlement(lease, LATER, again=NOW + 1), settlement(lease))[0] is None
    (lease,) = shard.claim(10, NOW + 1)
    assert settle(shard, settlement(lease)) == [None]
    assert shard.rows() == ()


def test_a_message_that_lost_its_recipients_blocks_nobody(shard):
    """It stays to be seen, and is not claimed for ever."""
    lost, message = put(shard, received=NOW - 9), put(shard)
    damage(shard, "DELETE FROM recipient WHERE message = 1")
    assert shard.claim(1, NOW) == ()
    assert [lease.message.id for lease in shard.claim(1, NOW)] == [message.id]
    assert [row.id for row in shard.rows()] == [lost.id, message.id]


# --- versions -----------------------------------------------------------------------------------------------------
def test_migration_goes_step_by_step(tmp_path):
    """From nothing, from each older version, with what was in it; a step that fails changes nothing."""
    steps = [
        "CREATE TABLE a (x); INSERT INTO a VALUES (1);",
        "ALTER TABLE a ADD COLUMN y; UPDATE a SET y = x + 1;",
        "CREATE TABLE b AS SELECT x + y AS z FROM a;",
    ]
    for version in range(4):
        db = sqlite3.connect(tmp_path / f"{version}.db", isolation_level=None)
        migrate(db, "here", steps[:version])
        migrate(db, "here", steps)
        assert db.execute("SELECT z FROM b").fetchall() == [(3,)]
        assert db.execute("PRAGMA user_version").fetchall() == [(3,)]
        with pytest.raises(SchemaError, match=r"version 3.*up to 1"):
            migrate(db, "here", steps[:1])
        with pytest.raises(sqlite3.Error):
            migrate(db, "here", [*steps, "CREATE TABLE c (x); INSERT INTO nothing VALUES (1);"])
        db.close()
        db = sqlite3.connect(tmp_path / f"{version}.db", isolation_level=None)
        assert db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'c'").fetchall() == [(0,)]
        migrate(db, "here", steps)
        db.close()


def test_version_one_as_it_was_released(tmp_path):
    """A queue written by the first version, kept here as text, is read by this one: never change its lines."""
    (tmp_path / "0").mkdir()
    db = sqlite3.connect(tmp_path / "0" / "queue.db")
    db.executescript(
        """
        CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
        CREATE TABLE message (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, parent TEXT, origin TEXT NOT NULL,
            listener TEXT NOT NULL, received INTEGER NOT NULL, tag TEXT NOT NULL, envelope TEXT NOT NULL,
            content TEXT NOT NULL, prepend BLOB NOT NULL, size INTEGER NOT NULL, in_file INTEGER NOT NULL,
            held INTEGER NOT NULL, due INTEGER NOT NULL);
        CREATE INDEX message_due ON message (due) WHERE held = 0;
        CREATE TABLE recipient (message INTEGER NOT NULL, number INTEGER NOT NULL, recipient TEXT NOT NULL,
            state TEXT NOT NULL, attempts INTEGER NOT NULL, next_attempt INTEGER NOT NULL, last_reply TEXT NOT NULL,
                warned INTEGER NOT NULL, tried TEXT NOT NULL,
            PRIMARY KEY (message, number)) WITHOUT ROWID;
        CREATE TABLE body (message INTEGER PRIMARY KEY, octets BLOB NOT NULL);
        INSERT INTO meta VALUES ('epoch', 5), ('tick', 112500000000000), ('wall', 1800000000000000);
        INSERT INTO message VALUES (1, '361z3anx2fb00005', '361z3anx2fa00005', 'report', 'mx', 1800000000000000,
            'optional',
            '{"sender":["ann","example.org"],"body":"8BITMIME","smtputf8":false,"ret":"HDRS","envid":"e","size":17}',
            '{"size":17,"header_end":12,"eight_bit_header":false,"eight_bit_body":false,
              "dot_at_line_start":false,"cuts":[[0,2]]}',
            x'583a20590d0a', 17, 0, 0, 1800000060000000);
        INSERT INTO recipient VALUES (1, 0, '["bob","example.net",["FAILURE"],"rfc822;bob"]', 'queued', 2,
            1800000060000000, '451 4.3.0 Later', 1, '[[1800000000000000,"451 4.3.0 Later"]]');
        INSERT INTO body VALUES (1, x'5375626a6563743a20610d0a0d0a620d0a');
        PRAGMA application_id = 0x52544C53;
        PRAGMA user_version = 1;
        """
    )
    db.close()
    with Shard(tmp_path / "0", wall=lambda: NOW) as shard:
        assert shard.new_id() > "361z3anx2fb00005"
        (lease,) = shard.claim(1, NOW + 60)
        message = lease.message
        assert (message.id, message.parent, message.origin, message.listener) == (
            "361z3anx2fb00005", "361z3anx2fa00005", "report", "mx")  # fmt: skip
        assert sent(message) == b"X: Y\r\nbject: a\r\n\r\nb\r\n"
        assert (message.envelope.tag, message.received) == (Tag.OPTIONAL, NOW)
        (entry,) = lease.entries
        assert (entry.attempts, entry.next_attempt, entry.last_reply) == (2, NOW + 60, "451 4.3.0 Later")
        assert (entry.warned, entry.tried) == (True, (Tried(NOW, "451 4.3.0 Later"),))
        (version,) = shard._db.execute("PRAGMA user_version").fetchone()
        assert version == len(schema.MIGRATIONS)


def test_ids_go_on_after_a_restart_with_the_clock_set_back(tmp_path):
    """Closed in order or not, an id of before never comes again, and later ones sort later."""
    seen = []
    for hour in (5, 4, 3, 2):
        with Shard(tmp_path / "0", wall=lambda hour=hour: NOW + hour * 3600) as shard:
            seen += [shard.new_id() for _ in range(100)]
            put(shard)
    assert sorted(set(seen)) == seen


# --- size -----------------------------------------------------------------------------------------------------------
def test_one_due_message_among_many_is_found_by_index(tmp_path):
    """With 50,000 messages waiting and 2,000 leased, a claim walks through neither."""
    with Shard(tmp_path / "0", wall=lambda: NOW) as shard:
        template = encode(make_message(shard.new_id(), received=NOW + 1000), shard.files.folder, 1 << 20)
        _, *columns, due = template.columns
        marks = ",".join("?" * (len(columns) + 3))
        shard._db.execute("BEGIN")
        shard._db.executemany(
            f"INSERT INTO message VALUES ({marks})",
            ([n, f"{n:015}x", *columns, due + n] for n in range(1, 50_001)),
        )
        shard._db.execute("COMMIT")
    with Shard(tmp_path / "0", wall=lambda: NOW) as shard:
        for _ in range(20):
            messages = [make_message(shard.new_id(), received=NOW - 1) for _ in range(100)]
            assert accept(shard, *messages, lease=True) is None
        late = put(shard, received=NOW)
        steps = []
        shard._db.set_progress_handler(lambda: steps.append(1), 100)
        assert shard.next_due() == NOW
        (lease,) = shard.claim(10, NOW)
        assert lease.message.id == late.id
        shard.release([late.id])
        assert len(steps) < 20, "of a hundred instructions of SQLite's machine each"


def test_a_lease_outlasts_the_tool_but_not_the_process(tmp_path):
    """Leased at acceptance or claimed: not claimed twice, even when the tool makes it due; opened anew it is due."""
    with Shard(tmp_path / "0", wall=lambda: NOW) as shard:
        fresh, waiting = make_message(shard.new_id()), put(shard)
        assert accept(shard, fresh, lease=True) is None
        (lease,) = shard.claim(10, NOW)
        assert lease.message.id == waiting.id
        assert shard.retry(fresh.id, NOW) == 1 and shard.retry_all(NOW) == 2
        assert shard.claim(10, NOW + 1e6) == () and shard.next_due() is None
        shard.release([fresh.id])
        assert [lease.message.id for lease in shard.claim(10, NOW)] == [fresh.id]
    with Shard(tmp_path / "0", wall=lambda: NOW) as shard:
        assert shard.next_due() == NOW
        assert {lease.message.id for lease in shard.claim(10, NOW)} == {fresh.id, waiting.id}
