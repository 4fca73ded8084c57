"""What the stub is told by whoever builds it."""

from __future__ import annotations

import ipaddress

import attrs

Server = tuple[str, int]
"""IP address (with scope id where it needs one) and port."""


@attrs.frozen(kw_only=True)
class Settings:
    """How the stub asks; durations in seconds."""

    servers: tuple[Server, ...] = (("127.0.0.1", 53),)
    """In the order in which they are asked."""
    trust_ad: bool = False
    """Whether AD=1 of these servers makes an answer secure; see `resolvconf.believe_ad`."""
    timeout: float = 5.0
    """The whole of one look-up, whatever the number of servers."""
    in_flight: int = 500
    """Look-ups under way at once; those beyond fail at once."""
    reserved: int = 100
    """Of these, those that are not for strangers; see `StubResolver.for_strangers`."""
    cache_entries: int = 10_000
    mix_case: bool | None = None
    """Random letter case in questions against forged replies; None: towards all but loopback servers."""

    @property
    def for_strangers(self) -> int:
        """Look-ups under way at once that strangers bring about."""
        return self.in_flight - self.reserved

    def mixes_case(self, server: Server) -> bool:
        """Whether questions to that server are written in random case."""
        return not is_loopback(server[0]) if self.mix_case is None else self.mix_case


def parse_server(text: str) -> Server:
    """Read `192.0.2.1`, `192.0.2.1:53`, `2001:db8::1` or `[2001:db8::1]:53`; ValueError says what is wrong."""
    address, port = text, "53"
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is not an address or [address]:port")
        port = rest[1:] if rest else port
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise ValueError(f"{port!r} is not a port (1 to 65535)")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise ValueError(f"{address!r} is not an IP address; a name server has to be given by address") from None
    return address, int(port)


def show_server(server: Server) -> str:
    """Write a server as `parse_server` reads it."""
    address, port = server
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def is_loopback(address: str) -> bool:
    """Whether packets to that IP address stay inside this machine."""
    return unmapped(address).is_loopback


def unmapped(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address, as IPv4 where it is an IPv4-mapped one."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed
