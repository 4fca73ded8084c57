"""The outgoing session by itself: replies in order, each phase on its own time, nothing believed that came unasked."""

import pytest
from twisted.internet.defer import Deferred

from requiretls_mta.smtp.client import HandshakeError, SessionLostError
from requiretls_mta.tls.client import Handshake, client_context
from tests.smtp.memory_server import MemoryServer


def result(deferred):
    """What it fired with, or None; a failure as its exception."""
    found = []
    deferred.addCallbacks(found.append, lambda failure: found.append(failure.value))
    return found[0] if found else None


def code(deferred):
    """The code of a reply that has come."""
    return result(deferred).code


def test_replies_find_their_commands():
    """Commands in one write, replies in one segment, each to its own."""
    server = MemoryServer()
    waits = server.session.commands([(b"MAIL", 10), (b"RCPT", 10), (b"DATA", 10)], b"octets")
    assert server.said() == [b"MAIL\r\nRCPT\r\nDATA\r\noctets"]
    server.say("250-2.1.0 ok", "250 2.1.0 ok", "550 5.1.1 no", "354 go")
    assert [code(wait) for wait in waits] == [250, 550, 354]
    assert not server.clock.getDelayedCalls()


def test_each_reply_has_its_own_time():
    """The clock of a pipelined command starts when its reply is the next (RFC 5321 4.5.3.2)."""
    server = MemoryServer()
    first, second = server.session.commands([(b"MAIL", 300), (b"RCPT", 100)])
    server.clock.advance(299)
    server.say("250 ok")
    server.clock.advance(99)
    assert server.session.is_open
    server.clock.advance(1)
    assert code(first) == 250 and isinstance(result(second), SessionLostError)
    assert server.transport.aborted and not server.clock.getDelayedCalls()


@pytest.mark.parametrize("drop", [b"2", b"250-more\r\n"])
def test_dripping_does_not_gain_time(drop):
    """Neither an unfinished line nor a reply without end."""
    server = MemoryServer()
    wait = server.session.command(b"NOOP", 60)
    for _ in range(59):
        server.clock.advance(1)
        server.session.dataReceived(drop if drop.endswith(b"\n") else b"")
    server.session.dataReceived(drop)
    server.clock.advance(1)
    assert isinstance(result(wait), SessionLostError) and server.transport.aborted


@pytest.mark.parametrize(
    "octets", [b"250 hello\r\n", b"250 ok\r\n250 and more\r\n", b"nonsense\r\n", b"250-a\r\n550 b\r\n"]
)
def test_what_is_no_answer_ends_the_session(octets):
    """Said unasked, more than asked for, or no reply."""
    server = MemoryServer()
    wait = server.session.command(b"NOOP", 60) if octets != b"250 hello\r\n" else None
    server.session.dataReceived(octets)
    assert server.transport.aborted and not server.session.is_open
    assert not server.clock.getDelayedCalls()
    if wait is not None:
        result(wait)


def test_quit_is_said_once():
    """Whoever asks again gets the same end to wait for; of a session that is over nobody has to wait."""
    server = MemoryServer()
    over = []
    first = server.session.quit(5).addCallback(over.append)
    assert server.session.quit(5) is first
    assert server.said() == [b"QUIT\r\n"] and not over
    server.say("221 bye")
    assert over == [None] and server.transport.aborted and not server.session.is_open
    assert server.session.quit(5).called and not server.clock.getDelayedCalls()
    other = MemoryServer()
    other.session.abort("enough")
    assert other.session.quit(5).called and not other.said()


def test_421_is_the_last_word():
    """It answers the command that waits; all others learn that the session is over (RFC 5321 3.8)."""
    server = MemoryServer()
    first, second = server.session.commands([(b"MAIL", 60), (b"RCPT", 60)])
    server.say("421 4.3.2 stopping", "250 too late")
    assert code(first) == 421
    assert "stopping" in str(result(second))
    assert "stopping" in str(result(server.session.command(b"NOOP", 60)))
    assert server.transport.aborted and not server.clock.getDelayedCalls()


def test_all_learn_of_the_end():
    """A connection that is lost fails every command that waits, and each one after."""
    server = MemoryServer()
    waits = server.session.commands([(b"MAIL", 60), (b"RCPT", 60)])
    server.hang_up()
    waits.append(server.session.command(b"NOOP", 60))
    assert all(isinstance(result(wait), SessionLostError) for wait in waits)
    assert not server.clock.getDelayedCalls()


@pytest.mark.parametrize("behind", [b"2", b"\r\n", b"250-x\r\n", b"250-mx\r\n250 REQUIRETLS\r\n", b"\x16\x03\x03"])
def test_nothing_may_come_behind_the_220(behind):
    """Not one octet: no handshake is begun, and nothing of it is ever read (RFC 3207 4.2)."""
    server = MemoryServer()
    handshake = Handshake(client_context("system"), "mx.test")
    secured: list[Deferred] = []
    answered = server.session.command(b"STARTTLS", 60).addCallback(
        lambda _: secured.append(server.session.start_tls(handshake, 60)),
    )
    server.session.dataReceived(b"220 go\r\n" + behind)
    found = [result(wait) for wait in (answered, *secured)][-1]
    assert isinstance(found, HandshakeError | SessionLostError)
    assert server.transport.tls is None and server.transport.aborted
    assert server.session.tls is None and not server.session.offers


def test_what_was_offered_in_the_clear_is_forgotten():
    """From the handshake to the next EHLO nothing is known (RFC 3207 4.2)."""
    server = MemoryServer("REQUIRETLS", "STARTTLS")
    secured = server.session.start_tls(Handshake(client_context("system"), "mx.test"), 60)
    assert server.transport.tls is not None and not server.session.offers
    server.clock.advance(60)
    assert "took too long" in str(result(secured)) and server.transport.aborted
    assert not server.clock.getDelayedCalls()


def test_a_transfer_is_clocked_by_the_piece():
    """Each piece that was taken is progress; none for its time is the end."""
    server = MemoryServer()
    wait = server.session.expect(600)
    sent = server.session.send(iter([b"one", b"two", b"three"]), 180)
    for _ in range(2):
        server.drain(1)
        server.clock.advance(179)
    assert server.session.is_open
    server.clock.advance(1)
    assert isinstance(result(sent), SessionLostError) and isinstance(result(wait), SessionLostError)
    assert server.said() == [b"one", b"two"]
    assert not server.clock.getDelayedCalls()


def test_behind_the_last_piece_the_reply_has_its_own_time():
    """The time for the final reply begins when all is sent."""
    server = MemoryServer()
    wait = server.session.expect(600)
    sent = server.session.send(iter([b"one"]), 180)
    server.drain()
    assert sent.called
    server.clock.advance(599)
    assert server.session.is_open
    server.say("250 ok")
    assert code(wait) == 250 and not server.clock.getDelayedCalls()


def test_a_copy_that_cannot_be_read_is_not_sent_in_part():
    """The connection is aborted, so that the server does not take what it has for the whole."""

    def pieces():
        yield b"one"
        raise OSError("disk")

    server = MemoryServer()
    sent = server.session.send(pieces(), 180)
    server.drain()
    assert isinstance(result(sent), OSError) and server.transport.aborted
