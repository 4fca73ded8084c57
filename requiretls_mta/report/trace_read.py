"""Finding a message in the trace: its own lines, and those of whatever it gave birth to, in one pass over the files."""

from __future__ import annotations

import contextlib
import json
import mmap
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from requiretls_mta.report.trace_files import Segment, segments

Record = dict[str, Any]
"""A line of the trace."""

MOST = 1000
"""Messages of one family."""
_FEW = 8
"""Ids that are looked for one by one, to pass over the files without any."""
_EARLIER = 60.0
"""Seconds by which the clock may have been set back."""
_IDS = re.compile(rb'"(?:queue_id|parent)":"([0-9a-z]{1,32})"')


def ids_of(folders: Iterable[Path], message_id: str) -> list[str]:
    """The ids of the messages that came with this Message-ID (with its angle brackets), the oldest first."""
    needle = b'"message_id":' + json.dumps(message_id).encode("ascii")
    found: dict[str, None] = {}
    for folder in folders:
        for segment in segments(folder):
            with _opened(segment) as data:
                at = data.find(needle)
                while at >= 0:
                    record, end = _line(data, at)
                    if record is not None and record.get("message_id") == message_id:
                        found[str(record.get("queue_id"))] = None
                    at = data.find(needle, end)
    return list(found)


def family(folders: Iterable[Path], ids: Sequence[str], since: float) -> dict[str, list[Record]]:
    """The records of these messages and of their offspring, by id, in the order of their birth; none: not found.

    Nothing of them is older than `since` (Unix seconds).
    """
    records: dict[str, list[Record]] = {one: [] for one in ids[:MOST]}
    for folder in folders:
        for segment in _from(segments(folder), since - _EARLIER):
            with _opened(segment) as data:
                if len(records) > _FEW or any(data.find(one.encode("ascii")) >= 0 for one in records):
                    for record in _of(data, records):
                        records[record["queue_id"]].append(record)
    for found in records.values():
        found.sort(key=lambda record: str(record.get("time")))
    return {one: found for one, found in records.items() if found}


def _of(data: mmap.mmap | bytes, records: dict[str, list[Record]]) -> Iterator[Record]:
    """The lines of messages in `records`, which grows by those whose parent is there."""
    end = 0
    for match in _IDS.finditer(data):
        if match.start() < end or match.group(1).decode("ascii") not in records:
            continue
        record, end = _line(data, match.start())
        if record is None:
            continue
        queue_id, parent = record.get("queue_id"), record.get("parent")
        if isinstance(queue_id, str) and queue_id not in records and parent in records and len(records) < MOST:
            records[queue_id] = []
        if queue_id in records:
            yield record


def _from(found: Sequence[Segment], since: float) -> Sequence[Segment]:
    """Without those that ended before."""
    first = 0
    for number, segment in enumerate(found):
        if segment.begins <= since:
            first = number
    return found[first:]


@contextlib.contextmanager
def _opened(segment: Segment) -> Iterator[mmap.mmap | bytes]:
    """The octets of a file; one that is deleted meanwhile has none."""
    try:
        file = segment.path.open("rb")
    except FileNotFoundError:
        yield b""
        return
    with file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # it is empty
            yield b""
            return
        with data:
            yield data


def _line(data: mmap.mmap | bytes, at: int) -> tuple[Record | None, int]:
    """The record around an offset, None for a line that is torn, and where the next line begins."""
    start, end = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at)
    end = len(data) if end < 0 else end
    try:
        record = json.loads(data[start:end])
    except ValueError:
        return None, end
    return record if isinstance(record, dict) else None, end
