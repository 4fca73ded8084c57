"""The trace of one process, and who tells it what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from requiretls_mta.message.ports import Events
from requiretls_mta.report.trace import OfMessages, Trace
from requiretls_mta.report.trace_files import TraceSettings, trace_folder
from requiretls_mta.service.config import Config
from requiretls_mta.service.events import Subscribers
from requiretls_mta.service.state import shard


@attrs.frozen(kw_only=True)
class Tracing:
    """The trace as the stations get it."""

    writer: Trace
    """Started and stopped also where nothing is traced: then it deletes what there was."""
    trace: Trace | None
    """None: nothing is traced."""
    events: Events
    """The house's events, with the trace among those who hear of messages."""
    transcribes: bool


def trace_settings(config: Config) -> TraceSettings:
    """What `[trace]` means to the files."""
    return TraceSettings(keep=config.trace.keep, size=config.trace.size)


def tracing(config: Config, reactor: Any, events: Events, wall: Callable[[], float]) -> Tracing:
    """Composes only."""
    writer = Trace(reactor, trace_folder(shard(config.state)), trace_settings(config), wall)
    if not config.trace.keep:
        return Tracing(writer=writer, trace=None, events=events, transcribes=False)
    told = Subscribers(events, OfMessages(writer))
    return Tracing(writer=writer, trace=writer, events=told, transcribes=config.trace.transcripts)
