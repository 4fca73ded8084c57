"""Replies: as they go over the wire, as they come from a peer, and foreign text made harmless."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from requiretls_mta.message import reply
from requiretls_mta.message.reply import QUOTE_LIMIT, Reply, parse_reply, quote


@pytest.mark.parametrize(
    ("one", "wire", "text"),
    [
        (Reply(250, "2.0.0", "Ok"), b"250 2.0.0 Ok\r\n", "250 2.0.0 Ok"),
        (Reply(354, None, "go"), b"354 go\r\n", "354 go"),
        (Reply(354, None, ""), b"354 \r\n", "354 "),
        (Reply(550, "5.0.0", "a\nb"), b"550-5.0.0 a\r\n550 5.0.0 b\r\n", "550 5.0.0 a 5.0.0 b"),
        (Reply(250, None, "host\nSIZE 1\nDSN"), b"250-host\r\n250-SIZE 1\r\n250 DSN\r\n", "250 host SIZE 1 DSN"),
        (Reply(550, "5.0.0", "ä"), "550 5.0.0 ä\r\n".encode(), "550 5.0.0 ä"),
    ],
)
def test_a_reply_as_octets_and_as_text(one, wire, text):
    """RFC 2034 4: each line of the text bears the enhanced code."""
    assert one.wire == wire
    assert str(one) == text
    assert one == Reply(one.code, one.enhanced, one.text)
    assert hash(one) == hash(Reply(one.code, one.enhanced, one.text))


def all_replies():
    return [(name, value) for name, value in vars(reply).items() if isinstance(value, Reply)]


@pytest.mark.parametrize(("name", "one"), all_replies())
def test_every_reply_of_ours_has_a_fitting_enhanced_code(name, one):
    """The class of both codes is the same; one line within the 512 octets of RFC 5321 4.5.3.1.5."""
    if one.code == 354:
        assert one.enhanced is None
    else:
        assert re.fullmatch(rf"{one.code // 100}\.\d{{1,3}}\.\d{{1,3}}", one.enhanced)
    assert one.wire.count(b"\r\n") == 1
    assert len(one.wire) <= 512
    assert [one.is_positive, one.is_temporary, one.is_permanent].count(True) == 1


@pytest.mark.parametrize(
    ("code", "lines", "want"),
    [
        (250, [b"2.1.5 Ok"], Reply(250, "2.1.5", "Ok")),
        (250, [b"Ok"], Reply(250, None, "Ok")),
        (250, [], Reply(250, None, "")),
        (250, [b""], Reply(250, None, "")),
        (250, [b"2.1.5"], Reply(250, "2.1.5", "")),
        (550, [b"5.7.1 a", b"5.7.1 b"], Reply(550, "5.7.1", "a\nb")),
        (550, [b"a", b"5.7.1 b"], Reply(550, "5.7.1", "a\nb")),
        (550, [b"5.7.10 a", b"5.7.1 b"], Reply(550, "5.7.1", "5.7.10 a\nb")),
        (550, [b"4.7.1 no"], Reply(550, None, "4.7.1 no")),
        (250, [b"2.1 x"], Reply(250, None, "2.1 x")),
        (250, [b"2.1.5000 x"], Reply(250, None, "2.1.5000 x")),
        (550, [b"5.7.1  two blanks"], Reply(550, "5.7.1", " two blanks")),
        (550, [b"\xe4\x1b[31m\r"], Reply(550, None, "\ufffd\\x1b[31m\\r")),
    ],
)
def test_what_a_peer_says(code, lines, want):
    """An enhanced code counts only in the class of the basic one; controls never get further than here."""
    assert parse_reply(code, lines) == want


@given(st.integers(200, 599), st.lists(st.binary(max_size=700), max_size=5))
def test_any_reply_of_a_peer_is_bounded_and_printable(code, lines):
    """Whatever is said, log and report get at most 512 characters without controls."""
    got = parse_reply(code, lines)
    assert len(got.text) <= QUOTE_LIMIT
    assert all(c.isprintable() or c == "\n" for c in got.text)
    assert str(got).isprintable()


@given(st.text(max_size=600) | st.binary(max_size=600), st.booleans())
@example("x" * 512, False)
@example("x" * 513, False)
@example("\x00" * 600, False)
@example(b"\xff" * 600, True)
@example("\ud800\u202e\u2028\x85\r\n", True)
def test_quoted_text_has_no_controls_and_an_end(text, breaks):
    """At most 512 characters, all printable (but for kept line breaks), and sayable on the wire."""
    shown = quote(text, breaks=breaks)
    assert len(shown) <= QUOTE_LIMIT
    assert all(c.isprintable() or (breaks and c == "\n") for c in shown)
    shown.encode()


@given(st.text("abc ä'\"\\", max_size=QUOTE_LIMIT))
def test_printable_text_of_that_length_stays_as_it_is(text):
    """Quoting changes nothing that is harmless."""
    assert quote(text) == text
    assert quote(text.encode()) == text


def test_cut_text_says_so():
    """Three dots stand for what is missing."""
    assert quote("x" * 1000) == "x" * 509 + "..."


def test_replies_made_from_others():
    """The same codes with another text; a code for a peer that gave none; the id in the acceptance."""
    assert Reply(550, "5.1.1", "a").with_text("b") == Reply(550, "5.1.1", "b")
    assert Reply(451, None, "a").with_class() == Reply(451, "4.0.0", "a")
    assert Reply(451, "4.7.1", "a").with_class() == Reply(451, "4.7.1", "a")
    assert reply.queued("0123").wire == b"250 2.0.0 Ok: queued as 0123\r\n"
