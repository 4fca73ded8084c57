"""Admission: the one way into the queue, whoever brings the message."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from requiretls_mta.message.birth import birth, names
from requiretls_mta.message.envelope import Recipient
from requiretls_mta.message.flat_json import write_object
from requiretls_mta.message.offspring import NONE, Offspring
from requiretls_mta.message.ports import Events, Trace
from requiretls_mta.message.stored import Message
from requiretls_mta.queue.store import IQueueStore, Lease
from requiretls_mta.receive.lists import to_members
from requiretls_mta.receive.recipients import AliasLoopError, expand
from requiretls_mta.receive.settings import Settings


class Schedule(Protocol):
    """Who attempts what was admitted."""

    def has_room_for(self, message: Message) -> bool:
        """Whether a fresh lease on it can be taken now; else it waits in the store until it is claimed."""

    def take(self, leases: Sequence[Lease]) -> None:
        """Attempt these now."""


Expanded = Callable[[Message, Sequence[Recipient], Sequence[Recipient]], Offspring]
"""What is reported of a message's aliases for several recipients, and of its lists."""
_Entering = tuple[Message, Mapping[str, Any], tuple[Recipient, ...]]
"""A message, what the log is to tell of it, and its recipients before aliases and lists."""


class Admission:
    """Makes messages durable and hands them on."""

    _log = Logger()

    def __init__(
        self,
        store: IQueueStore,
        schedule: Schedule,
        settings: Callable[[], Settings],
        events: Events,
        expanded: Expanded | None = None,
        *,
        trace: Trace | None = None,
    ) -> None:
        """`trace` is told what the log is not: whom a message is for, how it came, and of reports that enter here."""
        self._store = store
        self._schedule = schedule
        self._settings = settings
        self._events = events
        self._expanded = expanded
        self._trace = trace

    def to_all(self, about: Message, offspring: Offspring) -> Offspring:
        """`to_all` under the settings of this moment."""
        return to_all(about, offspring, self._settings(), self._store.new_id)

    def admit(self, message: Message, session: str | None = None) -> Deferred[None]:
        """`admit_all` for one message of which there is nothing to tell."""
        return self.admit_all([message], session)

    def admit_all(
        self,
        messages: Sequence[Message],
        session: str | None = None,
        notes: Sequence[Mapping[str, Any]] = ({},),
        reception: Callable[[], str] = str,
    ) -> Deferred[None]:
        """Fires when the messages, with all copies for members of lists, are on disk, by one commit.

        Raises `AliasLoopError` or `ListLoopError`; fails with `StoreFull` or the store's own error. `session` is the id
        of the one that brought them, `notes` what the event `queued` is to tell of each, `reception` (`receive.traced`)
        how the first of them came.
        """
        entering: list[_Entering] = []
        born = NONE
        for message, note in zip(messages, notes, strict=True):
            copies, aliases, lists = _reached(message, self._settings(), self._store.new_id)
            for copy in copies:
                # A list that does not inherit the tag was not meant by the rule that set it.
                its = note if copy.envelope.tag is message.envelope.tag else {}
                entering.append((copy, its, message.envelope.recipients))
            if (aliases or lists) and self._expanded:
                born += self.to_all(message, self._expanded(message, aliases, lists))
        admitted = [message for message, _, _ in entering]
        has_room = all(map(self._schedule.has_room_for, admitted))
        done: Deferred[tuple[Lease, ...]] = self._store.accept([*admitted, *born.messages], has_room)
        return done.addCallback(self._entered, entering, born, session, reception)

    def _entered(
        self,
        leases: tuple[Lease, ...],
        entering: Sequence[_Entering],
        born: Offspring,
        session: str | None,
        reception: Callable[[], str],
    ) -> None:
        """They are on disk."""
        try:
            for message, note, _ in entering:
                self._tell(message, session, note)
            if self._trace is not None:
                for message, note, named in entering:
                    self._trace.put("queued", partial(_birth, message, note, named, reception))
                for report in born.messages:
                    self._trace.put("queued", partial(birth, report))
            for news in born.news:
                news.tell(self._events)
                if self._trace is not None:
                    news.tell(self._trace)
            if leases:
                self._schedule.take(leases)
        except Exception:
            # It is on disk, whatever became of the rest: whoever brought it must not bring it again.
            self._log.failure(
                "message {queue_id} is queued, but may not be attempted before a restart", queue_id=entering[0][0].id
            )

    def _tell(self, message: Message, session: str | None, note: Mapping[str, Any]) -> None:
        envelope = message.envelope
        birth: dict[str, str] = {}
        if message.origin == "list":
            birth["origin"] = message.origin
        if message.parent is not None:
            birth["parent"] = message.parent
        self._events.emit(
            "queued",
            session=session,
            queue_id=message.id,
            sender=envelope.reverse_path,
            recipients=len(envelope.recipients),
            size=message.size,
            requiretls=envelope.tag.value if envelope.tag else None,
            **birth,
            **note,
        )


def _birth(
    message: Message, note: Mapping[str, Any], named: tuple[Recipient, ...], reception: Callable[[], str]
) -> str:
    """What the trace is told; `named` are the recipients before aliases and lists."""
    more = reception() if message.parent is None else ""
    if message.envelope.recipients != named:
        more += f',"named":{names(named)}'
    return birth(message, f"{more},{write_object(note)[1:-1]}" if note else more)


def to_all(about: Message, offspring: Offspring, settings: Settings, new_id: Callable[[], str]) -> Offspring:
    """The same reports, which enter with what gave birth to them, to those behind the sender's own alias.

    Of a report that takes the place of another, the recipients are those that are left of its: no aliases any more.
    """
    if about.origin == "report":
        return offspring
    prepared: list[Message] = []
    for report in offspring.messages:
        try:
            prepared += _reached(report, settings, new_id)[0]
        except AliasLoopError:
            prepared.append(report)
    return attrs.evolve(offspring, messages=tuple(prepared))


def _reached(
    message: Message, settings: Settings, new_id: Callable[[], str]
) -> tuple[list[Message], tuple[Recipient, ...], tuple[Recipient, ...]]:
    """The message to whom its aliases lead, a copy for each list; which aliases and lists are to be told of."""
    expansion = expand(message.envelope.recipients, settings)
    if expansion.recipients is not message.envelope.recipients:
        message = attrs.evolve(message, envelope=attrs.evolve(message.envelope, recipients=expansion.recipients))
    if not settings.lists:
        return [message], expansion.reportable, ()
    lists = tuple(r for r in expansion.recipients if r.wants_success and r.address.key in settings.lists)
    copies = to_members(
        message,
        settings.lists,
        lambda members: expand(members, settings).recipients,
        hostname=settings.hostname,
        new_id=new_id,
        now=message.received,
    )
    return copies, expansion.reportable, lists
