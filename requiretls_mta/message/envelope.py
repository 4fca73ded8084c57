"""The envelope of a message: who sends to whom, under which promise (RFC 5321 3.3, RFC 8689 4.1, RFC 3461 4)."""

from __future__ import annotations

import enum

import attrs

from requiretls_mta.message.address import Address


class Tag(enum.Enum):
    """What the sender asked of transport security; an untagged message has None in its place (RFC 8689 4.1)."""

    REQUIRED = "required"
    """`MAIL ... REQUIRETLS`: every hop encrypted and authenticated, or the message comes back."""
    OPTIONAL = "optional"
    """`TLS-Required: No`: delivery counts more than any TLS policy."""


class Notify(enum.Enum):
    """When a recipient's delivery is to be reported (RFC 3461 4.1)."""

    NEVER = "NEVER"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    DELAY = "DELAY"


@attrs.frozen
class Recipient:
    """One recipient of an envelope with its DSN parameters."""

    address: Address
    notify: frozenset[Notify] | None = None
    """None: the parameter was not given, so failures (and delays, if we choose) are reported."""
    orcpt: str | None = None
    """The ORCPT value as it came, `type;xtext`; relayed unchanged (RFC 3461 4.2)."""

    @property
    def wants_failure(self) -> bool:
        """Whether a failure is to be reported to the sender."""
        return self.notify is None or Notify.FAILURE in self.notify

    @property
    def wants_delay(self) -> bool:
        """Whether a delay may be reported to the sender."""
        return self.notify is None or Notify.DELAY in self.notify

    @property
    def wants_success(self) -> bool:
        """Whether the sender asked to hear of a success."""
        return self.notify is not None and Notify.SUCCESS in self.notify


@attrs.frozen(kw_only=True)
class Envelope:
    """What MAIL and RCPT said."""

    sender: Address | None
    """None is the empty reverse path."""
    recipients: tuple[Recipient, ...] = ()
    tag: Tag | None = None
    body: str | None = None
    """`7BIT` or `8BITMIME` as declared, None if it was not (RFC 6152)."""
    smtputf8: bool = False
    ret: str | None = None
    """`FULL` or `HDRS` (RFC 3461 4.3)."""
    envid: str | None = None
    """The ENVID value as it came, in xtext; relayed unchanged (RFC 3461 4.4)."""
    size: int | None = None
    """The SIZE that MAIL declared, in octets (RFC 1870)."""

    def to(self, recipients: tuple[Recipient, ...]) -> Envelope:
        """The same envelope for these recipients."""
        return Envelope(
            sender=self.sender,
            recipients=recipients,
            tag=self.tag,
            body=self.body,
            smtputf8=self.smtputf8,
            ret=self.ret,
            envid=self.envid,
            size=self.size,
        )

    @property
    def reverse_path(self) -> str:
        """The sender as text, empty where there is none."""
        return "" if self.sender is None else self.sender.text
