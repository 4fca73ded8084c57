"""Queue ids: 16 characters, sortable by time, never given twice."""

from __future__ import annotations

from collections.abc import Callable

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""No i, l, o, u: nothing that is misread; one case: safe as file names everywhere."""
LENGTH = 16
TICK = 16e-6
"""Seconds."""
_TIME_BITS, _EPOCH_BITS = 50, 30
EPOCHS = 1 << _EPOCH_BITS
"""How many openings of a store are told apart."""


class QueueIds:
    """Gives ids: 50 bits of time in ticks of 16 microseconds, then 30 bits of epoch.

    The time part only grows, whatever the clock does. The epoch is another one at every opening of a store (kept there,
    begun at random), so that no id comes back after a crash and a clock that was set back.
    """

    def __init__(self, wall: Callable[[], float], epoch: int, floor: int = 0) -> None:
        self._wall = wall
        self._suffix = _digits(epoch % EPOCHS, _EPOCH_BITS // 5)
        self._above = -1
        """The upper digits' part of the newest id's time, and"""
        self._prefix = ""
        """those digits: they stay for seconds."""
        self.last = floor
        """The tick of the newest id."""

    def new(self) -> str:
        """An id that was never given before."""
        # Two ids in one tick: the later one borrows the next tick.
        self.last = tick = min(max(self.last + 1, int(self._wall() / TICK)), (1 << _TIME_BITS) - 1)
        above = tick >> 20
        if above != self._above:
            self._above, self._prefix = above, _digits(above, _TIME_BITS // 5 - 4)
        return self._prefix + _PAIRS[tick >> 10 & 1023] + _PAIRS[tick & 1023] + self._suffix


def is_id(text: str) -> bool:
    """Whether `text` has the form of a queue id."""
    return len(text) == LENGTH and all(c in ALPHABET for c in text)


def tick_of(message_id: str) -> int:
    """The time part of an id; 0 for what is no id."""
    if not is_id(message_id):
        return 0
    value = 0
    for c in message_id[: _TIME_BITS // 5]:
        value = value * 32 + ALPHABET.index(c)
    return value


_PAIRS = [first + second for first in ALPHABET for second in ALPHABET]


def _digits(value: int, count: int) -> str:
    """An even number of digits."""
    return "".join([_PAIRS[value >> shift & 1023] for shift in range(5 * (count - 2), -1, -10)])
