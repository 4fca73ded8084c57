"""Answers kept for as long as their TTL allows, and not one second longer."""

from __future__ import annotations

from collections import OrderedDict

import attrs
from twisted.internet.interfaces import IReactorTime

from requiretls_mta.dns.answer import Answer

LONGEST = 3600.0  # seconds, positive and negative
FAILURES = 15.0  # seconds; RFC 2308 7.1 allows 300, mail wants to know sooner
ANY_TYPE = "*"
OVERHEAD = 500  # octets of an entry beside its records


@attrs.frozen(kw_only=True)
class _Entry:
    answer: Answer
    until: float
    octets: int


class Cache:
    """The most recently used answers, bounded in number and in octets (as they came over the wire)."""

    def __init__(self, clock: IReactorTime, *, entries: int = 10_000, octets: int = 16 * 1024 * 1024) -> None:
        self._clock = clock
        self._most_entries = entries
        self._most_octets = octets
        self._octets = 0
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: str, rdtype: str) -> Answer | None:
        """The answer to that question with what is left of its TTL; None when it has to be asked."""
        for key in ((name, rdtype), (name, ANY_TYPE)):
            entry = self._entries.get(key)
            if entry is None:
                continue
            left = entry.until - self._clock.seconds()
            if left <= 0:
                self._remove(key)
                continue
            self._entries.move_to_end(key)
            return attrs.evolve(entry.answer, rdtype=rdtype, ttl=0 if entry.answer.is_failure else int(left))
        return None

    def put(self, answer: Answer, size: int = 0) -> None:
        """Keep an answer whose reply had `size` octets, if it may be kept at all."""
        lifetime = FAILURES if answer.is_failure else min(answer.ttl, LONGEST)
        if lifetime <= 0:
            return
        # RFC 2308 5: a name that does not exist has no records of any type. Behind an alias it is the alias's
        # target that does not exist: that says nothing about the other types of the alias itself.
        nowhere = answer.rcode == "NXDOMAIN" and answer.canonical == answer.name and not answer.is_failure
        key = (answer.name, ANY_TYPE if nowhere else answer.rdtype)
        self._remove(key)
        self._entries[key] = _Entry(answer=answer, until=self._clock.seconds() + lifetime, octets=OVERHEAD + size)
        self._octets += OVERHEAD + size
        while len(self._entries) > self._most_entries or self._octets > self._most_octets:
            self._remove(next(iter(self._entries)))

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._octets = 0

    def _remove(self, key: tuple[str, str]) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._octets -= entry.octets
