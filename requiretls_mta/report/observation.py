"""What a session shows of the other side: features seen, or known to be missing, and when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from requiretls_mta.message.reply import quote

FEATURES = ("starttls", "requiretls", "tls_version", "auth", "dnssec", "dane", "mta_sts")
"""In the order of RFC 8689 4.2.1's steps, as people think of them."""
YES = "yes"
"""The value of a feature that has no further ones."""
NAME_LIMIT = 255
"""Characters of a domain or host name that is noted; what is longer is none."""


@attrs.frozen
class Sighting:
    """One feature of one host. Times are Unix seconds."""

    value: str | None = None
    """What was seen last."""
    seen: float | None = None
    missed: float | None = None
    """When it was last known not to be there."""

    @property
    def current(self) -> str | None:
        """The value that holds by the newest that is known; None when it is missing, or was never heard of."""
        if self.seen is None or (self.missed is not None and self.missed > self.seen):
            return None
        return self.value

    def __or__(self, other: Sighting) -> Sighting:
        """The newest of both."""
        newest = max(self, other, key=lambda one: (one.seen is not None, one.seen or 0.0, one.value or ""))
        missed = [when for when in (self.missed, other.missed) if when is not None]
        return Sighting(newest.value, newest.seen, max(missed, default=None))


@attrs.frozen
class Host:
    """What is known of one MX host in its service for one domain."""

    first: float
    last: float
    """When it was first and last met."""
    sightings: Mapping[str, Sighting] = attrs.field(factory=dict)
    """By feature; those of which nothing is known are not in it."""

    def __or__(self, other: Host) -> Host:
        """The knowledge of both."""
        sightings = dict(self.sightings)
        for feature, sighting in other.sightings.items():
            sightings[feature] = sightings.get(feature, Sighting()) | sighting
        return Host(min(self.first, other.first), max(self.last, other.last), sightings)

    def sighting(self, feature: str) -> Sighting:
        """Of one feature; an empty one where nothing is known."""
        return self.sightings.get(feature, Sighting())


def host_of(fields: Mapping[str, Any]) -> tuple[str, str] | None:
    """(domain, MX host) that a `tls` event is about, made harmless; None when it is about none."""
    names = tuple(quote(str(fields.get(name) or "")).rstrip(".").lower() for name in ("domain", "mx"))
    # The path of a UNIX socket is nobody's host.
    if not all(0 < len(name) <= NAME_LIMIT and "/" not in name for name in names):
        return None
    return names[0], names[1]


def observed(fields: Mapping[str, Any], now: float) -> Host:
    """What one `tls` event tells."""
    sightings = {
        feature: Sighting(missed=now) if value is None else Sighting(value=quote(value)[:NAME_LIMIT], seen=now)
        for feature, value in _told(fields)
    }
    return Host(now, now, sightings)


def _told(fields: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Features with their value, None for one that is missing; nothing about those that did not show."""
    if fields.get("starttls"):
        yield "starttls", YES
    elif fields.get("result") == "starttls-not-supported":
        # Nothing less says so: a session may have ended before it came to that.
        yield "starttls", None
    if version := fields.get("tls_version"):
        yield "tls_version", str(version)
        yield "requiretls", YES if fields.get("keyword") else None
        auth = fields.get("auth")
        yield "auth", str(auth) if auth else None
    if (security := fields.get("mx_security")) in ("dnssec", "mta-sts", "none"):
        yield "dnssec", YES if security == "dnssec" else None
    if (dane := fields.get("dane")) in ("usable", "unusable"):
        yield "dane", str(dane)
    elif dane == "none" and fields.get("policy_type"):
        # Without a policy type nobody has asked for records.
        yield "dane", None
    if (mode := fields.get("sts_mode")) in ("enforce", "testing", "none"):
        yield "mta_sts", None if mode == "none" else str(mode)
