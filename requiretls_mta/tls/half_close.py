"""The server's end of a TLS session whose client has said all that it wants to say, and still listens."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IHalfCloseableProtocol


class ServerConnection(SSL.Connection):
    """RFC 8446 6.1: a close_notify ends the direction that it came by, and has no effect on the other.

    Twisted takes it for the end of both, as TLS 1.2 wants it (RFC 5246 7.2.1): it drops what is not written yet, among
    it the replies to messages that were taken, which would be sent again. So in TLS 1.3 Twisted is told that there is
    nothing to read for now, and a protocol that can be half-closed, as it is told by TCP, that all has come.
    """

    def __init__(self, context: SSL.Context, tls_protocol: Any) -> None:
        super().__init__(context, None)
        self._tls_protocol = tls_protocol
        self._told = False

    def recv(self, bufsiz: int, flags: int | None = None) -> bytes:
        """Octets of the client; raises as its like does."""
        try:
            return super().recv(bufsiz, flags)
        except SSL.ZeroReturnError:
            protocol = IHalfCloseableProtocol(self._tls_protocol.wrappedProtocol, None)
            if protocol is None or self._has_ended():
                raise
            if not self._told:
                self._told = True
                # What may follow is nobody's, and unread it would fill the memory.
                self._tls_protocol.transport.pauseProducing()
                protocol.readConnectionLost()
            raise SSL.WantReadError from None

    def _has_ended(self) -> bool:
        """Whether both directions are at their end."""
        return self.get_protocol_version() < SSL.TLS1_3_VERSION or bool(self.get_shutdown() & SSL.SENT_SHUTDOWN)
