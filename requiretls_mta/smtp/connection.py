"""The connection under a session: its greeting and limits, the handshake that turns it into TLS, and its end."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.interfaces import IHandshakeListener, ITLSTransport
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from requiretls_mta.checks.interfaces import Client
from requiretls_mta.checks.pipeline import Pipeline, SessionChecks
from requiretls_mta.message import reply
from requiretls_mta.message.ports import Events, NoEvents
from requiretls_mta.message.reply import Reply, quote
from requiretls_mta.smtp.data import DataSession
from requiretls_mta.smtp.incoming import Incoming
from requiretls_mta.smtp.interfaces import Peer
from requiretls_mta.smtp.limits import ConnectionCount, peer_of, user_of
from requiretls_mta.tls.facts import ServerTLS

_STOP_LINGER = 1.0
"""Seconds that a peer has to take its leave when the service stops."""


@implementer(IHandshakeListener)
class ConnectionSession(DataSession):
    """Knows its peer, counts it, and tells TLS that is there from TLS that was asked for."""

    timeout: Any = None
    """Stock Twisted's attribute, for applications that set it, in seconds; None: the settings say."""
    events: Events = NoEvents()
    listener = ""
    client_address: Any = None
    """Where the client is, as the factory was told; None: the transport says."""
    count: ConnectionCount | None = None
    pipeline: Pipeline | None = None
    """The checks that the client and its mail have to pass."""
    transcribes = False
    """Whether what is said is noted, for whoever keeps the message."""
    on_end: Callable[[ConnectionSession], None] | None = None
    stopping = False
    """Whether the session is to end as soon as no message is under way."""

    def __init__(self, chal: Any = None, contextFactory: Any = None) -> None:
        super().__init__(chal, contextFactory)
        self.id = secrets.token_hex(6)
        self.tls: ServerTLS | None = None
        self._greeted = ""
        self._handshaking = False
        self._counted = False
        self._started = 0.0
        self.peer = Peer(address=None)
        self.checks: SessionChecks | None = None

    # --- its beginning ----------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Greet, or send away who is one too many."""
        super().connectionMade()
        transport = self.transport
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)
        self.peer = peer_of(self.client_address or transport.getPeer(), self.listener)
        if self.peer.address is None and not self.peer.via_proxy:
            self.peer = attrs.evolve(self.peer, uid=user_of(transport))
        self._helo = (None, (self.peer.address or "unix").encode("ascii"))
        self._handshaking = self.settings.service == "submissions"
        self.canStartTLS = bool(self.ctx) and not self._handshaking and ITLSTransport.providedBy(transport)
        self._started = self.now()
        if self.transcribes:
            self.transcript = Incoming(self.now if self.reactor is None else self.reactor.seconds)
        self.setTimeout(self.settings.timeout if self.timeout is None else self.timeout)
        self._counted = self.count is None or self.count.enter(self.peer)
        if self.stopping or not self._counted:
            self.refuse(reply.SHUTTING_DOWN if self.stopping else reply.TOO_MANY_CONNECTIONS)
            return
        self.events.emit("connected", session=self.id, client=self.peer.address, listener=self.listener)
        greeting = b"220 " + self.greeting() + b"\r\n"
        if self.transcript is not None:
            self.transcript.reply(greeting)
        transport.write(greeting)
        if self.pipeline is not None:
            self.checks = self.pipeline.begin(self._client())

    def _client(self) -> Client:
        return Client(
            session=self.id,
            address=self.peer.address,
            listener=self.listener,
            service=self.settings.service,
            via_proxy=self.peer.via_proxy,
        )

    def greeting(self) -> bytes:
        """The text of the greeting."""
        name: bytes = self.host
        return name + (b" LMTP" if self.settings.service == "lmtp" else b" ESMTP") + b" requiretls-mta"

    # --- TLS --------------------------------------------------------------------------------------------------

    def start_tls(self) -> None:
        """RFC 3207 4.2: nothing is carried over from before TLS, and nothing promised before it is really there."""
        self.reset()
        self._greeted, self._offered = "", frozenset()
        self.authenticated, self.user = False, None
        self._helo = (None, self._helo[1])
        self._handshaking = True
        self.answered(reply.START_TLS.wire)
        if not self._closing:
            self.flush()
            self.transport.startTLS(self.ctx)

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
        if self.transcript is not None:
            self.transcript.note(f"{self.tls.version}, {self.tls.cipher}")
        self.resetTimeout()
        self.events.emit("tls", session=self.id, tls_version=self.tls.version, cipher=self.tls.cipher)

    # --- its end ----------------------------------------------------------------------------------------------

    def timeoutConnection(self) -> None:
        """Nobody can be told anything in the middle of a handshake."""
        if self._handshaking:
            self.close()
            self.transport.abortConnection()
        else:
            super().timeoutConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """A message whose end was not seen never was."""
        self.reset()
        if self.checks is not None:
            self.checks.stop()
        if self._counted and self.count is not None:
            self.count.leave(self.peer)
        super().connectionLost(reason)
        if self.on_end is not None:
            self.on_end(self)

    def shutdown(self) -> None:
        """End the session: at once, or after the reply to the message that is coming in."""
        self.stopping = True
        if not self.in_message:
            self.close(reply.SHUTTING_DOWN, linger=_STOP_LINGER)

    def cut_short(self) -> None:
        """End the session now; a message that is still coming in was never accepted."""
        self.close(reply.SHUTTING_DOWN, linger=_STOP_LINGER)

    def go_on(self) -> None:
        """A session that is to end takes no more commands; the chunks of a message are not new ones."""
        if self.stopping and not self.in_message:
            self.close(reply.SHUTTING_DOWN, linger=_STOP_LINGER)
        elif not self._draining:
            self._drain()

    # --- for everybody above and below --------------------------------------------------------------------------

    def refuse(self, answer: Reply, **fields: str) -> None:
        """Answer no, and say so to whoever keeps the log."""
        if self._envelope is not None:
            fields = {"sender": self._envelope.reverse_path, **fields}
        self.events.emit("rejected", session=self.id, client=self.peer.address, reply=str(answer), **fields)
        self.reply(answer)

    def now(self) -> float:
        """Seconds of the reactor's clock."""
        reactor = self.reactor
        if reactor is None:
            from twisted.internet import reactor  # noqa: PLC0415  # stock use, where there is but the global one
        seconds: float = reactor.seconds()
        return seconds
