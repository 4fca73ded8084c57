"""A mail server that misbehaves as told, at any step, and keeps every octet it was sent, in the clear and in TLS."""

import contextlib
import socket
import ssl
import struct

from tests.threaded import ThreadedServer

GOOD = ("PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "SIZE 100000000")


class FakeMX(ThreadedServer):
    """Listens on a loopback address in threads of its own. Options say how it behaves.

    `clear` and `inside`: keywords of EHLO before and in TLS. `files`: a certificate of tests/lab/ca. `replies`: verb to
    reply line(s), with `.` for the end of data; `close`: the verb at which it hangs up; `closed`: the verb behind whose
    reply it hangs up. `starttls`: its reply, and `behind` what comes in the same segment; `maximum`: its only TLS
    version. `early`: a reply behind 354, or none, after which it reads nothing more. `stall`: it never shakes hands.
    The reply to AUTH is a tuple: one behind another, each 334 waiting for a line. `implicit`: TLS from the first octet.
    `listening`: a socket to use in place of the address, such as a UNIX one. `reset`: it hangs up with a reset.

    Whatever it does itself, it reads until the client is at its end, too: `sessions` has all that was sent.
    """

    def __init__(self, address="127.0.0.1", port=0, **options):
        self.options = {"clear": ("STARTTLS", *GOOD), "inside": (*GOOD, "REQUIRETLS"), "files": None, "replies": {}}
        self.options |= options
        self.sessions, self.messages, self.verbs, self.server_names = [], [], [], []
        super().__init__(address, port, listening=options.get("listening"))

    @property
    def clear(self):
        """What all connections were sent in the clear."""
        return b"".join(one.clear for one in self.sessions)

    @property
    def tls(self):
        """What they were sent inside TLS."""
        return b"".join(one.tls for one in self.sessions)

    @property
    def has_all(self):
        """Whether no connection is left, so that nothing can be added to what was sent."""
        return len(self.sessions) == self.connections and all(one.is_over for one in self.sessions)

    def talk(self, connection):
        session = Spoken()
        self.sessions.append(session)
        dialogue = _Dialogue(self, connection, session)
        try:
            with contextlib.suppress(OSError, ValueError):
                dialogue.run()
            dialogue.hang_up()
        finally:
            session.is_over = True


class Spoken:
    """All that one connection was sent, and what its TLS session was."""

    def __init__(self):
        self.clear = self.handshake = self.tls = b""
        """In the clear; on the wire until the handshake was done; decrypted."""
        self.version = self.server_name = None
        self.keywords = frozenset()
        """Those that the EHLO inside TLS was really answered with."""
        self.is_over = False

    @property
    def outside(self):
        """What anybody on the way could read, whether it was taken for SMTP or not."""
        return self.clear + self.handshake


class _TLS:
    """The server's end of TLS over a socket; no octet is read from it unseen."""

    def __init__(self, context, connection, session):
        self._connection, self._session = connection, session
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._handshaking = True
        self._do(self._object.do_handshake)
        self._handshaking = False
        session.version = self._object.version()

    def recv(self, count):
        return self._do(self._object.read, count)

    def sendall(self, octets):
        self._do(self._object.write, octets)

    def _do(self, function, *arguments):
        while True:
            try:
                return function(*arguments)
            except ssl.SSLWantReadError:
                self._flush()
                got = self._connection.recv(65536)
                if self._handshaking:
                    self._session.handshake += got
                if not got:
                    raise ConnectionError from None
                self._incoming.write(got)
            finally:
                self._flush()

    def _flush(self):
        if self._outgoing.pending:
            self._connection.sendall(self._outgoing.read())


class _Dialogue:
    def __init__(self, mx, connection, session):
        self.mx, self.session, self.socket = mx, session, connection
        self.connection, self.secure, self.buffer = connection, False, b""
        self.rcpts, self.refused = 0, False

    def say(self, text):
        self.connection.sendall(text if isinstance(text, bytes) else text.encode() + b"\r\n")

    def more(self):
        got = self.connection.recv(65536)
        if not got:
            raise ConnectionError
        if self.secure:
            self.session.tls += got
        else:
            self.session.clear += got
        self.buffer += got

    def hang_up(self):
        """Say no more, but read on: what a closed socket had received already would be lost."""
        self.socket.settimeout(10)
        if self.mx.options.get("reset"):
            self.socket.settimeout(0.05)
        else:
            self.socket.shutdown(socket.SHUT_WR)
        try:
            while True:
                self.buffer = b""
                self.more()
        finally:
            if self.mx.options.get("reset"):
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def line(self):
        while b"\r\n" not in self.buffer:
            self.more()
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line

    def count(self, number):
        while len(self.buffer) < number:
            self.more()
        octets, self.buffer = self.buffer[:number], self.buffer[number:]
        return octets

    def run(self):
        options = self.mx.options
        if options.get("implicit"):
            self.secured()
        self.say(options.get("greeting", "220 fake.test ESMTP"))
        while True:
            line = self.line()
            verb = line.split(b" ")[0].decode("latin-1").upper()
            self.mx.verbs.append(verb)
            if options.get("close") == verb:
                return
            reply = options["replies"].get(verb)
            if isinstance(reply, list):
                reply = reply.pop(0) if reply else None
            if verb in ("EHLO", "LHLO"):
                self.hello(reply)
            elif verb == "STARTTLS" and not self.secure:
                if not self.starttls():
                    return
            elif verb == "DATA":
                self.data(reply)
            elif verb == "BDAT":
                octets = self.count(int(line.split()[1]))
                if not self.rcpts:
                    self.say("503 5.5.1 no valid recipients")
                    continue
                self.end(reply or self.mx.options["replies"].get("."), octets)
            elif verb == "AUTH":
                for prompt in reply or ("235 2.7.0 ok",):
                    self.say(prompt)
                    if prompt.startswith("334"):
                        self.line()
            elif verb == "QUIT":
                self.say("221 bye")
                return
            else:
                if verb == "MAIL" and reply and not reply.startswith("2"):
                    self.refused = True
                elif verb == "RCPT" and self.refused:
                    reply = "503 5.5.1 no sender"
                if verb == "RSET":
                    self.refused = False
                if verb == "RCPT":
                    self.rcpts += (reply or "250").startswith("2")
                self.say(reply or "250 2.0.0 ok")
            if options.get("closed") == verb:
                return

    def hello(self, reply):
        keywords = self.mx.options["inside" if self.secure else "clear"]
        if self.secure:
            self.session.keywords = frozenset(() if reply else map(str.upper, keywords))
        if reply:
            self.say(reply)
            return
        lines = [self.mx.options.get("name", "fake.test"), *keywords]
        self.say("\r\n".join([f"250-{k}" for k in lines[:-1]] + [f"250 {lines[-1]}"]))

    def starttls(self):
        reply = self.mx.options.get("starttls", "220 go")
        self.connection.sendall(reply.encode() + b"\r\n" + self.mx.options.get("behind", b""))
        if not reply.startswith("220"):
            return True
        if self.mx.options.get("break_handshake"):
            self.mx.options["reset"] = True
            self.more()
            return False
        self.secured()
        return True

    def secured(self):
        if self.mx.options.get("stall"):
            while True:
                self.more()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if "maximum" in self.mx.options:
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.minimum_version = context.maximum_version = self.mx.options["maximum"]
        context.load_cert_chain(self.mx.options["files"].chain, self.mx.options["files"].key)
        context.sni_callback = self.named
        self.connection = _TLS(context, self.socket, self.session)
        self.secure, self.buffer = True, b""

    def named(self, _, name, __):
        self.session.server_name = name
        self.mx.server_names.append(name)

    def data(self, reply):
        if reply or not self.rcpts:
            self.say(reply or "554 5.5.1 no valid recipients")
            return
        self.say("354 go on")
        if "early" in self.mx.options:
            self.mx.over.wait(0.3)  # the client has filled every buffer by then
            if self.mx.options["early"]:
                self.say(self.mx.options["early"])
            self.mx.over.wait(10)
            return
        # All at once: line by line, a long message would be copied as often as it has lines.
        while not (whole := (b"\r\n" + self.buffer).partition(b"\r\n.\r\n"))[1]:
            self.more()
        octets, _, self.buffer = whole
        octets = (octets.replace(b"\r\n.", b"\r\n") + b"\r\n")[2:]
        if self.mx.options.get("close") == ".":
            raise ConnectionError
        self.end(self.mx.options["replies"].get("."), octets)

    def end(self, reply, octets):
        self.mx.messages.append(octets)
        count = self.rcpts if self.mx.options.get("lmtp") else 1
        replies = reply if isinstance(reply, tuple) else (reply or "250 2.0.0 taken",) * count
        self.rcpts = 0
        for one in replies:
            self.say(one)
