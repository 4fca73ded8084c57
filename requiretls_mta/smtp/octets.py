"""The bytes of a session: an own buffer, one command in flight, replies in order, memory that stays bounded.

Stock Twisted splits lines first and asks later: what was pipelined behind STARTTLS is executed, what follows an
over-long line of a message too, and a command whose policy is asynchronous is overtaken by the next. Here nothing is
taken from the buffer before the reply to what came first went out.
"""

from __future__ import annotations

import enum
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from requiretls_mta.message import reply
from requiretls_mta.message.reply import Reply
from requiretls_mta.smtp._stock import ESMTP
from requiretls_mta.smtp.grammar import AUTH_LIMIT, COMMAND_LIMIT, is_http, line_limit
from requiretls_mta.smtp.incoming import Incoming
from requiretls_mta.smtp.outlet import write_now
from requiretls_mta.smtp.settings import SessionSettings

HIGH_WATER = 64 * 1024
"""Octets waiting in a session's buffer at which reading from the network pauses."""
_VERB_ROOM = 16
"""Octets of an over-long line that are kept: more than any verb has."""
_LINGER = 10.0
"""Seconds for a peer to read the last reply before the connection is cut."""


class Mode(enum.Enum):
    """What the next octets are."""

    COMMAND = "command"
    AUTH = "auth"
    DATA = "data"
    CHUNK = "chunk"


@implementer(IPushProducer)
class _Replies:
    """Tells the session when its peer does not read the replies."""

    def __init__(self, session: OctetSession) -> None:
        self._session = session

    def pauseProducing(self) -> None:
        """Too much is waiting to be sent: execute no more commands."""
        self._session._stalled = True

    def resumeProducing(self) -> None:
        """It has been sent."""
        self._session._stalled = False
        self._session._drain()

    def stopProducing(self) -> None:
        """The connection is gone."""


@implementer(IHalfCloseableProtocol)
class OctetSession(ESMTP):
    """An ESMTP session that owns its bytes. Subclasses give the modes their meaning."""

    _log = Logger()
    id = ""
    """The session's name in the log."""
    settings = SessionSettings()
    reactor: Any = None
    transport: Any
    portal: Any
    transcript: Incoming | None = None
    """Where what is said is noted, if anywhere."""
    _helo: Any
    _offered: frozenset[str] = frozenset()

    def __init__(self, chal: Any = None, contextFactory: Any = None) -> None:
        super().__init__(chal, contextFactory)
        self._pending = bytearray()
        self._mode = Mode.COMMAND
        self._busy = False
        self._stalled = False
        self._paused = False
        self._draining = False
        self._closing = False
        self._skipping = b""
        self._has_ended = False
        self._errors = 0
        self._has_answered = False
        """Whether a command was answered since the timer was last set."""
        self._replies: list[bytes] = []

    # --- in ---------------------------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        """Octets from the network, decrypted if there is TLS."""
        if self._closing:
            return
        if self._mode is Mode.DATA and not (self._pending or self._busy or self._stalled or self._draining):
            rest = self.data_octets(data)
            if not rest:
                return
            data = rest
        self._pending += data
        self._drain()
        if len(self._pending) >= HIGH_WATER and (self._busy or self._stalled) and not self._paused:
            self._paused = True
            self.transport.pauseProducing()

    def _drain(self) -> None:
        """Take from the buffer as long as nothing is in flight; a loop, for a recursion could be driven deep."""
        if self._draining:
            return
        self._draining = True
        try:
            while self._pending and not (self._busy or self._stalled or self._closing) and self._step():
                pass
        finally:
            self._draining = False
            self.flush()
        if self._has_answered:
            self._has_answered = False
            self.resetTimeout()
        if self._busy or self._stalled or self._closing:
            return
        if self._paused and len(self._pending) < HIGH_WATER:
            self._paused = False
            self.transport.resumeProducing()
        if self._has_ended:
            self.close()

    def _step(self) -> bool:
        """Take the next line or chunk; False when it is not complete."""
        if self._mode in (Mode.DATA, Mode.CHUNK):
            data = bytes(self._pending)
            self._pending.clear()
            self._pending += self.data_octets(data)
            return True
        end = self._pending.find(b"\r\n")
        limit = AUTH_LIMIT if self._mode is Mode.AUTH else COMMAND_LIMIT
        if self._mode is Mode.COMMAND and (end < 0 or end + 2 > limit):
            limit = line_limit(bytes(self._pending[:5]), self._offered)
        if end < 0:
            # The CR that may be the line's end does not count yet.
            if len(self._pending) > limit or self._skipping:
                self._skipping = self._skipping or bytes(self._pending[:_VERB_ROOM])
                del self._pending[: -1 if self._pending.endswith(b"\r") else len(self._pending)]
            return False
        line = bytes(self._pending[:end])
        del self._pending[: end + 2]
        self._busy = True
        if self._skipping or end + 2 > limit:
            start, self._skipping = self._skipping or line, b""
            self._mode = Mode.COMMAND
            if self.transcript is not None:
                self.transcript.note("a line that is too long")
            self.reply(reply.NOT_HTTP if is_http(start) else reply.LINE_TOO_LONG)
        else:
            if self.transcript is None:
                pass
            elif self._mode is Mode.AUTH:
                self.transcript.response()
            else:
                self.transcript.command(line)
            self._execute(line)
        return True

    def _execute(self, line: bytes) -> None:
        try:
            self.line(line)
        except Exception:
            # A hook of an application may fail; the client is told to try again, and the session goes on.
            self._log.failure("a command failed", session=self.id)
            if self._busy:
                self.reply(reply.LOCAL_ERROR)

    def line(self, line: bytes) -> None:
        """A command line, or one of an AUTH exchange; exactly one reply must follow."""
        raise NotImplementedError

    def data_octets(self, data: bytes) -> bytes:
        """Octets of a message; returns those behind its end."""
        raise NotImplementedError

    # --- out --------------------------------------------------------------------------------------------------

    def reply(self, answer: Reply) -> None:
        """Answer the command in flight."""
        if self._closing:
            return
        if answer.code >= 500:
            self._errors += 1
            if self._errors >= self.settings.max_errors:
                self.close(reply.TOO_MANY_ERRORS)
                return
        if answer.code == 421:
            self.close(answer)
            return
        self.answered(answer.wire)

    def answered(self, wire: bytes) -> None:
        """Write the last or only reply to the command in flight, and go on with the next."""
        self._replies.append(wire)
        if self.transcript is not None:
            self.transcript.reply(wire)
        self._busy = False
        self._has_answered = True
        if not self._draining:
            self.flush()
        self.go_on()

    def say(self, wire: bytes) -> None:
        """Write to the peer; the replies to commands that came together go out together."""
        self._replies.append(wire)
        if self.transcript is not None:
            self.transcript.reply(wire)
        if not self._draining:
            self.flush()

    def flush(self) -> None:
        """Write what was said."""
        if not self._replies:
            return
        octets = b"".join(self._replies)
        self._replies.clear()
        write_now(self.transport, octets)

    def go_on(self) -> None:
        """Nothing is in flight: take the next command."""
        self._drain()

    def sendCode(self, code: int, message: bytes = b"") -> None:
        """Stock Twisted's way to answer, for hooks that others wrote."""
        text = message.decode("utf-8", "replace").replace("\r", "")
        if code in {220, 334, 354} or text[:2] in ("2.", "4.", "5."):
            self.reply(Reply(code, None, text))
        else:
            self.reply(Reply(code, f"{code // 100}.0.0", text))

    def close(self, answer: Reply | None = None, *, linger: float = _LINGER) -> None:
        """Say a last word and hang up; what is still in the buffer is never executed.

        A peer that does not take its leave within `linger` seconds is cut off.
        """
        if self._closing:
            if self._linger is not None and self._linger.active() and linger < _LINGER:
                self._linger.reset(linger)
            return
        self._closing = True
        self._pending.clear()
        self.setTimeout(None)
        if answer is not None:
            self._replies.append(answer.wire)
            if self.transcript is not None:
                self.transcript.reply(answer.wire)
        self.flush()
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        self._linger = self.callLater(linger, self._cut)

    def _cut(self) -> None:
        self._linger = None
        self.transport.abortConnection()

    # --- time -------------------------------------------------------------------------------------------------

    _linger: Any = None

    def callLater(self, period: float, function: Any) -> Any:
        """TimeoutMixin's timer, on the reactor that was given."""
        reactor = self.reactor
        if reactor is None:
            from twisted.internet import reactor  # noqa: PLC0415  # stock use, where there is but the global one
        return reactor.callLater(period, function)

    def timeoutConnection(self) -> None:
        """Nothing complete came for too long; the time that an answer of ours takes is not the client's."""
        if self._busy:
            self.setTimeout(self.timeOut)
        else:
            self.close(reply.TIMED_OUT)

    def connectionMade(self) -> None:
        """Watch whether the replies are read."""
        self.transport.registerProducer(_Replies(self), True)

    def readConnectionLost(self) -> None:
        """The client says no more, but may still listen: all that it said is carried out and answered first.

        Without the reply to a message that was taken it would be sent again.
        """
        self._has_ended = True
        self._drain()

    def writeConnectionLost(self) -> None:
        """Half a connection is closed by us never."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end, whoever wanted it."""
        self._closing = True
        self._pending.clear()
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        super().connectionLost(reason)
