"""The fake mail server is a witness: whatever it does itself, no octet that it was sent is missing from its account."""

import shutil
import socket
import tempfile
import time
from pathlib import Path

import pytest

from tests.lab.ca import CA
from tests.smtp.dialogue import Talk
from tests.smtp.fake_mx import FakeMX

MUCH = b"MAIL FROM:<" + b"secret" * 100_000 + b">\r\n"


@pytest.fixture
def serve():
    """Start a server with these options."""
    servers, folder = [], Path(tempfile.mkdtemp())

    def start(**options):
        servers.append(FakeMX(files=CA(folder).host("mx.test"), **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
    shutil.rmtree(folder)


def account(server):
    """The sessions, when nothing can be added any more."""
    end = time.monotonic() + 15
    while not server.has_all:
        assert time.monotonic() < end
        time.sleep(0.01)
    return server.sessions


@pytest.mark.parametrize("options", [{"close": "EHLO"}, {"closed": "EHLO"}, {"close": "EHLO", "reset": True}])
@pytest.mark.parametrize("tls", [False, True])
def test_what_it_had_when_it_hung_up(serve, options, tls):
    """Sent in one piece with the command at which it hangs up, unread until then."""
    server = serve(implicit=tls, **options)
    client = Talk(server.port)
    if tls:
        client.start_tls()
    client.hear()
    client.say(b"EHLO x\r\n" + MUCH)
    client.rest()
    client.close()
    (session,) = account(server)
    assert (session.tls if tls else session.clear) == b"EHLO x\r\n" + MUCH
    assert (session.version == "TLSv1.3") == tls


def test_what_it_did_not_read_for_a_reply_of_its_own(serve):
    """It answered early and read nothing more: all is told when it is closed."""
    server = serve(early="250 2.0.0 taken", clear=())
    client = Talk(server.port)
    client.hear()
    client.say(b"RCPT TO:<r@x.test>\r\nDATA\r\n")
    for _ in range(3):
        client.hear()
    client.say(MUCH)
    client.close()
    server.close()
    (session,) = account(server)
    assert session.clear.endswith(MUCH)


def test_each_session_by_itself(serve):
    """One offered the keyword, another did not; what failed as a handshake was in the clear."""
    server = serve(starttls="220 2.0.0 go", replies={"EHLO": [None, None, None, "250 ok"]})
    for word in (b"first", b"second"):
        client = Talk(server.port)
        client.tls()
        client.ask("NOOP " + word.decode())
        client.close()
    client = Talk(server.port)
    client.hear()
    client.ask("EHLO x")
    client.ask("STARTTLS")
    client.say(b"\x16no hello, but a secret")
    client.socket.shutdown(socket.SHUT_WR)
    client.rest()
    client.close()
    first, second, third = account(server)
    assert "REQUIRETLS" in first.keywords and b"first" in first.tls and b"first" not in second.tls
    assert not second.keywords and b"second" in second.tls
    assert b"secret" in third.outside and third.tls == b"" and third.version is None
    assert first.handshake.startswith(b"\x16\x03")
