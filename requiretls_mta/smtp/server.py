"""`RequireTLSESMTP`: the ESMTP server session that keeps promises (RFC 5321, RFC 3207, RFC 8689)."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IHandshakeListener, ITLSTransport
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from requiretls_mta.message import reply
from requiretls_mta.message.envelope import Envelope, Recipient
from requiretls_mta.message.ports import Events, NoEvents
from requiretls_mta.message.reply import Reply, quote
from requiretls_mta.smtp.adapter import StockTransaction
from requiretls_mta.smtp.data import DataSession
from requiretls_mta.smtp.grammar import (
    HTTP_METHODS,
    KNOWN_VERBS,
    Command,
    parse_command,
    parse_helo,
    parse_mail,
    parse_rcpt,
)
from requiretls_mta.smtp.interfaces import IEnvelopeDelivery, Peer, Session, Station
from requiretls_mta.smtp.limits import ConnectionCount, peer_of
from requiretls_mta.smtp.octets import Mode
from requiretls_mta.tls.facts import ServerTLS

PROMISES = frozenset({"REQUIRETLS", "DSN", "SMTPUTF8"})
"""Extensions that say what happens to a message after it was accepted; offered only where somebody sees to it."""


@implementer(IHandshakeListener)
class RequireTLSESMTP(DataSession):
    """A drop-in for `twisted.mail.smtp.ESMTP`.

    What a listener or application gives it (settings, station, promises, reactor, ...) is set by its factory.
    """

    station: Station | None = None
    """Makes the transactions; None: the stock hooks (`validateFrom`, `delivery`, `portal`) are asked."""
    promises: frozenset[str] = frozenset()
    events: Events = NoEvents()
    listener = ""
    count: ConnectionCount | None = None
    wall: Callable[[], float] | None = None
    on_end: Callable[[RequireTLSESMTP], None] | None = None

    def __init__(self, chal: Any = None, contextFactory: Any = None) -> None:
        super().__init__(chal, contextFactory)
        self.id = secrets.token_hex(6)
        self.tls: ServerTLS | None = None
        self._greeted = ""
        self._handshaking = False
        self._counted = False
        self._stopping = False
        self._started = 0.0
        self.peer = Peer(address=None)
        self._recipients: list[Recipient] = []

    # --- the connection ---------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Greet, or send away who is one too many."""
        super().connectionMade()
        transport = self.transport
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)
        self.peer = peer_of(transport.getPeer(), self.listener)
        self._helo = (None, (self.peer.address or "unix").encode("ascii"))
        self._handshaking = self.settings.service == "submissions"
        self.canStartTLS = bool(self.ctx) and not self._handshaking and ITLSTransport.providedBy(transport)
        self._started = self.now()
        self.setTimeout(self.settings.timeout)
        self._counted = self.count is None or self.count.enter(self.peer)
        if not self._counted:
            self.close(reply.TOO_MANY_CONNECTIONS)
            return
        self.events.emit("connected", session=self.id, client=self.peer.address, listener=self.listener)
        transport.write(b"220 " + self.greeting() + b"\r\n")

    def greeting(self) -> bytes:
        """The text of the greeting."""
        name: bytes = self.host
        return name + (b" LMTP" if self.settings.service == "lmtp" else b" ESMTP") + b" requiretls-mta"

    def dataReceived(self, data: bytes) -> None:
        """Octets that arrive while a handshake is awaited were decrypted: it is over, even if nobody told."""
        if self._handshaking:
            self.handshakeCompleted()
        super().dataReceived(data)

    def handshakeCompleted(self) -> None:
        """TLS is really there: only now may anything be promised on it."""
        if not self._handshaking:
            return
        self._handshaking = False
        connection = self.transport.getHandle()
        self.tls = ServerTLS(
            version=connection.get_protocol_version_name(),
            cipher=connection.get_cipher_name() or "",
            bits=connection.get_cipher_bits() or 0,
            server_name=quote(connection.get_servername() or b"") or None,
        )
        self.startedTLS = True
        self.resetTimeout()
        self.events.emit("tls", session=self.id, tls_version=self.tls.version, cipher=self.tls.cipher)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """A message whose end was not seen never was."""
        self.reset()
        if self._counted and self.count is not None:
            self.count.leave(self.peer)
        super().connectionLost(reason)
        if self.on_end is not None:
            self.on_end(self)

    def shutdown(self) -> None:
        """End the session: at once, or after the reply to the message that is coming in."""
        self._stopping = True
        if not self.in_message:
            self.close(reply.SHUTTING_DOWN)

    def answered(self, wire: bytes) -> None:
        """After the last reply of a session that is to end, end it."""
        super().answered(wire)
        if self._stopping and not self.in_message:
            self.close(reply.SHUTTING_DOWN)

    def now(self) -> float:
        """Seconds of the reactor's clock."""
        reactor = self.reactor
        if reactor is None:
            from twisted.internet import reactor  # noqa: PLC0415  # stock use, where there is but the global one
        seconds: float = reactor.seconds()
        return seconds

    # --- commands ---------------------------------------------------------------------------------------------

    def line(self, line: bytes) -> None:
        """One command, or one line of AUTH."""
        if self.now() - self._started > self.settings.session_time:
            self.close(reply.TIMED_OUT)
            return
        if self._mode is Mode.AUTH:
            self.auth_line(line)
            return
        command = parse_command(line)
        if isinstance(command, Reply):
            self.reply(command)
            return
        method = self.lookupMethod(command.verb)
        if method is not None:
            method(command.argument)
        else:
            self._unknown(command)

    def lookupMethod(self, command: bytes | str) -> Any:
        """The hook for a verb: `do_X`, or `ext_X` of an extension."""
        verb = (command.decode("ascii", "replace") if isinstance(command, bytes) else command).upper().replace("-", "_")
        if (verb == "LHLO") != (self.settings.service == "lmtp") and verb in ("EHLO", "HELO", "LHLO"):
            return None
        return getattr(self, "do_" + verb, None) or getattr(self, "ext_" + verb, None)

    def _unknown(self, command: Command) -> None:
        if command.verb in HTTP_METHODS:
            self.close(reply.NOT_HTTP)
        else:
            self.reply(reply.NOT_OFFERED if command.verb in KNOWN_VERBS else reply.UNKNOWN_COMMAND)

    def extensions(self) -> dict[bytes, list[bytes] | None]:
        """What EHLO lists: keywords and their parameters."""
        found: dict[bytes, list[bytes] | None] = {
            b"PIPELINING": None,
            b"SIZE": [b"%d" % self.settings.message_size],
            b"8BITMIME": None,
            b"ENHANCEDSTATUSCODES": None,
            b"CHUNKING": None,
        }
        promised = self._promised()
        for keyword in ("SMTPUTF8", "DSN"):
            if keyword in promised:
                found[keyword.encode()] = None
        if self.canStartTLS and not self.startedTLS:
            found[b"STARTTLS"] = None
        # A promise and a password are for TLS only; before the handshake is done there is none.
        if self.startedTLS and self.tls is not None:
            if self.challengers:
                found[b"AUTH"] = list(self.challengers)
            if "REQUIRETLS" in promised:
                found[b"REQUIRETLS"] = None
        return found

    def _promised(self) -> frozenset[str]:
        promises = self.promises
        if self.delivery is not None and IEnvelopeDelivery.providedBy(self.delivery):
            promises = PROMISES
        return promises if self.settings.requiretls else promises - {"REQUIRETLS"}

    def do_EHLO(self, rest: bytes) -> None:
        """Greeting with extensions."""
        self._hello(rest, "EHLO")

    def do_LHLO(self, rest: bytes) -> None:
        """The EHLO of LMTP (RFC 2033 4.1)."""
        self._hello(rest, "LHLO")

    def do_HELO(self, rest: bytes) -> None:
        """Greeting without extensions."""
        self._hello(rest, "HELO")

    def _hello(self, rest: bytes, verb: str) -> None:
        name = parse_helo(rest, strict=verb != "HELO")
        if isinstance(name, Reply):
            self.reply(name)
            return
        self.reset()
        self._greeted = verb
        self._helo = (rest, self._helo[1])
        lines = [self.host.decode("ascii")]
        self._offered = frozenset()
        if verb != "HELO":
            listed = self.extensions()
            self._offered = frozenset(keyword.decode("ascii").upper() for keyword in listed)
            lines += [
                " ".join([keyword.decode("ascii"), *(value.decode("ascii") for value in values or ())])
                for keyword, values in listed.items()
            ]
        self.answered(Reply(250, None, "\n".join(lines)).wire)

    def ext_STARTTLS(self, rest: bytes) -> None:
        """RFC 3207, with nothing carried over from before TLS."""
        if rest:
            self.reply(reply.BAD_SYNTAX)
        elif self.startedTLS or self.in_transaction or not self._greeted:
            self.reply(reply.BAD_SEQUENCE)
        elif "STARTTLS" not in self._offered:
            self.reply(reply.NOT_OFFERED)
        elif self._pending:
            # Somebody in between may have put it there; it must not reach the other side of the handshake.
            self._log.warn("session {session}: octets in the clear behind STARTTLS", session=self.id)
            self.close()
        else:
            self.reset()
            self._greeted, self._offered = "", frozenset()
            self.authenticated, self.user = False, None
            self._helo = (None, self._helo[1])
            self._handshaking = True
            self.answered(reply.START_TLS.wire)
            if not self._closing:
                self.transport.startTLS(self.ctx)

    def do_MAIL(self, rest: bytes) -> None:
        """Begin a transaction."""
        if not self._greeted or self.in_transaction:
            self.reply(reply.BAD_SEQUENCE)
            return
        in_clear = frozenset() if self.startedTLS or self._greeted == "HELO" else self._promised()
        envelope = parse_mail(rest, self._offered, in_clear=in_clear)
        if isinstance(envelope, Reply):
            self._policy_refusal(envelope)
            return
        refused = self._admissible(envelope)
        if refused is not None:
            self._policy_refusal(refused)
            return
        session = self._session()
        transaction = self.station.begin(session) if self.station else StockTransaction(self, session)
        self._transaction = transaction
        self.when(transaction.mail(envelope), lambda answer: self._mail_answered(envelope, answer))

    def _admissible(self, envelope: Envelope) -> Reply | None:
        settings = self.settings
        if settings.require_tls and not self.startedTLS:
            return reply.STARTTLS_REQUIRED
        if settings.require_auth and not self.authenticated:
            return reply.AUTH_REQUIRED
        if envelope.size is not None and envelope.size > settings.message_size:
            return reply.TOO_BIG
        return None

    def _mail_answered(self, envelope: Envelope, answer: Reply) -> None:
        if answer.is_positive:
            self._envelope = envelope
            self.reply(answer)
        else:
            self.reset()
            self._policy_refusal(answer)

    def do_RCPT(self, rest: bytes) -> None:
        """One more recipient."""
        if self._envelope is None or self._scanner is not None:
            self.reply(reply.BAD_SEQUENCE)
            return
        recipient = parse_rcpt(rest, self._offered, utf8=self._envelope.smtputf8)
        if isinstance(recipient, Reply):
            self._policy_refusal(recipient)
        elif len(self._recipients) >= self.settings.max_recipients:
            self.reply(reply.TOO_MANY_RECIPIENTS)
        else:
            assert self._transaction is not None
            self.when(self._transaction.rcpt(recipient), lambda answer: self._rcpt_answered(recipient, answer))

    def _rcpt_answered(self, recipient: Recipient, answer: Reply) -> None:
        if answer.is_positive:
            self._recipients.append(recipient)
            self.reply(answer)
        else:
            self._policy_refusal(answer, recipient=str(recipient.address))

    def _policy_refusal(self, answer: Reply, **fields: str) -> None:
        self.events.emit("rejected", session=self.id, client=self.peer.address, reply=str(answer), **fields)
        self.reply(answer)

    def do_RSET(self, rest: bytes) -> None:
        """Forget the transaction, keep the greeting."""
        if rest:
            self.reply(reply.BAD_SYNTAX)
            return
        self.reset()
        self.reply(reply.OK)

    def do_NOOP(self, rest: bytes) -> None:
        """Nothing."""
        self.reply(reply.OK)

    def do_VRFY(self, rest: bytes) -> None:
        """Tells nothing."""
        self.reply(reply.VRFY)

    def do_EXPN(self, rest: bytes) -> None:
        """Tells nothing."""
        self.reply(reply.NOT_OFFERED)

    def do_HELP(self, rest: bytes) -> None:
        """Points to the specifications."""
        self.reply(reply.HELP)

    def do_QUIT(self, rest: bytes) -> None:
        """Good-bye."""
        if rest:
            self.reply(reply.BAD_SYNTAX)
            return
        self.close(reply.BYE)

    # --- facts ------------------------------------------------------------------------------------------------

    def _session(self) -> Session:
        esmtp = self._greeted != "HELO"
        name = "LMTP" if self._greeted == "LHLO" else "ESMTP" if esmtp else "SMTP"
        if esmtp:  # RFC 3848
            name += ("S" if self.startedTLS else "") + ("A" if self.authenticated else "")
        helo = self._helo[0]
        return Session(
            id=self.id,
            peer=self.peer,
            service=self.settings.service,
            helo=helo.decode("utf-8", "replace") if helo else "",
            protocol=name,
            tls=self.tls,
            user=self.user,
            started=self.wall() if self.wall else 0.0,
        )
