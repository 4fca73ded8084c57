"""What the schedule and its outgoing sessions go by."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from OpenSSL import SSL

from requiretls_mta.message.profile import Profile
from requiretls_mta.relay.retry import RetrySettings
from requiretls_mta.smtp.client import Timeouts
from requiretls_mta.smtp.login import Login
from requiretls_mta.tls.policy import Policies


@attrs.frozen(kw_only=True)
class ScheduleSettings:
    """Bounds of the work in hand."""

    retry: RetrySettings = attrs.field(factory=RetrySettings)
    leases: int = 2000
    """Messages held in memory at once; the others wait in the store."""
    share: int = 500
    """Of these, those that wait for one destination; what comes on top is parked by its id alone."""
    parked: int = 10_000
    """Ids parked in all; beyond it what is for a destination that has its share is deferred without an attempt."""
    claim: int = 200
    """Messages asked of the store at once."""
    idle_check: float = 60.0
    """Seconds after which the store is asked for due messages even if nothing said so."""
    full_check: float = 10.0
    """Seconds between looks past what is due for full destinations, when no more can be parked; and between looks at a
    queue that could not be read."""


@attrs.frozen(kw_only=True)
class RelaySettings:
    """One generation of the relay's policies."""

    hostname: str
    """What we call ourselves in EHLO."""
    context: SSL.Context
    """From `tls.client.client_context`: the trusted roots."""
    levels: Policies = attrs.field(factory=Policies)
    profile: Profile = Profile.RFC8689
    timeouts: Timeouts = attrs.field(factory=Timeouts)
    patience: float = 1800.0
    """Seconds after which one attempt tries no further host: a domain of tarpits must not hold its message for days."""
    idle: float = 5.0
    """Seconds that an idle session is kept for the next message."""
    logins: Mapping[str, Login] = attrs.field(factory=dict)
    """By host name (A-labels, lower case): hosts that are told who we are, once TLS has authenticated them."""
    source_ipv4: str = ""
    source_ipv6: str = ""
    generation: int = 0
    """Kept sessions of an older one are not used again."""
