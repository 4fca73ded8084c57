"""RFC 6409: what is added to a submitted message, what is refused, how often one may send, and who is told to have."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from requiretls_mta.message import authres, reply
from requiretls_mta.message.content import ContentScanner
from requiretls_mta.message.envelope import Envelope, Recipient, Tag
from requiretls_mta.message.glob import glob
from requiretls_mta.message.header import fields
from requiretls_mta.message.reply import Reply
from requiretls_mta.receive.rates import Rate, Rates
from requiretls_mta.receive.rules import Rule
from requiretls_mta.receive.submission import submit
from tests.receive.test_reception import SETTINGS, Bench, address, send
from tests.receive.test_results import Checks, Verdict

ANNA = {"service": "submission", "user": "anna", "mechanism": "PLAIN"}
DATE = b"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n"
MESSAGE_ID = b"Message-ID: <0000000000000000@mx.example.org>\r\n"


def judged(octets, *, strict=True):
    scanner = ContentScanner(1 << 20)
    scanner.feed(octets)
    return submit(
        scanner.header,
        scanner.finish(),
        strict=strict,
        queue_id="0" * 16,
        hostname="mx.example.org",
        now=1_700_000_000.0,
    )


def stored(octets, session=ANNA, trusted=False, **envelope):
    """What goes on of a message."""
    bench = Bench(trusted=trusted)
    assert send(bench.begin(**session), octets, **envelope).code == 250
    (message,) = bench.store.accepted
    return message, b"".join(message.pieces())


# --- what is added ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("header", "added"),
    [
        (b"", DATE + MESSAGE_ID),
        (b"Subject: x\r\n", DATE + MESSAGE_ID),
        (b"Date: yesterday\r\n", MESSAGE_ID),
        (b"date : yesterday\r\n", MESSAGE_ID),
        (b"Message-Id: <x@y>\r\n", DATE),
        (b"DATE:\r\nMESSAGE-ID:\r\n <x@y>\r\n", b""),
        (b"Subject: Message-ID: <x@y>\r\n Date: now\r\nX-Date: now\r\nResent-Message-ID: <x@y>\r\n", DATE + MESSAGE_ID),
    ],
)
def test_date_and_message_id(header, added):
    """RFC 6409 8.2, 8.3: only where there is none, and between our trace and what came."""
    _, octets = stored(header + b"\r\nbody\r\n")
    trace, _, rest = octets.partition(b"+0000\r\n")
    assert trace.endswith(b"\r\n\tfor <anna@example.org>; Tue, 14 Nov 2023 22:13:20 ")
    assert rest == added + header + b"\r\nbody\r\n"


@pytest.mark.parametrize(
    ("session", "trusted", "is_submitted"),
    [
        (ANNA, False, True),
        (ANNA | {"service": "submissions"}, False, True),
        ({"service": "submission"}, True, True),
        ({"service": "mx", "client": None}, True, True),
        ({}, False, False),
        ({"client": "192.0.2.7"}, False, False),
        ({"service": "lmtp"}, False, False),
        ({"service": "lmtp"}, True, False),
    ],
)
def test_whose_mail_is_submitted(session, trusted, is_submitted):
    """Users and who stands beside us; mail that others pass on is not ours to complete, and only users are judged."""
    _, octets = stored(b"\r\nbody\r\n", session, trusted)
    assert (MESSAGE_ID in octets) == is_submitted
    bench = Bench(trusted=trusted)
    assert (send(bench.begin(**session), b"To: a\r\nTo: b\r\n\r\n").code == 554) == ("user" in session)


def test_both_halves_of_a_message_are_one():
    """Parted by a rule, they have one Message-ID, whoever compares them."""
    rule = Rule(name="r", require=True, recipient=glob("bob@*"))
    bench = Bench(attrs.evolve(SETTINGS, rules=(rule,)))
    send(bench.begin(**ANNA), b"\r\n", recipients=["anna@example.org", "bob@elsewhere.example"])
    first, second = bench.store.accepted
    assert first.id != second.id and second.envelope.tag is Tag.REQUIRED
    assert first.prepend.endswith(DATE + MESSAGE_ID) and second.prepend.endswith(DATE + MESSAGE_ID)


@pytest.mark.parametrize(
    "text", [b"hello\r\n", "grüße\r\n".encode(), b" x: y\r\n", b"hello\r\nA: b\r\n\r\nmore\r\n", b"x"]
)
def test_text_without_a_header(text):
    """`echo hello`: readers get it as text, and it is no 8-bit header that few servers take."""
    message, octets = stored(text)
    assert octets.endswith(b"\r\n" + DATE + MESSAGE_ID + b"\r\n" + text)
    assert (message.header(), message.content.eight_bit_header) == (b"", False)
    assert message.content.eight_bit_body == (not text.isascii())


def test_text_asks_for_nothing():
    """What stands in text is no TLS-Required, no Received and no field in our name."""
    message, _ = stored(b"hello\r\nTLS-Required: No\r\nAuthentication-Results: mx.example.org; spf=pass\r\n")
    assert message.envelope.tag is None and message.cuts == ()


# --- what is refused --------------------------------------------------------------------------------------------------
ONCE = "From, Sender, Reply-To, To, Cc, Bcc, Date, Message-ID, In-Reply-To, References, Subject"


@pytest.mark.parametrize("name", ONCE.split(", "))
def test_a_field_that_is_there_once(name):
    """RFC 5322 3.6, in whatever case: 554 5.6.0 with its name."""
    header = f"{name}: a\r\nX: y\r\n{name.upper()} : b\r\n{name.lower()}:\r\n c\r\n"
    refused = judged(header.encode() + b"\r\nbody\r\n")
    assert str(refused) == f"554 5.6.0 Malformed header: 3 {name} fields; one is allowed (RFC 5322 3.6)"
    assert not isinstance(judged(header.encode() + b"\r\nbody\r\n", strict=False), Reply)
    assert not isinstance(
        judged(f"{name}: a\r\nX-{name}: b\r\nComments:\r\n {name}: c\r\n\r\n{name}: d".encode()), Reply
    )


@pytest.mark.parametrize(
    "name", ["Received", "Comments", "Keywords", "Resent-From", "Resent-To", "DKIM-Signature", "X-A"]
)
def test_fields_that_may_be_repeated(name):
    """RFC 5322 3.6, and all that it does not know."""
    assert not isinstance(judged(f"{name}: a\r\n{name}: b\r\n\r\n".encode()), Reply)


@pytest.mark.parametrize(
    ("header", "line"),
    [
        (b"Subject: x\r\nhello\r\nFrom: a@b.example\r\n", 2),
        (b"Subject: x\r\n y\r\nFrom : z\r\nFrom a@b.example\r\n folded\r\nTo: c\r\n", 4),
        (b"From anna Tue Nov 14 22:13:20 2023\r\nFrom: a@b.example\r\n", 1),
        (b">From anna\r\nFrom: a@b.example\r\n", 1),
        (b"A: b\r\n: empty\r\nC: d\r\n", 2),
        ("A: b\r\nBetreff ü: x\r\nC: d\r\n".encode(), 2),
    ],
)
def test_a_line_that_is_no_field(header, line):
    """With fields behind it, nobody knows where the header ends."""
    said = f'554 5.6.0 Malformed header: line {line} is no field "Name: value"; an empty line parts header and text'
    assert str(judged(header + b"\r\nbody\r\n")) == said


@pytest.mark.parametrize(
    "octets", [b"Subject: x\r\nhello\r\n", b"From here on\r\n", b"Subject: x", b"A:\r\n\r\nB", b"\r\n"]
)
def test_what_misleads_nobody_passes(octets):
    """Scripts forget the empty line; all readers see the same fields."""
    assert not isinstance(judged(octets), Reply)


def test_programs_of_this_machine_are_not_judged():
    """A trusted listener has no users: what its clients repeat goes out as it is."""
    message, _ = stored(
        b"To: a\r\nTo: b\r\nSubject: x\r\nstray\r\nTo: c\r\n\r\n", session={"service": "submission"}, trusted=True
    )
    assert message.header().count(b"To:") == 3


def test_nothing_is_kept_of_what_is_refused():
    """The reply comes at the end of the data."""
    bench = Bench()
    assert send(bench.begin(**ANNA), b"To: a\r\nTo: b\r\n\r\n").code == 554
    assert bench.store.accepted == [] and bench.store.writers[0].aborted


@pytest.mark.parametrize(
    "piece", [b"a", b"a ", b"a\r\n", b"a:\r\n", b" \r\n", b"From:\r\n", b"From \r\n", b"To ", b"\t", b":"]
)
def test_no_header_takes_long(piece):
    """A megabyte of anything; a search that starts anew at every octet would last for minutes."""
    judged(b"A: b\r\n" + piece * ((1 << 20) // len(piece)))
    judged(piece * ((1 << 20) // len(piece)))


LINES = st.sampled_from(
    [
        b"From: a@b.example",
        b"from :x",
        b"Date: x",
        b" folded",
        b"\tfolded",
        b"text",
        b"From here",
        b"Subject: y",
        b"\xff",
    ]
)


@given(st.lists(LINES, max_size=6), st.booleans())
def test_whatever_comes_goes_on_or_is_refused(lines, has_body):
    """What goes on has a header of nothing but fields, each once, or the lines behind the last of them."""
    octets = b"".join(line + b"\r\n" for line in lines) + (b"\r\nbody\r\n" if has_body else b"")
    found = judged(octets)
    if isinstance(found, Reply):
        assert found.code == 554
        return
    header = found.added + octets if found.added.endswith(b"\r\n\r\n") else found.added + found.header
    header = header.partition(b"\r\n\r\n")[0] + b"\r\n"
    names = [field.name for field in fields(header)]
    assert names.count(b"date") == names.count(b"message-id") == 1
    assert names.count(b"from") <= 1 and names.count(b"subject") <= 1
    assert octets[: found.content.header_end] == found.header


# --- how often --------------------------------------------------------------------------------------------------------
def limited(clock=None, **limits):
    settings = attrs.evolve(SETTINGS, **{name: Rate(n, 3600.0, f"{n}/1h") for name, n in limits.items()})
    bench = Bench(settings)
    bench.station = attrs.evolve(bench.station, rates=Rates((clock or Clock()).seconds))
    return bench


def mail(bench, **session):
    return bench.begin(**session).mail(Envelope(sender=address("s@example.com")))


def test_messages_of_a_user():
    """Of all sessions together, from wherever; whatever becomes of them. Later there is room again."""
    clock = Clock()
    bench = limited(clock, messages_per_user=2)
    for client in ("203.0.113.1", "203.0.113.2"):
        assert mail(bench, **ANNA | {"client": client}) == reply.SENDER_OK
    refused = mail(bench, **ANNA | {"client": "203.0.113.3"})
    assert str(refused) == "450 4.7.1 Too many messages from this user, try again later; the limit is 2/1h"
    assert mail(bench, **ANNA | {"user": "bob"}) == reply.SENDER_OK
    assert mail(bench) == mail(bench) == mail(bench) == reply.SENDER_OK
    clock.advance(1800)
    assert mail(bench, **ANNA) == reply.SENDER_OK


def test_recipients_of_a_user():
    """Each RCPT counts; those before keep their place."""
    bench = limited(recipients_per_user=2)
    transaction = bench.begin(**ANNA)
    transaction.mail(Envelope(sender=None))
    answers = [transaction.rcpt(Recipient(address(f"{name}@example.org"))) for name in "abc"]
    assert answers[:2] == [reply.RECIPIENT_OK] * 2
    assert str(answers[2]) == "450 4.7.1 Too many recipients from this user, try again later; the limit is 2/1h"
    assert bench.begin().rcpt(Recipient(address("a@example.org"))) == reply.RECIPIENT_OK


@pytest.mark.parametrize(
    ("session", "trusted", "counts"),
    [
        ({}, False, True),
        (ANNA, False, True),
        ({"client": None}, False, True),
        ({"client": "192.0.2.7", "via_proxy": True}, False, False),
        ({"client": "192.0.2.7"}, False, False),
        ({"client": None}, True, False),
        ({"service": "lmtp"}, False, False),
    ],
)
def test_messages_of_a_client(session, trusted, counts):
    """Of strangers and users alike; not of those who are trusted."""
    bench = limited(messages_per_client=1)
    bench.station = attrs.evolve(bench.station, trusted=trusted)
    answers = [mail(bench, **session) for _ in range(2)]
    assert answers[0] == reply.SENDER_OK
    assert (answers[1] != reply.SENDER_OK) == counts
    if counts:
        assert str(answers[1]).startswith("450 4.7.1 Too many messages from this client, try again later; ")
        assert mail(bench, client="203.0.113.99") == reply.SENDER_OK


def test_an_ipv6_client_is_a_network():
    """Whoever has one address has 2**64."""
    bench = limited(messages_per_client=1)
    assert mail(bench, client="2001:db8:0:1::1") == reply.SENDER_OK
    assert mail(bench, client="2001:db8:0:1:ffff::2").code == 450
    assert mail(bench, client="2001:db8:0:2::1") == reply.SENDER_OK


def test_nobody_is_counted_who_is_refused_anyway():
    """Without a login there is no user whose bucket it would be, and no message."""
    bench = limited(messages_per_client=1)
    assert mail(bench, service="submission") == mail(bench, service="submission") == reply.AUTH_REQUIRED
    assert mail(bench, **ANNA) == reply.SENDER_OK


# --- who is told to have sent it --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("user", "mechanism", "utf8", "field"),
    [
        ("anna", "PLAIN", False, b"auth=pass (plain) smtp.auth=anna"),
        ("anna", "LOGIN", False, b"auth=pass (login) smtp.auth=anna"),
        ("anna", "", False, b"auth=pass smtp.auth=anna"),
        ("anna@example.org", "PLAIN", False, b'auth=pass (plain) smtp.auth="anna@example.org"'),
        ("a; spf=pass", "PLAIN", False, b'auth=pass (plain) smtp.auth="a; spf=pass"'),
        ('a"\r\nX: y', "PLAIN", False, b'auth=pass (plain) smtp.auth="a\\"\\\\r\\\\nX: y"'),
        ("jürgen", "PLAIN", False, b'auth=pass (plain) smtp.auth="j\\\\xfcrgen"'),
        ("jürgen", "PLAIN", True, "auth=pass (plain) smtp.auth=jürgen".encode()),
        ("", "PLAIN", False, b'auth=pass (plain) smtp.auth=""'),
    ],
)
def test_a_login_is_told(user, mechanism, utf8, field):
    """RFC 8601 2.7.4: one field on top, by whichever name."""
    session = ANNA | {"user": user, "mechanism": mechanism}
    header = "Subject: ü\r\n\r\n".encode() if utf8 else b"\r\n"
    _, octets = stored(header, session, smtputf8=utf8)
    found, _, rest = octets.partition(b"\r\nReceived: ")
    assert found.replace(b"\r\n", b"") == b"Authentication-Results: mx.example.org; " + field
    assert b"Authentication-Results" not in rest
    assert authres.parse(found.partition(b":")[2]) is not None


@given(st.text(max_size=600), st.booleans())
def test_no_name_breaks_the_field(user, utf8):
    """Whatever a portal of somebody else's lets pass."""
    header = "Subject: ü\r\n\r\n".encode() if utf8 else b"\r\n"
    _, octets = stored(header, ANNA | {"user": user}, smtputf8=utf8)
    value = octets.partition(b"\r\nReceived: ")[0].partition(b":")[2]
    (result,) = authres.parse(value).results
    assert (result.method, result.result) == ("auth", "pass")
    assert len(result.properties) == 1 and max(map(len, value.split(b"\r\n"))) <= 998


def test_a_login_stands_before_the_checks():
    """In one field, where an application checks its users too; who did not log in is not told."""
    checks = Checks((Verdict(check="x", results=(authres.Result("x-spam", "none"),)),))
    _, octets = stored(b"\r\n", ANNA | {"checks": checks})
    assert octets.startswith(
        b"Authentication-Results: mx.example.org;\r\n auth=pass (plain) smtp.auth=anna;\r\n x-spam=none\r\nReceived: "
    )
    for session, trusted in (({"client": "192.0.2.7"}, False), ({"service": "submission"}, True)):
        assert stored(b"\r\n", session, trusted)[1].startswith(b"Received: ")
