"""Transactions of applications written for `twisted.mail.smtp`: their delivery and messages behind our session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from requiretls_mta.message import reply
from requiretls_mta.message.address import Address, ascii_domain
from requiretls_mta.message.content import Content
from requiretls_mta.message.envelope import Envelope, Recipient
from requiretls_mta.message.reply import Reply
from requiretls_mta.smtp import _stock
from requiretls_mta.smtp.interfaces import IEnvelopeDelivery, Session


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
        self._line = b""
        self._aborted = False

    def mail(self, envelope: Envelope) -> Deferred[Reply]:
        """Ask validateFrom."""
        origin = _stock_address(envelope.sender)
        validated: Deferred[Any] = maybeDeferred(self._protocol.validateFrom, self._protocol._helo, origin)
        return validated.addCallbacks(self._sender_valid, self._refused)

    def rcpt(self, recipient: Recipient) -> Deferred[Reply]:
        """Ask validateTo."""
        user = _stock.User.__new__(_stock.User)
        user.dest, user.orig = _stock_address(recipient.address), self._origin
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
        lines = (self._line + chunk).split(b"\r\n")
        self._line = lines.pop()
        self._lines(lines)

    def end(self, content: Content, header: bytes) -> Deferred[Reply]:
        """All messages must say that they are safe."""
        if self._line:
            self._lines([self._line])
        messages, self._messages = self._messages, []
        if not messages:
            return maybeDeferred(lambda: reply.LOCAL_ERROR)
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

    def _sender_valid(self, origin: Any) -> Reply:
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
        try:
            for message in self._messages:
                for line in lines:
                    message.lineReceived(line)
        except Exception:
            self._log.failure("an IMessage failed in lineReceived")
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
        if isinstance(error, _stock.SMTPServerError):
            text = error.resp.decode("utf-8", "replace") if isinstance(error.resp, bytes) else str(error.resp)
            return reply.parse_reply(error.code, [text.encode()]).with_class()
        self._log.failure("the application's delivery failed", failure)
        return reply.LOCAL_ERROR


def _stock_address(address: Address | None) -> Any:
    """A `twisted.mail.smtp.Address`, also of what its parser does not take (literals, UTF-8)."""
    made = _stock.Address.__new__(_stock.Address)
    made.local = address.local.encode() if address else b""
    made.domain = ascii_domain(address.domain).encode() if address else b""
    return made
