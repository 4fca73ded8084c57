"""Delivery to those who have no mailbox: a refusal."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, succeed

from requiretls_mta.message.envelope import Recipient
from requiretls_mta.message.outcome import Failed, Outcome
from requiretls_mta.message.reply import UNKNOWN_RECIPIENT
from requiretls_mta.message.stored import Message


class NobodyTransport:
    """A `Transport` for addresses that no RCPT was asked about: of aliases, lists, and senders who are reported to."""

    def deliver(self, message: Message, recipients: Sequence[Recipient]) -> Deferred[list[Outcome]]:
        """What RCPT would have said."""
        return succeed([Failed(recipient=recipient, reply=UNKNOWN_RECIPIENT) for recipient in recipients])
