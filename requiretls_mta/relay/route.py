"""Routes: which hosts take a domain's mail, in which order, and how surely that is known (RFC 5321 5.1)."""

from __future__ import annotations

import attrs

from requiretls_mta.message.outcome import Cause
from requiretls_mta.message.reply import Reply
from requiretls_mta.tls.judge import MXSecurity


@attrs.frozen(kw_only=True)
class Host:
    """One host to try."""

    name: str
    """A-labels in lower case without the last dot, an address literal in brackets, or the path of a UNIX socket."""
    port: int = 25
    protocol: str = "smtp"
    """`smtp`, `smtps` (TLS from the first octet) or `lmtp`."""
    preference: int = 0
    mx_security: MXSecurity = MXSecurity.NONE

    @property
    def is_socket(self) -> bool:
        """Whether the name is the path of a UNIX socket."""
        return self.name.startswith("/")


@attrs.frozen(kw_only=True)
class Route:
    """The hosts that take mail for a domain, in the order in which they are tried."""

    domain: str
    hosts: tuple[Host, ...]
    local: bool = False
    """Delivery on this machine (RFC 8689 4.4): no TLS is asked of it."""

    @property
    def key(self) -> str:
        """Equal for messages that may share a transaction."""
        return self.domain


@attrs.frozen(kw_only=True)
class NoRoute:
    """Why there is none."""

    domain: str
    reply: Reply
    """4xx: asking again may help."""
    cause: Cause


@attrs.frozen(kw_only=True)
class HostAddress:
    """One address of a host."""

    address: str
    """IP address."""
    secure: bool
    """Whether DNSSEC vouches for it."""
