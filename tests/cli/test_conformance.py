"""`requiretls-mta conformance`: ours passes, and each check is seen to fail where a server has its defect."""

import itertools
import json
import socket
import time

import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner
from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.mail import smtp

from requiretls_mta.cli.conformance_checks import CHECKS
from requiretls_mta.cli.conformance_run import PAUSES, Run, Target
from requiretls_mta.cli.main import cli
from requiretls_mta.tls.client import Handshake, client_context
from tests.cli.defective import Defective
from tests.lab.ca import CA
from tests.smtp.dialogue import in_thread
from tests.smtp.fake_mx import FakeMX
from tests.smtp.test_server import SessionCase
from tests.threaded import ThreadedServer

IDS = [check.id for check in CHECKS]


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    """A root that the tests trust."""
    return CA(tmp_path_factory.mktemp("conformance"))


@pytest.fixture(scope="module")
def files(ca):
    """A certificate for server.test."""
    return ca.host("server.test", "127.0.0.1")


@pytest.fixture
def serve(files):
    """Starts servers with defects, and ends them."""
    started = []

    def start(*defects):
        started.append(Defective(files, *defects))
        return started[-1]

    yield start
    for server in started:
        server.close()


def run(port, *words, **options):
    return CliRunner().invoke(cli, ["conformance", f"127.0.0.1:{port}", *words], **options)


def report(port, ca, *words):
    result = run(port, "--trust", str(ca.roots), "--json", *words)
    return result.exit_code, json.loads(result.stdout)


def verdicts(found):
    return {check["id"]: check["verdict"] for check in found["checks"]}


def seen(found, wanted):
    return next(check["seen"] for check in found["checks"] if check["id"] == wanted)


def troubles(found):
    return {name for name, verdict in verdicts(found).items() if verdict in ("fail", "warning")}


@pytest.mark.parametrize("word", ["", "closes"])
def test_a_good_server_is_conformant(serve, ca, word):
    """Status 0, and everything passes; whether it throws away what is behind STARTTLS, or hangs up."""
    status, found = report(serve(word).port, ca)
    assert {name for name, verdict in verdicts(found).items() if verdict != "pass"} == {"deliver"}
    assert (status, found["conformant"]) == (0, True)


# What a defect takes with it.
ALSO = {"starttls-offered": {"tls"}}
WARNINGS = {
    "twice",
    "empty-sender",
    "mail-after-helo",
    "starttls-argument",
    "starttls-in-tls",
    "old-tls",
    "chain",
    "name",
}


@pytest.mark.parametrize("defect", IDS)
def test_each_defect_is_found_by_its_check(serve, ca, tmp_path, defect):
    """That check and no other finds it; those that rest on it are not tested; warnings leave a server conformant."""
    words = {
        "name": ["--name", "other.test"],
        "chain": ["--trust", str(CA(tmp_path, "Other CA").roots)],
        "deliver": ["--deliver", "ann@server.test"],
    }
    status, found = report(serve(defect).port, ca, *words.get(defect, ()))
    assert troubles(found) == {defect} | ALSO.get(defect, set())
    assert verdicts(found)[defect] == ("warning" if defect in WARNINGS else "fail")
    assert (status, found["conformant"]) == ((0, True) if defect in WARNINGS else (1, False))


def test_a_check_without_its_ground_is_not_tested(serve, ca):
    """The reason names what it needs."""
    _, found = report(serve("offered").port, ca)
    assert verdicts(found)["twice"] == "not tested"
    assert seen(found, "mail") == seen(found, "twice") == "it needs what failed: REQUIRETLS is offered inside TLS"
    # What is true without the keyword is told all the same.
    assert verdicts(found)["injected-command"] == verdicts(found)["mail-in-clear"] == "pass"


def test_the_report_for_programs_has_its_form(serve, ca):
    """As interface: server, time, conformant, and each check with its six members."""
    server = serve()
    _, found = report(server.port, ca)
    assert found.keys() == {"server", "time", "conformant", "checks"}
    assert found["server"] == f"127.0.0.1:{server.port}"
    assert found["time"].endswith("Z")
    assert [check["id"] for check in found["checks"]] == IDS
    for check in found["checks"]:
        assert check.keys() == {"id", "title", "clause", "verdict", "seen", "expected"}
        assert check["verdict"] in ("pass", "fail", "warning", "not tested")
        assert all(isinstance(value, str) and value for value in check.values())
        assert "RFC" in check["clause"]


def test_the_report_for_people_tells_what_was_seen(serve, ca):
    """One line for what is well; seen and expected for what is not; the sum at the end; no blanks at line ends."""
    result = run(serve("value").port, "--trust", str(ca.roots))
    lines = result.stdout.split("\n")
    at = lines.index("  fail        REQUIRETLS=x is refused  RFC 8689 2")
    assert lines[at + 1].endswith(" REQUIRETLS=x: 250 2.1.0 ok")
    assert lines[at + 2].startswith("              expected  501")
    assert "  pass        STARTTLS is offered  RFC 8689 2, RFC 3207 2" in lines
    assert lines[-2] == "Not conformant: 28 passed, 1 failed, 1 not tested. No message was sent."
    assert "\x1b" not in result.stdout
    assert all(line == line.rstrip() for line in lines)
    assert result.stderr == ""


def test_a_reason_that_neighbours_share_is_told_once(serve, ca):
    """A server without the keyword fills no screen with the same words."""
    result = run(serve("offered").port, "--trust", str(ca.roots))
    assert result.stdout.count("it needs what failed: REQUIRETLS is offered inside TLS") < 5


def test_no_message_is_sent_by_default(serve, ca):
    """It goes as far as RCPT, says QUIT, and opens one connection after the other, a bounded number."""
    server = serve()
    report(server.port, ca)
    assert "DATA" not in server.verbs
    assert server.verbs.count("QUIT") > 20
    assert server.connections < len(CHECKS)


def test_a_message_is_sent_by_order(serve, ca):
    """With both forms, to that address; and the report says so plainly."""
    server = serve()
    result = run(server.port, "--trust", str(ca.roots), "--deliver", "ann@server.test", "--from", "me@x.test")
    assert result.exit_code == 0
    assert result.stdout.endswith("30 passed. One message was sent to ann@server.test.\n")
    ((sender, text),) = server.messages
    assert sender == "<me@x.test>"
    assert "\nTLS-Required: No\n" in text
    assert "\nTo: ann@server.test\n" in text


def test_a_message_that_is_refused_was_not_sent(serve, ca):
    """And the report does not say that it was."""
    result = run(serve("deliver").port, "--trust", str(ca.roots), "--deliver", "ann@server.test")
    assert "was not seen to be taken" in result.stdout


def test_a_temporary_refusal_proves_nothing(serve, ca):
    """A server that greylists recipients is not told to fail there."""
    status, found = report(serve("greylists").port, ca)
    assert status == 0
    assert verdicts(found)["rcpt"] == "warning"
    assert seen(found, "rcpt").startswith("refused, but only for now")


def test_to_be_liberal_is_not_to_remember(serve, ca):
    """Who takes MAIL without any EHLO, in the clear as well, is warned of; who forgot to forget one fails."""
    status, found = report(serve("liberal").port, ca)
    assert (status, troubles(found)) == (0, {"mail-before-ehlo"})
    assert seen(found, "mail-before-ehlo").endswith("(before any EHLO: 250 2.1.0 ok)")


def test_lmtp_is_spoken(serve, ca):
    """LHLO; HELO is no word of it."""
    status, found = report(serve("lmtp").port, ca, "--lmtp")
    assert status == 0
    assert seen(found, "mail-after-helo") == "LMTP has no HELO"
    assert verdicts(report(serve().port, ca, "--lmtp")[1])["ehlo"] == "fail"


def test_tls_may_come_first(serve, ca):
    """On port 465 nothing is said in the clear, and nothing about it is tested."""
    server = serve("implicit")
    status, found = report(server.port, ca, "--implicit-tls")
    assert status == 0
    assert {name for name, verdict in verdicts(found).items() if verdict == "not tested"} == {
        "starttls-offered",
        "not-offered-in-clear",
        "mail-in-clear",
        "mail-before-ehlo",
        "injected-command",
        "injected-fragment",
        "starttls-in-transaction",
        "starttls-argument",
        "deliver",
    }
    assert report(serve().port, ca, "--implicit-tls")[0] == 1


def test_a_server_that_wants_a_login_gets_one(serve, ca, tmp_path):
    """Without it MAIL is not to be tested, and the server not shown to be conformant."""
    server, password = serve("login"), tmp_path / "password"
    password.write_text("secret\n")
    status, found = report(server.port, ca)
    assert (status, verdicts(found)["mail"]) == (1, "not tested")
    assert "530 5.7.0" in seen(found, "mail")
    login = ("--login", "ann", "--password-file", str(password))
    # In its transactions outside TLS the server wants one as well, and none is made there.
    assert report(server.port, ca, *login)[0] == 0
    password.write_text("wrong")
    status, found = report(server.port, ca, *login)
    assert "AUTH PLAIN: 535" in seen(found, "mail")
    assert status == 1


def test_a_password_is_for_who_is_authenticated(serve, ca, tmp_path, monkeypatch):
    """Away from this machine, a certificate that proves nothing gets no AUTH command."""
    (tmp_path / "password").write_text("secret")
    monkeypatch.setattr("requiretls_mta.cli.conformance_run._is_loopback", lambda host: False)
    server, login = serve("login"), ("--login", "ann", "--password-file", str(tmp_path / "password"))
    _, found = report(server.port, ca, *login, "--name", "other.test")
    assert seen(found, "mail").startswith("no password is sent to who is not authenticated: the certificate does not")
    assert "AUTH" not in server.verbs
    assert report(server.port, ca, *login)[0] == 0


def test_nobody_there_is_status_3():
    """The service cannot be reached."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    result = run(port)
    assert result.exit_code == 3
    assert "refused" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nowhere"],
        ["host:0"],
        ["host:25", "--from", "no address"],
        ["host:25", "--deliver", "ä@b"],
        ["host:25", "--to", "a@b>\r\nDATA"],
        ["host:25", "--trust", "/nonexistent"],
        ["host:25", "--name", "ä" * 300],
        ["host:25", "--timeout", "0"],
        ["h" * 64 + ":25"],
        ["a b:25"],
        ["host:25", "--login", "ann"],
    ],
)
def test_wrong_usage_is_status_2(words):
    """Before anybody is connected to."""
    assert CliRunner().invoke(cli, ["conformance", *words]).exit_code == 2


def test_a_trust_bundle_without_certificates_is_status_2(tmp_path):
    """And named."""
    (tmp_path / "empty.pem").write_text("")
    result = run(25, "--trust", str(tmp_path / "empty.pem"))
    assert result.exit_code == 2
    assert "empty.pem" in result.stderr


class TestPatience:
    """Of a server that wants no more connections now."""

    def target(self, server, ca, **options):
        return Target(
            host="127.0.0.1",
            port=server.port,
            helo="client.test",
            sender="a@client.test",
            recipient="postmaster",
            context=client_context(str(ca.roots)),
            name="127.0.0.1",
            **options,
        )

    def run(self, server, ca):
        naps = []
        return list(Run(self.target(server, ca), sleep=naps.append).checks(CHECKS)), naps

    def test_it_is_asked_again_after_a_pause(self, serve, ca):
        """One 421 is no finding."""
        findings, naps = self.run(serve("busy"), ca)
        assert naps == [PAUSES[0]]
        assert [finding.verdict.value for finding in findings][:-1] == ["pass"] * (len(CHECKS) - 1)

    def test_it_is_left_alone_in_the_end(self, files, ca):
        """After each pause was made once, nothing is tested, and not one connection more is made."""
        with hostile(b"421 4.7.0 \x1b[31mno\r\n") as server:
            findings, naps = self.run(server, ca)
        assert naps == list(PAUSES)
        assert server.connections == len(PAUSES) + 1
        assert {finding.verdict.value for finding in findings} == {"not tested"}
        assert findings[0].seen == "greeting: 421 4.7.0 \\x1b[31mno"

    def test_a_run_ends_when_its_time_is_over(self, serve, ca):
        """However slowly each reply comes in time; the rest is not tested."""
        seconds = itertools.count()
        target = self.target(serve(), ca, timeout=10.0)
        findings = list(Run(target, monotonic=lambda: next(seconds), sleep=lambda _: None).checks(CHECKS))
        assert findings[0].verdict.value == "pass"
        assert "the time for this run is over" in {finding.seen for finding in findings}


class hostile(ThreadedServer):
    """A server that says the same to everybody; `drip`: an octet at a time; `endless`: again and again."""

    def __init__(self, greeting, *, drip=False, endless=False, mute=False):
        self.greeting, self.drip, self.endless, self.mute = greeting, drip, endless, mute
        super().__init__()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def talk(self, connection):
        for octet in self.greeting if self.drip else b"":
            connection.sendall(bytes([octet]))
            if self.over.wait(0.05):
                return
        if not self.drip:
            connection.sendall(self.greeting)
        while self.endless and not self.over.is_set():
            connection.sendall(self.greeting)
        if self.mute:
            self.over.wait(10)


HOSTILE = {
    "silence": ({"greeting": b"", "mute": True}, "no complete reply in time"),
    "hangs up": ({"greeting": b""}, "the server closed the connection"),
    "hangs up after the greeting": ({"greeting": b"220 hi\r\n"}, "connection"),
    "never-ending reply": ({"greeting": b"220-hello\r\n", "endless": True}, "too many lines"),
    "endless replies": ({"greeting": b"220 hello\r\n", "endless": True}, "220 hello"),
    "endless line": ({"greeting": b"220 hello", "endless": True}, "too long"),
    "binary": ({"greeting": bytes(range(256))}, "no reply: \\x00\\x01"),
    "slow drip": ({"greeting": b"220 " + b"x" * 1000, "drip": True}, "no complete reply in time"),
    "TLS first": ({"greeting": b"\x16\x03\x01\x02\x00", "mute": True}, "no complete reply in time"),
    "HTTP": ({"greeting": b"HTTP/1.1 400 Bad Request\r\n\r\n"}, "HTTP/1.1"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_servers_are_reported_and_end(kind):
    """Bounded in time and size, told as what they are; status 1; nothing else is tested."""
    options, says = HOSTILE[kind]
    began = time.monotonic()
    with hostile(**options) as server:
        result = run(server.port, "--timeout", "0.5", "--json")
    assert time.monotonic() - began < 10
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert says in seen(found, "ehlo"), seen(found, "ehlo")
    assert verdicts(found)["ehlo"] == "fail"
    assert set(verdicts(found).values()) == {"fail", "not tested"}
    assert server.connections == 1


@pytest.mark.parametrize(
    "options",
    [
        {"stall": True},
        {"break_handshake": True},
        {"starttls": "554 5.7.0 no"},
        {"behind": b"250-fake.test\r\n250 REQUIRETLS\r\n"},
    ],
)
def test_a_handshake_that_goes_wrong_is_a_failure(files, options):
    """It hangs, breaks, is refused, or is preceded by replies in the clear that a careless client would believe."""
    server = FakeMX(files=files, **options)
    result = run(server.port, "--timeout", "0.5", "--json")
    server.close()
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert verdicts(found)["tls"] == "fail"
    assert verdicts(found)["offered"] == "not tested"


def test_a_certificate_that_no_reader_takes_is_a_failure(serve, monkeypatch):
    """Whatever it makes our readers do, the run goes on to its end."""

    def broken(handshake, connection):
        raise ValueError("no certificate is like this")

    monkeypatch.setattr(Handshake, "facts", broken)
    found = json.loads(run(serve().port, "--json").stdout)
    assert seen(found, "tls") == "the certificate cannot be read: no certificate is like this"
    assert verdicts(found)["tls"] == "fail"


def test_tls_that_is_off_for_now_is_no_failure(files):
    """454: not tested, and not shown to be conformant."""
    server = FakeMX(files=files, starttls="454 4.7.0 later", replies={"MAIL": "530 5.7.10 not in the clear"})
    result = run(server.port)
    server.close()
    assert result.exit_code == 1
    assert "because   STARTTLS: 454 4.7.0 later" in result.stdout
    assert "Not shown to be conformant: " in result.stdout


def test_completion_knows_the_command():
    """And its options."""
    completion = BashComplete(cli, {}, "requiretls-mta", "X")
    assert [item.value for item in completion.get_completions([], "con")] == ["config", "conformance"]
    assert "--deliver" in [item.value for item in completion.get_completions(["conformance"], "--d")]


def test_terminal_escapes_are_escaped():
    """A greeting paints no terminal, in text or JSON."""
    with hostile("554 5.7.1 \x1b]0;owned\x07\u202e\x9b1m no\r\n".encode()) as server:
        text, as_json = run(server.port).output, run(server.port, "--json").output
    for output in (text, as_json):
        assert all(character.isprintable() or character == "\n" for character in output)
        assert "owned" in output


class OurServer(SessionCase):
    """The server of this house, over real sockets and TLS."""

    def conformance(self, port, *words):
        return in_thread(reactor, lambda: run(port, "--json", *words))

    @inlineCallbacks
    def test_it_is_conformant(self):
        """Every check passes but for what the certificate of the test is not."""
        server = self.serve()
        result = yield self.conformance(server.number, "--name", "mx.test", "--deliver", "ann@mx.test")
        found = json.loads(result.stdout)
        self.assertEqual(troubles(found), {"chain"})
        self.assertEqual(set(verdicts(found).values()), {"pass", "warning"})
        self.assertEqual(result.exit_code, 0)
        (transaction,) = server.answers.accepted
        self.assertEqual(transaction.envelope.tag.value, "required")

    @inlineCallbacks
    def test_it_is_conformant_as_lmtp(self):
        """LHLO and all that follows."""
        server = self.serve(settings={"service": "lmtp"})
        result = yield self.conformance(server.number, "--lmtp", "--name", "mx.test")
        self.assertEqual(troubles(json.loads(result.stdout)), {"chain"})
        self.assertEqual(result.exit_code, 0)

    @inlineCallbacks
    def test_one_that_promises_nothing_is_not(self):
        """requiretls.enabled = false: not offered, status 1; and nothing is taken that was not promised."""
        result = yield self.conformance(self.serve(settings={"requiretls": False}).number, "--name", "mx.test")
        self.assertEqual(troubles(json.loads(result.stdout)), {"offered", "chain"})
        self.assertEqual(result.exit_code, 1)


class StockTwisted(SessionCase):
    """twisted.mail.smtp.ESMTP, as of 26.10 and before."""

    @inlineCallbacks
    def test_its_starttls_injection_is_caught(self):
        """It executes what stood in the clear behind STARTTLS, and completes half a command with octets of TLS."""
        import tempfile
        from pathlib import Path

        files = CA(Path(tempfile.mkdtemp())).host("mx.test")
        tls = DefaultOpenSSLContextFactory(str(files.key), str(files.chain))
        factory = smtp.SMTPFactory(None)
        factory.buildProtocol = lambda address: smtp.ESMTP(contextFactory=tls)
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        result = yield in_thread(reactor, lambda: run(port.getHost().port, "--json", "--timeout", "5"))
        found = json.loads(result.stdout)
        self.assertEqual(result.exit_code, 1)
        self.assertTrue({"injected-command", "injected-fragment", "offered"} <= troubles(found))
        self.assertIn("RSET, sent in the clear, was executed", seen(found, "injected-command"))
        self.assertIn("joined with T", seen(found, "injected-fragment"))
