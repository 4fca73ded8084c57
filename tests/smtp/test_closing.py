"""How a session ends over real sockets: nobody can keep it, or the end of the service, waiting."""

import socket
import time

from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import blockingCallFromThread
from twisted.protocols.tls import TLSMemoryBIOFactory

from requiretls_mta.message import reply
from tests.smtp.dialogue import Talk, in_thread
from tests.smtp.test_server import SessionCase

BEGIN = b"EHLO x.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nx\r\n"


class Ended:
    """A client that ends its direction of TLS behind its last octet, and goes on to read."""

    def __init__(self, port, version=SSL.TLS1_3_VERSION, *, starttls=True):
        self.talk = Talk(port)
        if starttls:
            self.talk.hear()
            self.talk.ask("EHLO x.example")
            self.talk.ask("STARTTLS")
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(version)
        self.tls = SSL.Connection(context, None)
        self.tls.set_connect_state()
        while True:
            try:
                self.tls.do_handshake()
                break
            except SSL.WantReadError:
                self.exchange()
        if not starttls:
            self.read(6)

    def exchange(self):
        """Send what there is to be sent, else take what comes; False at the end of the connection."""
        try:
            self.talk.socket.sendall(self.tls.bio_read(1 << 16))
        except SSL.WantReadError:
            octets = self.talk.socket.recv(1 << 16)
            if not octets:
                return False
            self.tls.bio_write(octets)
        return True

    def read(self, least):
        """At least so many octets of the replies; fewer at the end."""
        got = b""
        while len(got) < least:
            try:
                got += self.tls.recv(1 << 16)
            except SSL.WantReadError:
                if not self.exchange():
                    raise EOFError(got) from None
            except SSL.ZeroReturnError:
                break
        return got

    def say_last(self, octets, junk=b""):
        """These octets and the close_notify, in one piece with what nobody should send behind it."""
        self.tls.send(octets)
        self.tls.shutdown()
        self.talk.socket.sendall(self.tls.bio_read(1 << 16) + junk)

    def rest(self):
        """All replies until the server's own close_notify; raises EOFError without one."""
        got = self.read(1 << 20)
        assert not self.talk.socket.recv(1), "the connection ends behind it"
        self.talk.close()
        return got


class Closing(SessionCase):
    def test_a_client_that_does_not_leave_does_not_hold_the_service(self):
        """In TLS the other side has to agree to the end; it gets a second when we stop, not ten."""
        server = self.serve()

        def dialogue(client):
            client.tls()
            quiet = Talk(server.number)
            quiet.tls()
            client.say("QUIT\r\n")  # and never reads the answer
            while blockingCallFromThread(reactor, lambda: sum(s._closing for s in server.factory.sessions)) != 1:
                time.sleep(0.01)
            start = time.monotonic()
            blockingCallFromThread(reactor, server.factory.drain)
            took = time.monotonic() - start
            quiet.close()
            return took

        return self.talk(dialogue, server).addCallback(lambda took: self.assertLess(took, 4))

    def test_a_client_that_leaves_is_forgotten(self):
        """In the middle of a command, of a message, of a handshake: its place is free, its transaction aborted."""
        server = self.serve(settings={"max_connections": 2})
        server.answers.rcpt_replies["never"] = Deferred()

        def dialogue(client):
            client.close()
            for octets in (
                b"EHLO x.example\r\nMAI",
                b"EHLO x.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<never@d.example>\r\n",
                b"EHLO x.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nhalf",
                b"EHLO x.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 10\r\nhalf",
                b"EHLO x.example\r\nSTARTTLS\r\n",
            ):
                talk = Talk(server.number)
                talk.hear()
                talk.say(octets)
                talk.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                talk.close()
                while blockingCallFromThread(reactor, lambda: len(server.factory.sessions)):
                    time.sleep(0.01)
            return [t.aborted for t in server.answers.begun], server.answers.accepted

        def check(got):
            assert all(got[0]) and got[1] == []

        return self.talk(dialogue, server).addCallback(check)

    def test_whoever_has_said_all_is_still_answered(self):
        """A client that closes its half behind its last octet: a whole message gets its reply, half of one none."""
        server = self.serve(tls=False)

        def dialogue(client):
            answers = []
            for octets, later in ((BEGIN, None), (BEGIN + b".\r\nNOOP\r\nMAI", None), (BEGIN + b".\r\n", Deferred())):
                server.answers.end_reply = later
                talk = Talk(server.number)
                talk.hear()
                talk.say(octets)
                talk.socket.shutdown(socket.SHUT_WR)
                if later is not None:
                    reactor.callFromThread(reactor.callLater, 0.3, later.callback, reply.queued("late"))
                answers.append(talk.rest().split(b"\r\n"))
                talk.close()
            while blockingCallFromThread(reactor, lambda: len(server.factory.sessions)) > 1:
                time.sleep(0.01)
            return answers

        def check(answers):
            half, whole, late = answers
            assert half[-2].startswith(b"354 ") and half[-1] == b""
            assert whole[-3].startswith(b"250 2.0.0 Ok: queued as ") and whole[-2:] == [b"250 2.0.0 Ok", b""]
            assert late[-2:] == [b"250 2.0.0 Ok: queued as late", b""]
            assert [t.aborted for t in server.answers.begun] == [True, False, False]

        return self.talk(dialogue, server).addCallback(check)

    def test_whoever_has_said_all_inside_tls_is_still_answered(self):
        """RFC 8446 6.1: a close_notify ends one direction. Behind STARTTLS and where TLS was there from the start."""
        return self.say_all(SSL.TLS1_3_VERSION)

    def test_whoever_has_said_all_inside_tls_1_2_is_still_answered(self):
        """RFC 5246 7.2.1 ends both directions, but no earlier than the alert is read: in its turn."""
        return self.say_all(SSL.TLS1_2_VERSION)

    def say_all(self, version):
        server = self.serve()
        implicit = self.serve(settings={"service": "submissions", "require_auth": False})
        wrapped = TLSMemoryBIOFactory(implicit.factory.contextFactory, False, implicit.factory)
        port = reactor.listenTCP(0, wrapped, interface="127.0.0.1")
        self.addCleanup(port.stopListening)

        def answers(where, starttls):
            found = []
            for octets, later in ((BEGIN, None), (BEGIN + b".\r\nNOOP\r\nMAI", None), (BEGIN + b".\r\n", Deferred())):
                server.answers.end_reply = implicit.answers.end_reply = later
                client = Ended(where, version, starttls=starttls)
                client.say_last(octets)
                if later is not None:
                    reactor.callFromThread(reactor.callLater, 0.3, later.callback, reply.queued("late"))
                found.append(client.rest().split(b"\r\n"))
            return found

        def dialogue():
            both = answers(server.number, True), answers(port.getHost().port, False)
            while blockingCallFromThread(reactor, lambda: len(server.factory.sessions | implicit.factory.sessions)):
                time.sleep(0.01)
            return both

        def check(both):
            for half, whole, late in both:
                assert half[-2].startswith(b"354 ") and half[-1] == b""
                assert whole[-3].startswith(b"250 2.0.0 Ok: queued as ") and whole[-2:] == [b"250 2.0.0 Ok", b""]
                assert late[-2:] == [b"250 2.0.0 Ok: queued as late", b""]
            for answered in (server.answers, implicit.answers):
                assert [t.aborted for t in answered.begun] == [True, False, False]

        return in_thread(reactor, dialogue).addCallback(check)

    def test_what_follows_the_end_of_tls_is_not_read(self):
        """It is nobody's, and would only fill the memory."""
        server = self.serve()
        server.answers.end_reply = later = Deferred()

        def dialogue():
            client = Ended(server.number)
            client.say_last(BEGIN + b".\r\n", b"junk" * 1000)
            while not server.answers.accepted:
                time.sleep(0.01)
            (session,) = server.factory.sessions
            read = blockingCallFromThread(reactor, lambda: session.transport in reactor.getReaders())
            reactor.callFromThread(later.callback, reply.queued("x"))
            return read, client.rest()

        def check(got):
            assert not got[0]
            assert got[1].endswith(b"250 2.0.0 Ok: queued as x\r\n")

        return in_thread(reactor, dialogue).addCallback(check)

    def test_whoever_agrees_to_the_end_is_gone_at_once(self):
        """A close_notify that answers ours is the end, not a second one to wait for."""
        server = self.serve()

        def dialogue():
            client = Ended(server.number)
            client.tls.send(b"QUIT\r\n")
            client.exchange()
            heard = client.read(1 << 16)
            start = time.monotonic()
            client.tls.shutdown()
            client.exchange()
            while blockingCallFromThread(reactor, lambda: len(server.factory.sessions)):
                time.sleep(0.01)
            return heard, time.monotonic() - start

        def check(got):
            assert got[0].startswith(b"221 ") and got[1] < 3

        return in_thread(reactor, dialogue).addCallback(check)

    def test_the_last_word_arrives(self):
        """The 421 of too many errors, though much was pipelined behind it."""
        server = self.serve(tls=False)

        def dialogue(client):
            client.hear()
            client.say(b"FOO\r\n" * 2000)
            return client.rest()

        return self.talk(dialogue, server).addCallback(
            self.assertEqual, reply.UNKNOWN_COMMAND.wire * 19 + reply.TOO_MANY_ERRORS.wire
        )
