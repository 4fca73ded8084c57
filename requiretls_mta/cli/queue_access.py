"""The queue, whether the service runs (over its control socket) or not (locked and opened here)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from requiretls_mta.queue.files import StoreLocked
from requiretls_mta.queue.shard import Shard
from requiretls_mta.report.trace import TraceAtOnce
from requiretls_mta.report.trace_files import trace_folder
from requiretls_mta.service.config import Config
from requiretls_mta.service.control_client import ControlClient, NotRunning
from requiretls_mta.service.giving_up import give_up
from requiretls_mta.service.policies import Policies
from requiretls_mta.service.queue_view import message_json, row_json
from requiretls_mta.service.tracing import trace_settings

ReadPolicies = Callable[[], Policies]
"""Those of the configuration, with what stands in files."""

PATIENCE = 5.0
"""Seconds to wait for a service that has the queue but does not answer yet, or any more."""


class Queue(Protocol):
    """What the queue commands ask; messages as in `service.queue_view`."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """All queued messages, by id."""

    def show(self, message_id: str) -> dict[str, Any] | None:
        """One with its envelope parameters and header section; None when there is none."""

    def retry(self, message_id: str | None) -> int:
        """Make one, or all, due now; how many there were."""

    def hold(self, message_id: str, held: bool) -> bool:
        """Hold back, or release; False when there is none."""

    def remove(self, message_id: str) -> bool:
        """Delete without a report; False when there is none, or it is being attempted now."""

    def bounce(self, message_id: str) -> bool:
        """End as failed, with a report to the sender; False when there is none, or it is being attempted now."""


class QueueUnreachable(Exception):
    """Somebody has the queue, but does not answer; the message says what was tried."""


@contextlib.contextmanager
def open_queue(config: Config, patience: float = PATIENCE, *, read: ReadPolicies | None = None) -> Iterator[Queue]:
    """The queue of this configuration; raises `QueueUnreachable`, `ServiceError`, or what a shard raises.

    Where no service runs, `bounce` needs `read`, and raises what it raises.
    """
    state = config.state
    give_up = time.monotonic() + patience
    while True:
        try:
            client = ControlClient(state)
        except NotRunning as not_running:
            # A service that starts or stops has the lock, but no socket: then one or the other comes soon.
            shards = _lock_all(state)
            if shards is not None:
                try:
                    yield _ClosedQueue(shards, config, read)
                finally:
                    for shard in shards:
                        shard.close()
                return
            if time.monotonic() > give_up:
                raise QueueUnreachable(f"{not_running}, but another process has the queue") from None
            time.sleep(0.1)
        else:
            with client:
                yield _RunningQueue(client)
            return


def _lock_all(state: Path) -> list[Shard] | None:
    """All shards, locked; None when another process has one. Folders that do not exist yet hold nothing."""
    opened: list[Shard] = []
    try:
        for folder in sorted((state / "shards").glob("*")):
            if (folder / "queue.db").exists():
                shard = Shard(folder, wall=time.time)
                shard.open()
                opened.append(shard)
    except BaseException as error:
        for shard in opened:
            shard.close()
        if isinstance(error, StoreLocked):
            return None
        raise
    return opened


class _RunningQueue:
    """The running service's queue."""

    def __init__(self, client: ControlClient) -> None:
        self._client = client

    def rows(self) -> Iterator[dict[str, Any]]:
        return self._client.rows()

    def show(self, message_id: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._client.ask("show", message_id)
        return found

    def retry(self, message_id: str | None) -> int:
        return int(self._client.ask("retry", message_id))

    def hold(self, message_id: str, held: bool) -> bool:
        return bool(self._client.ask("hold" if held else "release", message_id))

    def remove(self, message_id: str) -> bool:
        return bool(self._client.ask("remove", message_id))

    def bounce(self, message_id: str) -> bool:
        return bool(self._client.ask("bounce", message_id))


class _ClosedQueue:
    """The queue of a service that does not run."""

    def __init__(self, shards: Sequence[Shard], config: Config, read: ReadPolicies | None) -> None:
        self._shards = shards
        self._config = config
        self._read = read

    def rows(self) -> Iterator[dict[str, Any]]:
        rows = [row for shard in self._shards for row in shard.rows()]
        return map(row_json, sorted(rows, key=lambda row: row.id))

    def show(self, message_id: str) -> dict[str, Any] | None:
        for shard in self._shards:
            message = shard.message(message_id)
            if message is not None:
                row = next(row for row in shard.rows() if row.id == message_id)
                return message_json(row, message)
        return None

    def retry(self, message_id: str | None) -> int:
        now = time.time()
        if message_id is None:
            return sum(shard.retry_all(now) for shard in self._shards)
        return int(self._steer("retry", message_id, lambda shard, _: shard.retry(message_id, now) > 0))

    def hold(self, message_id: str, held: bool) -> bool:
        return self._steer("hold" if held else "release", message_id, lambda shard, _: shard.hold(message_id, held))

    def remove(self, message_id: str) -> bool:
        return self._steer("remove", message_id, lambda shard, _: shard.remove(message_id))

    def bounce(self, message_id: str) -> bool:
        assert self._read is not None
        found = self._read()
        return self._steer("bounce", message_id, lambda shard, trace: give_up(shard, message_id, found, trace))

    def _steer(self, action: str, message_id: str, work: Callable[[Shard, TraceAtOnce], bool]) -> bool:
        """Do it in the shard that has the message, and note it in the trace."""
        settings = trace_settings(self._config)
        for shard in self._shards:
            with contextlib.closing(TraceAtOnce(trace_folder(shard.folder), settings, time.time)) as trace:
                if work(shard, trace):
                    trace.emit("operator", queue_id=message_id, action=action)
                    return True
        return False
