"""The files of the trace: lines of JSON in segments that are named by the time at which they begin, and the oldest go.

    state/shards/0/trace/2026-11-25T180000Z.jsonl

Written by one process at a time, the one that has the shard; read by anybody who may, at any time. A line that a crash
has torn is passed over by readers, for the next one begins on a line of its own.
"""

from __future__ import annotations

import calendar
import contextlib
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

LONGEST = 3600.0
"""Seconds that one segment covers at the most."""
_FORM = "%Y-%m-%dT%H%M%SZ.jsonl"
_NAME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d)(\d\d)(\d\d)Z\.jsonl\Z", re.ASCII)
_PARTS = 16
"""Segments that share the allowed time and size at the least: with one of them goes as much."""


@attrs.frozen(kw_only=True)
class TraceSettings:
    """How much is kept."""

    keep: float
    """Seconds; 0: nothing is traced."""
    size: int = 1024**3
    """Octets of all segments; what is older goes first."""


@attrs.frozen
class Segment:
    """One file."""

    path: Path
    begins: float
    """Unix seconds."""


def trace_folder(shard: Path) -> Path:
    """Where the trace of a shard's messages is."""
    return shard / "trace"


def segments(folder: Path) -> list[Segment]:
    """Those that there are, the oldest first; other files are nobody's."""
    try:
        named = [(path, _NAME.match(path.name)) for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = [Segment(path, calendar.timegm(tuple(map(int, name.groups())))) for path, name in named if name]
    return sorted(found, key=lambda segment: segment.begins)


class SegmentWriter:
    """Appends lines and lets go of what is too old or too much. Blocking; raises `OSError`, and goes on after it."""

    def __init__(self, folder: Path, settings: TraceSettings) -> None:
        self._folder = folder
        self._settings = settings
        self._span = min(LONGEST, max(settings.keep / _PARTS, 1.0))
        self._file: int | None = None
        self._path: Path | None = None
        self._begun = 0.0
        self._size = 0

    def append(self, lines: Sequence[bytes], now: float) -> None:
        """Write lines, each with its line feed; `now` in Unix seconds."""
        is_full = self._size >= self._settings.size // _PARTS
        if self._file is None or is_full or not self._begun <= now < self._begun + self._span:
            self.close()
            self.prune(now)
            self._open(now)
        assert self._file is not None
        octets = memoryview(b"".join(lines))
        try:
            while octets:
                written = os.write(self._file, octets)
                self._size += written
                octets = octets[written:]
        except BaseException:
            # Half a line may be there.
            self.close()
            raise

    def prune(self, now: float) -> None:
        """Delete what ended longer ago than is kept, and what is more than may be."""
        size, next_begins = 0, float("inf")
        for segment in reversed(segments(self._folder)):
            ends, next_begins = min(segment.begins + LONGEST, next_begins), segment.begins
            with contextlib.suppress(FileNotFoundError):
                size += segment.path.stat().st_size
                if ends < now - self._settings.keep or size > self._settings.size or not self._settings.keep:
                    if segment.path == self._path:
                        self.close()
                    segment.path.unlink()

    def close(self) -> None:
        """Let go of the file; the next line begins another one, or this one's next line."""
        if self._file is not None:
            os.close(self._file)
            self._file = self._path = None

    def _open(self, now: float) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._folder / time.strftime(_FORM, time.gmtime(now))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(path, flags, 0o600)
        self._path, self._begun = path, now // 1
        self._size = os.fstat(self._file).st_size
        if self._size:
            os.write(self._file, b"\n")
