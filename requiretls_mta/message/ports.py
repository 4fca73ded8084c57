"""What the stations ask of their neighbours: a body to read, a transport to deliver by, a place to tell events to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from requiretls_mta.message.envelope import Recipient
    from requiretls_mta.message.outcome import Outcome
    from requiretls_mta.message.stored import Message

SECRET = frozenset({"password", "passphrase", "secret", "body", "challenge"})
"""Names of fields that no subscriber of events writes down, whoever gives them."""


class Body(Protocol):
    """The octets of a message, in memory or in a file."""

    @property
    def size(self) -> int:
        """Octets."""

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` octets from `offset` on; fewer only at the end. Blocking; keep `length` within `CHUNK`."""


class Transport(Protocol):
    """A way out: relaying over SMTP or LMTP, or delivery into a mailbox."""

    def deliver(self, message: Message, recipients: Sequence[Recipient]) -> Deferred[list[Outcome]]:
        """Try once; exactly one outcome per recipient, in their order. Fails only for bugs and broken I/O."""


class Events(Protocol):
    """Where the house tells what happens: log, trace, metrics and reports subscribe."""

    def emit(self, event: str, /, **fields: Any) -> None:
        """Take one event; never raises. The names of events and fields are those of the documentation's log page."""


class Trace(Events, Protocol):
    """Where is told what belongs to one message and is too much for the log."""

    def put(self, event: str, write: Callable[[], str]) -> None:
        """Take an event whose fields `write` writes, as the members of a JSON object; never raises, whatever that does.

        What is told is done: a message is on disk, or was delivered, and must not be sent again for a mistake in here.
        """


class NoEvents:
    """Nobody listens."""

    def emit(self, event: str, /, **fields: Any) -> None:
        """Drop the event."""
