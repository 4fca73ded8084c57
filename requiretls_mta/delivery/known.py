"""Delivery into mailboxes that exist: for whom aliases, lists and reports lead to, RCPT has asked nobody."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred

from requiretls_mta.message.address import Address
from requiretls_mta.message.envelope import Recipient
from requiretls_mta.message.outcome import Deferred as Postponed
from requiretls_mta.message.outcome import Failed, Outcome
from requiretls_mta.message.ports import Transport
from requiretls_mta.message.reply import Reply
from requiretls_mta.message.stored import Message

Ask = Callable[[Address], Reply | Deferred[Reply | None] | None]
"""Why mail for an address is not taken, or None; never fails."""


class KnownMailboxes:
    """A `Transport` that asks before it delivers by another."""

    def __init__(self, transport: Transport, ask: Ask) -> None:
        self._transport = transport
        self._ask = ask

    def deliver(self, message: Message, recipients: Sequence[Recipient]) -> Deferred[list[Outcome]]:
        """What RCPT would have said to whoever has no mailbox."""
        return Deferred.fromCoroutine(self._deliver(message, recipients))

    async def _deliver(self, message: Message, recipients: Sequence[Recipient]) -> list[Outcome]:
        refused: list[Outcome | None] = []
        for recipient in recipients:
            answer = self._ask(recipient.address)
            if isinstance(answer, Deferred):
                answer = await answer
            refused.append(None if answer is None else _refused(recipient, answer))
        known = [recipient for recipient, outcome in zip(recipients, refused, strict=True) if outcome is None]
        delivered = iter(await self._transport.deliver(message, known) if known else ())
        return [outcome or next(delivered) for outcome in refused]


def _refused(recipient: Recipient, reply: Reply) -> Outcome:
    return (Failed if reply.is_permanent else Postponed)(recipient=recipient, reply=reply)
