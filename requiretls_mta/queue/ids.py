"""Queue ids: 16 characters, sortable by time, never given twice."""

from __future__ import annotations

import secrets
from collections.abc import Callable

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Digits and letters without i, l, o, u; in the order in which they sort."""
_RANDOM_BITS = 25


class QueueIds:
    """Ids of 55 bits of time in microseconds and 25 random bits; within a process always growing.

    A clock that is set back does not repeat them: the time never goes backwards here, and across a restart chance
    keeps them apart.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._last = 0

    def __call__(self) -> str:
        """A new id."""
        self._last = max(int(self._wall() * 1_000_000), self._last + 1)
        number = self._last << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
        return "".join(ALPHABET[number >> shift & 31] for shift in range(75, -1, -5))
