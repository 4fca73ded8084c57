"""Admission: the one way into the queue, whoever brings the message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs

from requiretls_mta.message.ports import Events
from requiretls_mta.message.stored import Message
from requiretls_mta.queue.store import IQueueStore, Lease
from requiretls_mta.receive.recipients import expand
from requiretls_mta.receive.settings import Settings


class Schedule(Protocol):
    """Who attempts what was admitted."""

    def has_room_for(self, message: Message) -> bool:
        """Whether a fresh lease on it can be taken now; else it waits in the store until it is claimed."""

    def take(self, leases: Sequence[Lease]) -> None:
        """Attempt these now."""


class Admission:
    """Makes messages durable and hands them on."""

    def __init__(
        self, store: IQueueStore, schedule: Schedule, settings: Callable[[], Settings], events: Events
    ) -> None:
        self._store = store
        self._schedule = schedule
        self._settings = settings
        self._events = events

    async def admit(self, message: Message, session: str | None = None) -> None:
        """Returns when the message is on disk; raises `StoreFull`, `AliasLoopError` or the store's own error.

        `session` is the id of the one that brought it.
        """
        recipients = expand(message.envelope.recipients, self._settings())
        if recipients is not message.envelope.recipients:
            message = attrs.evolve(message, envelope=attrs.evolve(message.envelope, recipients=recipients))
        leases = await self._store.accept([message], self._schedule.has_room_for(message))
        envelope = message.envelope
        self._events.emit(
            "queued",
            session=session,
            queue_id=message.id,
            sender=envelope.reverse_path,
            recipients=len(recipients),
            size=message.size,
            requiretls=envelope.tag.value if envelope.tag else None,
        )
        if leases:
            self._schedule.take(leases)
