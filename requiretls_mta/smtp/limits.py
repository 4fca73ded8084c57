"""Who is connected: counted in total and per client."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections import Counter
from typing import Any

from requiretls_mta.message.shares import site_of
from requiretls_mta.smtp.interfaces import Peer
from requiretls_mta.smtp.proxy import ProxiedAddress


class ConnectionCount:
    """Counts sessions of one listener against its limits."""

    def __init__(self, total: int, per_client: int) -> None:
        self._total, self._per_client = total, per_client
        self._all = 0
        self._clients: Counter[str] = Counter()

    def enter(self, peer: Peer) -> bool:
        """Count a session in; False, and nothing counted, when a limit is reached."""
        client = site_of(peer.address)
        if self._all >= self._total or self._clients[client] >= self._per_client:
            return False
        self._all += 1
        self._clients[client] += 1
        return True

    def leave(self, peer: Peer) -> None:
        """A session that entered is over."""
        client = site_of(peer.address)
        self._all -= 1
        self._clients[client] -= 1
        if not self._clients[client]:
            del self._clients[client]


def peer_of(address: Any, listener: str) -> Peer:
    """The client at a transport's peer address or a proxied one: mapped IPv4 unwrapped, no scope id, None for UNIX."""
    via_proxy = isinstance(address, ProxiedAddress)
    host = getattr(address, "host", None)
    if not isinstance(host, str):
        return Peer(address=None, listener=listener, via_proxy=via_proxy)
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return Peer(address=None, listener=listener, via_proxy=via_proxy)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return Peer(address=str(ip), port=address.port, listener=listener, via_proxy=via_proxy)


def user_of(transport: Any) -> int | None:
    """The user id of whoever connected to a UNIX socket; None for other transports."""
    connection = getattr(transport, "socket", None)
    if connection is None or connection.family != socket.AF_UNIX:
        return None
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(uid)
