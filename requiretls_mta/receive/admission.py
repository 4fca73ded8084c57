"""Admission: the one way into the queue, whoever brings the message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs

from requiretls_mta.message.envelope import Recipient
from requiretls_mta.message.ports import Events
from requiretls_mta.message.stored import Message
from requiretls_mta.queue.store import IQueueStore, Lease
from requiretls_mta.receive.recipients import AliasLoopError, Expansion, expand
from requiretls_mta.receive.settings import Settings


class Schedule(Protocol):
    """Who attempts what was admitted."""

    def has_room_for(self, message: Message) -> bool:
        """Whether a fresh lease on it can be taken now; else it waits in the store until it is claimed."""

    def take(self, leases: Sequence[Lease]) -> None:
        """Attempt these now."""


Expanded = Callable[[Message, Sequence[Recipient]], tuple[Message, ...]]
"""What is reported of a message's aliases for several recipients."""


class Admission:
    """Makes messages durable and hands them on."""

    def __init__(
        self,
        store: IQueueStore,
        schedule: Schedule,
        settings: Callable[[], Settings],
        events: Events,
        expanded: Expanded | None = None,
    ) -> None:
        self._store = store
        self._schedule = schedule
        self._settings = settings
        self._events = events
        self._expanded = expanded

    def to_all(self, reports: Sequence[Message]) -> tuple[Message, ...]:
        """The same reports, which enter with what gave birth to them, to those behind the sender's own alias."""
        prepared = []
        for report in reports:
            try:
                expansion = expand(report.envelope.recipients, self._settings())
            except AliasLoopError:
                expansion = Expansion(report.envelope.recipients)
            prepared.append(_to(report, expansion))
        return tuple(prepared)

    async def admit(self, message: Message, session: str | None = None) -> None:
        """Returns when the message is on disk; raises `StoreFull`, `AliasLoopError` or the store's own error.

        `session` is the id of the one that brought it.
        """
        expansion = expand(message.envelope.recipients, self._settings())
        message = _to(message, expansion)
        reports: tuple[Message, ...] = ()
        if expansion.reportable and self._expanded:
            reports = self.to_all(self._expanded(message, expansion.reportable))
        leases = await self._store.accept([message, *reports], self._schedule.has_room_for(message))
        envelope = message.envelope
        self._events.emit(
            "queued",
            session=session,
            queue_id=message.id,
            sender=envelope.reverse_path,
            recipients=len(envelope.recipients),
            size=message.size,
            requiretls=envelope.tag.value if envelope.tag else None,
        )
        if leases:
            self._schedule.take(leases)


def _to(message: Message, expansion: Expansion) -> Message:
    if expansion.recipients is message.envelope.recipients:
        return message
    return attrs.evolve(message, envelope=attrs.evolve(message.envelope, recipients=expansion.recipients))
