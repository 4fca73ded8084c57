"""The outgoing session: commands out, replies matched to them in order, TLS with nothing carried over (RFC 3207)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
from OpenSSL import SSL
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IHandshakeListener, IPullProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from requiretls_mta.message.reply import Reply, quote
from requiretls_mta.smtp.capabilities import capabilities
from requiretls_mta.smtp.client_replies import Heard, ReplyReader, ReplySyntaxError
from requiretls_mta.smtp.transcript import HIDDEN, Transcript
from requiretls_mta.tls.client import Handshake
from requiretls_mta.tls.facts import ClientTLS


@attrs.frozen(kw_only=True)
class Timeouts:
    """Seconds to wait in each phase (RFC 5321 4.5.3.2)."""

    connect: float = 30.0
    greeting: float = 300.0
    hello: float = 300.0
    handshake: float = 60.0
    mail: float = 300.0
    rcpt: float = 300.0
    data: float = 120.0
    chunk: float = 180.0
    end: float = 600.0
    quit: float = 5.0


class SessionLostError(Exception):
    """The session ended before the reply; the text says how, in words for a report."""


class HandshakeError(Exception):
    """TLS could not be established; the connection is gone."""


@implementer(IHandshakeListener)
class ClientSession(Protocol):
    """One connection to a server. Replies are awaited in the order of the commands."""

    transport: Any

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._reader = ReplyReader()
        self._unread: deque[Heard] = deque()
        self._waiting: deque[tuple[Deferred[Reply], float, bool]] = deque()
        self._timer: Any = None
        self._handshake: Handshake | None = None
        self._secured: Deferred[ClientTLS] | None = None
        self._end: str | None = None
        self._sending: _Sender | None = None
        self._leaving: Deferred[None] | None = None
        self._listing = False
        """Whether the next reply is to list what the server offers."""
        self.tls: ClientTLS | None = None
        self.offers: Mapping[str, tuple[str, ...]] = {}
        """What the last EHLO listed; nothing after STARTTLS until the next."""
        self.transcript: Transcript | None = None
        """Where what is said is noted, if anywhere."""

    @property
    def is_open(self) -> bool:
        """Whether commands can be sent."""
        return self._end is None and self.transport is not None

    # --- commands ---------------------------------------------------------------------------------------------

    def greeting(self, timeout: float) -> Deferred[Reply]:
        """The server's first words."""
        return self._expect(timeout)

    def command(self, line: bytes, timeout: float) -> Deferred[Reply]:
        """Send a command line (without CRLF); the Deferred fails with `SessionLostError` only."""
        return self.commands([(line, timeout)])[0]

    def commands(self, lines: Sequence[tuple[bytes, float]], behind: bytes = b"") -> list[Deferred[Reply]]:
        """Send command lines in one write, and what comes right behind them; one reply each."""
        octets, replies = b"", []
        for line, timeout in lines:
            octets += line + b"\r\n"
            replies.append(self._expect(timeout))
        if self.is_open:
            self.transport.write(octets + behind)
            if self.transcript is not None:
                for line, _ in lines:
                    self.transcript.client(line)
                if behind:
                    self.transcript.octets(len(behind))
        return replies

    def confide(self, line: bytes, timeout: float, shown: bytes = HIDDEN) -> Deferred[Reply]:
        """`command`, with a line that holds a secret; a transcript has what is `shown`, and no text of the reply."""
        reply = self._expect(timeout, secret=True)
        if self.is_open:
            self.transport.write(line + b"\r\n")
            if self.transcript is not None:
                self.transcript.client(shown)
        return reply

    def expect(self, timeout: float) -> Deferred[Reply]:
        """One more reply to what was already sent."""
        return self._expect(timeout)

    async def hello(self, verb: str, name: str, timeout: float) -> Reply:
        """EHLO, LHLO or HELO; what it lists replaces all that was known."""
        self.offers = {}
        self._listing = verb != "HELO"
        return await self.command(f"{verb} {name}".encode("ascii"), timeout)

    def start_tls(self, handshake: Handshake, timeout: float) -> Deferred[ClientTLS]:
        """The handshake, after a 220 to STARTTLS or at once; fails with `HandshakeError` or `SessionLostError`."""
        self.offers = {}
        secured: Deferred[ClientTLS] = Deferred()
        if not self.is_open:
            secured.errback(SessionLostError(self._end or "the connection is closed"))
            return secured
        if self._unread or not self._reader.is_empty or self._waiting:
            # What somebody put behind the 220 would be taken for the server's words inside TLS.
            self.abort("octets in the clear behind the reply to STARTTLS")
            secured.errback(HandshakeError("octets in the clear behind the reply to STARTTLS"))
            return secured
        self._handshake, self._secured = handshake, secured
        self._set_timer(timeout)
        self.transport.startTLS(handshake)
        return secured

    def send(self, pieces: Iterator[bytes], timeout: float) -> Deferred[None]:
        """Send octets at the speed at which the server takes them; fails with `SessionLostError`."""
        sender = _Sender(self, pieces, timeout)
        if not self.is_open:
            sender.done.errback(SessionLostError(self._end or "the connection is closed"))
            return sender.done
        self._sending = sender
        sender.start()
        return sender.done

    def quit(self, timeout: float) -> Deferred[None]:
        """Say QUIT, once, and hang up; fires when that is over, for whoever waits for it."""
        if self._leaving is None:
            if not self.is_open:
                return succeed(None)
            said = self.command(b"QUIT", timeout)
            self._leaving = said.addBoth(lambda _: self.abort("the session is over"))
        return self._leaving

    def abort(self, why: str) -> None:
        """Hang up now."""
        if self._end is None:
            self._end = why
            self._hang_up()

    def _hang_up(self) -> None:
        if self.transcript is not None and self._end is not None:
            self.transcript.note(self._end)
        if self.transport is not None:
            self.transport.abortConnection()
        self._fail(self._end or "")

    # --- Twisted's side ---------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Small writes go out at once."""
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)

    def handshakeCompleted(self) -> None:
        """TLS stands: tell its facts before a word is said inside it."""
        handshake, secured = self._handshake, self._secured
        self._handshake = self._secured = None
        if handshake is None or secured is None:
            return
        self._set_timer(None)
        try:
            self.tls = handshake.facts(self.transport.getHandle())
        except Exception as error:
            # Certificates are the peer's octets, and readers of them differ in what they take.
            why = f"the certificate cannot be read: {quote(str(error))}"
            self.abort(why)
            secured.errback(HandshakeError(why))
            return
        if self.transcript is not None:
            self.transcript.note(f"{self.tls.version}, {self.tls.cipher}")
        secured.callback(self.tls)

    def dataReceived(self, data: bytes) -> None:
        """Replies."""
        try:
            self._unread.extend(self._reader.feed(data))
        except ReplySyntaxError as error:
            self.abort(f"the server broke the protocol: {error}")
            return
        while self._unread and self._end is None:
            heard = self._unread.popleft()
            reply = heard.reply
            if not self._waiting:
                self.abort(f"the server said unasked: {quote(str(reply))}")
                return
            waiter, _, secret = self._waiting.popleft()
            if self.transcript is not None:
                self.transcript.server(reply.code, heard.lines, hidden=secret)
            self.await_next()
            if self._listing:
                self._listing = False
                self.offers = capabilities(heard.lines) if reply.code == 250 else {}
            if reply.code == 421:
                # RFC 5321 3.8: whatever it was the reply to, nothing more is said here.
                self._end = f"the server closes the session: {quote(str(reply))}"
            waiter.callback(reply)
            if reply.code == 421:
                self._hang_up()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end of the connection."""
        if self._end is None:
            self._end = "the server closed the connection"
            if self.transcript is not None:
                self.transcript.note(self._end)
        secured, self._secured = self._secured, None
        self._set_timer(None)
        if secured is not None:
            secured.errback(HandshakeError(_tls_trouble(reason)))
        self._fail(self._end)

    # --- waiting ----------------------------------------------------------------------------------------------

    def _expect(self, timeout: float, *, secret: bool = False) -> Deferred[Reply]:
        waiter: Deferred[Reply] = Deferred()
        if not self.is_open:
            waiter.errback(SessionLostError(self._end or "the connection is closed"))
            return waiter
        self._waiting.append((waiter, timeout, secret))
        if len(self._waiting) == 1:
            self._set_timer(timeout)
        return waiter

    def await_next(self) -> None:
        """Give what is due next its own time: a piece of the message that flows, else a reply."""
        if not self.is_open:
            self._set_timer(None)
        elif self._sending is not None:
            # A reply that comes early must not stop the clock of a transfer that then stalls.
            self._set_timer(self._sending.timeout)
        else:
            self._set_timer(self._waiting[0][1] if self._waiting else None)

    def _set_timer(self, seconds: float | None) -> None:
        timer = self._timer
        if timer is not None and timer.active():
            if seconds is not None:
                timer.reset(seconds)
                return
            timer.cancel()
        self._timer = None if seconds is None else self._clock.callLater(seconds, self._timed_out)

    def _timed_out(self) -> None:
        secured, self._secured = self._secured, None
        why = "the server did not answer in time"
        if secured is not None:
            self._end = why
            self.transport.abortConnection()
            secured.errback(SessionLostError("the TLS handshake took too long"))
        self.abort(why)

    def _fail(self, why: str) -> None:
        self._set_timer(None)
        waiting, self._waiting = self._waiting, deque()
        for waiter, *_ in waiting:
            waiter.errback(SessionLostError(why))
        if self._sending is not None:
            self._sending.end(SessionLostError("the connection was lost while sending"))


@implementer(IPullProducer)
class _Sender:
    """Writes pieces as the transport asks for them."""

    def __init__(self, session: ClientSession, pieces: Iterator[bytes], timeout: float) -> None:
        self._session = session
        self._pieces = pieces
        self.timeout = timeout
        self.done: Deferred[None] = Deferred()
        self._count = 0

    def start(self) -> None:
        """The transport will ask."""
        self._session.transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """The transport has room."""
        if self.done.called:
            return
        self._session.await_next()  # each piece that was taken is progress
        try:
            piece = next(self._pieces, None)
        except Exception as error:
            # Whatever is wrong with our copy, the server must not take what it has for the whole.
            self.end(error)
            self._session.abort("the message cannot be read")
            return
        if piece is None:
            self.end(None)
        else:
            self._count += len(piece)
            self._session.transport.write(piece)

    def stopProducing(self) -> None:
        """The connection is gone; the session tells."""

    def end(self, error: Exception | None) -> None:
        """Nothing more is sent."""
        if self.done.called:
            return
        self._session._sending = None
        if self._session.transcript is not None:
            self._session.transcript.octets(self._count)
        if self._session.is_open:
            # A transport that has lost its connection has forgotten its producer, and TLS would stumble over it.
            self._session.transport.unregisterProducer()
        self._session.await_next()
        if error is None:
            self.done.callback(None)
        else:
            self.done.errback(error)


def _tls_trouble(reason: Failure) -> str:
    error = reason.value
    if isinstance(error, SSL.Error) and error.args and isinstance(error.args[0], list):
        return "; ".join(str(part[2]) for part in error.args[0]) or "TLS error"
    return "the connection was closed during the handshake"
