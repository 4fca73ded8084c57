"""Connections that come through a proxy: there is no session before the PROXY header has said who the client is.

The header is read here, and the connection then handed over as if it were new: to the session, or to the TLS in front
of it. Nothing stays in between, so a session sees its transport and its TLS as any other does; and nothing that a
session starts with (greeting, limits, time-outs, events) can start for the proxy's address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Any

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from requiretls_mta.smtp.limits import peer_of
from requiretls_mta.smtp.proxy import Header, Malformed, ProxiedAddress, parse_header

HEADER_TIME = 5.0
"""Seconds in which the whole header must have arrived; proxies send it at once."""
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ProxiedFactory(ServerFactory):
    """For the proxied endpoints of one listener; `sessions` makes what is behind the header."""

    _log = Logger()
    noisy = False

    def __init__(
        self,
        sessions: ServerFactory,
        *,
        reactor: IReactorTime,
        listener: str,
        proxies: Collection[Network] = (),
        max_waiting: int,
    ) -> None:
        """`proxies`: who may speak, none: all who get here; `max_waiting`: connections without a header yet."""
        self.sessions = sessions
        self.reactor = reactor
        self.waiting: set[_Unannounced] = set()
        self._listener = listener
        self._proxies = proxies
        self._max_waiting = max_waiting

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """What reads the header; None closes the connection: of others than our proxies, and beyond the bound."""
        proxy = peer_of(addr, self._listener).address
        if not self._is_proxy(proxy):
            self.note(proxy, "it is not one of the listener's proxies")
        elif len(self.waiting) >= self._max_waiting:
            self.note(proxy, "too many connections wait for their PROXY header")
        else:
            return _Unannounced(self, proxy)
        return None

    def stopFactory(self) -> None:
        """Listening is over, and so it is for those who have not said who they are."""
        for header in list(self.waiting):
            header.close()

    def note(self, proxy: str | None, reason: str) -> None:
        """Tell the log why a connection was closed."""
        self._log.info(
            "listener {listener}: connection from {proxy} closed: {reason}",
            listener=self._listener,
            proxy=proxy or "unix",
            reason=reason,
        )

    def _is_proxy(self, address: str | None) -> bool:
        if address is None or not self._proxies:  # a UNIX socket has permissions
            return True
        ip = ipaddress.ip_address(address)
        return any(ip in network for network in self._proxies)


class _Unannounced(Protocol):
    """A connection until its PROXY header is complete."""

    factory: ProxiedFactory
    transport: Any

    def __init__(self, factory: ProxiedFactory, proxy: str | None) -> None:
        self.factory = factory
        self._proxy = proxy
        self._octets = bytearray()

    def connectionMade(self) -> None:
        """Wait, but not for long."""
        self.factory.waiting.add(self)
        self._timer = self.factory.reactor.callLater(HEADER_TIME, self._refuse, "no complete PROXY header in time")

    def dataReceived(self, data: bytes) -> None:
        """Octets of the header, and perhaps some behind it."""
        self._octets += data
        match parse_header(self._octets):
            case Header() as header:
                self._hand_over(header)
            case Malformed(reason):
                self._refuse(reason)
            case None:
                pass

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It ended before it said anything."""
        self._done()

    def close(self) -> None:
        """Hang up without a word."""
        self._done()
        self.transport.loseConnection()

    def _refuse(self, reason: str) -> None:
        self.factory.note(self._proxy, reason)
        self.close()

    def _done(self) -> None:
        self.factory.waiting.discard(self)
        if self._timer.active():
            self._timer.cancel()

    def _hand_over(self, header: Header) -> None:
        self._done()
        protocol = self.factory.sessions.buildProtocol(self._claim(header.address))
        if protocol is None:
            self.transport.loseConnection()
            return
        # As STARTTLS does it in Twisted: the transport looks up its protocol for each piece that it reads.
        self.transport.protocol = protocol
        protocol.makeConnection(self.transport)
        if behind := bytes(self._octets[header.size :]):
            protocol.dataReceived(behind)

    def _claim(self, address: ProxiedAddress) -> ProxiedAddress:
        """The address, unless the proxy names itself (as it does in version 1 to check our health): nobody then.

        What it may do itself it must not lend. On one machine all are loopback, and that never counts for anything.
        """
        claimed = peer_of(address, "").address
        own = claimed is not None and claimed == self._proxy and not ipaddress.ip_address(claimed).is_loopback
        return ProxiedAddress() if own else address
