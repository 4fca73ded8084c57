"""The tester's end of a connection: whatever comes, it ends, and in one kind of exception."""

import itertools
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.cli.conformance_rules import Kind
from requiretls_mta.cli.conformance_wire import Broken, Wire
from requiretls_mta.tls.client import Handshake, client_context


def wire(timeout=5.0, end=None, monotonic=time.monotonic):
    """A wire, and the server's socket."""
    ours, theirs = socket.socketpair()
    return Wire(ours, timeout=timeout, end=monotonic() + 60 if end is None else end, monotonic=monotonic), theirs


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"250 ok\r\n", b"250-more\r\n", b"220 go\r\n"]), max_size=8))
def test_any_octets_are_replies_or_the_end(chunks):
    """No more replies than lines; then the end is told as what it is."""
    talk, server = wire()
    server.sendall(b"".join(chunks))
    server.close()
    try:
        for _ in range(sum(chunk.count(b"\n") for chunk in chunks) + 1):
            talk.hear()
        pytest.fail("a reply that nobody gave")
    except Broken as broken:
        assert broken.trouble.kind in (Kind.CLOSED, Kind.GARBLED)
        assert broken.trouble.text.isprintable()
    finally:
        talk.close()


@given(st.binary(min_size=1, max_size=80))
def test_any_octets_in_place_of_a_handshake_are_none(octets):
    """However OpenSSL takes them."""
    talk, server = wire()
    server.sendall(octets)
    server.shutdown(socket.SHUT_WR)
    with pytest.raises(Broken) as broken:
        talk.start_tls(Handshake(client_context("system"), "mx.test"))
    assert broken.value.trouble.kind is Kind.NO_TLS
    talk.close()
    server.close()


def test_a_reply_too_many_is_not_taken_for_the_next():
    """Whoever says more than was asked for is out of step."""
    talk, server = wire()
    server.sendall(b"220 hi\r\n250 and\r\n")
    assert talk.hear().reply.code == 220
    with pytest.raises(Broken) as broken:
        talk.send(b"EHLO x\r\n")
    assert broken.value.trouble.kind is Kind.UNASKED
    assert "250 and" in broken.value.trouble.text


def test_octets_in_the_clear_do_not_reach_the_other_side_of_a_handshake():
    """Our own side of RFC 3207 4.2."""
    talk, server = wire()
    server.sendall(b"220 go\r\n250 inj")
    talk.hear()
    with pytest.raises(Broken) as broken:
        talk.start_tls(Handshake(client_context("system"), "mx.test"))
    assert broken.value.trouble.kind is Kind.UNASKED


def test_octets_that_trickle_in_gain_no_time():
    """The limit is for the whole reply."""
    seconds = itertools.count()
    talk, server = wire(timeout=10, monotonic=lambda: next(seconds))
    server.sendall(b"2")
    real = talk._socket

    class Dripping:
        def recv(self, size):
            server.sendall(b"2")
            return real.recv(1)

        settimeout = staticmethod(real.settimeout)

    talk._socket = Dripping()
    with pytest.raises(Broken) as broken:
        talk.hear()
    assert broken.value.trouble.kind is Kind.TIMED_OUT
    assert next(seconds) < 20


def test_a_server_that_reads_nothing_is_given_up():
    """Full buffers are no reason to wait for ever."""
    talk, _server = wire(timeout=0.2)
    with pytest.raises(Broken) as broken:
        talk.send(b"x" * 10_000_000)
    assert broken.value.trouble.kind is Kind.TIMED_OUT
