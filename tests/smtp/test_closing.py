"""How a session ends over real sockets: nobody can keep it, or the end of the service, waiting."""

import socket
import time

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import blockingCallFromThread

from requiretls_mta.message import reply
from tests.smtp.dialogue import Talk
from tests.smtp.test_server import SessionCase


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
        begin = b"EHLO x.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nx\r\n"

        def dialogue(client):
            answers = []
            for octets, later in ((begin, None), (begin + b".\r\nNOOP\r\nMAI", None), (begin + b".\r\n", Deferred())):
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
