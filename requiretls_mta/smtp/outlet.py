"""Writing to a peer without waiting for a turn of the reactor."""

from __future__ import annotations

from typing import Any

from twisted.internet.tcp import Connection


def write_now(transport: Any, octets: bytes) -> None:
    """Give octets to the socket at once where nothing waits to be sent before them; else write as ever.

    `transport.write` has the reactor tell when the socket can be written to, which it nearly always can: two system
    calls and a turn for each reply. In TLS, and behind whatever is no socket of Twisted's, there is nothing to gain.
    """
    if isinstance(transport, Connection) and not (transport.TLS or transport.dataBuffer or transport._tempDataBuffer):
        sent = transport.writeSomeData(octets)
        if isinstance(sent, int):  # else the connection is lost, as the reactor will tell in its own time
            octets = octets[sent:]
    if octets:
        transport.write(octets)
