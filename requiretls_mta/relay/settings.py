"""What outgoing sessions go by."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from OpenSSL import SSL

from requiretls_mta.message.profile import Profile
from requiretls_mta.smtp.client import Timeouts
from requiretls_mta.smtp.login import Login
from requiretls_mta.tls.policy import Policies


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
