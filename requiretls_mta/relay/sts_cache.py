"""Policies of MTA-STS that are kept, in memory and on disk (RFC 8461 3.3, 10.2).

Neither a restart nor the loss of DNS or HTTPS ends what a domain once promised.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from requiretls_mta.queue.files import private_file, private_folder, sync_folder
from requiretls_mta.tls.mta_sts import MOST_OCTETS, Policy, PolicyError, can_have_policy, parse_policy

DAY = 86_400
MOST_POLICIES = 10_000
MOST_MEMORY = 32 * 1024 * 1024
"""Octets of text that are kept; beyond, what was not used for longest goes."""
IDLE = 30 * DAY
"""Seconds without mail after which a policy is no longer renewed ahead of its end."""
_SUFFIX = ".json"
_OVERHEAD = 1024
_LONGEST_FILE = 4 * MOST_OCTETS


@attrs.frozen(kw_only=True)
class Kept:
    """One policy of one domain. Times are Unix seconds."""

    domain: str
    policy: Policy
    fetched: float
    used: float
    """When mail last asked for it, within an hour or so."""

    def is_valid(self, now: float) -> bool:
        """Whether its age is within `max_age`; a clock that stepped back ends nothing."""
        return now - self.fetched < self.policy.max_age

    def is_due(self, now: float) -> bool:
        """Whether to fetch it again: after a day (RFC 8461 3.3), or half its life."""
        return not 0 <= now - self.fetched < min(DAY, self.policy.max_age / 2)


def write_kept(kept: Kept) -> bytes:
    """The content of a file."""
    fields = {
        "domain": kept.domain,
        "id": kept.policy.id,
        "fetched": kept.fetched,
        "used": kept.used,
        "policy": kept.policy.text,
    }
    return json.dumps(fields, ensure_ascii=False, indent=1).encode("utf-8")


def read_kept(octets: bytes, domain: str, now: float) -> Kept | None:
    """What a file holds; None for one that is not as we wrote it, or about another domain."""
    try:
        fields = json.loads(octets)
        if not isinstance(fields, dict) or fields["domain"] != domain:
            return None
        policy = parse_policy(fields["policy"].encode("utf-8"), fields["id"])
        times = [float(fields[name]) for name in ("fetched", "used")]
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError, PolicyError):
        return None
    if not isinstance(policy.id, str) or not all(math.isfinite(time) and time >= 0 for time in times):
        return None
    # A time to come was written by a clock that went wrong; it must not make a policy live longer.
    fetched, used = (min(time, now) for time in times)
    return Kept(domain=domain, policy=policy, fetched=fetched, used=used)


class PolicyCache:
    """The policies of all domains, by domain (A-labels, lower case).

    With a folder they are written there, in a thread of its own, and read from there at the start.
    """

    _log = Logger()

    def __init__(self, reactor: Any, folder: Path | None, wall: Callable[[], float]) -> None:
        self._reactor = reactor
        self._folder = folder
        self._wall = wall
        self._kept: dict[str, Kept] = {}
        self._memory = 0
        self._pool = ThreadPool(0, 1, name="policies")

    def start(self) -> Deferred[None]:
        """Read what is on disk; fires when that is done, and never fails."""
        if self._folder is None:
            return succeed(None)
        self._pool.start()
        loading: Deferred[list[Kept]] = deferToThreadPool(self._reactor, self._pool, _load, self._folder, self._wall())
        return loading.addCallback(self._loaded).addErrback(self._failed)

    def stop(self) -> None:
        """Wait until all is written."""
        if self._pool.started:
            self._pool.stop()

    def get(self, domain: str) -> Kept | None:
        """The policy that is in force, for mail that is to be sent now."""
        kept = self.peek(domain)
        if kept is None:
            return None
        del self._kept[domain]
        if self._wall() - kept.used > 3600:
            kept = attrs.evolve(kept, used=self._wall())
        self._kept[domain] = kept  # last in the order in which they go
        return kept

    def peek(self, domain: str) -> Kept | None:
        """The policy that is in force; that somebody looked is no use of it."""
        kept = self._kept.get(domain)
        if kept is not None and not kept.is_valid(self._wall()):
            self._drop(domain)
            return None
        return kept

    def borrow(self, folder: Path, domain: str) -> None:
        """Know what another process keeps of a domain in its folder; nothing is written there. Blocks."""
        kept = _read(folder / f"{domain}{_SUFFIX}", self._wall())
        if kept is not None and domain not in self._kept:
            self._add(kept)

    def put(self, domain: str, policy: Policy) -> None:
        """Keep a policy that was fetched just now, in place of an older one."""
        now, old = self._wall(), self._kept.get(domain)
        if old is not None:
            self._forget(domain)
        if policy.max_age <= 0:
            if old is not None:
                self._on_disk(_remove, domain)
            return
        kept = Kept(domain=domain, policy=policy, fetched=now, used=old.used if old is not None else now)
        self._add(kept)
        self._on_disk(_write, domain, write_kept(kept))

    def due(self, most: int, unless: Callable[[str], bool]) -> list[str]:
        """Domains whose policies should be fetched again though no mail asks for them, the oldest first."""
        now = self._wall()
        for domain in [kept.domain for kept in self._kept.values() if not kept.is_valid(now)]:
            self._drop(domain)
        # What lives for less than a day says itself that it is not to be relied on.
        found = (k for k in self._kept.values() if k.policy.max_age >= DAY and k.is_due(now) and now - k.used < IDLE)
        oldest = heapq.nsmallest(most, (k for k in found if not unless(k.domain)), key=lambda kept: kept.fetched)
        return [kept.domain for kept in oldest]

    def _loaded(self, found: list[Kept]) -> None:
        for kept in found:
            if kept.domain not in self._kept:
                self._add(kept)

    def _add(self, kept: Kept) -> None:
        self._kept[kept.domain] = kept
        self._memory += _size(kept)
        while len(self._kept) > MOST_POLICIES or self._memory > MOST_MEMORY:
            self._drop(next(iter(self._kept)))

    def _drop(self, domain: str) -> None:
        self._forget(domain)
        self._on_disk(_remove, domain)

    def _forget(self, domain: str) -> None:
        self._memory -= _size(self._kept.pop(domain))

    def _on_disk(self, work: Callable[..., None], domain: str, *arguments: bytes) -> None:
        if self._folder is not None and self._pool.started:
            path = self._folder / f"{domain}{_SUFFIX}"
            deferToThreadPool(self._reactor, self._pool, work, path, *arguments).addErrback(self._failed)

    def _failed(self, failure: Any) -> None:
        self._log.failure("MTA-STS policies cannot be kept on disk, only in memory", failure)


def _size(kept: Kept) -> int:
    return len(kept.policy.text) + _OVERHEAD


# --- in the thread ------------------------------------------------------------------------------------------------


def _load(folder: Path, now: float) -> list[Kept]:
    """The policies in the folder, those first that were not used for longest; what is none is removed."""
    private_folder(folder)
    found = []
    with os.scandir(folder) as entries:
        for entry in itertools.islice(entries, 2 * MOST_POLICIES):
            kept = _read(Path(entry.path), now)
            if kept is None:
                with contextlib.suppress(OSError):
                    _remove(Path(entry.path))
            else:
                found.append(kept)
    return sorted(found, key=lambda kept: kept.used)


def _read(path: Path, now: float) -> Kept | None:
    domain = path.name.removesuffix(_SUFFIX)
    if path.name == domain or not can_have_policy(domain):
        return None  # such as a file that was never finished
    try:
        with path.open("rb") as file:
            kept = read_kept(file.read(_LONGEST_FILE), domain, now)
    except OSError:
        return None
    return kept if kept is not None and kept.is_valid(now) else None


def _write(path: Path, octets: bytes) -> None:
    part = path.with_name(f"{path.name.removesuffix(_SUFFIX)}.part")
    fd = private_file(part, os.O_WRONLY | os.O_TRUNC)
    with os.fdopen(fd, "wb") as file:
        file.write(octets)
        file.flush()
        os.fsync(fd)
    part.rename(path)
    sync_folder(path.parent)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
