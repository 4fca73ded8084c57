"""`RequireTLSESMTP`: the ESMTP server session that keeps promises (RFC 5321, RFC 3207, RFC 8689)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from requiretls_mta.checks.pipeline import TransactionChecks
from requiretls_mta.message import reply
from requiretls_mta.message.envelope import Envelope, Recipient
from requiretls_mta.message.reply import Reply
from requiretls_mta.smtp.adapter import StockTransaction, stock_received
from requiretls_mta.smtp.connection import ConnectionSession
from requiretls_mta.smtp.grammar import (
    HTTP_METHODS,
    KNOWN_VERBS,
    Command,
    parse_command,
    parse_helo,
    parse_mail,
    parse_rcpt,
)
from requiretls_mta.smtp.interfaces import IEnvelopeDelivery, Session, Station
from requiretls_mta.smtp.octets import Mode

PROMISES = frozenset({"REQUIRETLS", "DSN", "SMTPUTF8"})
"""Extensions that say what happens to a message after it was accepted; offered only where somebody sees to it."""
_HELLOS = frozenset({"EHLO", "HELO", "LHLO"})


class RequireTLSESMTP(ConnectionSession):
    """A drop-in for `twisted.mail.smtp.ESMTP`.

    What a listener or application gives it (settings, station, promises, reactor, ...) is set by its factory.
    """

    station: Station | None = None
    """Makes the transactions; None: the stock hooks (`validateFrom`, `delivery`, `portal`) are asked."""
    promises: frozenset[str] = frozenset()
    """Those of `PROMISES` that whoever built the factory sees to."""
    wall: Callable[[], float] = time.time

    def __init__(self, chal: Any = None, contextFactory: Any = None) -> None:
        super().__init__(chal, contextFactory)
        self._recipients: list[Recipient] = []
        self._checks: TransactionChecks | None = None
        self._told_later = False
        self._put_off: Reply | None = None
        """How MAIL was last put off."""

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
        if verb in _HELLOS and (verb == "LHLO") != (self.settings.service == "lmtp"):
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
        promised = self.promised()
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

    def promised(self) -> frozenset[str]:
        """Those of `PROMISES` that are kept for the mail of this session as it stands."""
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
            # As in stock Twisted, an extension with an empty list of values is not there.
            listed = {
                keyword.decode("ascii"): [value.decode("ascii") for value in values or ()]
                for keyword, values in self.extensions().items()
                if values is None or values
            }
            if not self.startedTLS:  # RFC 8689 2: never in the clear, whoever wrote extensions()
                listed.pop("REQUIRETLS", None)
            self._offered = frozenset(map(str.upper, listed))
            lines += [" ".join([keyword, *values]) for keyword, values in listed.items()]
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
            self.start_tls()

    def do_MAIL(self, rest: bytes) -> None:
        """Begin a transaction."""
        if not self._greeted or self.in_transaction:
            self.reply(reply.BAD_SEQUENCE)
            return
        in_clear = frozenset() if self.startedTLS or self._greeted == "HELO" else self.promised()
        envelope = parse_mail(rest, self._taken(), in_clear=in_clear)
        if isinstance(envelope, Reply):
            self.refuse(envelope)
            return
        refused = self._admissible(envelope)
        if refused is not None:
            self.refuse(refused, sender=envelope.reverse_path)
            return
        checks = None
        if self.checks is not None and not self.authenticated:
            checks = self.checks.transaction(self._hello_name(), envelope)
        self._checks = checks
        session = self._session(checks)
        transaction = self.station.begin(session) if self.station else StockTransaction(self, session)
        self._transaction = transaction
        self.ask(lambda answer: self._mail_answered(envelope, answer), transaction.mail, envelope)

    def _taken(self) -> frozenset[str]:
        """The extensions whose parameters are taken: offered, and the promise still stands.

        A login may have put another delivery in the place of the one that promised.
        """
        return self._offered - (PROMISES - self.promised())

    def _admissible(self, envelope: Envelope) -> Reply | None:
        settings = self.settings
        if settings.require_tls and not self.startedTLS:
            return reply.STARTTLS_REQUIRED
        # A station knows whom its listener trusts; the stock hooks of an application do not.
        submission = self.station is None and settings.service in ("submission", "submissions")
        if (settings.require_auth or submission) and not self.authenticated:
            return reply.AUTH_REQUIRED
        if envelope.size is not None and envelope.size > settings.message_size:
            return reply.TOO_BIG
        return None

    def _mail_answered(self, envelope: Envelope, answer: Reply) -> None:
        if answer.is_positive:
            self._envelope, self._told_later = envelope, False
            self.reply(answer)
            return
        self.reset()
        # What is temporary is no error that would end the session: over and over, it is told the client only.
        if answer.is_temporary and answer == self._put_off:
            self.reply(answer)
            return
        self._put_off = answer
        self.refuse(answer, sender=envelope.reverse_path)

    def do_RCPT(self, rest: bytes) -> None:
        """One more recipient."""
        if self._envelope is None or self._scanner is not None:
            self.reply(reply.BAD_SEQUENCE)
            return
        recipient = parse_rcpt(rest, self._taken(), utf8=self._envelope.smtputf8)
        if isinstance(recipient, Reply):
            self.refuse(recipient)
        elif len(self._recipients) >= self.settings.max_recipients:
            self._refuse_recipient(recipient, reply.TOO_MANY_RECIPIENTS)
        else:
            self.ask(lambda answer: self._rcpt_answered(recipient, answer), self._checked_rcpt, recipient)

    def _checked_rcpt(self, recipient: Recipient) -> Reply | Deferred[Reply]:
        """The checks first: a transaction that has taken a recipient would not forget it again."""
        assert self._transaction is not None
        rcpt = self._transaction.rcpt
        # RFC 5321 4.5.1: whoever is turned away can write to the postmaster about it.
        asks = self._checks is not None and recipient.address.local.lower() != "postmaster"
        refusal = self._checks.refusal() if asks and self._checks is not None else None
        if isinstance(refusal, Deferred):
            return refusal.addCallback(lambda refused: refused or rcpt(recipient))
        return refusal or rcpt(recipient)

    def _rcpt_answered(self, recipient: Recipient, answer: Reply) -> None:
        if answer.is_positive:
            self._recipients.append(recipient)
            self.reply(answer)
        else:
            self._refuse_recipient(recipient, answer)

    def _refuse_recipient(self, recipient: Recipient, answer: Reply) -> None:
        # What is temporary is told once a transaction: it is no error that would end the session, and a log has an end.
        told, self._told_later = self._told_later, self._told_later or answer.is_temporary
        if told and answer.is_temporary:
            self.reply(answer)
        else:
            self.refuse(answer, recipient=str(recipient.address))

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

    def _hello_name(self) -> str:
        helo = self._helo[0]
        return helo.decode("utf-8", "replace") if helo else ""

    def _session(self, checks: TransactionChecks | None = None) -> Session:
        esmtp = self._greeted != "HELO"
        name = "LMTP" if self._greeted == "LHLO" else "ESMTP" if esmtp else "SMTP"
        if esmtp:  # RFC 3848
            name += ("S" if self.startedTLS else "") + ("A" if self.authenticated else "")
        return Session(
            id=self.id,
            peer=self.peer,
            service=self.settings.service,
            helo=self._hello_name(),
            protocol=name,
            tls=self.tls,
            user=self.user,
            mechanism=self.mechanism,
            started=self.wall(),
            checks=checks,
            transcript=self.transcript,
        )

    def receivedHeader(self, helo: Any, origin: Any, recipients: list[Any]) -> Any:
        """The Received field of a stock message; the delivery's own if there is one."""
        if self.delivery is not None:
            return self.delivery.receivedHeader(helo, origin, recipients)
        return stock_received(self._session(), self.host, self.wall())
