"""`requiretls-mta-sendmail` as a program, towards a scripted server."""

import contextlib
import os
import socket
import subprocess
import sys
import threading

import pytest

from requiretls_mta.cli.sendmail_trouble import of_refusal, status_of
from requiretls_mta.cli.submission import Refusal
from requiretls_mta.message.reply import Reply
from tests.cli.test_send import Server, certificate
from tests.lab.mta import BIN

__all__ = ["certificate"]
MAIL = b"Subject: x\n\nhello\n"


class Scripted(Server):
    """For any number of sessions, one after the other."""

    def serve(self):
        with contextlib.suppress(OSError, ValueError):
            while True:
                connection, _ = self.listening.accept()
                connection.settimeout(10)
                self.session(connection)
                connection.close()


@pytest.fixture
def server(certificate):
    scripted = Scripted(certificate)
    yield scripted
    scripted.listening.shutdown(socket.SHUT_RDWR)
    scripted.listening.close()
    scripted.thread.join(10)


def sendmail(where, *words, stdin=MAIL, **environ):
    return subprocess.run(
        [BIN / "requiretls-mta-sendmail", *words],
        input=stdin,
        env={"PATH": os.environ["PATH"], "REQUIRETLS_MTA_SUBMIT": where, **environ},
        capture_output=True,
        timeout=30,
        check=False,
    )


def submit(server, *words, stdin=MAIL, **environ):
    """Sent without a word; what stood in the header."""
    server.data = b""
    server.said.clear()
    done = sendmail(f"127.0.0.1:{server.port}", *words, stdin=stdin, **environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    return server.data.partition(b"\r\n\r\n")[0].decode()


@pytest.mark.parametrize(
    ("command", "reply", "status"),
    [
        ("RCPT", Reply(550, "5.1.1", ""), 67),
        ("RCPT", Reply(553, "5.1.3", ""), 67),
        ("MAIL", Reply(553, "5.1.8", ""), 65),
        ("RCPT", Reply(550, "5.7.1", ""), 77),
        ("MAIL", Reply(530, "5.7.10", ""), 77),
        ("MAIL", Reply(552, "5.3.4", ""), 65),
        ("message", Reply(550, "5.6.11", ""), 65),
        ("RCPT", Reply(552, "5.2.2", ""), 69),
        ("message", Reply(554, "5.4.6", ""), 69),
        ("DATA", Reply(554, None, ""), 69),
        ("RCPT", Reply(451, "4.7.1", ""), 75),
        ("message", Reply(452, "4.3.1", ""), 75),
    ],
)
def test_what_a_reply_means_to_callers(command, reply, status):
    """The statuses of <sysexits.h>."""
    assert status_of(command, reply) == status
    assert of_refusal(Refusal("x", command, reply)).status == status


def test_a_promise_that_is_not_offered_is_status_69():
    """It may be tomorrow, but not by trying again."""
    assert of_refusal(Refusal("REQUIRETLS is not offered")).status == 69


def test_the_header_is_completed(server):
    """From, Date and Message-ID; addresses without a domain get the server's name."""
    header = submit(server, "-f", "ann", "-F", 'A. "B" Ü', "bob", "c@d")
    assert "From: =?utf-8?" in header and "<ann@here>" in header
    assert header.count("Date: ") == header.count("Message-ID: <") == 1
    assert "To:" not in header
    assert [line for line, _ in server.said if line.startswith(("MAIL", "RCPT"))] == [
        f"MAIL FROM:<ann@here> SIZE={len(server.data)}",
        "RCPT TO:<bob@here>",
        "RCPT TO:<c@d>",
    ]
    assert ("STARTTLS", False) in server.said


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("CronDaemon", "From: CronDaemon <a@b>"),
        ("Cron Daemon", "From: Cron Daemon <a@b>"),
        ('Dr. "X"', 'From: "Dr. \\"X\\"" <a@b>'),
    ],
)
def test_names(server, name, field):
    """Quoted where a phrase has to be."""
    assert field in submit(server, "-fa@b", f"-F{name}", "c@d").split("\r\n")
    assert field in submit(server, "-fa@b", "c@d", NAME=name).split("\r\n")


def test_what_is_there_stays(server):
    """No field twice."""
    mine = b"From: me@x\nDate: Thu, 1 Jan 1970 00:00:00 +0000\nMessage-ID: <1@x>\n\n"
    assert submit(server, "c@d", stdin=mine) == mine.decode().strip().replace("\n", "\r\n")


def test_a_resent_message_is_completed_as_such(server):
    """RFC 5322 3.6.6; its own fields are its author's."""
    header = submit(server, "-t", "-fa@b", stdin=b"Resent-To: c@d\nFrom: old@x\nTo: old@y\n\n")
    assert "Resent-From: " in header and "Resent-Date: " in header and "Resent-Message-ID: <" in header
    assert header.count("From: ") == 2


def test_requirements(server):
    """REQUIRETLS as the parameter, No as a field, whatever the message had there."""
    submit(server, "-O", "requiretls=yes", "c@d")
    assert "REQUIRETLS" in server.mail()
    header = submit(server, "-O", "requiretls=no", "c@d", stdin=b"TLS-Required: maybe\n\n")
    assert header.endswith("TLS-Required: No") and header.count("TLS-Required") == 1
    assert "REQUIRETLS" not in server.mail()


def test_eight_bit_and_utf8(server):
    """As the message and its addresses need it."""
    submit(server, "bücher@d", stdin="Subject: ü\n\nä\n".encode())
    assert server.mail().endswith(" BODY=8BITMIME SMTPUTF8")


@pytest.mark.parametrize(
    ("words", "stdin", "status", "says"),
    [
        ([], MAIL, 64, "recipients must be named"),
        (["-t"], MAIL, 64, "no recipient is named"),
        (["John Doe"], MAIL, 64, "John Doe"),
        (["a@b\r\nRSET"], MAIL, 64, "a@b RSET: the domain"),
        (["-t"], b"To: <a@b>\r\n <c\x00d@e>\n\n", 65, "To: text behind the >"),
        (["-t"], b"To: <c\x00d@e>\n\n", 65, r"c\x00d@e"),
        (["a@b"], b"x\ry\n", 65, "line 1"),
        (["-N", "success", "a@b"], MAIL, 69, "DSN is not offered"),
        (["-f", "a@b", "-bs"], MAIL, 64, "listener"),
    ],
)
def test_errors_are_one_line(server, words, stdin, status, says):
    """And nothing was sent."""
    done = sendmail(f"127.0.0.1:{server.port}", *words, stdin=stdin)
    assert done.returncode == status, done.stderr
    assert says in done.stderr.decode() and done.stderr.count(b"\n") == 1
    assert not server.data


@pytest.mark.parametrize(
    ("refuse", "status"),
    [(("RCPT", "550 5.1.1 no"), 67), (("DATA", "451 4.3.0 later"), 75), (("EHLO", "421 4.3.2 no"), 75)],
)
def test_a_refusal_has_its_status(certificate, refuse, status):
    """With the server's words."""
    server = Scripted(certificate, refuse=refuse)
    done = sendmail(f"127.0.0.1:{server.port}", "a@b")
    server.listening.close()
    assert done.returncode == status
    assert refuse[1].encode() in done.stderr


def test_a_message_that_was_taken_was_taken(certificate):
    """However the server says good-bye: whoever tried again would send it twice."""
    server = Scripted(certificate, refuse=("QUIT", "421 4.3.2 shutting down"))
    assert sendmail(f"127.0.0.1:{server.port}", "a@b").returncode == 0
    server.listening.close()


def test_nobody_there_is_status_75(tmp_path):
    """Trying again helps; where the caller may not connect, it does not."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    assert sendmail(f"127.0.0.1:{port}", "a@b").returncode == 75
    done = sendmail(f"unix:{tmp_path}/none", "a@b")
    assert done.returncode == 75
    assert b"No such file" in done.stderr


def test_a_long_path_is_no_hindrance(tmp_path):
    """UNIX sockets have names of at most 107 octets, folders have not."""
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.open(folder, os.O_RDONLY)
        listening.bind(f"/proc/self/fd/{here}/s")
        os.close(here)
        listening.listen()

        def busy():
            connection, _ = listening.accept()
            connection.sendall(b"421 4.3.2 busy\r\n")
            connection.close()

        thread = threading.Thread(target=busy, daemon=True)
        thread.start()
        done = sendmail(f"unix:{folder}/s", "a@b")
        thread.join(10)
    assert done.returncode == 75 and b"busy" in done.stderr


def test_it_starts_quickly():
    """Neither the tool nor Twisted is loaded for a message."""
    code = (
        "import sys, requiretls_mta.cli.sendmail; print([m for m in ('click', 'rich', 'twisted') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"[]\n"
