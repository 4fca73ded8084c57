"""What became of a recipient in one attempt: delivered, deferred or failed, with the evidence for it."""

from __future__ import annotations

import enum
import secrets

import attrs

from requiretls_mta.message.envelope import Recipient
from requiretls_mta.message.reply import Reply


class Step(enum.Enum):
    """The stations of RFC 8689 4.2.1 at which a host can fail."""

    LOOKUP = "lookup"
    CONNECT = "connect"
    STARTTLS = "starttls"
    AUTHENTICATE = "authenticate"
    REQUIRETLS = "requiretls"
    TRANSACTION = "transaction"


@attrs.frozen(kw_only=True)
class Cause:
    """Why one host did not take the message."""

    host: str
    """The MX host's name, or the domain where the look-up itself failed."""
    step: Step
    detail: str
    """For a person; text from the network is already escaped and cut (`reply.quote`)."""
    temporary: bool
    address: str | None = None
    """The IP address and port that were tried."""
    reply: Reply | None = None
    """What the host said, if it spoke."""
    clause: str = ""
    """The clause that was not met, such as `RFC 8689 4.2.1`."""

    def __str__(self) -> str:
        where = f"{self.host}[{self.address}]" if self.address else self.host
        return f"{where}: {self.step.value}: {self.detail}"


@attrs.frozen(kw_only=True)
class Security:
    """Facts of the session that carried a message, for log, trace and report."""

    tls_version: str | None = None
    cipher: str | None = None
    auth: str | None = None
    """`dane-ee`, `dane-ta` or `pkix`; None when nobody was authenticated."""
    mx_security: str = "none"
    """`dnssec`, `mta-sts`, `none` or `not-applicable`."""
    requiretls: bool = False
    """Whether MAIL carried the keyword."""


Delays = tuple[float, float, float]
"""Seconds of connecting (with all that came before it), of TLS, and of the transfer."""


@attrs.frozen(kw_only=True)
class Delivered:
    """The next hop, or the mailbox, has taken responsibility."""

    recipient: Recipient
    reply: Reply
    host: str
    security: Security | None = None
    causes: tuple[Cause, ...] = ()
    dsn_relayed: bool = False
    """Whether the next hop took over the DSN parameters (RFC 3461 5.2.2)."""
    in_mailbox: bool = False
    """Whether this was final delivery, by `[delivery]` of the configuration (RFC 3461 5.2.3)."""
    attempt: str = ""
    """The id of the attempt, in all that the log says of it."""
    delays: Delays = (0.0, 0.0, 0.0)


@attrs.frozen(kw_only=True)
class Deferred:
    """Not now: the attempt is to be repeated."""

    recipient: Recipient
    reply: Reply
    host: str | None = None
    security: Security | None = None
    causes: tuple[Cause, ...] = ()
    command: str | None = None
    """`MAIL`, `RCPT` or `DATA` (BDAT too) if the reply is the host's own answer to it."""
    attempt: str = ""
    delays: Delays = (0.0, 0.0, 0.0)


@attrs.frozen(kw_only=True)
class Failed:
    """Never: the sender is to be told."""

    recipient: Recipient
    reply: Reply
    host: str | None = None
    security: Security | None = None
    causes: tuple[Cause, ...] = ()
    command: str | None = None
    """`MAIL`, `RCPT` or `DATA` (BDAT too) if the reply is the host's own answer to it."""
    attempt: str = ""
    delays: Delays = (0.0, 0.0, 0.0)


Outcome = Delivered | Deferred | Failed


@attrs.frozen
class Tried:
    """An earlier attempt that was to be repeated, in short."""

    at: float
    """Unix seconds."""
    reply: str


def attempt_id() -> str:
    """A new name for an attempt."""
    return secrets.token_hex(6)
