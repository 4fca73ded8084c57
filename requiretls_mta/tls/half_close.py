"""The server's end of a TLS session whose client has said all that it wants to say, and still listens."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IHalfCloseableProtocol


class ServerConnection(SSL.Connection):
    """RFC 8446 6.1: a close_notify ends the direction that it came by, and has no effect on the other.

    Twisted takes it for the end of both: it drops what is not written yet, among it the replies to messages that were
    taken, which would be sent again. So Twisted is told that there is nothing to read for now, and a protocol that can
    be half-closed, as it is told by TCP, that all has come.

    TLS 1.2 has it that both directions end when the alert is read, and pending writes with them (RFC 5246 7.2.1), by
    which replies were cut off (RFC 8446 6.1). It does not say when it is to be read: like a server that reads no
    further before it has answered, a session takes it in its turn, behind the commands that came before it.
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
            if protocol is None or self.get_shutdown() & SSL.SENT_SHUTDOWN:  # both directions are at their end
                raise
            if not self._told:
                self._told = True
                # What may follow is nobody's, and unread it would fill the memory.
                self._tls_protocol.transport.pauseProducing()
                protocol.readConnectionLost()
            raise SSL.WantReadError from None
