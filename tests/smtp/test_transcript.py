"""Transcripts: all that was said, nothing that was confided, and never without end."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from requiretls_mta.report.trace_story import transcript as read
from requiretls_mta.smtp.client import SessionLostError
from requiretls_mta.smtp.incoming import OPENING, Incoming
from requiretls_mta.smtp.login import Login, log_in
from requiretls_mta.smtp.transcript import LARGEST, LAST, LONGEST, MOST, Transcript
from tests.smtp.memory import Memory
from tests.smtp.memory_server import MemoryServer
from tests.smtp.test_auth import GOOD, Desk

PASSWORD = b"correct-horse"


def incoming(*lines):
    """What a transcript has of these command lines of a client's, each answered 250."""
    found = Incoming(lambda: 0.0)
    for line in lines:
        found.command(line)
        found.reply(b"250 2.0.0 Ok\r\n")
    said = read(found.opening) + read(found.transaction())
    return [line["text"] for line in said if line["from"] == "client"]


def outgoing():
    server = MemoryServer()
    server.session.transcript = Transcript(server.clock.seconds)
    return server, server.session.transcript


def shown(found):
    return [({"client": "C", "server": "S", None: "*"}[line["from"]], line["text"]) for line in read(found.text())]


# --- incoming -------------------------------------------------------------------------------------------------------
def test_a_transaction_with_the_session_that_it_came_in():
    """The opening, with TLS and all offers, then the latest transaction alone; octets are counted."""
    line = Memory(transcribes=True).connect()
    line.ask("EHLO x.example\r\n")
    for number in range(2):
        line.ask(f"MAIL FROM:<{number}@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
        line.ask("Subject: secret\r\n\r\n..secret\r\n.\r\n")
    found = line.session.transcript
    opening = [(one["from"], one["text"]) for one in read(found.opening)]
    assert opening[:3] == [
        ("server", "220 mx.test ESMTP requiretls-mta"),
        ("client", "EHLO x.example"),
        ("server", "250-mx.test"),
    ]
    said = [(one["from"], one["text"]) for one in read(found.transaction())]
    assert said == [
        ("client", "MAIL FROM:<1@b.example>"),
        ("server", "250 2.1.0 Sender ok"),
        ("client", "RCPT TO:<c@d.example>"),
        ("server", "250 2.1.5 Recipient ok"),
        ("client", "DATA"),
        ("server", "354 End data with <CR><LF>.<CR><LF>"),
        ("client", "(28 octets)"),
        ("server", "250 2.0.0 Ok: queued as 0000000000000002"),
    ]


def test_chunks_are_counted():
    """BDAT, each by itself."""
    line = Memory(transcribes=True).connect()
    line.ask(
        "EHLO x.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 6\r\nsecretBDAT 2 LAST\r\n\r\n"
    )
    said = [one["text"] for one in read(line.session.transcript.transaction()) if one["from"] == "client"]
    assert said[2:] == ["BDAT 6", "(6 octets)", "BDAT 2 LAST", "(2 octets)"]


def test_nothing_is_noted_unless_it_is_asked_for():
    """An application's own listener, or `trace.transcripts = false`."""
    assert Memory().connect().session.transcript is None


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_credentials_never(mechanism):
    """Neither in the command nor in the lines of the exchange; the prompts are hidden, too."""
    line = Desk(transcribes=True).line
    if mechanism == "PLAIN":
        line.ask(f"AUTH PLAIN {GOOD}\r\n")
    else:
        line.ask("AUTH LOGIN\r\n")
        for word in (b"ann", b"secret"):
            line.ask(base64.b64encode(word) + b"\r\n")
    line.ask("MAIL FROM:<a@b.example>\r\n")
    text = line.session.transcript.opening
    assert f"CAUTH {mechanism}" in text and "***" in text and "235 2.7.0" in text
    for secret in (GOOD, base64.b64encode(b"ann").decode(), base64.b64encode(b"secret").decode(), "VXNlcm5hbWU"):
        assert secret not in text


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"AUTH PLAIN AGFubgBzZWNyZXQ=", "AUTH PLAIN ***"),
        (b"auth login YW5u", "auth login ***"),
        (b"AUTH AGFubgBzZWNyZXQ=", "AUTH ***"),
        (b"AUTHPLAIN AGFubgBzZWNyZXQ=", "(no command: 26 octets)"),
        (b"AGFubgBzZWNyZXQ=", "(no command: 16 octets)"),
        (b"Subject: secret", "(no command: 15 octets)"),
        (b"Help the secret is", "Help ***"),
        (b"DATA secret", "DATA ***"),
        (b"MAIL the secret", "MAIL ***"),
        (b"BDAT 10 LAST", "BDAT 10 LAST"),
        (b"BDAT 10 secret", "BDAT ***"),
        (b"MAIL FROM:<a\nS250 forged>", "MAIL FROM:<a\\nS250 forged>"),
        (b"RCPT TO:<\x1b[31m@b>", "RCPT TO:<\\x1b[31m@b>"),
        (b"EHLO \xff", "EHLO \\xff"),
        (b"\x00\xff", "(no command: 2 octets)"),
    ],
)
def test_what_is_no_command_is_not_shown(line, text):
    """A client that is out of step sends passwords and messages as commands."""
    assert incoming(b"MAIL FROM:<x@y.example>", line)[-1].replace("\\\\", "\\") == text


def test_it_does_not_grow():
    """The first and the last lines of many are kept, each cut, and the whole is bounded."""
    found = Incoming(lambda: 0.0)
    for _ in range(10 * OPENING):
        found.command(b"NOOP")
    found.command(b"MAIL FROM:<a@b.example>")
    for number in range(10 * MOST):
        found.command(b"RCPT TO:<%d@b.example>" % number)
    lines = [line["text"] for line in read(found.transaction()) if line["from"] != "server"]
    assert len(read(found.opening)) == OPENING and len(lines) == MOST + LAST
    assert lines[0].startswith("MAIL") and lines[-1] == f"RCPT TO:<{10 * MOST - 1}@b.example>"
    assert "(lines left out)" in lines
    for _ in range(MOST):
        found.command(b"RCPT TO:<" + b"x" * 10 * LONGEST)
    assert len(found.transaction()) < LARGEST + LONGEST + 10 * MOST


def test_whoever_begins_anew_has_an_opening_of_his_own():
    """EHLO between messages: what was said before it is not told again, and nothing grows."""
    found = Incoming(lambda: 0.0)
    for number in range(3):
        found.command(b"EHLO %d.example" % number)
        found.command(b"MAIL FROM:<a@b.example>")
    assert [line["text"] for line in read(found.opening)] == ["EHLO 2.example"]


@given(st.lists(st.binary(max_size=700), max_size=30))
def test_whatever_a_client_says_lines_stay_lines(lines):
    """Octets of strangers make no line of ours, and break nothing."""
    assert len(incoming(*[line.replace(b"\r\n", b"") for line in lines])) <= len(lines)


# --- outgoing -------------------------------------------------------------------------------------------------------
def test_both_sides_with_their_times():
    """Commands in one write and their replies; a reply of many lines has one time."""
    server, found = outgoing()
    server.session.greeting(10)
    server.clock.advance(0.25)
    server.say("220 mx.test")
    server.session.commands([(b"MAIL FROM:<a@b>", 10), (b"BDAT 6 LAST", 10)], b"secret")
    server.clock.advance(1)
    server.say("250-yes", "250 really", "550 5.7.1 \x1b no")
    assert [(line["at"], line["from"], line["text"]) for line in read(found.text())] == [
        (0.25, "server", "220 mx.test"),
        (0.25, "client", "MAIL FROM:<a@b>"),
        (0.25, "client", "BDAT 6 LAST"),
        (0.25, "client", "(6 octets)"),
        (1.25, "server", "250-yes"),
        (1.25, "server", "250 really"),
        (1.25, "server", "550 5.7.1 \\x1b no"),
    ]


def test_octets_that_flow_are_counted():
    """However many pieces they are."""
    server, found = outgoing()
    server.session.send(iter([b"secret" * 100] * 3), 10)
    server.drain()
    assert shown(found) == [("C", "(1800 octets)")]


@pytest.mark.parametrize("mechanisms", ["PLAIN", "LOGIN"])
def test_a_login_of_ours_keeps_its_secret(mechanisms):
    """Nor does a server that repeats what it was told bring it in, neither here nor in its reply."""
    server, found = outgoing()
    server.session.offers = {"AUTH": (mechanisms,)}
    done, echoes = [], ("334 user", "334 pass") if mechanisms == "LOGIN" else ()
    Deferred.fromCoroutine(log_in(server.session, Login("ann", PASSWORD), 10)).addCallback(done.append)
    for echo in echoes:
        server.say(echo)
    said = b"".join(server.said())
    server.say(f"535 5.7.8 no: {base64.b64encode(PASSWORD).decode()} {said.split()[-1].decode()}")
    assert base64.b64encode(PASSWORD) in said or b"AUTH PLAIN" in said
    assert shown(found)[-1] == ("S", "535 5.7.8 ***")
    for text in (found.text(), str(done[0])):
        assert "***" in text or "repeats" in text
        for secret in (PASSWORD, base64.b64encode(PASSWORD), said.split()[-1]):
            assert secret.decode() not in text


def test_the_end_is_noted():
    """Why nothing more was said."""
    server, found = outgoing()
    reply = server.session.command(b"NOOP", 5)
    server.clock.advance(5)
    reply.addErrback(lambda failure: failure.trap(SessionLostError))
    assert shown(found) == [("C", "NOOP"), ("*", "the server did not answer in time")]
