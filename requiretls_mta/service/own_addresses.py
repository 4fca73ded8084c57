"""Which places on the network are our own: what listeners are bound to, an address or all of this machine's."""

from __future__ import annotations

import contextlib
import ipaddress
import socket

import attrs


@attrs.frozen
class OwnAddresses:
    """A container of (IP address, port)."""

    bound: frozenset[tuple[str, int]]
    """Where listeners are bound to one address."""
    ports: frozenset[int]
    """Where they are bound to all addresses."""

    def __contains__(self, place: object) -> bool:
        match place:
            case (str(address), int(port)):
                return place in self.bound or (port in self.ports and is_here(address))
        return False

    def __bool__(self) -> bool:
        return bool(self.bound or self.ports)


def is_here(address: str) -> bool:
    """Whether an IP address is one of this machine's. Asks the kernel's routes; nothing is sent."""
    ip = ipaddress.ip_address(address)
    if ip.is_loopback:
        return True
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    # To its own addresses a machine talks from the very same; binding proves nothing where ip_nonlocal_bind is set.
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))
        return ipaddress.ip_address(probe.getsockname()[0].partition("%")[0]) == ip
    return False
