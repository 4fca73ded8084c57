"""Message data on the wire: our reader against a naive one, whatever the borders of the chunks."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.smtp.transfer import DataReader, LineEnds, stuff

# Octets in which everything that matters is likely.
WIRE = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"..", b"x", b"\r\n.", b"\r\n.\r\n", b"\0", b"\xff"])
).map(b"".join)
MESSAGE = st.lists(st.sampled_from([b"\r\n", b".", b"..", b"x", b".\r\n", b"\xff"])).map(b"".join)


def split(draw, octets):
    """`octets` in pieces, empty ones among them."""
    cuts = sorted(draw(st.lists(st.integers(0, len(octets)), max_size=8)))
    return [octets[a:b] for a, b in zip([0, *cuts], [*cuts, len(octets)], strict=True)]


def read(pieces):
    """(message so far, what follows the end or None, bare line breaks seen) as DataReader finds them."""
    reader, message = DataReader(), b""
    for number, piece in enumerate(pieces):
        octets, rest = reader.feed(piece)
        message += octets
        if rest is not None:
            return message, rest + b"".join(pieces[number + 1 :]), reader.bare
    return message, None, reader.bare


def naive(wire):
    """The same by RFC 5321 4.5.2, line by line; None for a message without its end."""
    lines, rest = [], wire
    while b"\r\n" in rest:
        line, _, rest = rest.partition(b"\r\n")
        if line == b".":
            message = b"".join(line + b"\r\n" for line in lines)
            return message, rest, any(b"\r" in line or b"\n" in line for line in lines)
        lines.append(line.removeprefix(b"."))
    return None


@given(WIRE, st.data())
def test_the_reader_agrees_with_a_naive_one(wire, data):
    """Message, rest and bare line breaks are those of a line parser, for any split of the octets."""
    message, rest, bare = read(split(data.draw, wire))
    expected = naive(wire)
    if expected is None:
        assert rest is None
    else:
        assert (message, rest, bare) == expected


@given(MESSAGE, st.data())
def test_reading_undoes_stuffing(message, data):
    """stuff, then read, is the message: both may see it in any pieces."""
    wire = b"".join(stuff(split(data.draw, message)))
    got, rest, bare = read(split(data.draw, wire + b"QUIT\r\n"))
    # A message's last line has its CRLF on the wire, whether it had one before or not (RFC 5321 4.1.1.4).
    assert got == (message if message.endswith(b"\r\n") or not message else message + b"\r\n")
    assert (rest, bare) == (b"QUIT\r\n", False)


@given(MESSAGE, st.data())
def test_stuffing_knows_no_borders(message, data):
    """The same octets go out however the message is cut, and its end is the only line with a single dot."""
    wire = b"".join(stuff(split(data.draw, message)))
    assert wire == b"".join(stuff([message]))
    assert (b"\r\n" + wire).find(b"\r\n.\r\n") == len(wire) - 3


def test_each_octet_by_itself():
    """The classic of split terminators."""
    wire = b"..a\r\n.\r\r\n.\r\n.\r\nNOOP\r\n"
    assert read([bytes([octet]) for octet in wire]) == read([wire]) == (b".a\r\n\r\r\n", b".\r\nNOOP\r\n", True)


@pytest.mark.parametrize(
    "wire",
    [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\r\n.\r\r\n", b"\n\n.\r\n", b"\r\r\n.\n"],
)
def test_only_one_sequence_ends_the_data(wire):
    """What other servers were once fooled by is part of the message, and noticed."""
    message, rest, bare = read([b"a", wire, b"MAIL FROM:<evil@example.org>\r\n.\r\nNOOP\r\n"])
    assert rest == b"NOOP\r\n"
    assert b"evil" in message
    assert bare


@pytest.mark.parametrize("wire", [b".\r\n", b"\r\n.\r\n", b"a\r\n..\r\n.\r\n", b"...\r\n.\r\n"])
def test_a_clean_message_is_called_clean(wire):
    """Empty messages, empty lines and lines of dots are no bare line breaks."""
    message, rest, bare = read([wire])
    assert (message, rest, bare) == naive(wire)
    assert not bare


@given(WIRE, st.data())
def test_uncoded_octets_are_watched_too(octets, data):
    """LineEnds finds a CR or LF that stands alone, for any split."""
    watch = LineEnds()
    for piece in split(data.draw, octets):
        watch.feed(piece)
    watch.finish()
    assert watch.bare == (re.search(rb"\r(?!\n)|(?<!\r)\n", octets) is not None)


def test_large_messages_are_read_in_bulk():
    """A message of 64 MiB in pieces of 64 KiB takes far less than what a line at a time would (about 1.5 s)."""
    piece = (b"x" * 70 + b"\r\n..\r\n") * 863
    reader = DataReader()
    start = time.process_time()
    for _ in range(1024):
        reader.feed(piece)
    assert time.process_time() - start < 1.0


@given(st.lists(st.sampled_from([b"\r\n", b".", b"..", b"a", b"\r\n.", b"."]), max_size=12), st.data())
def test_dots_are_told(parts, data):
    """Where no line of a chunk starts with a dot the reader says so, and else never; the end's own does not count."""
    content = b"".join(parts)
    wire = b"".join(stuff([content]))
    reader, at, tail = DataReader(), 0, b"\r\n"
    while at < len(wire):
        size = data.draw(st.integers(1, len(wire) - at))
        octets, _ = reader.feed(wire[at : at + size])
        assert reader.dots or b"\r\n." not in tail + octets
        at, tail = at + size, (tail + octets)[-2:]
    whole = DataReader()
    whole.feed(b"a\r\n.\r\n")
    assert not whole.dots
