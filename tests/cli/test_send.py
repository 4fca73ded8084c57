"""`requiretls-mta send`: against a scripted server in a thread, with real TLS."""

import contextlib
import datetime
import socket
import ssl
import threading

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.cli.main import cli
from requiretls_mta.cli.message import prepare
from requiretls_mta.tls.server import private_files


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for localhost, its key, and the CA's folder."""
    folder = tmp_path_factory.mktemp("tls")
    return private_files(folder, "localhost", datetime.datetime.now(datetime.UTC))


class Server:
    """Speaks enough SMTP for one session; `said` is what it heard, (line, inside TLS)."""

    def __init__(self, certificate, *, starttls=True, requiretls=True, refuse=None):
        self.certificate, self.starttls, self.requiretls, self.refuse = certificate, starttls, requiretls, refuse
        self.said, self.data = [], b""
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        with contextlib.suppress(OSError, ValueError):
            connection, _ = self.listening.accept()
            connection.settimeout(10)
            self.session(connection)

    def session(self, connection):
        file, tls = connection.makefile("rwb"), False

        def say(*lines):
            file.write("".join(f"{line}\r\n" for line in lines).encode())
            file.flush()

        say("220 here")
        while line := file.readline().rstrip(b"\r\n").decode():
            self.said.append((line, tls))
            verb = line.partition(" ")[0].upper()
            if self.refuse and verb == self.refuse[0]:
                say(self.refuse[1])
            elif verb == "EHLO":
                extensions = ["250-8BITMIME", "250-SIZE 1000000"]
                extensions += ["250-STARTTLS"] * (self.starttls and not tls) + ["250-REQUIRETLS"] * (
                    self.requiretls and tls
                )
                say("250-here", *extensions, "250 SMTPUTF8")
            elif verb == "STARTTLS":
                say("220 2.0.0 go")
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*self.certificate)
                connection = context.wrap_socket(connection, server_side=True)
                file, tls = connection.makefile("rwb"), True
            elif verb == "DATA":
                say("354 go")
                while (line := file.readline()) != b".\r\n":
                    self.data += line
                say(*([self.refuse[1]] if self.refuse and self.refuse[0] == "." else ["250 2.0.0 Ok: queued as 0abc"]))
            elif verb == "QUIT":
                say("221 2.0.0 bye")
                return
            else:
                say("250 2.1.0 ok")

    def mail(self):
        return next(line for line, _ in self.said if line.upper().startswith("MAIL"))


def send(server, *words, stdin=b"Subject: x\n\nhello\n", host="127.0.0.1"):
    result = CliRunner().invoke(
        cli, ["send", "--from", "a@localhost", "--to", "b@localhost", "--server", f"{host}:{server.port}", *words],
        input=stdin,
    )  # fmt: skip
    server.listening.close()
    server.thread.join(10)
    return result


def test_a_tagged_message_goes_inside_tls(certificate):
    """REQUIRETLS on MAIL, after STARTTLS; the server's reply is printed."""
    server = Server(certificate)
    result = send(server, "--require-tls")
    assert (result.exit_code, result.output) == (0, "250 2.0.0 Ok: queued as 0abc\n")
    assert "REQUIRETLS" in server.mail()
    assert all(tls for line, tls in server.said if line[:4].upper() in ("MAIL", "RCPT", "DATA"))
    assert server.data.endswith(b"Subject: x\r\n\r\nhello\r\n")


@pytest.mark.parametrize(
    ("server", "says"),
    [({"starttls": False}, "STARTTLS is not offered"), ({"requiretls": False}, "REQUIRETLS is not offered")],
)
def test_a_requirement_that_cannot_be_kept_sends_nothing(certificate, server, says):
    """Status 1, and not one command of a transaction."""
    scripted = Server(certificate, **server)
    result = send(scripted, "--require-tls")
    assert result.exit_code == 1
    assert says in result.stderr
    assert not any(line.upper().startswith("MAIL") for line, _ in scripted.said)


def test_an_untrusted_server_gets_no_tagged_message(certificate):
    """With roots to go by, the name must be certified too: the certificate bears localhost, not the address."""
    ca = certificate[0].with_name("ca.pem")
    assert send(Server(certificate), "--require-tls", "--ca", str(ca)).exit_code == 1
    assert send(Server(certificate), "--require-tls", "--ca", str(ca), host="localhost").exit_code == 0


def test_an_ordinary_message_takes_what_there_is(certificate):
    """TLS where offered, in the clear where not."""
    server = Server(certificate)
    assert send(server).exit_code == 0
    assert "REQUIRETLS" not in server.mail()
    assert ("STARTTLS", False) in server.said
    assert send(Server(certificate, starttls=False)).exit_code == 0


def test_tls_optional_is_a_field_of_the_message(certificate):
    """RFC 8689 5: TLS-Required: No."""
    server = Server(certificate)
    assert send(server, "--tls-optional").exit_code == 0
    assert b"TLS-Required: No\r\n" in server.data
    server = Server(certificate)
    assert send(server, "--tls-optional", "--set", 'requiretls.profile="draft-03"').exit_code == 0
    assert b"RequireTLS: NO\r\n" in server.data and b"TLS-Required" not in server.data


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "STARTTLS", "."])
def test_a_refusal_is_status_1_with_the_reply(certificate, step):
    """At whichever step."""
    result = send(Server(certificate, refuse=(step, "550 5.7.1 no")))
    assert result.exit_code == 1
    assert "550" in result.stderr
    assert "5.7.1 no" in result.stderr


def test_nobody_there_is_status_3(certificate):
    """The service cannot be reached."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    result = CliRunner().invoke(cli, ["send", "--to", "b@localhost", "--server", f"127.0.0.1:{port}"], input=b"x")
    assert result.exit_code == 3
    assert "refused" in result.stderr


@pytest.mark.parametrize(
    "words",
    [["--require-tls", "--tls-optional"], ["--server", "nowhere"], ["--server", "h:0"], ["--to", "no address"]],
)
def test_wrong_usage_is_status_2(certificate, words):
    """Before anybody is connected to."""
    result = CliRunner().invoke(cli, ["send", "--to", "b@localhost", "--from", "a@b", *words], input=b"x")
    assert result.exit_code == 2


def test_addresses_and_content_bring_their_parameters(certificate):
    """SMTPUTF8 and 8BITMIME where they are needed."""
    server = Server(certificate)
    assert send(server, "--to", "bücher@localhost", stdin="Subject: ü\n\nä".encode()).exit_code == 0
    assert "SMTPUTF8" in server.mail()
    assert "BODY=8BITMIME" in server.mail()


def test_missing_fields_are_added_and_others_kept():
    """RFC 5322 3.6: From and Date; what is there stays."""
    made = prepare(b"From: x@y\nSubject: s\n\nbody", sender="a@b", recipients=["c@d"], now=0).decode()
    header, body = made.split("\r\n\r\n")
    assert header.count("From:") == 1
    assert "To: c@d" in header
    assert "Date: Thu, 1 Jan 1970 00:00:00 +0000" in header
    assert body == "body\r\n"


def test_plain_text_becomes_a_body():
    """Whoever pipes a sentence means a message."""
    made = prepare(b"hello there\nyou: two\n", sender="a@b", recipients=["c@d"], now=0)
    assert made.endswith(b"\r\n\r\nhello there\r\nyou: two\r\n")


@given(st.binary(max_size=200))
def test_any_octets_become_lines_ended_by_crlf(octets):
    """No bare CR or LF leaves, and there is one header section with the sender."""
    made = prepare(octets, sender="a@b", recipients=["c@d"], now=0)
    assert made.endswith(b"\r\n")
    assert not {b"\r", b"\n"} & {
        made[i : i + 1] for i in range(len(made)) if made[i : i + 2] != b"\r\n" and made[i - 1 : i + 1] != b"\r\n"
    }
    assert b"Date:" in made or b"date" in made.lower()
