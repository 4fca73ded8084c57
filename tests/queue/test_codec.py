"""Rows and values: whole round trips, and reading that never fails."""

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.message.address import Address
from requiretls_mta.message.content import Content
from requiretls_mta.message.envelope import Envelope, Notify, Recipient, Tag
from requiretls_mta.message.stored import BytesBody, Message
from requiretls_mta.queue import codec
from requiretls_mta.queue.store import Entry

TEXT = st.text(max_size=20)
ADDRESS = st.builds(Address, TEXT, TEXT)
RECIPIENT = st.builds(
    Recipient, ADDRESS, st.none() | st.frozensets(st.sampled_from(Notify), min_size=1), st.none() | TEXT
)
COUNT = st.integers(0, 2**40)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
BODY = BytesBody(b"0123456789")


def row_of(message):
    return [
        1, message.id, message.parent, message.origin, message.listener, codec.write_time(message.received),
        codec.write_tag(message.envelope.tag), codec.write_envelope(message.envelope), codec.write_content(message),
        message.prepend.hex(),
    ]  # fmt: skip


@given(
    st.builds(
        Message,
        id=st.just("0123456789abcdef"),
        envelope=st.builds(
            Envelope,
            sender=st.none() | ADDRESS,
            tag=st.none() | st.sampled_from(Tag),
            body=st.sampled_from([None, "7BIT", "8BITMIME"]),
            smtputf8=st.booleans(),
            ret=st.sampled_from([None, "FULL", "HDRS"]),
            envid=st.none() | TEXT,
            size=st.none() | COUNT,
        ),
        body=st.just(BODY),
        content=st.builds(
            Content,
            size=st.just(10),
            header_end=st.integers(0, 10),
            eight_bit_header=st.booleans(),
            eight_bit_body=st.booleans(),
            dot_at_line_start=st.booleans(),
        ),
        prepend=st.binary(max_size=30),
        cuts=st.sampled_from([(), ((0, 4),), ((0, 1), (3, 10))]),
        received=st.integers(0, 2**32).map(float),
        origin=TEXT,
        parent=st.none() | TEXT,
        listener=TEXT,
    )
)
def test_messages_round_trip(message):
    """Whatever the fields hold."""
    assert codec.read_message(row_of(message), BODY, ()) == message


@given(RECIPIENT)
def test_recipients_round_trip(recipient):
    """DSN parameters and odd addresses included."""
    assert codec.read_recipient(codec.write_recipient(recipient)) == recipient


@given(ANYTHING)
def test_an_unreadable_tag_is_required(value):
    """RFC 8689 4.1: only the two words that say otherwise say otherwise."""
    if value not in ("none", "optional"):
        assert codec.read_tag(value) is Tag.REQUIRED


def test_tags():
    """Every tag has its word, and an absent one too."""
    for tag in (None, *Tag):
        assert codec.read_tag(codec.write_tag(tag)) is tag
    assert codec.read_tag("REQUIRED ") is codec.read_tag("Optional") is codec.read_tag("") is Tag.REQUIRED


@given(st.lists(ANYTHING, min_size=10, max_size=10))
def test_no_row_stops_the_queue(row):
    """Columns of any kind become some message, held to REQUIRETLS unless the tag says otherwise."""
    message = codec.read_message(row, BODY, ())
    assert message.envelope.tag is codec.read_tag(row[6])
    assert message.content.size == 10
    b"".join(message.pieces())


@given(st.dictionaries(
    st.sampled_from(["local", "domain", "body", "smtputf8", "ret", "envid", "size", "header_end", "cuts"]),
    st.none() | st.booleans() | st.integers() | TEXT | st.lists(st.lists(st.integers()) | TEXT),
))  # fmt: skip
def test_no_field_stops_the_queue(fields):
    """The same for fields inside the JSON."""
    text = json.dumps(fields)
    message = codec.read_message([1, "x", None, "smtp", "", 0, "none", text, text, ""], BODY, ())
    assert 0 <= message.content.header_end <= 10
    b"".join(message.pieces())


@given(st.lists(ANYTHING | st.just('[[1,"a"],[true,2],"x"]'), min_size=8, max_size=8))
def test_no_entry_stops_the_queue(row):
    """An unknown state is one to be attempted."""
    entry = codec.read_entry(row)
    assert isinstance(entry, Entry)
    assert entry.state in ("queued", "delivered", "failed")


def test_an_unreadable_message_gets_every_care():
    """Stuffed, 8-bit, and nothing of its header quoted."""
    message = codec.read_message([1, "x", None, "smtp", "", 0, "\ufffd", "{", "{", "zz"], BODY, ())
    assert message.content == Content(
        size=10, header_end=0, eight_bit_header=True, eight_bit_body=True, dot_at_line_start=True
    )
    assert message.envelope == Envelope(sender=None, tag=Tag.REQUIRED)


def test_unknown_words_of_notify():
    """Unknown ones are left out; if none is known, failures are reported."""

    def read(words):
        return codec.read_recipient(json.dumps(["a", "b", words, None])).notify

    assert read(["NEVER"]) == {Notify.NEVER}
    assert read(["FAILURE", "FUTURE"]) == {Notify.FAILURE}
    assert read(["FUTURE"]) is None


@given(st.floats())
def test_any_time_can_be_written(seconds):
    """Infinite and impossible times as well; what SQLite holds is 64 bits."""
    micros = codec.write_time(seconds)
    assert 0 <= micros < 2**63
    if math.isfinite(seconds) and 0 <= seconds < 4e9:
        assert abs(codec.read_time(micros) - seconds) <= 1e-6
