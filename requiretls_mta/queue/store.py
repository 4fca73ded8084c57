"""The queue's interface: batch verbs, each a Deferred; whoever implements it decides where the messages live."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred
from zope.interface import Interface

from requiretls_mta.message.envelope import Recipient
from requiretls_mta.message.outcome import Outcome, Tried
from requiretls_mta.message.ports import Body
from requiretls_mta.message.stored import Message


class StoreFull(Exception):
    """The store takes no message now: no space left, or its limit reached. Answered 452 4.3.1."""


@attrs.frozen(kw_only=True)
class Entry:
    """One recipient of a queued message and how it stands."""

    number: int
    """The recipient's place in the envelope, from 0."""
    recipient: Recipient
    state: str = "queued"
    """`queued`, `delivered` or `failed`."""
    attempts: int = 0
    next_attempt: float = 0.0
    """Unix seconds."""
    last_reply: str = ""
    warned: bool = False
    """Whether its delay was reported."""
    tried: tuple[Tried, ...] = ()
    """Earlier attempts, the oldest first: some, for the report."""


@attrs.frozen(kw_only=True)
class Lease:
    """The right to attempt some recipients of a message; ends with `settle` or with the process."""

    message: Message
    entries: tuple[Entry, ...]
    """The recipients to attempt: queued and due."""


@attrs.frozen(kw_only=True)
class Settled:
    """What became of one recipient."""

    number: int
    outcome: Outcome
    next_attempt: float = 0.0
    """Unix seconds; of deferred recipients only."""
    final: bool = True
    """False: the recipient stays queued until `next_attempt`."""
    warned: bool = False
    tried: tuple[Tried, ...] = ()
    """Of recipients that stay queued: what the next attempt's `Entry` is to say."""


@attrs.frozen(kw_only=True)
class Settlement:
    """The end of a lease: all its entries, and the messages that the attempt gave birth to (reports, expansions)."""

    lease: Lease
    settled: tuple[Settled, ...]
    offspring: tuple[Message, ...] = ()


@attrs.frozen(kw_only=True)
class Row:
    """A queued message as the tool shows it."""

    id: str
    sender: str
    size: int
    received: float
    tag: str | None
    held: bool
    entries: tuple[Entry, ...]


class BodyWriter(Protocol):
    """Takes a message's octets while they arrive."""

    def write(self, data: bytes) -> None:
        """Append; small bodies stay in memory, larger ones go to a file. Raises `StoreFull` or `OSError`."""

    def finish(self) -> Body | Deferred[Body]:
        """The body, at once if it is in memory; a file is on disk under its final name, with its folder, by then.

        Raises or fails with `StoreFull`, or an `OSError`.
        """

    def abort(self) -> None:
        """Forget it; leaves no trace. Harmless after `finish` failed, twice, and once the message was accepted."""


class IQueueStore(Interface):
    """Where accepted messages live until they are settled."""

    def open() -> Deferred[None]:
        """Lock, check, migrate; forget leases of a process that is gone. Fails with an error that names the trouble."""

    def close() -> Deferred[None]:
        """Finish what was begun, then let go of everything."""

    def new_id() -> str:
        """A queue id that was never given before: sortable by time, 16 characters of `0-9a-z` without `i l o u`."""

    def body(message_id: str) -> BodyWriter:
        """A writer for a new message's octets."""

    def accept(messages: Sequence[Message], lease: bool = False) -> Deferred[tuple[Lease, ...]]:
        """Make messages durable; fires after the commit. With `lease`, hands them out at once, as `claim` would."""

    def claim(limit: int, now: float) -> Deferred[tuple[Lease, ...]]:
        """At most `limit` messages with due recipients (not held, not leased), the longest due first."""

    def lease(message_id: str) -> Deferred[Lease | None]:
        """One message with all its open recipients, due or not, held or not; None: there is none, or it is leased."""

    def release(message_ids: Sequence[str]) -> Deferred[None]:
        """Give back leases of which nothing was attempted; their messages can be claimed again."""

    def settle(settlements: Sequence[Settlement]) -> Deferred[tuple[Exception | None, ...]]:
        """Recipient states and offspring of each lease, in one transaction; messages all settled are removed.

        Tells of each, in their order, why it is not stored; None: it is durable. What is not stored stays leased.
        """

    def next_due() -> Deferred[float | None]:
        """When the next recipient not leased is due (Unix seconds); None for an empty queue."""

    def rows() -> Deferred[tuple[Row, ...]]:
        """All queued messages, by id."""

    def message(message_id: str) -> Deferred[Message | None]:
        """One queued message, to show it."""

    def retry(message_id: str | None, now: float) -> Deferred[int]:
        """Make one message, or all, due now; how many there were."""

    def hold(message_id: str, held: bool) -> Deferred[bool]:
        """Hold a message back, or release it; False when there is none."""

    def remove(message_id: str) -> Deferred[bool]:
        """Delete a message without a report; False when there is none, or it is being attempted now."""
