"""The trace: written beside the mail, kept for its time, found again, and never in the way."""

import json
import shutil
import stat
import tempfile
import time
from pathlib import Path

import pytest
from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import TestCase

from requiretls_mta.report import trace as trace_module
from requiretls_mta.report.trace import OfMessages, Trace, write_event
from requiretls_mta.report.trace_files import SegmentWriter, TraceSettings, segments
from requiretls_mta.report.trace_read import family, ids_of
from tests.receive.fakes import RecordedEvents

NOW = 1_800_000_000.0
WEEK = TraceSettings(keep=7 * 86400.0)
ONE, TWO, THREE = ("0" * 15 + digit for digit in "123")


def line(queue_id=ONE, event="delivered", **fields):
    return write_event("2027-01-15T08:00:00.000Z", event, {"queue_id": queue_id, **fields})


def names(folder):
    return [segment.path.name for segment in segments(folder)]


# --- lines ----------------------------------------------------------------------------------------------------------
def test_a_line_is_json_whatever_the_fields_hold():
    """Nested values, octets, controls; None is left out, and so is what nobody may write down."""
    octets = line(
        text="\x1b\n\ud800\u20ac", body="secret", password="secret", nothing=None, hosts=[{"host": b"\xff", "x": None}]
    )
    assert octets.endswith(b"\n") and octets.count(b"\n") == 1 and octets.isascii()
    assert json.loads(octets) == {
        "time": "2027-01-15T08:00:00.000Z",
        "event": "delivered",
        "queue_id": ONE,
        "text": "\x1b\n\ud800\u20ac",
        "hosts": [{"host": "b'\\xff'"}],
    }


# --- files ----------------------------------------------------------------------------------------------------------
def test_segments_are_private_and_named_by_their_beginning(tmp_path):
    """One an hour at the most; a new process begins its own, or goes on in one of the same second on a new line."""
    folder = tmp_path / "trace"
    writer = SegmentWriter(folder, WEEK)
    writer.append([line()], NOW)
    writer.append([line()], NOW + 3599)
    writer.append([line()], NOW + 3600)
    writer.append([line()], NOW + 10)  # the clock was set back
    writer.close()
    assert names(folder) == ["2027-01-15T080000Z.jsonl", "2027-01-15T080010Z.jsonl", "2027-01-15T090000Z.jsonl"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    with (folder / "2027-01-15T080010Z.jsonl").open("ab") as file:
        file.write(b'{"torn')
    SegmentWriter(folder, WEEK).append([line(TWO)], NOW + 10)
    assert list(family([folder], [ONE, TWO], NOW)) == [ONE, TWO]


def test_what_is_older_than_is_kept_goes(tmp_path):
    """By the time at which its last line may have come; files of others stay."""
    (tmp_path / "notes.txt").write_text("mine")
    writer = SegmentWriter(tmp_path, TraceSettings(keep=3600.0))
    for number in range(3):
        writer.append([line()], NOW + 300 * number)
    writer.prune(NOW + 3600 + 301)
    assert names(tmp_path) == ["2027-01-15T080500Z.jsonl", "2027-01-15T081000Z.jsonl"]
    writer.prune(NOW + 2 * 3600 + 601)  # the one that is open, too
    assert names(tmp_path) == [] and (tmp_path / "notes.txt").exists()
    writer.append([line()], NOW + 2 * 3600 + 602)
    assert len(names(tmp_path)) == 1


def test_no_more_than_the_size_is_kept(tmp_path):
    """The oldest go first, a sixteenth at a time."""
    writer = SegmentWriter(tmp_path, TraceSettings(keep=1e6, size=16_000))
    for number in range(200):
        writer.append([line(number=number)], NOW + number)
    writer.prune(NOW + 200)
    sizes = [segment.path.stat().st_size for segment in segments(tmp_path)]
    assert 10_000 < sum(sizes) <= 16_000 and max(sizes) < 1200
    assert b'"number":199' in segments(tmp_path)[-1].path.read_bytes()


def test_switched_off_it_deletes_what_there_was(tmp_path):
    """`trace.keep = "0s"`."""
    SegmentWriter(tmp_path, WEEK).append([line()], time.time())
    SegmentWriter(tmp_path, TraceSettings(keep=0.0)).prune(time.time())
    assert names(tmp_path) == []


def test_a_link_is_not_followed(tmp_path):
    """Nobody has us write into another file."""
    (tmp_path / "trace").mkdir()
    (tmp_path / "trace" / "2027-01-15T080000Z.jsonl").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError):
        SegmentWriter(tmp_path / "trace", WEEK).append([line()], NOW)
    assert not (tmp_path / "victim").exists()


# --- finding --------------------------------------------------------------------------------------------------------
def test_a_family_is_found_in_one_pass(tmp_path):
    """Offspring of offspring, over several files; others are not, whatever they quote."""
    writer = SegmentWriter(tmp_path, WEEK)
    writer.append([line(ONE, "queued"), line(TWO, "queued", parent="f" * 16)], NOW)
    writer.append([line(THREE, "queued", transcript=f'"queue_id":"{ONE}","parent":"{ONE}"')], NOW + 1)
    writer.append([line("4" * 16, "queued", parent=ONE), line("5" * 16, "queued", parent="4" * 16)], NOW + 7200)
    writer.append([line("5" * 16), line("4" * 16), line(ONE)], NOW + 14400)
    found = family([tmp_path], [ONE], NOW)
    assert {one: [record["event"] for record in records] for one, records in found.items()} == {
        ONE: ["queued", "delivered"],
        "4" * 16: ["queued", "delivered"],
        "5" * 16: ["queued", "delivered"],
    }
    assert family([tmp_path], ["e" * 16], 0) == {} and family([tmp_path / "none"], [ONE], 0) == {}


def test_large_families_are_found_too(tmp_path):
    """Past the number of ids that are looked for one by one."""
    writer = SegmentWriter(tmp_path, WEEK)
    children = [f"{number:016}" for number in range(100, 130)]
    writer.append([line(ONE, "queued"), *(line(child, "queued", parent=ONE) for child in children)], NOW)
    writer.append([line(children[-1])], NOW + 7200)
    found = family([tmp_path], [ONE], NOW)
    assert list(found) == [ONE, *children] and len(found[children[-1]]) == 2


def test_files_from_before_its_time_are_passed_over(tmp_path):
    """But for some time by which the clock may have been set back."""
    writer = SegmentWriter(tmp_path, WEEK)
    for number in range(3):
        writer.append([line(number=number)], NOW + 3600 * number)
    assert [r["number"] for r in family([tmp_path], [ONE], NOW + 3600)[ONE]] == [0, 1, 2]
    assert [r["number"] for r in family([tmp_path], [ONE], NOW + 7300)[ONE]] == [2]


def test_a_message_id_is_found_to_the_letter(tmp_path):
    """Several messages may bear it; a quoted one is none."""
    wanted = '<"a\\b"@x.example>'
    SegmentWriter(tmp_path, WEEK).append(
        [
            line(TWO, "queued", message_id=wanted),
            line(ONE, "queued", message_id=wanted),
            line(THREE, "queued", message_id="<other>", note=f'"message_id":{wanted}'),
        ],
        NOW,
    )
    assert ids_of([tmp_path], wanted) == [TWO, ONE]
    assert ids_of([tmp_path], "<other") == []


@pytest.mark.parametrize(
    "torn", [b'{"queue_id":"%b","x' % ONE.encode(), b'["queue_id":"%b"]\n' % ONE.encode(), b"\xff\n"]
)
def test_torn_lines_are_passed_over(tmp_path, torn):
    """At the end of a file or before a line that is whole."""
    path = tmp_path / "2027-01-15T080000Z.jsonl"
    path.write_bytes(torn.removesuffix(b"\n") + b"\n" + line() + torn)
    assert len(family([tmp_path], [ONE], NOW)[ONE]) == 1
    path.write_bytes(b"")
    assert family([tmp_path], [ONE], NOW) == {}


# --- the subscriber -------------------------------------------------------------------------------------------------
def test_only_events_of_a_message_are_for_the_trace():
    """Connections and lists have no place in it; of what it is told better it hears once."""
    told = RecordedEvents()
    subscriber = OfMessages(told)
    for event in ("connected", "dnswl", "rejected"):
        subscriber.emit(event, session="s")
    for event in ("queued", "accepted", "delivered"):
        subscriber.emit(event, queue_id=ONE)
    assert [event for event, _ in told.seen] == ["delivered"]


class Writing(TestCase):
    """The subscriber with its thread."""

    timeout = 10

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp()) / "trace"
        self.addCleanup(shutil.rmtree, self.folder.parent)
        self.told = []
        globalLogPublisher.addObserver(self.told.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.told.append)

    def trace(self, settings=WEEK, **_):
        made = Trace(reactor, self.folder, settings, time.time)
        made.start()
        self.addCleanup(made.stop)
        return made

    def warnings(self):
        return [event for event in self.told if event["log_level"].name == "warn"]

    def count(self):
        return sum(segment.path.read_bytes().count(b"\n{") + 1 for segment in segments(self.folder))

    @inlineCallbacks
    def test_what_was_told_can_be_read_after_a_flush(self):
        """In the order in which it was told; a second flush waits for nothing."""
        trace = self.trace()
        trace.emit("attempt", queue_id=ONE)
        trace.put("queued", lambda: f'"queue_id":"{ONE}"')
        yield trace.flush()
        yield trace.flush()
        assert [r["event"] for r in family([self.folder], [ONE], 0)[ONE]] == ["attempt", "queued"]

    def test_the_end_writes_what_waits(self):
        """And after it nothing is taken any more."""
        trace = self.trace()
        trace.emit("attempt", queue_id=ONE)
        trace.stop()
        trace.emit("attempt", queue_id=TWO)
        assert list(family([self.folder], [ONE, TWO], 0)) == [ONE]

    @inlineCallbacks
    def test_a_disk_that_cannot_be_written_costs_lines_and_one_warning(self):
        """Mail goes on; when the disk is back the trace goes on, too."""
        trace = self.trace()
        self.folder.write_text("in the way")
        for _ in range(3):
            trace.emit("attempt", queue_id=ONE)
            yield trace.flush()
        assert len(self.warnings()) == 1
        self.folder.unlink()
        trace.emit("attempt", queue_id=TWO)
        yield trace.flush()
        assert list(family([self.folder], [ONE, TWO], 0)) == [TWO]
        assert self.warnings()[-1]["count"] == 3
        self.flushLoggedErrors()

    @inlineCallbacks
    def test_what_waits_is_bounded(self):
        """Beyond it lines are lost, counted, and told of once."""
        self.patch(trace_module, "MOST", 1000)
        trace = self.trace()
        for _ in range(100):
            trace.emit("attempt", queue_id=ONE)
        assert trace._size < 1200
        yield trace.flush()
        (warning,) = self.warnings()
        assert warning["count"] == 100 - self.count() > 50

    def test_an_event_that_cannot_be_written_is_left_out(self):
        """Whoever tells of it goes on."""

        class Broken:
            def __str__(self):
                raise ValueError

        self.trace().emit("attempt", queue_id=ONE, broken=Broken())
        assert len(self.warnings()) == 1


def test_off_it_keeps_nothing(tmp_path):
    """No timer, no line."""
    clock = Clock()
    trace = Trace(clock, tmp_path, TraceSettings(keep=0.0), time.time)
    trace.emit("attempt", queue_id=ONE)
    trace.put("queued", lambda: '"queue_id":""')
    assert not clock.getDelayedCalls() and not trace._waiting
