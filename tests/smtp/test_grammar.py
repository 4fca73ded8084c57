"""The grammar of commands: tables of what is taken and what is refused, and that nothing ever raises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.message import reply
from requiretls_mta.message.address import Address
from requiretls_mta.message.envelope import Envelope, Notify, Recipient, Tag
from requiretls_mta.message.reply import Reply
from requiretls_mta.smtp import grammar
from requiretls_mta.smtp.grammar import (
    Command,
    line_limit,
    parse_bdat,
    parse_command,
    parse_helo,
    parse_mail,
    parse_rcpt,
)

EVERYTHING = frozenset({"SIZE", "8BITMIME", "SMTPUTF8", "REQUIRETLS", "DSN", "AUTH", "CHUNKING"})
ANN = Address("ann", "example.org")


def mail(text, offered=EVERYTHING, **options):
    return parse_mail(text.encode(), offered, **options)


def rcpt(text, offered=EVERYTHING, *, utf8=False):
    return parse_rcpt(text.encode(), offered, utf8=utf8)


def codes(answer):
    assert isinstance(answer, Reply), answer
    return f"{answer.code} {answer.enhanced}"


@pytest.mark.parametrize(
    ("line", "command"),
    [
        (b"NOOP", Command("NOOP", b"")),
        (b"noop  \t", Command("NOOP", b"")),
        (b"mail FROM:<a@b> ", Command("MAIL", b"FROM:<a@b>")),
        (b"X-Y z\xff", Command("X-Y", b"z\xff")),
    ],
)
def test_a_line_is_a_verb_and_its_argument(line, command):
    """Verbs in any case, blanks around the argument dropped, octets kept."""
    assert parse_command(line) == command


@pytest.mark.parametrize(
    "line",
    [b"", b" NOOP", b"\xe9HLO x", b"1A", b"NO\0OP", b"NOOP \0", b"NOOP a\nRSET", b"NOOP \x7f", b"A\tB", b"EHLO \1"],
)
def test_what_is_no_command(line):
    """500 5.5.2; a bare line break never makes a second command of one line."""
    assert parse_command(line) == reply.UNKNOWN_COMMAND


@pytest.mark.parametrize(
    ("text", "envelope"),
    [
        ("FROM:<>", Envelope(sender=None)),
        ("from: <ann@example.org>", Envelope(sender=ANN)),
        ("FROM:<@a.example,@b.example:ann@example.org>", Envelope(sender=ANN)),
        ("FROM:<ann@example.org> SIZE=0", Envelope(sender=ANN, size=0)),
        ("FROM:<ann@example.org> body=8bitmime", Envelope(sender=ANN, body="8BITMIME")),
        ("FROM:<ann@example.org> RequireTLS", Envelope(sender=ANN, tag=Tag.REQUIRED)),
        ("FROM:<ann@example.org> RET=hdrs ENVID=a+2Bb", Envelope(sender=ANN, ret="HDRS", envid="a+2Bb")),
        ("FROM:<ann@example.org> AUTH=<>", Envelope(sender=ANN)),
        ("FROM:<ann@example.org> AUTH=e+3Dmc2@example.com", Envelope(sender=ANN)),
        ('FROM:<"a>b c"@example.org>', Envelope(sender=Address("a>b c", "example.org"))),
        ('FROM:<"a\\"b"@example.org>', Envelope(sender=Address('a"b', "example.org"))),
        ("FROM:<a@[192.0.2.1]>", Envelope(sender=Address("a", "[192.0.2.1]"))),
        ("FROM:<a@[IPv6:2001:db8::1]>", Envelope(sender=Address("a", "[IPv6:2001:db8::1]"))),
        ("FROM:<jürgen@exämple.org> SMTPUTF8", Envelope(sender=Address("jürgen", "exämple.org"), smtputf8=True)),
    ],
)
def test_mail_is_taken(text, envelope):
    """Paths and parameters of MAIL, keywords in any case."""
    assert mail(text) == envelope


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "501 5.5.4"),
        ("FROM", "501 5.5.4"),
        ("FROM:", "501 5.5.4"),
        ("TO:<a@b.example>", "501 5.5.4"),
        ("FROM:<a@b.example", "501 5.5.4"),
        ("FROM:<a@b.example>SIZE=1", "501 5.5.4"),
        ("FROM:<a@b.example>>", "501 5.5.4"),
        ("FROM:<<a@b.example>>", "501 5.5.4"),
        ("FROM:<a@b.example> =1", "501 5.5.4"),
        ("FROM:<a@b.example> -X=1", "501 5.5.4"),
        ("FROM:<@:a@b.example>", "501 5.5.4"),
        ("FROM:<@a.example>", "553 5.1.3"),
        ("FROM:<abc>", "553 5.1.3"),
        ("FROM:<a..b@c.example>", "553 5.1.3"),
        ("FROM:<a@b..example>", "553 5.1.3"),
        ("FROM:<a@-b.example>", "553 5.1.3"),
        ("FROM:<a@[192.0.2.256]>", "553 5.1.3"),
        ('FROM:<""@b.example>', "553 5.1.3"),
        ("FROM:<a\0b@c.example>", "553 5.1.3"),
        ('FROM:<"a\x1bb"@c.example>', "553 5.1.3"),
        ("FROM:<a\tb@c.example>", "553 5.1.3"),
        ("FROM:<a\x0bb@c.example> SIZE=1", "553 5.1.3"),
        ('FROM:<"a\nb"@c.example>', "553 5.1.3"),
        ('FROM:<"a\\\nb"@c.example>', "553 5.1.3"),
        ("FROM:<a b@c.example>", "501 5.5.4"),
        ("FROM:<a@b.example> SIZE=1\x1cBODY=7BIT", "501 5.5.4"),
        ("FROM:<a@b.example> FOO FOO", "555 5.5.4"),
        (f"FROM:<{'a' * 65}@b.example>", "553 5.1.3"),
        ("FROM:<ä@b.example>", "553 5.6.7"),
        ("FROM:<a@b.example> FOO", "555 5.5.4"),
        ("FROM:<a@b.example> NOTIFY=NEVER", "555 5.5.4"),
        ("FROM:<a@b.example> REQUIRETLS BOGUS=1", "555 5.5.4"),
        ("FROM:<a@b.example> REQUIRETLS=1", "501 5.5.4"),
        ("FROM:<a@b.example> REQUIRETLS=", "501 5.5.4"),
        ("FROM:<a@b.example> REQUIRETLS requiretls", "501 5.5.4"),
        ("FROM:<a@b.example> SMTPUTF8=1", "501 5.5.4"),
        ("FROM:<a@b.example> SIZE=1 SIZE=2", "501 5.5.4"),
        ("FROM:<a@b.example> SIZE", "501 5.5.4"),
        ("FROM:<a@b.example> SIZE=-1", "501 5.5.4"),
        ("FROM:<a@b.example> SIZE=²", "501 5.5.4"),
        (f"FROM:<a@b.example> SIZE={'9' * 21}", "501 5.5.4"),
        ("FROM:<a@b.example> BODY=BINARYMIME", "501 5.5.4"),
        ("FROM:<a@b.example> RET=NONE", "501 5.5.4"),
        ("FROM:<a@b.example> ENVID=", "501 5.5.4"),
        (f"FROM:<a@b.example> ENVID={'e' * 101}", "501 5.5.4"),
        ("FROM:<a@b.example> ENVID=a+2b", "501 5.5.4"),
        ("FROM:<a@b.example> AUTH=", "501 5.5.4"),
    ],
)
def test_mail_is_refused(text, expected):
    """Codes of the contract's table."""
    assert codes(mail(text)) == expected


def test_octets_that_are_no_utf8_are_no_path():
    """501, whatever was offered."""
    assert codes(parse_mail(b"FROM:<\xff@b.example> SMTPUTF8", EVERYTHING)) == "501 5.5.4"


@pytest.mark.parametrize(
    "parameter", ["SIZE=1", "BODY=7BIT", "SMTPUTF8", "REQUIRETLS", "RET=FULL", "ENVID=e", "AUTH=<>"]
)
def test_a_parameter_needs_its_extension(parameter):
    """What EHLO did not list is 555 5.5.4, after HELO everything."""
    assert codes(mail(f"FROM:<a@b.example> {parameter}", frozenset())) == "555 5.5.4"


def test_requiretls_in_the_clear_has_a_reply_of_its_own():
    """530 5.7.10 where it would be offered inside TLS, value or not."""
    for parameter in ("REQUIRETLS", "requiretls", "REQUIRETLS=1", "SIZE=1 REQUIRETLS"):
        answer = mail(f"FROM:<a@b.example> {parameter}", EVERYTHING - {"REQUIRETLS"}, in_clear={"REQUIRETLS"})
        assert codes(answer) == "530 5.7.10"


@pytest.mark.parametrize(
    ("text", "recipient"),
    [
        ("TO:<ann@example.org>", Recipient(ANN)),
        ("to:<@x.example:ann@example.org>", Recipient(ANN)),
        ("TO:<Postmaster>", Recipient(Address("Postmaster", ""))),
        ("TO:<ann@example.org> NOTIFY=success,Failure", Recipient(ANN, frozenset({Notify.SUCCESS, Notify.FAILURE}))),
        (
            "TO:<ann@example.org> NOTIFY=NEVER ORCPT=rfc822;a+2B@b",
            Recipient(ANN, frozenset({Notify.NEVER}), "rfc822;a+2B@b"),
        ),
    ],
)
def test_rcpt_is_taken(text, recipient):
    """Paths and parameters of RCPT."""
    assert rcpt(text) == recipient


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("TO:<>", "553 5.1.3"),
        ("TO:<abc>", "553 5.1.3"),
        ("FROM:<a@b.example>", "501 5.5.4"),
        ("TO:<ä@b.example>", "553 5.6.7"),
        ("TO:<a@b.example> REQUIRETLS", "555 5.5.4"),
        ("TO:<a@b.example> SIZE=1", "555 5.5.4"),
        ("TO:<a@b.example> NOTIFY=", "501 5.5.4"),
        ("TO:<a@b.example> NOTIFY=NEVER,DELAY", "501 5.5.4"),
        ("TO:<a@b.example> NOTIFY=SOON", "501 5.5.4"),
        ("TO:<a@b.example> NOTIFY=NEVER NOTIFY=NEVER", "501 5.5.4"),
        ("TO:<a@b.example> ORCPT=a@b", "501 5.5.4"),
        ("TO:<a@b.example> ORCPT=rfc822;", "501 5.5.4"),
        ("TO:<a@b.example> ORCPT=rfc822;a=b", "501 5.5.4"),
        (f"TO:<a@b.example> ORCPT=rfc822;{'a' * 500}", "501 5.5.4"),
    ],
)
def test_rcpt_is_refused(text, expected):
    """Codes of the contract's table."""
    assert codes(rcpt(text)) == expected


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (b"0", (0, False)),
        (b"10 LAST", (10, True)),
        (b"10  last", (10, True)),
        (b"", "501 5.5.4"),
        (b"x", "501 5.5.4"),
        (b"-1", "501 5.5.4"),
        (b"1 FIRST", "501 5.5.4"),
        (b"1 LAST 2", "501 5.5.4"),
        (b"9" * 16, "501 5.5.4"),
    ],
)
def test_bdat(argument, expected):
    """A size, and LAST or nothing."""
    answer = parse_bdat(argument)
    assert (codes(answer) if isinstance(answer, Reply) else answer) == expected


@pytest.mark.parametrize(
    "name", ["mail.example.org", "localhost", "[192.0.2.1]", "[IPv6:::1]", "MY_PC", "exämple.org", "x."]
)
def test_who_says_hello(name):
    """Domains, literals, and the harmless rest of the world."""
    assert parse_helo(name.encode(), strict=True) == name


@pytest.mark.parametrize("name", [b"", b"a b", b"<x>", b"x\x1b[0m", b"\xff", b"a" * 256, b"(x)", b"x;y", b'"'])
def test_who_says_nothing_useful(name):
    """501: nothing that could do harm in a Received field later."""
    assert codes(parse_helo(name, strict=True)) == "501 5.5.4"


def test_helo_is_taken_more_kindly():
    """Old clients say what they like, so long as it can be printed."""
    assert parse_helo(b"my pc", strict=False) == "my pc"
    assert codes(parse_helo(b"x\x00", strict=False)) == "501 5.5.4"


def test_lines_have_the_room_that_the_extensions_give():
    """RFC 5321 4.5.3.1.4 and the increments of what was offered, for these verbs only."""
    assert line_limit(b"NOOP ", EVERYTHING) == 512
    assert line_limit(b"MAIL ", frozenset()) == 512
    assert line_limit(b"mail ", EVERYTHING) == 512 + 26 + 17 + 10 + 11 + 500 + 500
    assert line_limit(b"MAIL ", frozenset({"REQUIRETLS"})) == 523
    assert line_limit(b"Rcpt ", EVERYTHING) == 1012
    assert line_limit(b"AUTH ", EVERYTHING) == 512


def test_known_verbs_of_others_are_no_verbs_of_ours():
    """Everything in the lists is in upper case, as verbs are compared."""
    assert all(verb == verb.upper() for verb in grammar.KNOWN_VERBS | grammar.HTTP_METHODS)


WORDS = st.lists(
    st.sampled_from(
        [
            "FROM:",
            "TO:",
            "<",
            ">",
            "@",
            '"',
            "\\",
            ":",
            ",",
            " ",
            "=",
            "[",
            "]",
            "a",
            "b.example",
            "SIZE",
            "REQUIRETLS",
            "ENVID",
            "ORCPT",
            "NOTIFY",
            "NEVER",
            "rfc822;",
            "utf-8;",
            "SMTPUTF8",
            "ä",
            "\u2028",
            "\x00",
            "�",
            "9" * 30,
        ]
    )
).map(lambda words: "".join(words).encode("utf-8", "surrogatepass"))


@given(st.one_of(st.binary(max_size=200), WORDS))
def test_nothing_raises(octets):
    """Whatever comes from the network: a value or a reply; what is taken can be written and read again."""
    parse_command(octets)
    parse_bdat(octets)
    for strict in (True, False):
        parse_helo(octets, strict=strict)
    for argument, parse in (
        (b"FROM:" + octets, lambda a: parse_mail(a, EVERYTHING)),
        (octets, lambda a: parse_mail(a, EVERYTHING)),
    ):
        envelope = parse(argument)
        if isinstance(envelope, Envelope) and envelope.sender is not None:
            again = f"FROM:<{envelope.sender}>" + (" SMTPUTF8" if envelope.smtputf8 else "")
            assert mail(again).sender == envelope.sender
    for argument in (b"TO:" + octets, octets):
        parse_rcpt(argument, EVERYTHING, utf8=True)


def test_hostile_paths_take_no_time():
    """The largest line that is read at all, in shapes that make bad patterns explode."""
    import time

    start = time.process_time()
    for shape in (
        "<" * 1500,
        '<"' + "\\a" * 700,
        "<" + '""' * 700,
        "<" + "@a," * 500,
        "<a@" + "a." * 700 + ">",
        "<a@" + "-" * 1400 + ">",
    ):
        mail("FROM:" + shape)
        rcpt("TO:" + shape)
    assert time.process_time() - start < 0.5
