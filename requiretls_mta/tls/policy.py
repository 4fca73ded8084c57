"""Policy levels: how strictly a tagged message is held to RFC 8689, per recipient domain."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import attrs

from requiretls_mta.message.address import AddressError, ascii_domain


class Level(enum.Enum):
    """What the operator lets a tagged message get by with."""

    ENFORCE = "enforce"
    """RFC 8689 as it stands."""
    OPPORTUNISTIC_STARTTLS = "opportunistic+starttls"
    """Some TLS session is needed, authenticated or not; the keyword is used where offered."""
    OPPORTUNISTIC = "opportunistic"
    """TLS and keyword where offered, else in the clear."""
    DISABLE = "disable"
    """Ordinary mail."""


@attrs.frozen
class Policies:
    """The levels of all domains. Keys are A-labels in lower case; a leading dot stands for subdomains."""

    default: Level = Level.ENFORCE
    levels: Mapping[str, Level] = attrs.field(factory=dict)

    def of(self, domain: str) -> Level:
        """The level for mail to this domain: its own entry, then the nearest `.parent`, then the default."""
        if not self.levels:
            return self.default
        try:
            name = ascii_domain(domain)
        except AddressError:
            return self.default
        if name in self.levels:
            return self.levels[name]
        while "." in name:
            name = name.partition(".")[2]
            if f".{name}" in self.levels:
                return self.levels[f".{name}"]
        return self.default
