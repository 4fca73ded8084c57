"""Whom a user may send as: MAIL, From and Sender, by a table of patterns."""

import attrs
import pytest

from requiretls_mta.message import reply
from requiretls_mta.message.address import parse_mailbox
from requiretls_mta.message.envelope import Envelope
from requiretls_mta.message.glob import glob
from requiretls_mta.receive.senders import Grant, right_of
from tests.receive.test_reception import SETTINGS, Bench, send

GRANTS = (
    Grant(glob("anna"), ("anna@example.org", "*@anna.bücher.example")),
    Grant(glob("a*"), ("team-a@example.org",)),
    Grant(glob("nobody"), ()),
    Grant(None, ("{user}@example.org", "{user}", "{user}+*@example.org")),
)


def allowed(user, address):
    return right_of(user, GRANTS).refusal(parse_mailbox(address, utf8=True)) is None


@pytest.mark.parametrize(
    ("user", "address", "expected"),
    [
        ("anna", "anna@example.org", True),
        ("anna", "ANNA@Example.Org", True),
        ("Anna", "anna@example.org", True),
        ("anna", "shop@anna.bücher.example", True),
        ("anna", "shop@anna.xn--bcher-kva.example", True),
        ("anna", "shop@x.anna.bücher.example", False),
        ("anna", "team-a@example.org", True),
        ("anna", "bob@example.org", False),
        ("anna", "anna+x@example.org", False),
        ("albert", "team-a@example.org", True),
        ("albert", "albert@example.org", False),
        ("bob", "bob@example.org", True),
        ("bob", "bob+list@example.org", True),
        ("bob", "bobby@example.org", False),
        ("bob", "anna@example.org", False),
        ("bob", "bob@example.org.evil.example", False),
        ("bob@Bücher.example", "BOB@xn--bcher-kva.example", True),
        ("bob@other.example", "anna@other.example", False),
        ("*", "bob@example.org", False),
        ("*", '"*"@example.org', True),
        ("b?b", "bob@example.org", False),
        ("{user}", "bob@example.org", False),
        ("x|.*", "bob@example.org", False),
        ("nobody", "nobody@example.org", False),
    ],
)
def test_the_table(user, address, expected):
    """All keys that match the name count, `*` only where none does; in a name nothing is special."""
    assert allowed(user, address) == expected


def test_without_a_table_there_is_no_restriction():
    """As Postfix without smtpd_sender_login_maps; and who is in none has none of its addresses."""
    assert right_of("anna", ()) is None
    assert right_of("bob", GRANTS[:1]).refusal(parse_mailbox("bob@example.org")).code == 550


RIGHTS = attrs.evolve(SETTINGS, senders=GRANTS)
ANNA = {"service": "submission", "user": "anna"}


def answer(header, session=ANNA, bench=None, sender="anna@example.org"):
    bench = bench or Bench(RIGHTS)
    return send(bench.begin(**session), header.encode() + b"\r\nbody\r\n", sender=parse_mailbox(sender))


def test_mail():
    """RFC 6409 6.1: 550 5.7.1 that names address and user; the empty reverse path is everybody's."""
    transaction = Bench(RIGHTS).begin(**ANNA)
    refused = transaction.mail(Envelope(sender=parse_mailbox("boss@example.org")))
    assert str(refused) == "550 5.7.1 anna may not send as boss@example.org, which is in MAIL"
    assert Bench(RIGHTS).begin(**ANNA).mail(Envelope(sender=None)) == reply.SENDER_OK


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("", None),
        ("Subject: x\r\n", None),
        ("From: Anna <anna@example.org>\r\n", None),
        ("From: anna@example.org, team-a@example.org\r\nSender: anna@example.org\r\n", None),
        ("from : =?utf-8?q?boss?=\r\n <anna@example.org>\r\n", None),
        ("To: boss@example.org\r\nReply-To: boss@example.org\r\nFrom: anna@example.org\r\n", None),
        ("From: boss@example.org\r\n", "anna may not send as boss@example.org, which is in From"),
        ("From: anna@example.org, boss@example.org\r\n", "anna may not send as boss@example.org, which is in From"),
        (
            "From: us: anna@example.org, boss@example.org;\r\n",
            "anna may not send as boss@example.org, which is in From",
        ),
        (
            "From: anna@example.org (c\r\n",
            "From cannot be read (a comment without an end), and anna may not send as anybody",
        ),
        ("From:\r\n", "From cannot be read (something that is no address)"),
        ("From: us:;\r\n", "From cannot be read (no address in it)"),
        ("From: boss@example.org <anna@example.org>\r\n", 'From cannot be read ("<" where "," should be)'),
        (
            "From: anna@example.org\r\nSender: boss@example.org\r\n",
            "anna may not send as boss@example.org, which is in Sender",
        ),
        ("From: jürgen@bücher.example\r\n", "anna may not send as j\\xfcrgen@b\\xfccher.example, which is in From"),
    ],
)
def test_the_header(header, said):
    """From, where it is there, and Sender name nobody else; a missing From is nobody's name."""
    got = answer(header)
    if said is None:
        assert got.code == 250
    else:
        assert str(got).startswith(f"550 5.7.1 {said}")
        assert len(got.wire) <= 512


def test_a_second_from_helps_nobody():
    """Refused before anybody is asked which of them counts."""
    assert str(answer("From: anna@example.org\r\nFrom: boss@example.org\r\n")).startswith("554 5.6.0 ")


def test_text_names_nobody():
    """What looks like From behind a line of text arrives as text."""
    bench = Bench(RIGHTS)
    assert answer("hello\r\nFrom: boss@example.org\r\n", bench=bench).code == 250
    (message,) = bench.store.accepted
    assert b"".join(message.pieces()).endswith(b"\r\n\r\nhello\r\nFrom: boss@example.org\r\n\r\nbody\r\n")


@pytest.mark.parametrize(
    ("session", "trusted"),
    [({"client": "192.0.2.7"}, False), ({"client": None}, True), ({"user": "anna", "service": "submission"}, True)],
)
def test_who_is_no_user_is_not_judged(session, trusted):
    """Clients in relay_from, and all on a trusted listener."""
    assert answer("From: boss@example.org\r\n", session, Bench(RIGHTS, trusted=trusted), "boss@example.org").code == 250


@pytest.mark.parametrize("user", ["x" * 255, "ü" * 127, "a\r\n250 x", "\x1b[2J"])
def test_any_name_makes_one_line_of_reply(user):
    """Of 512 octets at the most, in ASCII (RFC 5321 4.5.3.1.5)."""
    long = "From: " + "y" * 64 + "@" + "z." * 120 + "example\r\n"
    for got in (
        Bench(RIGHTS).begin(**ANNA | {"user": user}).mail(Envelope(sender=parse_mailbox("boss@example.org"))),
        right_of(user, GRANTS).refusal_of(long.encode()),
        right_of(user, GRANTS).refusal_of(b"From: " + b"x" * 9000),
    ):
        assert got.code == 550
        assert got.wire.count(b"\n") == 1 and len(got.wire) <= 512 and got.wire.isascii()
