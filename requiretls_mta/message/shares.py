"""Shares: of what is there for all clients, nobody takes what is left for the others."""

from __future__ import annotations

import ipaddress
from collections import Counter

_IPV6_SITE = 64
"""Leading bits of an IPv6 address that make one client: what a site is given at least."""


def site_of(address: str | None) -> str:
    """Who counts as one client: an IPv4 address, the network of an IPv6 address, or all on UNIX sockets (None)."""
    if address is None:
        return "unix"
    if ":" not in address:
        return address
    return str(ipaddress.ip_network((address.partition("%")[0], _IPV6_SITE), strict=False))


class Shares:
    """Places that a site may take as long as it has fewer than are free.

    One that wants all of them gets half; two get a third each; there is always one for who has none.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._taken: Counter[str] = Counter()

    def enter(self, site: str, count: int = 1) -> bool:
        """Take places; False, and none taken, where they are more than the site's share."""
        if self._taken[site] + count > self._free:
            return False
        self._taken[site] += count
        self._free -= count
        return True

    def leave(self, site: str, count: int = 1) -> None:
        """Give them back."""
        self._free += count
        self._taken[site] -= count
        if not self._taken[site]:
            del self._taken[site]
