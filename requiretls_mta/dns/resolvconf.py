"""Which servers the machine asks, and whether the AD bit of them may be believed.

AD is only as good as the way it came: over a network anybody may have set it (RFC 4035 4.9.3). The C library therefore
strips it unless the administrator wrote `options trust-ad`; so do we, with loopback servers believed by default.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import attrs

from requiretls_mta.dns.settings import Server, Settings, is_loopback, parse_server, unmapped

TrustAD = Literal["auto", "yes", "no"]
MOST_SERVERS = 3  # as the C library: resolv.conf(5), MAXNS
# systemd-resolved: it claims trust-ad for itself, yet has passed on AD bits that it did not verify.
STUBS_OF_SYSTEMD = frozenset({ipaddress.ip_address("127.0.0.53"), ipaddress.ip_address("127.0.0.54")})


@attrs.frozen(kw_only=True)
class ResolvConf:
    """What resolv.conf says to us. `search` and `ndots` are not read: a mail domain is always absolute."""

    servers: tuple[Server, ...] = (("127.0.0.1", 53),)
    trust_ad: bool = False


def parse(text: str) -> ResolvConf:
    """Read the text of a resolv.conf; lines that make no sense are passed over, as the C library does."""
    servers: list[Server] = []
    trust_ad = False
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver":
            try:
                ipaddress.ip_address(words[1])
            except ValueError:
                continue
            servers.append((words[1], 53))
        elif words[0] == "options":
            trust_ad = trust_ad or "trust-ad" in words[1:]
    if not servers:
        return ResolvConf(trust_ad=trust_ad)
    return ResolvConf(servers=tuple(servers[:MOST_SERVERS]), trust_ad=trust_ad)


def read(path: Path = Path("/etc/resolv.conf")) -> ResolvConf:
    """Read the machine's resolv.conf; without one, the server is 127.0.0.1."""
    try:
        return parse(path.read_text(encoding="ascii", errors="replace"))
    except OSError:
        return ResolvConf()


def believe_ad(mode: TrustAD, servers: Sequence[Server], *, vouched: bool = False) -> bool:
    """Whether AD=1 from these servers means secure.

    `vouched` says that `servers` come from a resolv.conf with `options trust-ad`. In `auto` that, or being loopback,
    is needed; the stubs of systemd-resolved are believed only when the mode is `yes`.
    """
    if mode != "auto":
        return mode == "yes"
    if not servers or any(unmapped(address) in STUBS_OF_SYSTEMD for address, _ in servers):
        return False
    return vouched or all(is_loopback(address) for address, _ in servers)


def settings(
    servers: Sequence[str] = (),
    trust_ad: TrustAD = "auto",
    timeout: float = 5.0,
    *,
    resolv_conf: Path = Path("/etc/resolv.conf"),
) -> Settings:
    """Compose the stub's settings from the `[dns]` table; without `servers`, resolv.conf names them.

    `options trust-ad` vouches for the servers that stand beside it, never for others. ValueError on a bad server.
    """
    if servers:
        chosen, vouched = tuple(parse_server(text) for text in servers), False
    else:
        found = read(resolv_conf)
        chosen, vouched = found.servers, found.trust_ad
    return Settings(servers=chosen, trust_ad=believe_ad(trust_ad, chosen, vouched=vouched), timeout=timeout)
