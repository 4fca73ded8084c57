"""`RequireTLSESMTPFactory`: makes the sessions of one listener, counts them, and ends them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Protocol

from requiretls_mta.checks.pipeline import Pipeline
from requiretls_mta.message.ports import Events, NoEvents
from requiretls_mta.smtp._stock import ESMTP, SMTP, SMTPFactory
from requiretls_mta.smtp.connection import ConnectionSession
from requiretls_mta.smtp.interfaces import Station
from requiretls_mta.smtp.limits import ConnectionCount
from requiretls_mta.smtp.server import PROMISES, RequireTLSESMTP
from requiretls_mta.smtp.settings import SessionSettings


class RequireTLSESMTPFactory(SMTPFactory):
    """A drop-in for `twisted.mail.smtp.SMTPFactory` whose sessions are `RequireTLSESMTP`.

    Applications give a cred `portal`, or a `delivery` or `deliveryFactory` of stock Twisted; `promises` names the
    extensions of `PROMISES` that they see to themselves (a delivery that provides `IEnvelopeDelivery` sees to all).
    """

    protocol: Any = RequireTLSESMTP
    timeout: Any = None
    """Seconds of silence that end a session; None: the settings say."""
    noisy = False

    def __init__(
        self,
        portal: Any = None,
        *,
        reactor: Any = None,
        settings: SessionSettings | None = None,
        station: Station | None = None,
        contextFactory: Any = None,
        challengers: Mapping[bytes, Callable[[], Any]] | None = None,
        promises: Collection[str] = (),
        delivery: Any = None,
        deliveryFactory: Any = None,
        pipeline: Pipeline | None = None,
        events: Events | None = None,
        listener: str = "",
        transcribes: bool = False,
        wall: Callable[[], float] = time.time,
    ) -> None:
        unknown = set(promises) - PROMISES
        if unknown:
            raise ValueError(f"promises {sorted(unknown)} are not known; allowed: {sorted(PROMISES)}")
        super().__init__(portal)
        self.reactor = reactor
        self.settings = settings or SessionSettings()
        self.station = station
        self.contextFactory = contextFactory
        self.challengers = dict(challengers or {})
        self.promises = frozenset(promises)
        self.delivery = delivery
        self.deliveryFactory = deliveryFactory
        self.pipeline = pipeline
        self.events: Events = events or NoEvents()
        self.listener = listener
        self.transcribes = transcribes
        self.wall = wall
        self.sessions: set[ConnectionSession] = set()
        self._count = ConnectionCount(self.settings.max_connections, self.settings.max_connections_per_client)
        self._drained: Deferred[None] | None = None

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """A session for a new connection."""
        if self.protocol in (SMTP, ESMTP):
            # An application that changes its factory only: it is for our session that it does so.
            self.protocol = RequireTLSESMTP
        session: Any = super().buildProtocol(addr)
        if not isinstance(session, RequireTLSESMTP):
            other: Protocol | None = session
            return other
        if self.settings.hostname is not None:
            session.host = self.settings.hostname
        session.reactor = self.reactor
        session.settings = self.settings
        session.station = self.station
        session.promises = self.promises
        session.pipeline = self.pipeline
        session.events = self.events
        session.listener = self.listener
        session.client_address = addr
        session.transcribes = self.transcribes
        session.wall = self.wall
        session.count = self._count
        session.on_end = self._ended
        session.stopping = self._drained is not None
        if self.timeout is not None and session.timeout is None:
            session.timeout = self.timeout
        # Applications set these on their own sessions, as stock Twisted has them do; only ours override.
        if self.contextFactory is not None:
            session.ctx = self.contextFactory
        if self.challengers:
            session.challengers = self.challengers
        if self.delivery is not None:
            session.delivery = self.delivery
        if self.deliveryFactory is not None:
            session.deliveryFactory = self.deliveryFactory
        self.sessions.add(session)
        return session

    def drain(self) -> Deferred[None]:
        """End the sessions: idle ones now with 421, those with a message coming in after their reply.

        Fires when none is left; the caller sets a bound. Whoever connects meanwhile is sent away.
        """
        if self._drained is None:
            self._drained = Deferred()
            for session in list(self.sessions):
                session.shutdown()
        return self._drained if self.sessions else succeed(None)

    def cut(self) -> None:
        """End the sessions that are left, whatever they are at: 421."""
        for session in list(self.sessions):
            session.cut_short()

    def _ended(self, session: ConnectionSession) -> None:
        self.sessions.discard(session)
        if self._drained is not None and not self.sessions and not self._drained.called:
            self._drained.callback(None)
