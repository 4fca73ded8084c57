"""The scanner: whatever the chunks, it finds what a look at the whole message finds."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from requiretls_mta.message.content import HEADER_KEPT, Content, ContentScanner

LIMIT = 20


def scanned(chunks, limit=LIMIT):
    scanner = ContentScanner(limit)
    for chunk in chunks:
        scanner.feed(chunk)
    return scanner


def naive(octets):
    """The same by looking at the whole message; the empty line may be its first."""
    body = (b"\r\n" + octets).find(b"\r\n\r\n")
    header_end = body if body >= 0 else len(octets)
    return Content(
        size=len(octets),
        header_end=header_end,
        eight_bit_header=not octets[:header_end].isascii(),
        eight_bit_body=not octets[header_end:].isascii(),
        dot_at_line_start=any(line.startswith(b".") for line in octets.split(b"\r\n")),
    )


pieces = st.lists(
    st.sampled_from([b"", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b".", b"\r\n.", b"a", b"A: b", b"\xe9", b"x" * 18]),
    max_size=12,
)


@given(pieces)
@example([b"\r", b"\nbody"])
@example([b"A\r\n\r", b"\n\xe9"])
@example([b"A\r", b"\n", b"\r", b"\n."])
@example([b"x" * 18 + b"\r\n\r", b"\n"])
def test_any_split_gives_what_the_whole_message_gives(chunks):
    """Content, the header section and the verdict on its length, with bare CR and LF as well."""
    octets = b"".join(chunks)
    want = naive(octets)
    for way in (chunks, [octets], [octets[i : i + 1] for i in range(len(octets))]):
        scanner = scanned(way)
        assert scanner.finish() == want
        assert scanner.header == octets[: want.header_end][:LIMIT]
        # A message that ends within the empty line has a CR that stands alone, and is refused for that.
        if not octets.endswith(b"\r"):
            assert scanner.header_too_long == (want.header_end > LIMIT)


@given(pieces)
def test_the_verdict_on_the_header_never_comes_too_early(chunks):
    """A header section found too long stays so, wherever the network cut the message."""
    scanner = ContentScanner(LIMIT)
    early = False
    for chunk in chunks:
        scanner.feed(chunk)
        early = early or scanner.header_too_long
    assert early == scanner.header_too_long


def test_a_header_of_exactly_the_limit_passes_wherever_it_is_cut():
    """The CR of the empty line is no octet of the header."""
    octets = b"A: " + b"x" * (LIMIT - 5) + b"\r\n\r\nbody"
    for cut in range(len(octets)):
        scanner = ContentScanner(LIMIT)
        for chunk in (octets[:cut], octets[cut:]):
            scanner.feed(chunk)
            assert not scanner.header_too_long
        assert scanner.header == octets[:LIMIT]


@pytest.mark.parametrize(
    ("octets", "header_end", "header_8bit", "body_8bit", "dot"),
    [
        (b"", 0, False, False, False),
        (b"\r\n", 0, False, False, False),
        (b"\r\n\r\n.", 0, False, False, True),
        (b"A: b", 4, False, False, False),
        (b"A: b\r\n", 6, False, False, False),
        (b"A: b\r\n\r\n", 6, False, False, False),
        (b"A: \xe9\r\n\r\nb", 6, True, False, False),
        (b"A: b\r\n\r\n\xe9", 6, False, True, False),
        (b".A: b\r\n\r\nb", 7, False, False, True),
        (b"A: b\r\n\r\nb.\n.c\r.d", 6, False, False, False),
        (b"A: b\n\nb", 7, False, False, False),
    ],
)
def test_messages_of_every_shape(octets, header_end, header_8bit, body_8bit, dot):
    """No header, no body, neither; dots count behind CRLF only, and only CRLF ends a line."""
    assert scanned([octets]).finish() == Content(
        size=len(octets),
        header_end=header_end,
        eight_bit_header=header_8bit,
        eight_bit_body=body_8bit,
        dot_at_line_start=dot,
    )


def test_an_endless_header_takes_no_more_memory_than_its_limit():
    """What comes behind the limit is looked at, not kept."""
    scanner = scanned([b"x" * 1000] * 100)
    assert scanner.header_too_long
    assert len(scanner.header) == LIMIT
    assert scanner.finish().header_end == 100_000


def test_it_is_quick_in_large_and_in_small_chunks():
    """10 KiB in far less than what a message may cost; small chunks take time by their number, not by its square."""
    line = b"x" * 76 + b"\r\n"
    octets = b"From: a@x.test\r\nSubject: x\r\n\r\n" + line * 130

    def best(chunks):
        times = []
        for _ in range(20):
            start = time.perf_counter()
            scanned(chunks, 1 << 20).finish()
            times.append(time.perf_counter() - start)
        return min(times)

    assert best([octets]) < 100e-6
    tens = [octets[i : i + 10] for i in range(0, len(octets), 10)]
    header_only = [b"A: bcdefgh"] * len(tens)
    assert best(tens) < 20e-3
    assert best(header_only * 4) < 10 * best(header_only)


def test_a_long_header_is_not_kept():
    """Ten thousand sessions with a megabyte each would be ten gigabytes; what is measured is the whole."""
    scanner = ContentScanner(1 << 20)
    for _ in range(100):
        scanner.feed(b"A: " + b"x" * 9995 + b"\r\n")
        assert not scanner.header_too_long
    scanner.feed(b"\r\nbody\r\n")
    assert len(scanner.header) == HEADER_KEPT
    assert scanner.finish().header_end == 1_000_000
