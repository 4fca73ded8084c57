"""The seams of the server session: what it tells, and whom it asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred
from zope.interface import Interface

from requiretls_mta.checks.pipeline import TransactionChecks
from requiretls_mta.message.content import Content
from requiretls_mta.message.envelope import Envelope, Recipient
from requiretls_mta.message.reply import Reply
from requiretls_mta.smtp.incoming import Incoming
from requiretls_mta.tls.facts import ServerTLS


@attrs.frozen(kw_only=True)
class Peer:
    """The client at the other end, fixed before the greeting; nobody asks the transport afterwards."""

    address: str | None
    """IP address (an IPv4-mapped one unwrapped, without scope id); None on a UNIX socket, or where a proxy has none."""
    port: int | None = None
    listener: str = ""
    via_proxy: bool = False
    """Whether a PROXY header says so: then it is a claim, which relays nothing for loopback."""

    uid: int | None = None
    """The user at the other end of a UNIX socket, as the kernel knows it."""

    @property
    def literal(self) -> str:
        """For a Received field: the address in brackets, or what stands for it."""
        if self.address is None:
            if self.uid is not None:
                return f"unix uid {self.uid}"
            return "unknown" if self.via_proxy else "unix"
        return f"[IPv6:{self.address}]" if ":" in self.address else f"[{self.address}]"


@attrs.frozen(kw_only=True)
class Session:
    """A session as it stands when a transaction begins."""

    id: str
    peer: Peer
    service: str
    """`mx`, `submission`, `submissions` or `lmtp`."""
    helo: str
    """The argument of EHLO, HELO or LHLO."""
    protocol: str
    """For Received (RFC 3848): `SMTP`, `ESMTP`, `ESMTPS`, `ESMTPSA`, `LMTPS`, ... (never with the prefix UTF8)."""
    tls: ServerTLS | None = None
    user: str | None = None
    """Who authenticated."""
    mechanism: str = ""
    """By which SASL mechanism, in upper case; of no meaning without a user."""
    started: float = 0.0
    """Unix seconds."""
    checks: TransactionChecks | None = attrs.field(default=None, eq=False, repr=False)
    """What the client and the envelope are checked for; None: nothing, for nothing is configured or it is trusted.
    Whoever keeps the message asks for the verdicts on it (`TransactionChecks.message`)."""
    transcript: Incoming | None = attrs.field(default=None, eq=False, repr=False)
    """What was said so far, while it goes on; None: nobody notes it."""


class Transaction(Protocol):
    """One mail transaction as the session drives it: mail, rcpt..., data, write..., then end or abort.

    The reply methods answer a `Reply`, or a Deferred of one; never both at once is in flight, the session waits.
    """

    def mail(self, envelope: Envelope) -> Reply | Deferred[Reply]:
        """MAIL: the envelope has no recipients yet."""

    def rcpt(self, recipient: Recipient) -> Reply | Deferred[Reply]:
        """RCPT: a positive reply takes the recipient into the envelope."""

    def data(self, envelope: Envelope) -> Reply | Deferred[Reply | None] | None:
        """DATA or the first BDAT, with the whole envelope; None to go on, else the refusal."""

    def write(self, chunk: bytes) -> None:
        """The next octets of the message (CRLF line ends, unstuffed)."""

    def end(self, content: Content, header: bytes) -> Reply | Deferred[Reply] | Deferred[Sequence[Reply]]:
        """The message is complete. One reply, or for LMTP one per accepted recipient in their order.

        `header` is the header section, or the first octets of one longer than `message.content.HEADER_KEPT`.
        """

    def abort(self) -> None:
        """The transaction is over without a message: RSET, lost connection, refusal; at any time, twice too."""


class Station(Protocol):
    """Makes the transactions of a listener."""

    def begin(self, session: Session) -> Transaction:
        """A transaction for the MAIL that has just come."""


class IEnvelopeDelivery(Interface):
    """A `twisted.mail.smtp.IMessageDelivery` that keeps REQUIRETLS, DSN and SMTPUTF8 promises.

    Where a delivery provides it, those extensions are offered (RFC 8689 2: to advertise is to promise).
    """

    def envelope_received(envelope: Envelope, session: Session) -> Deferred[None] | None:
        """Called once per message before its IMessage objects are made, with every recipient accepted.

        Raise (or fail with) `twisted.mail.smtp.SMTPServerError` to refuse the message.
        """
