"""How often somebody may send: a bucket of tokens for each user and client, in a table that cannot grow without end."""

from __future__ import annotations

from collections.abc import Callable

import attrs

MOST = 50_000
"""Buckets that are kept; of more, the one that was used longest ago is forgotten, that is: full again."""
_NEARLY = 1e-6
"""Of a token: what fractions of a time may lack when they are summed up."""


@attrs.frozen
class Rate:
    """So many in a time: all of them at once, and then one more each `seconds` / `count`."""

    count: int
    seconds: float
    text: str
    """As the configuration writes it: `500/1h`."""


class Rates:
    """The buckets of one process; `clock` counts seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str], tuple[float, float]] = {}
        """How many tokens were missing at which time; the bucket that was used last is the last one."""

    def take(self, what: str, whose: str, rate: Rate) -> bool:
        """Take a token for `what` from somebody's bucket; False, and nothing taken, when it is empty."""
        key, now = (what, whose), self._clock()
        missing, then = self._buckets.pop(key, (0.0, now))
        missing = max(0.0, missing - (now - then) * rate.count / rate.seconds)
        has_one = missing + 1 <= rate.count + _NEARLY
        if len(self._buckets) >= MOST:
            del self._buckets[next(iter(self._buckets))]
        self._buckets[key] = (missing + 1 if has_one else missing, now)
        return has_one
