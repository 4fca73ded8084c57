"""Stored messages: what goes out, in which pieces, and that its size is said truly."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from requiretls_mta.message.content import Content
from requiretls_mta.message.envelope import Envelope
from requiretls_mta.message.stored import CHUNK, BytesBody, Message


def message(data, *, header_end=0, body=None, **fields):
    body = body or BytesBody(data)
    return Message(
        id="0" * 16,
        envelope=Envelope(sender=None),
        body=body,
        content=Content(size=body.size, header_end=header_end),
        **fields,
    )


cut_lists = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)).map(sorted).map(tuple), max_size=4).map(tuple)


@given(st.binary(min_size=20, max_size=40), st.binary(max_size=5), cut_lists, cut_lists)
@example(b"x" * 20, b"", ((0, 5), (3, 8)), ())
@example(b"x" * 20, b"", ((5, 8), (0, 3)), ((5, 8),))
@example(b"x" * 20, b"", ((0, 20),), ())
def test_the_size_is_that_of_the_pieces(data, prepend, cuts, extra):
    """BDAT and SIZE announce it: cuts in any order, overlapping, or twice over count once."""
    one = message(data, prepend=prepend, cuts=cuts)
    out = {i for start, end in cuts for i in range(start, end)}
    assert b"".join(one.pieces()) == prepend + bytes(c for i, c in enumerate(data) if i not in out)
    assert one.size == len(b"".join(one.pieces()))
    out |= {i for start, end in extra for i in range(start, end)}
    assert b"".join(one.pieces(extra)) == prepend + bytes(c for i, c in enumerate(data) if i not in out)


class Watched:
    """A body that tells what was asked of it."""

    def __init__(self, size, there=None):
        self.size = size
        self.there = size if there is None else there
        self.asked = []

    def read(self, offset, length):
        self.asked.append(length)
        return b"x" * max(min(length, self.there - offset), 0)


def test_a_large_body_goes_out_in_pieces():
    """Never more than CHUNK is asked for at once, of the header neither."""
    body = Watched(3 * CHUNK + 7)
    one = message(b"", body=body, prepend=b"R: x\r\n", header_end=2 * CHUNK)
    assert [len(piece) for piece in one.pieces()] == [6, CHUNK, CHUNK, CHUNK, 7]
    assert len(one.header()) == 2 * CHUNK
    assert max(body.asked) == CHUNK
    assert one.size == body.size + 6


def test_a_body_that_is_shorter_than_said_is_an_error():
    """Half a message must never look like a whole one; nor half a header."""
    one = message(b"", body=Watched(100, there=50), header_end=80)
    with pytest.raises(EOFError, match="octet 50 of 100"):
        list(one.pieces())
    with pytest.raises(EOFError):
        one.header()


def test_the_header_is_as_received():
    """Without our trace and with what is cut: readers see offsets into the body."""
    data = b"A: b\r\nB: c\r\n\r\nbody"
    one = message(data, header_end=12, prepend=b"R: x\r\n", cuts=((0, 6),))
    assert one.header() == b"A: b\r\nB: c\r\n"
    assert b"".join(one.pieces()) == b"R: x\r\nB: c\r\n\r\nbody"


def test_a_body_in_memory_reads_like_a_file():
    """Fewer octets only at the end."""
    body = BytesBody(b"abcdef")
    assert (body.size, body.read(1, 3), body.read(4, 10), body.read(6, 1)) == (6, b"bcd", b"ef", b"")
