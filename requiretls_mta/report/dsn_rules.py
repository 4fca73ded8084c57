"""Which outcome is told to the sender, and how it is called (RFC 3461 5.2, RFC 3464 2.3.3)."""

from __future__ import annotations

import enum

import attrs

from requiretls_mta.message.outcome import Deferred, Delivered, Failed, Outcome, Tried


class Action(enum.Enum):
    """What happened to a recipient; the gravest first: it names the report."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    """Into the mailbox."""
    RELAYED = "relayed"
    """To a host that will not tell what becomes of it."""
    EXPANDED = "expanded"
    """To the many behind an alias."""


@attrs.frozen(kw_only=True)
class Told:
    """What a report tells of one recipient."""

    action: Action
    outcome: Outcome
    tried: tuple[Tried, ...] = ()
    """Earlier attempts, the oldest first."""
    until: float | None = None
    """Unix seconds: of a delay, how long it will be tried."""


def action_of(outcome: Outcome, *, late: bool) -> Action | None:
    """What there is to tell; `late` is whether a delay is to be told now. NOTIFY of a failure is not looked at here."""
    match outcome:
        case Failed():
            return Action.FAILED
        case Deferred():
            # RFC 3461 5.2.5
            return Action.DELAYED if late and outcome.recipient.wants_delay else None
        case Delivered():
            # RFC 3461 5.2.1: whoever took over the parameters reports; 5.2.2 (b), 5.2.3 (a): otherwise it is on us.
            if outcome.dsn_relayed or not outcome.recipient.wants_success:
                return None
            return Action.DELIVERED if outcome.in_mailbox else Action.RELAYED


def is_wanted(told: Told) -> bool:
    """Whether the sender gets to hear it. RFC 3461 5.2.6: of a failure not, where NOTIFY says so."""
    return told.action is not Action.FAILED or told.outcome.recipient.wants_failure
