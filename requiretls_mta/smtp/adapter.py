"""Transactions of applications written for `twisted.mail.smtp`: their delivery and messages behind our session."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from requiretls_mta.message import reply
from requiretls_mta.message.address import Address, ascii_domain
from requiretls_mta.message.content import Content
from requiretls_mta.message.envelope import Envelope, Recipient, Tag
from requiretls_mta.message.reply import Reply
from requiretls_mta.message.trace import date_time
from requiretls_mta.smtp import _stock
from requiretls_mta.smtp.interfaces import IEnvelopeDelivery, Session

_HELO = re.compile(r"[A-Za-z0-9._:\[\]-]+\Z")


class StockTransaction:
    """Drives the hooks of a stock session: validateFrom, validateTo, receivedHeader, and one IMessage per recipient."""

    _log = Logger()

    def __init__(self, protocol: Any, session: Session) -> None:
        self._protocol = protocol
        self._session = session
        self._origin: Any = None
        self._users: list[Any] = []
        self._makers: list[Callable[[], Any]] = []
        self._messages: list[Any] = []
        self._line: list[bytes] = []
        self._begun = False
        self._aborted = False
        self._refusal: Reply | None = None

    def mail(self, envelope: Envelope) -> Deferred[Reply]:
        """Ask validateFrom."""
        origin = _stock_address(envelope.sender)
        validated: Deferred[Any] = maybeDeferred(self._protocol.validateFrom, self._protocol._helo, origin)
        return validated.addCallbacks(self._sender_valid, self._refused, callbackArgs=(envelope,))

    def rcpt(self, recipient: Recipient) -> Deferred[Reply]:
        """Ask validateTo."""
        user = _stock.User.__new__(_stock.User)
        user.dest, user.orig = _stock_address(recipient.address, self._protocol.host), self._origin
        user.helo, user.protocol = self._protocol._helo, self._protocol
        validated: Deferred[Any] = maybeDeferred(self._protocol.validateTo, user)
        return validated.addCallbacks(self._recipient_valid, self._refused, callbackArgs=(user,))

    def data(self, envelope: Envelope) -> Deferred[Reply | None]:
        """Hand over the envelope, if the delivery wants it, and make the messages."""
        delivery = self._protocol.delivery
        told: Deferred[Any] = maybeDeferred(lambda: None)
        if delivery is not None and IEnvelopeDelivery.providedBy(delivery):
            told = maybeDeferred(delivery.envelope_received, envelope, self._session)
        told.addCallback(self._make_messages)
        return told.addErrback(self._data_refused)

    def write(self, chunk: bytes) -> None:
        """Lines to each message, as stock Twisted gives them: without their CRLF."""
        # A line may be as long as the message: it is kept in pieces and joined once.
        if not chunk:
            return
        ends = self._line and self._line[-1].endswith(b"\r") and chunk.startswith(b"\n")
        if not ends and b"\r\n" not in chunk:
            self._line.append(chunk)
            return
        lines = b"".join([*self._line, chunk]).split(b"\r\n")
        self._line = [lines.pop()]
        self._lines(lines)

    def end(self, content: Content, header: bytes) -> Deferred[Reply]:
        """All messages must say that they are safe."""
        rest = b"".join(self._line)
        if rest:
            self._lines([rest])
        messages, self._messages = self._messages, []
        if not messages:
            return succeed(self._refusal or reply.LOCAL_ERROR)
        results = DeferredList([maybeDeferred(m.eomReceived) for m in messages], consumeErrors=True)
        return results.addCallback(self._ended)

    def abort(self) -> None:
        """Tell the messages that no more comes."""
        self._aborted = True
        messages, self._messages = self._messages, []
        for message in messages:
            try:
                message.connectionLost()
            except Exception:
                self._log.failure("an IMessage failed in connectionLost")

    def _sender_valid(self, origin: Any, envelope: Envelope) -> Reply:
        # Only now is it known which delivery a portal or deliveryFactory gives, and what it sees to.
        lacking = _promises_of(envelope) - self._protocol.promised()
        if lacking:
            return reply.UNKNOWN_PARAMETER.with_text(f"{', '.join(sorted(lacking))}: not implemented for this mail")
        self._origin = origin
        self._protocol._from = origin
        return reply.SENDER_OK

    def _recipient_valid(self, maker: Callable[[], Any], user: Any) -> Reply:
        self._users.append(user)
        self._makers.append(maker)
        return reply.RECIPIENT_OK

    def _make_messages(self, _: Any) -> None:
        for user, maker in zip(self._users, self._makers, strict=True):
            message = maker()
            self._messages.append(message)
            received = self._protocol.receivedHeader(self._protocol._helo, self._origin, [user])
            if received:
                message.lineReceived(received)
        if self._aborted:  # the client left while the delivery was thinking
            self.abort()

    def _lines(self, lines: list[bytes]) -> None:
        if not lines or not self._messages:
            return
        if not self._begun:
            # As stock Twisted: a message without a header gets an empty line behind the Received field.
            self._begun = True
            if lines[0] and b":" not in lines[0]:
                lines = [b"", *lines]
        try:
            for message in self._messages:
                for line in lines:
                    message.lineReceived(line)
        except Exception:
            self._refusal = self._refused(Failure())
            self.abort()

    def _ended(self, results: list[tuple[bool, Any]]) -> Reply:
        refusals = [self._refused(result) for success, result in results if not success]
        # One reply stands for all: repeating a message is better than losing it.
        return min(refusals, key=lambda r: r.code, default=reply.OK)

    def _data_refused(self, failure: Failure) -> Reply:
        self.abort()
        return self._refused(failure)

    def _refused(self, failure: Failure) -> Reply:
        error = failure.value
        if isinstance(error, _stock.SMTPServerError) and 400 <= error.code <= 599:
            text = error.resp.decode("utf-8", "replace") if isinstance(error.resp, bytes) else str(error.resp)
            return reply.parse_reply(error.code, [text.encode()]).with_class()
        self._log.failure("the application's delivery failed", failure)
        return reply.LOCAL_ERROR


def stock_received(session: Session, host: bytes, now: float) -> bytes:
    """A Received field for applications that have none of their own; lines parted by LF, as theirs are."""
    helo = session.helo if _HELO.match(session.helo) else "unknown"
    where = session.peer.literal
    field = f"Received: from {helo} ({where})\n\tby {host.decode('ascii', 'replace')} with {session.protocol}"
    return f"{field}\n\tid {session.id}; {date_time(now)}".encode()


def _promises_of(envelope: Envelope) -> set[str]:
    """The extensions that MAIL relied on and that end in a promise."""
    wanted = {"REQUIRETLS": envelope.tag is Tag.REQUIRED, "SMTPUTF8": envelope.smtputf8}
    wanted["DSN"] = envelope.ret is not None or envelope.envid is not None
    return {keyword for keyword, is_wanted in wanted.items() if is_wanted}


def _stock_address(address: Address | None, host: bytes = b"") -> Any:
    """A `twisted.mail.smtp.Address`, also of what its parser does not take (literals, UTF-8).

    As there, the local part keeps its quotes (without them `"a@b"@c` would read as `a@b@c`), and a bare one is ours.
    """
    made = _stock.Address.__new__(_stock.Address)
    if address is None:
        made.local = made.domain = made.addrstr = b""
        return made
    domain = address.domain if address.domain.isascii() else ascii_domain(address.domain)
    made.local = str(Address(address.local, "")).encode()
    made.domain = domain.encode() or host
    made.addrstr = made.local + b"@" + made.domain
    return made
