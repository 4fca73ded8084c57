"""The log: one line per event whatever it holds, in both formats, and never an exception."""

import enum
import io
import json
import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import Logger, LogPublisher
from twisted.python.failure import Failure

from requiretls_mta.service.log import LogWriter, TwistedObserver

VALUES = st.text() | st.binary() | st.floats()
WHEN = 1_700_000_000.1239


class Reactor(Clock):
    """A clock that can be told of threads and of the end."""

    def __init__(self):
        super().__init__()
        self.triggers = []

    def addSystemEventTrigger(self, phase, event, function):
        self.triggers.append(function)

    def callFromThread(self, function, *args):
        self.callLater(0, function, *args)


def writer(form="json", level="info"):
    made = LogWriter(form, level, lambda: WHEN)
    stream = io.BytesIO()
    made.open(stream)
    return made, stream


def test_a_json_line_has_its_four_names_first():
    """time, level, event, message, then the event's own fields."""
    log, stream = writer()
    log.emit("delivered", queue_id="abc", recipient="a@b", delays=(0.1, 0.2), requiretls=None)
    record = json.loads(stream.getvalue())
    assert list(record)[:4] == ["time", "level", "event", "message"]
    assert record["time"] == "2023-11-14T22:13:20.123Z"
    assert (record["level"], record["event"]) == ("info", "delivered")
    assert (record["queue_id"], record["delays"], record["requiretls"]) == ("abc", [0.1, 0.2], None)


def test_a_text_line_reads_well():
    """Names and values, in quotes where blanks or signs need them; what does not apply is left out."""
    log, stream = writer("text")
    log.emit("deferred", queue_id="abc", reply='451 4.7.1 "later"', mx=None, delay=1.5, delays=(0.1, 0.0))
    assert stream.getvalue().decode() == (
        "2023-11-14T22:13:20.123Z info deferred: delivery deferred queue_id=abc"
        ' reply="451 4.7.1 \\"later\\"" delay=1.5 delays=0.1,0\n'
    )


@pytest.mark.parametrize("form", ["json", "text"])
@given(
    event=st.text(),
    fields=st.dictionaries(st.sampled_from(["a", "reply", "time", "message"]), st.text() | st.binary() | st.floats()),
)
def test_any_content_is_one_harmless_line(form, event, fields):
    """No control character reaches the file, whatever a peer said."""
    log, stream = writer(form)
    log.emit(event, **fields)
    octets = stream.getvalue()
    assert octets.endswith(b"\n")
    text = octets[:-1].decode()
    assert all(c.isprintable() for c in text)
    if form == "json":
        assert json.loads(text)["time"].startswith("2023")


def test_what_cannot_be_written_as_json_is_written_somehow():
    """Numbers that JSON lacks, objects of any kind, a text method that fails."""

    class Rude:
        def __str__(self):
            raise RuntimeError

    class Colour(enum.Enum):
        RED = "red"

    log, stream = writer()
    log.emit("x", number=float("nan"))
    log.emit("x", value=Colour.RED, names={"b", "a"}, octets=b"\x00\xff")
    log.emit("x", value=Rude())
    first, second, third = map(json.loads, stream.getvalue().splitlines())
    assert first["number"] == "nan"
    assert (second["value"], second["names"], second["octets"]) == ("red", ["a", "b"], "\\x00\\xff")
    assert "RuntimeError" in third["message"]


@pytest.mark.parametrize("form", ["json", "text"])
def test_secrets_are_left_out(form):
    """A field of that name is a mistake of ours, and stays one that nobody reads."""
    log, stream = writer(form)
    log.emit("x", password="hush", body=b"hush", user="anna")
    assert b"hush" not in stream.getvalue()
    assert b"anna" in stream.getvalue()


def test_levels_filter():
    """What lies below the level is not written; some events bring a level of their own."""
    log, stream = writer(level="warn")
    log.emit("delivered")
    log.emit("bounced")
    log.emit("delivered", level="error")
    assert [json.loads(line)["level"] for line in stream.getvalue().splitlines()] == ["warn", "error"]
    assert not log.debugs
    assert writer(level="debug")[0].debugs


def test_lines_are_written_once_per_turn():
    """With a reactor, one write for all lines of a turn; at its end, at once again."""
    log, stream = writer()
    reactor = Reactor()
    log.attach(reactor)
    log.emit("a")
    log.emit("b")
    assert stream.getvalue() == b""
    reactor.advance(0)
    assert len(stream.getvalue().splitlines()) == 2
    log.emit("c")
    reactor.triggers[0]()
    log.emit("d")
    assert len(stream.getvalue().splitlines()) == 4


def test_much_is_not_kept_until_the_end_of_the_turn():
    """The buffer has a limit."""
    log, stream = writer()
    log.attach(Reactor())
    for _ in range(12):
        log.emit("a", value="x" * 100_000)
    assert len(stream.getvalue()) > 1_000_000


def test_lines_before_the_stream_are_kept():
    """What is said during the start stands in the log as well."""
    log = LogWriter("json")
    log.emit("early")
    stream = io.BytesIO()
    log.open(stream)
    assert json.loads(stream.getvalue())["event"] == "early"


def test_a_full_disk_stops_nothing():
    """Lost lines are counted, and the count is told when the disk has room again."""

    class Disk(io.BytesIO):
        full = True

        def write(self, data):
            if self.full:
                raise OSError(28, "No space left on device")
            return super().write(data)

    log, disk = LogWriter("json"), Disk()
    log.open(disk)
    log.emit("a")
    log.emit("b")
    disk.full = False
    log.emit("c")
    told, kept = map(json.loads, disk.getvalue().splitlines())
    assert (told["message"], told["lines"], kept["event"]) == ("lines were lost", 2, "c")


def test_twisteds_events_come_in_the_same_form():
    """Logger() of ours and of Twisted's, with their fields, failures as one line."""
    log, stream = writer()
    logger = Logger(namespace="some.module", observer=LogPublisher(TwistedObserver(log)))
    logger.warn("no {what} here", what="disk")
    try:
        raise KeyError("lost\nline")
    except KeyError:
        logger.failure("while {doing}", Failure(), doing="this")
    logger.debug("unseen")
    logger.info("{missing}")
    first, second, third = map(json.loads, stream.getvalue().splitlines())
    assert (first["level"], first["event"], first["message"]) == ("warn", "log", "no disk here")
    assert (first["what"], first["source"]) == ("disk", "some.module")
    assert (second["level"], second["message"]) == ("critical", "while this")
    assert "KeyError" in second["traceback"]
    assert third["level"] == "info"


def test_a_text_line_does_not_say_twice_what_the_message_says():
    """Fields of Twisted's events are for machines."""
    log, stream = writer("text")
    Logger(namespace="some.module", observer=TwistedObserver(log)).info("no {what} here", what="disk")
    assert stream.getvalue() == b"2023-11-14T22:13:20.123Z info log: no disk here source=some.module\n"


def test_events_from_threads_are_written_in_the_reactors():
    """A thread hands its line over."""
    log, stream = writer()
    reactor = Reactor()
    log.attach(reactor)
    logger = Logger(namespace="x", observer=TwistedObserver(log))
    thread = threading.Thread(target=logger.info, args=("from a thread",))
    thread.start()
    thread.join()
    reactor.pump([0, 0])
    assert re.search(rb"from a thread", stream.getvalue())
