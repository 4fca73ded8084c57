"""The message that `requiretls-mta-sendmail` reads."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.cli.sendmail_message import BLIND, read_message
from requiretls_mta.cli.sendmail_trouble import Trouble


def read(octets, *, ignore_dots=True, limit=None):
    return read_message(io.BytesIO(octets), io.BytesIO(), ignore_dots=ignore_dots, limit=limit)


def sent(draft):
    return b"".join(draft.pieces())


@pytest.mark.parametrize(
    ("octets", "wire"),
    [
        (b"A: b\n\nbody\n", b"A: b\r\n\r\nbody\r\n"),
        (b"A: b\r\n\r\nbody\r\n", b"A: b\r\n\r\nbody\r\n"),
        (b"A: b\n c\n\nbody", b"A: b\r\n c\r\n\r\nbody\r\n"),
        (b"A: b\n", b"A: b\r\n\r\n"),
        (b"", b"\r\n"),
        (b"just a sentence\n", b"\r\njust a sentence\r\n"),
        (b"A: b\nno field\n", b"A: b\r\n\r\nno field\r\n"),
        (b" indented\n", b"\r\n indented\r\n"),
        (b"\nbody\n", b"\r\nbody\r\n"),
        (b"From ann Wed Nov 25\nA: b\n\nx\n", b"A: b\r\n\r\nx\r\n"),
        (b">From ann\nA: b\n\n>From x\n", b"A: b\r\n\r\n>From x\r\n"),
        (b"A: b\n\n.\n..\nx.\n", b"A: b\r\n\r\n..\r\n...\r\nx.\r\n"),
        (b".A: b\n\nx\n", b"..A: b\r\n\r\nx\r\n"),
    ],
)
def test_it_becomes_what_data_wants(octets, wire):
    """CRLF, one empty line behind the header, dots doubled."""
    draft = read(octets)
    assert sent(draft) == wire
    assert draft.size == len(wire.replace(b"\r\n..", b"\r\n.").removeprefix(b"." if wire.startswith(b"..") else b""))


def test_a_lone_dot_ends_the_message():
    """Unless -i was said."""
    assert sent(read(b"A: b\n\nx\n.\ny\n", ignore_dots=False)) == b"A: b\r\n\r\nx\r\n"
    assert sent(read(b"A: b\n.\ny\n", ignore_dots=False)) == b"A: b\r\n\r\n"
    assert sent(read(b"A: b\n\nx\n.", ignore_dots=False)) == b"A: b\r\n\r\nx\r\n"


@pytest.mark.parametrize(
    ("octets", "line"), [(b"A: b\n\nx\ry\n", 3), (b"A\r: b\n", 1), (b"x\r\r\n", 1), (b"\n\nx\r", 3)]
)
def test_a_bare_cr_is_an_error_with_its_line(octets, line):
    """Status 65: no hop agrees with another what it is."""
    with pytest.raises(Trouble, match=f"line {line} ") as caught:
        read(octets)
    assert caught.value.status == 65


def test_what_the_server_would_not_take_is_not_read_to_the_end():
    """An endless writer fills no disk."""
    with pytest.raises(Trouble, match="100 octets") as caught:
        read(b"A: b\n\n" + b"x" * 100, limit=100)
    assert caught.value.status == 65
    assert read(b"A: b\n\n" + b"x" * 90, limit=100).size == 100


def test_recipients_stand_in_the_header():
    """To, Cc and Bcc, once or more; Bcc then goes."""
    draft = read(b"To: a@b\nCC: Ann <c@d>,\n e@f\nbcc: g@h\nTo: i@j\nFrom: x@y\n\nTo: body@b\n")
    assert draft.recipients() == ["a@b", "c@d", "e@f", "g@h", "i@j"]
    draft.drop(*BLIND)
    assert b"g@h" not in sent(draft)


def test_of_a_resent_message_only_those_to_whom_it_is_resent():
    """As Postfix does: the others have it already."""
    draft = read(b"Resent-To: new@b\nResent-Bcc: blind@b\nTo: old@b\nBcc: older@b\n\n")
    assert draft.is_resent
    assert draft.recipients() == ["new@b", "blind@b"]
    draft.drop(*BLIND)
    assert b"blind" not in sent(draft) and b"older" not in sent(draft)


def test_a_field_that_is_no_list_is_named():
    """Status 65."""
    with pytest.raises(Trouble, match="Cc: a < without") as caught:
        read(b"To: a@b\nCc: <x@y\n\n").recipients()
    assert caught.value.status == 65


LINE = st.binary(max_size=30).map(lambda line: line.replace(b"\r", b"").replace(b"\n", b""))


@given(st.lists(st.tuples(LINE, st.sampled_from([1, 9_000])), max_size=6))
def test_a_body_is_itself_again_behind_the_wire(lines):
    """Long lines in pieces and dots at their beginnings change nothing."""
    body = b"".join(line * times + b"\n" for line, times in lines)
    draft = read(b"A: b\n\n" + body)
    header, _, wire = sent(draft).partition(b"\r\n\r\n")
    assert b"".join(line.removeprefix(b".") + b"\n" for line in wire.split(b"\r\n")[:-1]) == body
    assert draft.eight_bit == (not body.isascii())
    assert draft.size == len(header) + 4 + len(body) + body.count(b"\n")
