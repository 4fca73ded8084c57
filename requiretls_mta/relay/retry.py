"""When a postponed recipient is tried again, and when it is given up."""

from __future__ import annotations

import random

import attrs

from requiretls_mta.message.envelope import Tag
from requiretls_mta.message.stored import Message

_SHORTEN = 0.2
"""The part of a pause that chance may take off; so that what failed together does not come back together."""


@attrs.frozen(kw_only=True)
class RetrySettings:
    """All in seconds."""

    pauses: tuple[float, ...] = (60.0, 300.0, 900.0, 3600.0, 14400.0)
    """The last one repeats."""
    lifetime: float = 5 * 86400.0
    bounce_lifetime: float = 86400.0
    """Of messages with an empty reverse path."""
    tagged_lifetime: float = 4 * 3600.0
    """Of messages that require TLS; their last attempt is made at its end at the latest."""
    delay_warning: float = 4 * 3600.0
    """After which the sender hears, once, that a recipient's mail is still here."""


def lifetime_of(message: Message, settings: RetrySettings) -> float:
    """How long the message may stay in the queue."""
    lifetime = settings.bounce_lifetime if message.envelope.sender is None else settings.lifetime
    if message.envelope.tag is Tag.REQUIRED:
        lifetime = min(lifetime, settings.tagged_lifetime)
    return lifetime


def next_attempt(
    message: Message, attempts: int, now: float, settings: RetrySettings, rng: random.Random
) -> float | None:
    """Unix seconds of the attempt after `attempts` were made, or None when the message's time is over."""
    pause = settings.pauses[min(attempts, len(settings.pauses)) - 1]
    pause *= 1 - _SHORTEN * rng.random()
    end = message.received + lifetime_of(message, settings)
    # A clock that was set back makes no message younger than it is by more than the pause.
    if now >= end:
        return None
    # The last attempt comes at the end of the lifetime, not a whole pause before it.
    return min(now + pause, end)
