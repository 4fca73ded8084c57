"""Both ends of a session over real sockets, for dialogues written as tests."""

import socket
import ssl

from requiretls_mta.message import reply
from requiretls_mta.smtp.factory import RequireTLSESMTPFactory


class Answers:
    """A station whose transactions remember what they were given and answer as told."""

    def __init__(self):
        self.begun, self.accepted = [], []
        self.mail_reply, self.rcpt_replies, self.data_reply, self.end_reply = reply.SENDER_OK, {}, None, None

    def begin(self, session):
        transaction = AnswerTransaction(self, session)
        self.begun.append(transaction)
        return transaction


class AnswerTransaction:
    def __init__(self, answers, session):
        self.answers, self.session, self.octets, self.aborted = answers, session, b"", False
        self.envelope = self.content = self.header = None

    def mail(self, envelope):
        self.envelope = envelope
        return self.answers.mail_reply() if callable(self.answers.mail_reply) else self.answers.mail_reply

    def rcpt(self, recipient):
        return self.answers.rcpt_replies.get(recipient.address.local, reply.RECIPIENT_OK)

    def data(self, envelope):
        self.envelope = envelope
        return self.answers.data_reply

    def write(self, chunk):
        self.octets += chunk

    def end(self, content, header):
        from twisted.internet.defer import Deferred, succeed

        self.content, self.header = content, header
        self.answers.accepted.append(self)
        answer = self.answers.end_reply
        if isinstance(answer, Deferred):
            return answer
        return succeed(answer or reply.queued(f"{len(self.answers.accepted):016}"))

    def abort(self):
        self.aborted = True


class Talk:
    """A client on a blocking socket, in a thread of the test; `say` and `hear` octets."""

    def __init__(self, port, host="127.0.0.1"):
        self.socket = socket.create_connection((host, port), 10)
        self.buffer = b""

    def say(self, octets):
        self.socket.sendall(octets if isinstance(octets, bytes) else octets.encode())

    def line(self):
        while b"\r\n" not in self.buffer:
            got = self.socket.recv(65536)
            if not got:
                raise EOFError(self.buffer)
            self.buffer += got
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line.decode()

    def hear(self):
        """One reply, its lines joined by line breaks."""
        lines = [self.line()]
        while lines[-1][3:4] == "-":
            lines.append(self.line())
        return "\n".join(lines)

    def ask(self, command):
        self.say(command + "\r\n")
        return self.hear()

    def rest(self):
        """Everything until the other side closes."""
        got = self.buffer
        while True:
            try:
                chunk = self.socket.recv(65536)
            except (ConnectionError, ssl.SSLError):
                return got
            if not chunk:
                return got
            got += chunk

    def start_tls(self):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        assert not self.buffer
        self.socket = context.wrap_socket(self.socket)
        return self

    def tls(self, verb="EHLO"):
        """EHLO, STARTTLS, handshake, EHLO; returns the second reply."""
        self.hear()
        self.ask(f"{verb} client.example")
        assert self.ask("STARTTLS").startswith("220 2.0.0")
        self.start_tls()
        return self.ask(f"{verb} client.example")

    def close(self):
        self.socket.close()


class Server:
    """A listening factory on the reactor of the test."""

    def __init__(self, reactor, **options):
        self.answers = Answers()
        options.setdefault("station", self.answers)
        options.setdefault("promises", {"REQUIRETLS", "DSN", "SMTPUTF8"})
        self.factory = RequireTLSESMTPFactory(reactor=reactor, **options)
        self.port = reactor.listenTCP(0, self.factory, interface="127.0.0.1")

    @property
    def number(self):
        return self.port.getHost().port


def in_thread(reactor, function, *arguments):
    """Run a blocking client beside the reactor; a Deferred of its result."""
    from twisted.internet.threads import deferToThreadPool

    return deferToThreadPool(reactor, reactor.getThreadPool(), function, *arguments)


__all__ = ["Answers", "Server", "Talk", "in_thread"]
