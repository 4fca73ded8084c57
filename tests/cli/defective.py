"""A small server that keeps RFC 8689 in all that a client can see, but for the defects it is given."""

import contextlib
import ssl
import warnings

from tests.threaded import ThreadedServer


class Defective(ThreadedServer):
    """Listens on loopback in threads of its own. `defects` are the ids of conformance checks that it fails.

    Further words: `closes` (instead of throwing away what is behind STARTTLS), `lmtp`, `implicit`, `login`, `busy`
    (one 421 greeting), `greylists` (451 to every RCPT), `liberal` (MAIL without EHLO is taken).
    """

    def __init__(self, files, *defects):
        self.files, self.defects = files, set(defects)
        self.verbs, self.messages, self.open, self.most = [], [], 0, 0
        super().__init__()

    def context(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.files.chain, self.files.key)
        if "old-tls" in self.defects:
            context.set_ciphers("ALL:@SECLEVEL=0")
            with warnings.catch_warnings(action="ignore"):
                context.minimum_version = ssl.TLSVersion.TLSv1
        return context

    def talk(self, connection):
        """One session."""
        session = _Session(self, connection)
        with contextlib.suppress(OSError, ValueError):
            session.run()
        session.socket.close()


class _Session:
    def __init__(self, server, connection):
        self.server, self.socket, self.buffer, self.tls = server, connection, b"", False
        self.hello = self.mail = None
        self.user = False

    def bad(self, *defects):
        return any(defect in self.server.defects for defect in defects)

    def say(self, *lines):
        self.socket.sendall("".join(f"{line}\r\n" for line in lines).encode())

    def line(self):
        while b"\r\n" not in self.buffer:
            got = self.socket.recv(65536)
            if not got:
                raise ConnectionError
            self.buffer += got
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line.decode()

    def run(self):
        if self.bad("implicit"):
            self.handshake()
        if self.bad("busy"):
            self.server.defects.discard("busy")
            self.say("421 4.7.0 too many connections")
            return
        self.say("220 server.test ESMTP")
        while True:
            line = self.line()
            verb, _, rest = line.partition(" ")
            self.server.verbs.append(verb.upper())
            if len(line) + 2 > (512 if self.bad("line-length") else 1024):
                self.say("500 5.5.2 line too long")
                continue
            answer = getattr(self, "do_" + verb.lower(), None)
            if answer is None:
                self.say("500 5.5.2 unknown")
                continue
            self.say(*answer(rest.strip()))
            if verb.upper() == "QUIT" or self.hello == "gone":
                return
            if self.hello == "handshake":
                self.handshake()
                self.hello = "EHLO" if self.bad("mail-before-ehlo") else None

    def handshake(self):
        if self.bad("tls"):
            self.socket.sendall(b"no handshake here\r\n")
            raise ConnectionError
        self.socket, self.tls = self.server.context().wrap_socket(self.socket, server_side=True), True

    def do_ehlo(self, name, verb="EHLO"):
        if self.bad("ehlo") or (verb == "LHLO") != self.bad("lmtp"):
            return ["502 5.5.1 no"]
        self.hello = verb
        if not self.bad("ehlo-resets"):
            self.mail = None
        keywords = ["8BITMIME"]
        if self.bad("starttls-not-offered-in-tls") or not (self.tls or self.bad("starttls-offered")):
            keywords.append("STARTTLS")
        if self.tls and self.bad("offered"):
            keywords += ["XREQUIRETLS", "AUTH REQUIRETLS", "REQUIRETLS.test"]
        elif self.tls or self.bad("not-offered-in-clear"):
            keywords.append("REQUIRETLS now" if self.bad("offered-bare") else "Requiretls")
        return [f"250-{keyword}" for keyword in ("REQUIRETLS", *keywords)] + ["250 HELP"]

    def do_lhlo(self, name):
        return self.do_ehlo(name, "LHLO")

    def do_helo(self, name):
        self.hello, self.mail = "HELO", None
        return ["250 server.test"]

    def do_starttls(self, rest):
        if self.bad("starttls-offered"):
            return ["502 5.5.1 no"]
        if rest and not self.bad("starttls-argument"):
            return ["501 5.5.4 no parameters"]
        if self.tls:
            return ["220 2.0.0 again?" if self.bad("starttls-in-tls") else "503 5.5.1 TLS already"]
        if self.buffer and self.bad("closes"):
            raise ConnectionError
        whole = self.buffer.endswith(b"\r\n")
        if not self.bad("injected-command" if whole else "injected-fragment"):
            self.buffer = b""
        if not self.bad("starttls-in-transaction"):
            self.mail = None
        self.hello = "handshake"
        return ["220 2.0.0 go"]

    def do_auth(self, rest):
        self.user = self.tls and rest == "PLAIN AGFubgBzZWNyZXQ="
        return ["235 2.7.0 ok" if self.user else "535 5.7.8 no"]

    def do_mail(self, rest):
        path, *parameters = rest[5:].split()
        if self.mail:
            return ["503 5.5.1 nested"]
        if self.bad("login") and not self.user:
            return ["530 5.7.0 log in"]
        if path == "<>" and self.bad("empty-sender"):
            return ["550 5.7.1 no empty senders"]
        refused = [self.refusal(word) for word in parameters]
        if len(parameters) == 2 and parameters[0] == parameters[1] and not self.bad("twice"):
            refused.append("501 5.5.4 twice")
        if not (self.hello or self.bad("liberal")):
            refused.append("503 5.5.1 hello first")
        for refusal in filter(None, refused):
            return [refusal]
        self.mail = path
        return ["250 2.1.0 ok"]

    def refusal(self, word):
        keyword, equals, value = word.partition("=")
        if keyword.upper() != "REQUIRETLS":
            return None if self.bad("unknown-parameter") else "555 5.5.4 unknown"
        if equals:
            return None if self.bad("value" if value else "empty-value") else "501 5.5.4 no value"
        if self.bad("mail") or (self.bad("any-case") and keyword != "REQUIRETLS"):
            return "555 5.5.4 unknown"
        if not self.tls:
            return None if self.bad("mail-in-clear") else "530 5.7.10 not in the clear"
        if self.hello == "HELO" and not self.bad("mail-after-helo"):
            return "555 5.5.4 not offered"
        return None

    def do_rcpt(self, rest):
        if self.mail is None:
            return ["503 5.5.1 MAIL first"]
        if self.bad("greylists"):
            return ["451 4.7.1 later"]
        if "REQUIRETLS" in rest and not self.bad("rcpt"):
            return ["555 5.5.4 unknown"]
        return ["250 2.1.5 ok"]

    def do_rset(self, rest):
        if not self.bad("rset"):
            self.mail = None
        return ["250 2.0.0 ok"]

    def do_data(self, rest):
        self.say("354 go")
        text = ""
        while (line := self.line()) != ".":
            text += line + "\n"
        self.server.messages.append((self.mail, text))
        return ["554 5.7.1 contradiction" if self.bad("deliver") else "250 2.0.0 queued"]

    def do_quit(self, rest):
        return ["221 2.0.0 bye"]
