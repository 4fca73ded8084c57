"""The seams of reception: who answers mail that has arrived, and who knows which mailboxes there are."""

from __future__ import annotations

import attrs
from twisted.internet.defer import Deferred
from twisted.plugin import IPlugin
from zope.interface import Attribute

from requiretls_mta.message.address import Address
from requiretls_mta.message.envelope import Envelope


@attrs.frozen(kw_only=True)
class Answer:
    """What is said to the sender of a message. Where it goes, how, and whether, is not for the responder to decide."""

    body: str
    """Plain text, at most 10,000 characters; lines end with LF."""
    subject: str = ""
    """Behind "Auto: ". Empty: that of the message, unless it requires TLS: then it is not quoted."""
    name: str = ""
    """Of whom the answer is from."""
    author: Address | None = None
    """Of whom it is from; None: the address that the message was sent to."""


class IResponder(IPlugin):
    """What `twisted.plugin` finds: whoever may have something to say when a message has arrived in a mailbox."""

    name = Attribute("Text, unique; of several responders the first in the order of their names that answers is heard.")

    def respond(envelope: Envelope, recipient: Address, header: bytes) -> Answer | None:
        """The answer to this message for this recipient, or None. Called on the reactor thread: must not block.

        `header` is the header section with its last CRLF, at most 64 KiB, as it came: hostile. Asked only when
        RFC 3834 allows an answer. A responder that raises, or answers something else, is logged and has not answered.
        """


class IRecipients(IPlugin):
    """What `twisted.plugin` finds: whoever knows mailboxes of the local domains (`delivery.recipients = "plugin"`)."""

    def has_mailbox(address: Address) -> bool | Deferred[bool]:
        """Whether there is this mailbox. Called on the reactor thread: must not block.

        Asked at RCPT, of what is neither alias nor list nor the postmaster's. True is remembered for an hour, anything
        else is a no, for five minutes. What raises, fails or takes longer than 15 s: 451 4.3.0, not remembered.
        """
