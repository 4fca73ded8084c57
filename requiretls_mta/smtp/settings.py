"""What a server session goes by."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class SessionSettings:
    """One listener's ways; durations in seconds, sizes in octets."""

    hostname: str | None = None
    """For greeting and EHLO; None: the factory's `domain`, as in stock Twisted."""
    service: str = "mx"
    """`mx`, `submission`, `submissions` (TLS from the first octet) or `lmtp`."""
    require_tls: bool = False
    """Refuse MAIL before STARTTLS with 530 5.7.0 (RFC 8689 8.4)."""
    require_auth: bool = False
    """Refuse MAIL before AUTH with 530 5.7.0."""
    requiretls: bool = True
    """Whether REQUIRETLS may be promised at all."""
    timeout: float = 300.0
    """Without a complete command, or without progress in data or handshake (RFC 5321 4.5.3.2.7)."""
    session_time: float = 6 * 3600.0
    """The longest that a session may last, whatever it does."""
    minimum_rate: float = 64.0
    """Octets a second that a message must bring on average, once `timeout` has passed since its first."""
    message_size: int = 50 * 1024 * 1024
    headers_size: int = 1024 * 1024
    max_recipients: int = 1000
    max_errors: int = 20
    """The error that ends a session: replies of the 5xx class."""
    max_connections: int = 10_000
    max_connections_per_client: int = 1000
