"""The server session over real sockets and real TLS: its scenarios of S01 to S33, and the replies' table."""

import shutil
import tempfile
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.trial.unittest import TestCase

from requiretls_mta.message import reply
from requiretls_mta.message.envelope import Tag
from requiretls_mta.smtp.settings import SessionSettings
from requiretls_mta.tls.server import ServerContexts, load
from tests.lab.ca import CA
from tests.smtp.dialogue import Server, Talk, in_thread


class SessionCase(TestCase):
    """Starts a server per test; the dialogue runs in a thread."""

    timeout = 30

    def serve(self, **options):
        settings = options.pop("settings", {})
        if options.pop("tls", True):
            options["contextFactory"] = self.context()
        server = Server(reactor, settings=SessionSettings(hostname="mx.test", **settings), **options)
        self.addCleanup(self._stop, server)
        return server

    def context(self):
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        files = CA(folder).host("mx.test")
        return ServerContexts(load(certificate=files.chain, key=files.key))

    @inlineCallbacks
    def _stop(self, server):
        yield server.port.stopListening()
        for session in list(server.factory.sessions):
            session.transport.abortConnection()
        while server.factory.sessions:
            d = Deferred()
            reactor.callLater(0.01, d.callback, None)
            yield d

    def talk(self, dialogue, server, *arguments):
        def run():
            client = Talk(server.number)
            try:
                return dialogue(client, *arguments)
            finally:
                client.close()

        return in_thread(reactor, run)


class Advertising(SessionCase):
    """What EHLO lists, and when."""

    def test_s01_nothing_is_promised_in_the_clear(self):
        """No REQUIRETLS before TLS; STARTTLS is offered."""

        def dialogue(client):
            assert client.hear() == "220 mx.test ESMTP requiretls-mta"
            return client.ask("EHLO client.example").split("\n")

        def check(lines):
            keywords = [line[4:] for line in lines]
            assert keywords == [
                "mx.test",
                "PIPELINING",
                "SIZE 52428800",
                "8BITMIME",
                "ENHANCEDSTATUSCODES",
                "CHUNKING",
                "SMTPUTF8",
                "DSN",
                "STARTTLS",
            ]

        return self.talk(dialogue, self.serve()).addCallback(check)

    def test_s02_requiretls_is_promised_inside_tls(self):
        """After STARTTLS: REQUIRETLS, and no STARTTLS any more."""

        def check(lines):
            assert "250 REQUIRETLS" in lines
            assert "STARTTLS" not in lines

        return self.talk(lambda client: client.tls(), self.serve()).addCallback(check)

    def test_s03_helo_promises_nothing(self):
        """After HELO there are no parameters at all."""

        def dialogue(client):
            client.tls()
            return client.ask("HELO client.example"), client.ask("MAIL FROM:<a@b.example> REQUIRETLS")

        def check(answers):
            assert answers[0] == "250 mx.test"
            assert answers[1].startswith("555 5.5.4")

        return self.talk(dialogue, self.serve()).addCallback(check)

    def test_s13_a_disabled_feature_is_not_offered(self):
        """requiretls.enabled = false: not listed, and unknown as a parameter."""

        def dialogue(client):
            return client.tls(), client.ask("MAIL FROM:<a@b.example> REQUIRETLS")

        def check(answers):
            assert "REQUIRETLS" not in answers[0]
            assert answers[1].startswith("555 5.5.4")

        return self.talk(dialogue, self.serve(settings={"requiretls": False})).addCallback(check)

    def test_s28_lmtp_promises_it_too(self):
        """LHLO inside TLS lists REQUIRETLS; EHLO is unknown to LMTP."""

        def dialogue(client):
            lines = client.tls("LHLO")
            return lines, client.ask("EHLO x.example"), client.ask("HELO x.example")

        def check(answers):
            assert "REQUIRETLS" in answers[0]
            assert answers[1].startswith("502 5.5.1") and answers[2].startswith("502 5.5.1")

        return self.talk(dialogue, self.serve(settings={"service": "lmtp"})).addCallback(check)

    def test_without_promises_nobody_is_misled(self):
        """An application that promises nothing offers none of the three."""

        def dialogue(client):
            return (
                client.tls(),
                client.ask("MAIL FROM:<a@b.example> REQUIRETLS"),
                client.ask("MAIL FROM:<a@b.example> RET=HDRS"),
            )

        def check(answers):
            assert not {"REQUIRETLS", "DSN", "SMTPUTF8"} & set(answers[0].replace("-", " ").split())
            assert all(answer.startswith("555 5.5.4") for answer in answers[1:])

        return self.talk(dialogue, self.serve(promises=())).addCallback(check)

    def test_implicit_tls_is_tls_from_the_first_octet(self):
        """submissions: no STARTTLS, REQUIRETLS at once."""
        from twisted.protocols.tls import TLSMemoryBIOFactory

        server = self.serve(settings={"service": "submissions"})
        wrapped = TLSMemoryBIOFactory(server.factory.contextFactory, False, server.factory)
        port = reactor.listenTCP(0, wrapped, interface="127.0.0.1")
        self.addCleanup(port.stopListening)

        def dialogue(client):
            return client.hear(), client.ask("EHLO x.example")

        def run():
            client = Talk(port.getHost().port).start_tls()
            try:
                return dialogue(client)
            finally:
                client.close()

        def check(answers):
            assert answers[0].startswith("220 ")
            assert "REQUIRETLS" in answers[1] and "STARTTLS" not in answers[1]

        return in_thread(reactor, run).addCallback(check)


# Octets of a MAIL line with its CRLF, AUTH not being offered (RFC 5321, 1870, 6152, 6531, 8689, 3461).
ROOM = 512 + 26 + 17 + 10 + 11 + 500


def _mail_line(octets):
    """A MAIL command of that many octets without its CRLF."""
    return f"MAIL FROM:<a@b.example> ENVID={'e' * 90}".ljust(octets)


# Each: commands inside TLS after EHLO, and the beginnings of their replies.
IN_TLS = [
    (
        "S06 S07",
        ["MAIL FROM:<a@b.example> REQUIRETLS", "RSET", "MAIL FROM:<a@b.example> RequireTls"],
        ["250 2.1.0", "250 2.0.0", "250 2.1.0"],
    ),
    (
        "S08",
        ["MAIL FROM:<a@b.example> REQUIRETLS=1", "MAIL FROM:<a@b.example> REQUIRETLS="],
        ["501 5.5.4", "501 5.5.4"],
    ),
    ("S09", ["MAIL FROM:<a@b.example> REQUIRETLS requiretls"], ["501 5.5.4"]),
    ("S10", ["MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example> REQUIRETLS"], ["250 2.1.0", "555 5.5.4"]),
    ("S11", ["MAIL FROM:<a@b.example> REQUIRETLS BOGUS=1", "RCPT TO:<c@d.example>"], ["555 5.5.4", "503 5.5.1"]),
    ("S17", ["STARTTLS x", "STARTTLS"], ["501 5.5.4", "503 5.5.1"]),
    ("S32", ["MAIL FROM:<> REQUIRETLS"], ["250 2.1.0"]),
    ("twice", ["MAIL FROM:<a@b.example> SIZE=1 SIZE=1"], ["501 5.5.4"]),
    (
        "values",
        [f"MAIL FROM:<a@b.example> {p}" for p in ("SIZE=x", "SIZE", "BODY=9BIT", "RET=SOME", "ENVID=a=b", "ENVID=")],
        ["501 5.5.4"] * 6,
    ),
    (
        "rcpt values",
        [
            "MAIL FROM:<a@b.example>",
            *(f"RCPT TO:<c@d.example> {p}" for p in ("NOTIFY=NEVER,SUCCESS", "NOTIFY=X", "NOTIFY", "ORCPT=x")),
        ],
        ["250 2.1.0", *["501 5.5.4"] * 4],
    ),
    ("size", ["MAIL FROM:<a@b.example> SIZE=52428801"], ["552 5.3.4"]),
    (
        "utf8",
        ["MAIL FROM:<ä@b.example>", "MAIL FROM:<ä@b.example> SMTPUTF8", "RCPT TO:<ö@d.example>"],
        ["553 5.6.7", "250 2.1.0", "250 2.1.5"],
    ),
    (
        "order",
        ["RCPT TO:<c@d.example>", "DATA", "BDAT 0 LAST", "MAIL FROM:<a@b.example>", "MAIL FROM:<a@b.example>", "DATA"],
        ["503 5.5.1"] * 3 + ["250 2.1.0"] + ["503 5.5.1"] * 2,
    ),
    ("arguments", ["RSET x", "QUIT x", "NOOP x", "DATA x"], ["501 5.5.4", "501 5.5.4", "250 2.0.0", "501 5.5.4"]),
    (
        "small ones",
        ["VRFY root", "EXPN list", "HELP", "NOOP", "ETRN x", "FOO", "", "TURN"],
        ["252 2.0.0", "502 5.5.1", "214 2.0.0", "250 2.0.0", "502 5.5.1", "500 5.5.2", "500 5.5.2", "502 5.5.1"],
    ),
    (
        "paths",
        [
            "MAIL FROM:a@b.example",
            "MAIL FROM:<abc>",
            "MAIL FROM:<@x.example,@y.example:a@b.example>",
            "RCPT TO:<a@[192.0.2.1]>",
            "RCPT TO:<>",
            'RCPT TO:<"a b"@d.example>',
            "RCPT TO:<Postmaster>",
        ],
        ["501 5.5.4", "553 5.1.3", "250 2.1.0", "250 2.1.5", "553 5.1.3", "250 2.1.5", "250 2.1.5"],
    ),
    (
        "s12",
        [_mail_line(ROOM - 2), "RSET", _mail_line(ROOM - 1), "NOOP"],
        ["250 2.1.0", "250 2.0.0", "500 5.5.2", "250 2.0.0"],
    ),
    ("long", ["NOOP " + "x" * 505, "NOOP " + "x" * 506, "NOOP"], ["250 2.0.0", "500 5.5.2", "250 2.0.0"]),
]


class Replies(SessionCase):
    """The replies of commands, one test per group of IN_TLS."""

    def one(self, commands, expected):
        def dialogue(client):
            client.tls()
            return [client.ask(command) for command in commands]

        def check(answers):
            assert [a[: len(e)] for a, e in zip(answers, expected, strict=True)] == expected, answers

        return self.talk(dialogue, self.serve()).addCallback(check)

    def test_s04_the_greeting_before_tls_is_forgotten(self):
        """MAIL without a new EHLO after STARTTLS: 503."""

        def dialogue(client):
            client.hear()
            client.ask("EHLO x.example")
            client.ask("STARTTLS")
            client.start_tls()
            return client.ask("MAIL FROM:<a@b.example> REQUIRETLS")

        return self.talk(dialogue, self.serve()).addCallback(lambda a: self.assertEqual(a[:9], "503 5.5.1"))

    def test_s05_the_parameter_in_the_clear_begins_nothing(self):
        """530 5.7.10, no transaction."""

        def dialogue(client):
            client.hear()
            client.ask("EHLO x.example")
            return client.ask("MAIL FROM:<a@b.example> REQUIRETLS"), client.ask("RCPT TO:<c@d.example>")

        def check(answers):
            assert answers[0].startswith("530 5.7.10") and answers[1].startswith("503 5.5.1")

        return self.talk(dialogue, self.serve()).addCallback(check)

    def test_s16_no_transaction_survives_starttls(self):
        """STARTTLS inside a transaction is refused."""

        def dialogue(client):
            client.hear()
            return [client.ask(c) for c in ("EHLO x.example", "MAIL FROM:<a@b.example>", "STARTTLS")][-1]

        return self.talk(dialogue, self.serve()).addCallback(lambda a: self.assertEqual(a[:9], "503 5.5.1"))

    def test_s30_a_listener_may_want_tls_for_everything(self):
        """require_tls: 530 5.7.0 in the clear, mail inside TLS."""

        def dialogue(client):
            client.hear()
            client.ask("EHLO x.example")
            before = client.ask("MAIL FROM:<a@b.example>")
            client.ask("STARTTLS")
            client.start_tls()
            client.ask("EHLO x.example")
            return before, client.ask("MAIL FROM:<a@b.example>")

        def check(answers):
            assert answers[0].startswith("530 5.7.0") and answers[1].startswith("250 2.1.0")

        return self.talk(dialogue, self.serve(settings={"require_tls": True})).addCallback(check)

    def test_mail_before_any_greeting(self):
        """503 5.5.1."""

        def dialogue(client):
            client.hear()
            return client.ask("MAIL FROM:<a@b.example>")

        return self.talk(dialogue, self.serve()).addCallback(lambda a: self.assertEqual(a[:9], "503 5.5.1"))

    def test_the_last_error_ends_the_session(self):
        """The max_errors-th 5xx becomes 421 4.7.0; what is pipelined behind it gets no reply."""

        def dialogue(client):
            client.hear()
            client.say("FOO\r\n" * 5)
            return client.rest()

        def check(got):
            assert got.count(b"500 5.5.2") == 2
            assert got.endswith(b"421 4.7.0 Too many errors, closing connection\r\n")

        return self.talk(dialogue, self.serve(settings={"max_errors": 3})).addCallback(check)

    def test_a_web_browser_is_sent_away(self):
        """421 4.7.0 and close for an HTTP verb, whatever stands behind it and however much."""
        words = ["/", "/" + "a" * 600, "/" + "a" * 30_000, "/\t\1"]

        def dialogue(client):
            client.hear()
            client.say(f"POST {words.pop()} HTTP/1.1\r\nMAIL FROM:<a@b.example>\r\n")
            return client.rest()

        def check(got):
            assert got == b"421 4.7.0 This is not an HTTP server\r\n"
            return self.talk(dialogue, server).addCallback(check) if words else None

        server = self.serve()
        return self.talk(dialogue, server).addCallback(check)

    def test_surplus_recipients(self):
        """452 4.5.3, and the others stay."""

        def dialogue(client):
            client.tls()
            client.ask("MAIL FROM:<a@b.example>")
            return [client.ask(f"RCPT TO:<r{n}@d.example>")[:9] for n in range(3)]

        return self.talk(dialogue, self.serve(settings={"max_recipients": 2})).addCallback(
            lambda got: self.assertEqual(got, ["250 2.1.5", "250 2.1.5", "452 4.5.3"])
        )

    def test_one_client_too_many(self):
        """421 4.7.0 instead of the greeting, and room again when one leaves."""

        def dialogue(client):
            greeted = client.hear()
            second = Talk(client.socket.getpeername()[1])
            refused = second.rest()
            return greeted, refused

        def check(answers):
            assert answers[0].startswith("220 ")
            assert answers[1].startswith(b"421 4.7.0")

        return self.talk(dialogue, self.serve(settings={"max_connections_per_client": 1})).addCallback(check)


for _number, (_name, _commands, _expected) in enumerate(IN_TLS):

    def _test(self, commands=_commands, expected=_expected):
        return self.one(commands, expected)

    _test.__doc__ = f"{_name}: the replies inside TLS."
    setattr(Replies, f"test_{_name.lower().replace(' ', '_')}_{_number}", _test)


class Injection(SessionCase):
    """What somebody in between sends in the clear never reaches the inside of TLS."""

    def test_s14_a_command_behind_starttls_is_not_executed(self):
        """The connection is closed; no transaction begins."""

        def dialogue(client):
            client.hear()
            client.ask("EHLO x.example")
            client.say("STARTTLS\r\nMAIL FROM:<evil@b.example> REQUIRETLS\r\n")
            return client.rest()

        server = self.serve()

        def check(got):
            assert b"250" not in got
            assert server.answers.begun == []

        return self.talk(dialogue, server).addCallback(check)

    def test_s15_a_fragment_behind_starttls_is_not_executed(self):
        """Not even an unfinished line is kept."""

        def dialogue(client):
            client.hear()
            client.ask("EHLO x.example")
            client.say("STARTTLS\r\nRSE")
            return client.rest()

        return self.talk(dialogue, self.serve()).addCallback(lambda got: self.assertEqual(got, b""))

    def test_octets_after_the_220_spoil_the_handshake(self):
        """Clear octets in a segment of their own are no handshake."""

        def dialogue(client):
            client.hear()
            client.ask("EHLO x.example")
            client.ask("STARTTLS")
            client.say("MAIL FROM:<evil@b.example>\r\n")
            return client.rest()

        server = self.serve()

        def check(got):
            assert b"250" not in got
            assert server.answers.begun == []

        return self.talk(dialogue, server).addCallback(check)


MESSAGE = b"Subject: x\r\n\r\n.dot\r\nbody\r\n"


class Messages(SessionCase):
    """DATA and BDAT: what the transaction gets, and the replies."""

    def send(self, client, data=b"Subject: x\r\n\r\n..dot\r\nbody\r\n.\r\n", mail=""):
        client.ask(f"MAIL FROM:<a@b.example>{mail}")
        client.ask("RCPT TO:<c@d.example>")
        assert client.ask("DATA").startswith("354 ")
        client.say(data)
        return client.hear()

    def test_a_message_arrives_as_it_was_sent(self):
        """Dots unstuffed, content described, the envelope complete; the queue id in the reply."""
        server = self.serve()

        def dialogue(client):
            client.tls()
            return self.send(client, mail=" SIZE=100 BODY=8BITMIME REQUIRETLS RET=HDRS ENVID=e1")

        def check(answer):
            (got,) = server.answers.accepted
            assert answer == "250 2.0.0 Ok: queued as 0000000000000001"
            assert got.octets == MESSAGE
            assert (got.content.size, got.content.header_end) == (len(MESSAGE), 12)
            assert got.envelope.tag is Tag.REQUIRED
            assert (got.envelope.ret, got.envelope.envid, got.envelope.body) == ("HDRS", "e1", "8BITMIME")
            assert (got.session.protocol, got.session.tls.version) == ("ESMTPS", "TLSv1.3")

        return self.talk(dialogue, server).addCallback(check)

    def test_everything_in_one_segment_is_answered_in_order(self):
        """RFC 2920: a pipelined transaction and QUIT."""
        server = self.serve(tls=False)

        def dialogue(client):
            client.say(
                b"EHLO x.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<bad>\r\nDATA\r\n"
                b"..x\r\n.\r\nMAIL FROM:<a2@b.example>\r\nRSET\r\nQUIT\r\n"
            )
            return client.rest()

        def check(got):
            codes = [line[:3] for line in got.split(b"\r\n") if line[3:4] == b" "]
            assert codes == [b"220", b"250", b"250", b"250", b"553", b"354", b"250", b"250", b"250", b"221"]
            assert server.answers.accepted[0].octets == b".x\r\n"

        return self.talk(dialogue, server).addCallback(check)

    def test_one_octet_at_a_time(self):
        """Any split of the octets is the same dialogue."""
        server = self.serve(tls=False)

        def dialogue(client):
            for octet in (
                b"EHLO x.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n"
                + MESSAGE.replace(b"\r\n.", b"\r\n..")
                + b".\r\nQUIT\r\n"
            ):
                client.say(bytes([octet]))
            return client.rest()

        def check(got):
            assert got.endswith(b"221 2.0.0 Bye\r\n")
            assert server.answers.accepted[0].octets == MESSAGE

        return self.talk(dialogue, server).addCallback(check)

    def test_replies_wait_for_a_slow_policy(self):
        """RCPT, DATA and QUIT behind an unanswered MAIL get their replies after it."""
        server = self.serve(tls=False)
        slow = Deferred()
        server.answers.mail_reply = lambda: slow

        def dialogue(client):
            client.hear()
            client.ask("EHLO x.example")
            client.say("MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nQUIT\r\n")
            reactor.callFromThread(reactor.callLater, 0.05, slow.callback, reply.SENDER_OK)
            return client.rest()

        return self.talk(dialogue, server).addCallback(
            lambda got: self.assertEqual(got, b"250 2.1.0 Sender ok\r\n250 2.1.5 Recipient ok\r\n221 2.0.0 Bye\r\n")
        )

    def test_quit_waits_for_the_reply_to_the_message(self):
        """The 250 is never lost, which would double the message."""
        server = self.serve(tls=False)
        server.answers.end_reply = Deferred()

        def dialogue(client):
            client.hear()
            client.ask("EHLO x.example")
            client.say("MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
            [client.hear() for _ in range(3)]
            client.say(b"x\r\n.\r\nQUIT\r\n")
            reactor.callFromThread(reactor.callLater, 0.05, server.answers.end_reply.callback, reply.queued("q"))
            return client.rest()

        return self.talk(dialogue, server).addCallback(
            lambda got: self.assertEqual(got, b"250 2.0.0 Ok: queued as q\r\n221 2.0.0 Bye\r\n")
        )

    def test_s18_a_tag_does_not_outlive_its_transaction(self):
        """After RSET, EHLO or the end of a message the next one is untagged."""
        server = self.serve()

        def dialogue(client):
            client.tls()
            self.send(client, mail=" REQUIRETLS")
            self.send(client)
            client.ask("MAIL FROM:<a@b.example> REQUIRETLS")
            client.ask("RSET")
            self.send(client)
            client.ask("MAIL FROM:<a@b.example> REQUIRETLS")
            client.ask("EHLO x.example")
            self.send(client)

        def check(_):
            assert [t.envelope.tag for t in server.answers.accepted] == [Tag.REQUIRED, None, None, None]

        return self.talk(dialogue, server).addCallback(check)

    def test_s33_no_bare_line_break_is_taken_for_a_line_end(self):
        """550 5.6.11 at the true end of the data; what stands between is no command."""
        server = self.serve()

        def dialogue(client):
            client.tls()
            answers = [
                self.send(client, b"x\n.\r\nMAIL FROM:<evil@b.example>\r\n.\r\n"),
                self.send(client, b"x\r\n.\nMAIL FROM:<evil@b.example>\r\n.\r\n"),
                self.send(client, b"x\r.\r\n.\r\n"),
                self.send(client, b"fine\r\n.\r\n"),
            ]
            return [answer[:10] for answer in answers]

        def check(answers):
            assert answers == ["550 5.6.11"] * 3 + ["250 2.0.0 "]
            assert [t.octets for t in server.answers.accepted] == [b"fine\r\n"]

        return self.talk(dialogue, server).addCallback(check)

    def test_too_big_is_said_at_the_end_and_the_session_goes_on(self):
        """552 5.3.4 for the message and for the header section."""
        server = self.serve(settings={"message_size": 1000, "headers_size": 100})

        def dialogue(client):
            client.tls()
            big = self.send(client, b"\r\n" + b"x" * 998 + b"\r\n.\r\n")
            header = self.send(client, b"X: " + b"x" * 200 + b"\r\n\r\n.\r\n")
            return big, header, self.send(client, b"\r\n" + b"x" * 900 + b"\r\n.\r\n")

        def check(answers):
            assert [a[:9] for a in answers] == ["552 5.3.4", "552 5.3.4", "250 2.0.0"]
            assert all(t.aborted for t in server.answers.begun[:2])

        return self.talk(dialogue, server).addCallback(check)

    def test_bdat_carries_any_octets(self):
        """RFC 3030: chunks, counted; a dot is only a dot; pipelined behind RCPT."""
        server = self.serve()

        def dialogue(client):
            client.tls()
            client.say(
                b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 3\r\nab\rBDAT 6 LAST\r\n\n.\r\n\r\nNOOP\r\n"
            )
            return [client.hear()[:9] for _ in range(5)]

        def check(answers):
            assert answers == ["250 2.1.0", "250 2.1.5", "250 2.0.0", "250 2.0.0", "250 2.0.0"]
            assert server.answers.accepted[0].octets == b"ab\r\n.\r\n\r\n"

        return self.talk(dialogue, server).addCallback(check)

    def test_bdat_refuses_without_losing_count(self):
        """The chunk is read and 503, after HELO 502; a bare LF is 550 5.6.11; RSET forgets chunks."""
        server = self.serve()

        def dialogue(client):
            client.tls()
            client.say(
                b"BDAT 6 LAST\r\nQUIT\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 3 LAST\r\na\nb"
            )
            answers = [client.hear()[:10] for _ in range(4)]
            client.say(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 2\r\nxyRSET\r\nBDAT 1 LAST\r\nz")
            answers += [client.hear()[:9] for _ in range(5)]
            client.say(b"HELO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n")
            return answers + [client.hear()[:9] for _ in range(5)]

        def check(answers):
            assert answers[:4] == ["503 5.5.1 ", "250 2.1.0 ", "250 2.1.5 ", "550 5.6.11"]
            assert answers[9:] == ["250 mx.te", "250 2.1.0", "250 2.1.5", "502 5.5.1", "250 2.0.0"]
            assert answers[4:9] == ["250 2.1.0", "250 2.1.5", "250 2.0.0", "250 2.0.0", "503 5.5.1"]

        return self.talk(dialogue, server).addCallback(check)

    def test_lmtp_answers_for_each_recipient(self):
        """RFC 2033 4.2, for good news and bad."""
        server = self.serve(settings={"service": "lmtp"}, tls=False)

        def dialogue(client):
            client.hear()
            client.ask("LHLO x.example")
            answers = []
            for data in (b"x\r\n.\r\n", b"x\n\r\n.\r\n"):
                client.say(
                    "MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<bad>\r\n"
                    "RCPT TO:<e@d.example>\r\nDATA\r\n"
                )
                [client.hear() for _ in range(5)]
                client.say(data)
                answers += [client.hear()[:9] for _ in range(2)]
            return answers

        return self.talk(dialogue, server).addCallback(
            lambda got: self.assertEqual(got, ["250 2.0.0"] * 2 + ["550 5.6.1"] * 2)
        )


class Time(SessionCase):
    """Nobody holds a session for ever."""

    def test_silence_is_answered(self):
        """421 4.4.2 and close."""

        def dialogue(client):
            client.hear()
            return client.rest()

        return self.talk(dialogue, self.serve(settings={"timeout": 0.2})).addCallback(
            lambda got: self.assertEqual(got[:9], b"421 4.4.2")
        )

    def test_octets_of_an_unfinished_line_do_not_extend_the_time(self):
        """A slow drip of one command ends as silence does."""
        import time

        def dialogue(client):
            client.hear()
            for _ in range(10):
                try:
                    client.say("N")
                except OSError:
                    break
                time.sleep(0.1)
            return client.rest()

        return self.talk(dialogue, self.serve(settings={"timeout": 0.3})).addCallback(
            lambda got: self.assertTrue(got.startswith(b"421 4.4.2") or got == b"")
        )

    def test_a_drip_of_data_ends(self):
        """A message slower than the minimum rate is broken off once the time-out has passed."""
        import time

        def dialogue(client):
            client.hear()
            client.say("EHLO x.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
            [client.hear() for _ in range(4)]
            for _ in range(20):
                try:
                    client.say("x")
                except OSError:
                    break
                time.sleep(0.05)
            return client.rest()

        server = self.serve(settings={"timeout": 0.3}, tls=False)

        def check(got):
            assert got.startswith(b"421 4.4.2") or got == b""
            assert server.answers.begun[0].aborted

        return self.talk(dialogue, server).addCallback(check)

    def test_shutting_down_waits_for_a_message_and_no_one_else(self):
        """Idle sessions hear 421 4.3.2; a message that is coming in gets its reply first."""
        server = self.serve(tls=False)

        def dialogue(idle):
            idle.hear()
            busy = Talk(server.number)
            busy.hear()
            busy.say("EHLO x.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
            [busy.hear() for _ in range(4)]
            from twisted.internet.threads import blockingCallFromThread

            drained = blockingCallFromThread(reactor, lambda: [server.factory.drain()])[0]
            first = idle.rest()
            assert not drained.called
            busy.say("x\r\n.\r\n")
            return first, busy.rest()

        def check(answers):
            assert answers[0].startswith(b"421 4.3.2")
            assert answers[1].startswith(b"250 2.0.0") and answers[1].endswith(b"try again later\r\n")

        return self.talk(dialogue, server).addCallback(check)


class Memory(SessionCase):
    """A session's memory has a bound, whatever the peer sends."""

    def test_an_endless_line_is_not_kept(self):
        """Defect 7 of stock Twisted: the buffer grew without limit."""
        server = self.serve(tls=False)
        held = []

        def dialogue(client):
            client.hear()
            for _ in range(200):
                client.say(b"x" * 65536)
            client.say(b"\r\nNOOP\r\n")
            held.extend(len(session._pending) for session in server.factory.sessions)
            return client.hear(), client.hear()

        def check(answers):
            assert answers[0].startswith("500 5.5.2") and answers[1].startswith("250 2.0.0")
            assert max(held) <= 2 * 65536

        return self.talk(dialogue, server).addCallback(check)

    def test_commands_whose_replies_nobody_reads_are_not_executed_for_ever(self):
        """A client that only writes is stopped by its own full pipe."""
        server = self.serve(tls=False)

        def dialogue(client):
            client.hear()
            client.socket.settimeout(1)
            sent = 0
            try:
                for _ in range(2000):
                    sent += client.socket.send(b"HELP\r\n" * 4000)
            except TimeoutError:
                return sent, max(len(s._pending) for s in server.factory.sessions)
            return None

        def check(result):
            assert result is not None, "the server read 48 MB of commands without an answer being taken"
            assert result[1] < 512 * 1024

        return self.talk(dialogue, server).addCallback(check)
