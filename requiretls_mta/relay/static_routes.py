"""Static routes: `[relay.routes]` of the configuration, and where local delivery goes by LMTP."""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

from requiretls_mta.message.address import AddressError, ascii_domain, check_domain

_DEFAULT_PORTS = {"smtp": 25, "smtps": 465, "lmtp": 24}
_SPEC = re.compile(
    r"(?P<protocol>smtp|smtps|lmtp):(?:\[(?P<host>[^\[\]]+)\]|(?P<domain>[^\[\]:]+))(?::(?P<port>\d{1,5}))?\Z"
)


class RouteError(ValueError):
    """A route cannot be read; the message says what was found and what is allowed."""


@attrs.frozen(kw_only=True)
class StaticRoute:
    """A configured next hop."""

    protocol: str
    """`smtp`, `smtps` or `lmtp`."""
    host: str
    """Host name or IP address, a domain where `lookup`, or the path of a UNIX socket."""
    port: int
    lookup: bool
    """Whether the MX records of `host` are asked."""
    local: bool = False
    """Whether it ends on this machine, so that no TLS is asked of it (RFC 8689 4.4)."""

    @property
    def key(self) -> str:
        """Equal for routes to the same next hop."""
        return f"{self.protocol}:{self.host}:{self.port}"


def parse_route(text: str) -> StaticRoute:
    """Read `smtp:[host]:port`, `smtp:domain`, `smtps:[host]`, `lmtp:unix:/path` and their like; raises `RouteError`."""
    if text.startswith("lmtp:unix:/"):
        return StaticRoute(protocol="lmtp", host=text.removeprefix("lmtp:unix:"), port=0, lookup=False, local=True)
    found = _SPEC.match(text)
    if not found:
        raise RouteError(
            f"{text!r} is no route; allowed: smtp:[host]:port, smtp:domain, smtps:..., lmtp:..., lmtp:unix:/path"
        )
    protocol, host, domain = found["protocol"], found["host"], found["domain"]
    port = int(found["port"] or _DEFAULT_PORTS[protocol])
    if not 0 < port < 65536:
        raise RouteError(f"{text!r}: port {port} is not between 1 and 65535")
    name = host or domain
    try:
        if ":" not in name:  # an IPv6 address is checked when it is used
            check_domain(name)
            name = ascii_domain(name)
    except AddressError as error:
        raise RouteError(f"{text!r}: {error}") from error
    return StaticRoute(protocol=protocol, host=name, port=port, lookup=host is None)


def route_for(domain: str, routes: Mapping[str, StaticRoute]) -> StaticRoute | None:
    """The route of a domain (A-labels, lower case): its own, the nearest `.parent`'s, or that of `*`."""
    if domain in routes:
        return routes[domain]
    name = domain
    while "." in name:
        name = name.partition(".")[2]
        if f".{name}" in routes:
            return routes[f".{name}"]
    return routes.get("*")
