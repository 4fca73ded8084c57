"""Replies and capabilities of servers: any split reads alike, and what is no reply is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.message.reply import QUOTE_LIMIT, Reply
from requiretls_mta.smtp.capabilities import capabilities
from requiretls_mta.smtp.client_replies import LINES_LIMIT, ReplyReader, ReplySyntaxError

WIRE = b"220-mx.test ESMTP\r\n220 ready\r\n250 2.1.0 Sender ok\r\n250-mx\r\n250-SIZE 10\r\n250 DSN\r\n550\r\n"
REPLIES = [
    Reply(220, None, "mx.test ESMTP\nready"),
    Reply(250, "2.1.0", "Sender ok"),
    Reply(250, None, "mx\nSIZE 10\nDSN"),
    Reply(550, None, ""),
]


@given(st.lists(st.integers(0, len(WIRE)), max_size=20))
def test_any_split_gives_the_same_replies(cuts):
    """The borders of segments mean nothing."""
    reader, found, at = ReplyReader(), [], 0
    for cut in [*sorted(cuts), len(WIRE)]:
        found += [heard.reply for heard in reader.feed(WIRE[at:cut])]
        at = cut
    assert found == REPLIES
    assert reader.is_empty


@given(st.binary(max_size=3000))
def test_whatever_comes_is_a_reply_or_an_error(octets):
    """No other exception, no reply with controls in it."""
    reader = ReplyReader()
    try:
        replies = [heard.reply for heard in reader.feed(octets)]
    except ReplySyntaxError:
        return
    for reply in replies:
        assert 200 <= reply.code < 600
        assert all(c.isprintable() or c == "\n" for c in reply.text)


@pytest.mark.parametrize(
    "octets",
    [
        b"hello\r\n",
        b"25 x\r\n",
        b"250x\r\n",
        b"150 x\r\n",
        b"650 x\r\n",
        b"250-a\r\n550 b\r\n",
        b"250 " + b"x" * 3000,
        b"250-x\r\n" * (LINES_LIMIT + 1),
        b"\r\n",
    ],
)
def test_what_is_no_reply_is_refused(octets):
    """Two codes in one reply, other separators, endless lines and replies."""
    with pytest.raises(ReplySyntaxError):
        ReplyReader().feed(octets)


def test_keywords_are_exact_and_not_in_the_greeting():
    """C21 to C23: the first line is a name; the keyword is the first word of a line, whatever its case."""
    found = capabilities([b"REQUIRETLS hello", b"XREQUIRETLS", b"AUTH REQUIRETLS", b"size 10", b"STARTTLS", b""])
    assert found == {"XREQUIRETLS": (), "AUTH": ("REQUIRETLS",), "SIZE": ("10",), "STARTTLS": ()}
    assert capabilities([b"only.a.name"]) == {}


def test_only_ascii_makes_a_keyword():
    """No letter that merely looks or folds like one: U+017F is an S in upper case."""
    assert "STARTTLS" not in capabilities([b"mx", "\u017ftarttls".encode(), "requiretl\u017f".encode(), b"\xff"])


def test_a_long_reply_is_shown_cut_but_read_whole():
    """What a report quotes is bounded; what EHLO lists is not lost with it."""
    (heard,) = ReplyReader().feed(b"".join(b"250-X%0100d\r\n" % n for n in range(50)) + b"250 REQUIRETLS\r\n")
    assert len(heard.reply.text) <= QUOTE_LIMIT
    assert len(heard.lines) == 51 and "REQUIRETLS" in capabilities(heard.lines)


@given(
    st.lists(
        st.binary(max_size=40) | st.sampled_from([b"REQUIRETLS", b"requiretls x", b"XREQUIRETLS", b"AUTH REQUIRETLS"])
    )
)
def test_no_line_is_taken_for_the_keyword(lines):
    """C22: whatever octets a server lists, REQUIRETLS is offered by that word at a later line's start, and else not."""
    found = capabilities(lines)
    words = [line.split() for line in lines[1:] if line.isascii()]
    assert ("REQUIRETLS" in found) == any(w and w[0].upper() == b"REQUIRETLS" for w in words)
    assert all(keyword.isascii() or "\\x" in keyword for keyword in found)
