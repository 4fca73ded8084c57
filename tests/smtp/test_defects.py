"""The numbered defects of twisted.mail.smtp's server, each over a real socket and, where it matters, real TLS."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from twisted.cred.portal import Portal
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import blockingCallFromThread

from requiretls_mta.message import reply
from tests.smtp.dialogue import Talk, in_thread
from tests.smtp.test_auth import GOOD, MECHANISMS, Checker, Realm
from tests.smtp.test_server import SessionCase
from tests.smtp.test_stock import ConsoleMessageDelivery

TRANSACTION = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n"


def greeted(client):
    client.hear()
    client.ask("EHLO x.example")
    return client


def on_reactor(function, *arguments):
    return blockingCallFromThread(reactor, function, *arguments)


class Defects(SessionCase):
    def test_01_parameters_are_not_thrown_away(self):
        """SIZE, REQUIRETLS and unknown ones were all answered 250 and forgotten."""
        server = self.serve()

        def dialogue(client):
            client.tls()
            refused = client.ask("MAIL FROM:<a@b.example> SIZE=999999999999 REQUIRETLS FOO=BAR")
            too_big = client.ask("MAIL FROM:<a@b.example> SIZE=999999999999 REQUIRETLS")
            return refused[:9], too_big[:9], server.answers.begun

        return self.talk(dialogue, server).addCallback(self.assertEqual, ("555 5.5.4", "552 5.3.4", []))

    def test_02_nothing_in_the_clear_is_executed_inside_tls(self):
        """A command, or its beginning, behind STARTTLS in one segment."""
        server = self.serve()

        def dialogue(client):
            seen = []
            for injected in (b"MAIL FROM:<injected@plain.example>\r\n", b"RSE", b"\r", b"\r\n", b"\x16\x03\x01"):
                talk = greeted(Talk(server.number))
                talk.say(b"STARTTLS\r\n" + injected)
                seen.append(talk.rest())
            return seen, server.answers.begun

        return self.talk(dialogue, server).addCallback(self.assertEqual, ([b""] * 5, []))

    def test_02_nor_from_behind_a_pipelined_handshake(self):
        """EHLO, STARTTLS and an injected MAIL in one segment: 220 is never said, the connection ends."""
        server = self.serve()

        def dialogue(client):
            client.hear()
            client.say(b"EHLO x.example\r\nSTARTTLS\r\nMAIL FROM:<injected@plain.example>\r\n")
            return b"220" in client.rest(), server.answers.begun

        return self.talk(dialogue, server).addCallback(self.assertEqual, (False, []))

    def test_03_nothing_survives_starttls(self):
        """EHLO before TLS counts for nothing inside; a transaction in the clear is not carried over."""
        server = self.serve()

        def dialogue(client):
            greeted(client)
            client.ask("MAIL FROM:<a@b.example>")
            refused = client.ask("STARTTLS")
            client.ask("RSET")
            client.ask("STARTTLS")
            client.start_tls()
            return [answer[:9] for answer in (refused, client.ask("RCPT TO:<c@d.example>"), client.ask("MAIL FROM:<>"))]

        return self.talk(dialogue, server).addCallback(self.assertEqual, ["503 5.5.1"] * 3)

    def test_04_tls_is_there_when_the_handshake_is_done(self):
        """Asked for is not there: no TLS facts, nothing promised, until it is."""
        server = self.serve()

        def facts():
            (session,) = server.factory.sessions
            return session.startedTLS, session.tls is not None

        def dialogue(client):
            greeted(client)
            client.ask("STARTTLS")
            before = on_reactor(facts)
            client.start_tls()
            client.ask("NOOP")
            return before, on_reactor(facts)

        return self.talk(dialogue, server).addCallback(self.assertEqual, ((False, False), (True, True)))

    def test_04_a_handshake_that_never_comes_ends(self):
        """No 421 can be said there; the connection is cut."""
        server = self.serve(settings={"timeout": 0.3})

        def dialogue(client):
            greeted(client)
            client.ask("STARTTLS")
            start = time.monotonic()
            return client.rest(), time.monotonic() - start < 5

        return self.talk(dialogue, server).addCallback(self.assertEqual, (b"", True))

    def test_05_slow_answers_keep_their_order(self):
        """MAIL, RCPT and QUIT in one segment with a slow policy at each."""
        server = self.serve()
        server.answers.mail_reply = self.later(reply.SENDER_OK)
        server.answers.rcpt_replies = {"c": self.later(reply.RECIPIENT_OK)()}

        def dialogue(client):
            client.tls()
            client.say(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<e@d.example>\r\nQUIT\r\n")
            return [line[:3] for line in client.rest().split(b"\r\n")]

        return self.talk(dialogue, server).addCallback(self.assertEqual, [b"250", b"250", b"250", b"221", b""])

    def later(self, answer):
        def make():
            d = Deferred()
            reactor.callLater(0.05, d.callback, answer)
            return d

        return make

    def test_06_a_line_of_any_length_stays_message(self):
        """Behind an over-long line the rest of the message was executed as commands."""
        server = self.serve()
        message = b"x" * 300_000 + b"\r\nMAIL FROM:<evil@b.example>\r\nRCPT TO:<evil@d.example>\r\n"

        def dialogue(client):
            client.tls()
            client.say(TRANSACTION)
            [client.hear() for _ in range(3)]
            client.say(message + b".\r\n")
            return client.hear()[:9], len(server.answers.begun), server.answers.accepted[0].octets == message

        return self.talk(dialogue, server).addCallback(self.assertEqual, ("250 2.0.0", 1, True))

    def test_07_an_endless_line_costs_nothing(self):
        """300 chunks of 64 KiB cost 19.6 MB, 300 replies and 6.9 s of the processor."""
        server = self.serve()

        def used():
            return time.thread_time(), [len(s._pending) for s in server.factory.sessions]

        def dialogue(client):
            client.tls()
            before, _ = on_reactor(used)
            for _ in range(300):
                client.say(b"x" * 65536)
            after, pending = on_reactor(used)
            client.say(b"\r\nNOOP\r\n")
            return max(pending) <= 2 * 65536, after - before < 2, client.hear()[:9], client.hear()[:9]

        return self.talk(dialogue, server).addCallback(self.assertEqual, (True, True, "500 5.5.2", "250 2.0.0"))

    def test_07_replies_that_nobody_reads_stop_the_commands(self):
        """Inside TLS, too: a client that only writes is stopped by its own full pipe."""
        server = self.serve()

        def dialogue(client):
            client.tls()
            client.socket.settimeout(1)
            try:
                for _ in range(2000):
                    client.socket.send(b"HELP\r\n" * 2700)
            except TimeoutError:
                return on_reactor(lambda: max(len(s._pending) for s in server.factory.sessions) < 512 * 1024)
            return False

        return self.talk(dialogue, server).addCallback(self.assertTrue)

    def test_08_the_minimum_is_there(self):
        """NOOP, VRFY, HELP and EXPN were 500."""

        def dialogue(client):
            client.hear()
            return [
                client.ask(c)[:9] for c in ("NOOP", "NOOP x y", "VRFY postmaster", "HELP", "HELP MAIL", "EXPN staff")
            ]

        return self.talk(dialogue, self.serve()).addCallback(
            self.assertEqual, ["250 2.0.0", "250 2.0.0", "252 2.0.0", "214 2.0.0", "214 2.0.0", "502 5.5.1"]
        )

    def test_09_no_line_kills_the_session(self):
        """AUTH without a mechanism, verbs of other octets."""
        portal = Portal(Realm(), [Checker()])
        server = self.serve(portal=portal, challengers=MECHANISMS)

        def dialogue(client):
            client.tls()
            lines = (b"AUTH\r\n", b"AUTH \r\n", b"\xe4\xf6\r\n", b"MAIL FROM:<\xff@b>\r\n", b"\0\r\n", b"EHLO \xff\r\n")
            answers = []
            for line in lines:
                client.say(line)
                answers.append(client.hear()[:3])
            return answers, client.ask(f"AUTH PLAIN {GOOD}")[:3]

        return self.talk(dialogue, server).addCallback(
            self.assertEqual, (["501", "501", "500", "501", "500", "501"], "235")
        )

    def test_10_addresses(self):
        """Literals are addresses, a name without a domain is none, and long ones take no time."""
        server = self.serve(settings={"max_errors": 100})

        def dialogue(client):
            client.tls()
            answers = []
            for path in ("<a@[192.0.2.1]>", "<a@[IPv6:2001:db8::1]>", "<ä@exämple.org> SMTPUTF8", "<abc>"):
                answers.append(client.ask(f"MAIL FROM:{path}")[:9])
                client.ask("RSET")
            start = time.monotonic()
            for _ in range(50):
                client.ask(f"MAIL FROM:<{'.a' * 500}@b.example>")
            return answers, time.monotonic() - start < 2

        return self.talk(dialogue, server).addCallback(
            self.assertEqual, (["250 2.1.0", "250 2.1.0", "250 2.1.0", "553 5.1.3"], True)
        )

    def test_10_importing_us_looks_nobody_up(self):
        """Stock Twisted asks DNS for the machine's name when it is imported; our package only with the session."""
        code = (
            "import socket, sys\n"
            "socket.getfqdn = lambda *a: sys.exit('asked for the name')\n"
            "import requiretls_mta, requiretls_mta.smtp.grammar, requiretls_mta.smtp.interfaces\n"
        )
        root = Path(__file__).parent.parent.parent
        assert subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60, check=False).returncode == 0

    def test_11_order_and_limits(self):
        """MAIL without EHLO, a second MAIL, endless recipients and endless errors."""
        server = self.serve(settings={"max_recipients": 2, "max_errors": 4})

        def dialogue(client):
            client.hear()
            answers = [client.ask("MAIL FROM:<a@b.example>"), client.ask("EHLO x.example"), client.ask("MAIL FROM:<>")]
            answers += [client.ask("MAIL FROM:<a@b.example>")]
            answers += [client.ask(f"RCPT TO:<c{number}@d.example>") for number in range(3)]
            client.say("FOO\r\nFOO\r\nNOOP\r\n")
            return [answer[:3] for answer in answers], client.rest()

        return self.talk(dialogue, server).addCallback(
            self.assertEqual,
            (
                ["503", "250", "250", "503", "250", "250", "452"],
                reply.UNKNOWN_COMMAND.wire + reply.TOO_MANY_ERRORS.wire,
            ),
        )

    def test_12_bare_line_feeds_are_not_passed_on(self):
        """A message with one is refused as a whole, at its real end."""
        server = self.serve()

        def dialogue(client):
            client.tls()
            client.say(TRANSACTION)
            [client.hear() for _ in range(3)]
            client.say(b"x\r\n\n.\r\nMAIL FROM:<evil@b.example>\r\n\n.\n\r\n.\r\n")
            return client.hear()[:10], len(server.answers.begun), server.answers.accepted

        return self.talk(dialogue, server).addCallback(self.assertEqual, ("550 5.6.11", 1, []))

    def test_13_a_temporary_failure_stays_one(self):
        """Every failure was a 550; codes and extensions are there."""
        server = self.serve()
        server.answers.end_reply = self.later(reply.STORE_FULL)()

        def dialogue(client):
            extensions = client.tls()
            client.say(TRANSACTION)
            [client.hear() for _ in range(3)]
            client.say(b"x\r\n.\r\n")
            listed = {line[4:].split(" ")[0] for line in extensions.split("\n")}
            return client.hear()[:9], {"ENHANCEDSTATUSCODES", "8BITMIME", "SIZE", "CHUNKING", "PIPELINING"} <= listed

        return self.talk(dialogue, server).addCallback(self.assertEqual, ("452 4.3.1", True))

    def test_14_unix_sockets(self):
        """EHLO, STARTTLS and a message of a peer that has no address."""
        path = os.path.join(tempfile.mkdtemp(), "lmtp")
        server = self.serve(settings={"service": "lmtp"})
        port = reactor.listenUNIX(path, server.factory)
        self.addCleanup(port.stopListening)

        def dialogue():
            client = Talk.__new__(Talk)
            client.socket, client.buffer = socket.socket(socket.AF_UNIX), b""
            client.socket.connect(path)
            listed = client.tls("LHLO")
            client.say(TRANSACTION)
            [client.hear() for _ in range(3)]
            client.say(b"x\r\n.\r\n")
            answer = client.hear()
            client.close()
            session = server.answers.accepted[0].session
            return "REQUIRETLS" in listed, answer[:9], session.peer.address, session.protocol

        return in_thread(reactor, dialogue).addCallback(self.assertEqual, (True, "250 2.0.0", None, "LMTPS"))

    def test_15_what_a_client_calls_itself_is_checked(self):
        """It ends in Received fields and logs."""

        def dialogue(client):
            client.hear()
            return [client.ask("EHLO" + a)[:3] for a in ("", " a b", " <x>", " \u00e4 b", " x.example", " [192.0.2.1]")]

        return self.talk(dialogue, self.serve()).addCallback(self.assertEqual, ["501"] * 4 + ["250"] * 2)


class Application(SessionCase):
    """A small application with its own delivery, over a socket and TLS."""

    def test_it_gains_the_session(self):
        """Pipelining, chunks and STARTTLS; its messages as ever."""
        delivery = ConsoleMessageDelivery()
        server = self.serve(station=None, promises=(), delivery=delivery)

        def dialogue(client):
            listed = client.tls()
            client.say(
                b"MAIL FROM:<a@b.example>\r\nRCPT TO:<console@d.example>\r\n"
                b"BDAT 6\r\nx: y\r\nBDAT 9 LAST\r\n\r\nhello\r\nQUIT\r\n"
            )
            codes = [client.hear()[:3] for _ in range(5)]
            return "REQUIRETLS" in listed, codes, delivery.messages[0].lines[1:]

        return self.talk(dialogue, server).addCallback(
            self.assertEqual, (False, ["250", "250", "250", "250", "221"], [b"x: y", b"", b"hello"])
        )
