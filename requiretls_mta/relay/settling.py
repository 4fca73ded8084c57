"""What an attempt comes to: the end of each recipient, or its next attempt, and the event that tells of it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import attrs

from requiretls_mta.message.outcome import Deferred as Postponed
from requiretls_mta.message.outcome import Delivered, Failed, Outcome, Step, attempt_id
from requiretls_mta.message.ports import Events
from requiretls_mta.message.reply import Reply
from requiretls_mta.message.stored import Message
from requiretls_mta.message.trace import rfc3339
from requiretls_mta.queue.store import Entry, Lease, Settled
from requiretls_mta.relay.retry import RetrySettings, next_attempt


def settle(
    lease: Lease, outcomes: Mapping[int, Outcome], now: float, retry: RetrySettings, rng: random.Random
) -> list[tuple[Entry, Settled]]:
    """Each entry that has an outcome (by its number), and how it is settled; whose time is over has failed."""
    settled = []
    for entry in lease.entries:
        outcome = outcomes.get(entry.number)
        if outcome is None:
            continue
        due: float | None = None
        if isinstance(outcome, Postponed):
            due = next_attempt(lease.message, entry.attempts + 1, now, retry, rng)
            if due is None:
                outcome = _expired(outcome)
        one = Settled(number=entry.number, outcome=outcome, next_attempt=due or 0.0, final=due is None)
        settled.append((entry, one))
    return settled


def keep_unreported(settled: Settled, due: float) -> Settled:
    """The same; but who failed stays queued until `due` (Unix seconds), for nobody could be told."""
    outcome = settled.outcome
    if not isinstance(outcome, Failed):
        return settled
    reply = Reply(451, "4.3.0", f"failed, but no report could be written: {outcome.reply}")
    kept = Postponed(**_fields(outcome) | {"reply": reply})
    return Settled(number=settled.number, outcome=kept, next_attempt=due, final=False)


def tell(events: Events, message: Message, entry: Entry, settled: Settled, now: float) -> None:
    """One event: `delivered`, `deferred`, `bounced` or `expired`."""
    outcome = settled.outcome
    fields: dict[str, Any] = {
        "queue_id": message.id,
        "sender": message.envelope.reverse_path,
        "recipient": str(outcome.recipient.address),
        "mx": outcome.host,
        "reply": str(outcome.reply),
        "requiretls": message.envelope.tag.value if message.envelope.tag else None,
        "attempt": outcome.attempt or attempt_id(),
        "attempts": entry.attempts + 1,
        "delay": round(max(now - message.received, 0.0), 3),
    }
    if (security := outcome.security) is not None:
        fields |= {
            "tls_version": security.tls_version,
            "auth": security.auth,
            "mx_security": security.mx_security,
            "keyword": security.requiretls,
        }
    queued = max(fields["delay"] - sum(outcome.delays), 0.0)
    fields["delays"] = [round(value, 3) for value in (queued, *outcome.delays)]
    match outcome:
        case Delivered():
            events.emit("delivered", **fields)
        case Postponed():
            events.emit("deferred", **fields, next_attempt=rfc3339(settled.next_attempt))
        case Failed():
            events.emit("expired" if outcome.reply.enhanced == "5.4.7" else "bounced", **fields)


def is_unreachable(outcome: Outcome) -> bool:
    """Whether no host of the destination could even be connected to."""
    causes = outcome.causes
    return (
        isinstance(outcome, Postponed)
        and bool(causes)
        and all(cause.step is Step.CONNECT and cause.reply is None for cause in causes)
    )


def _expired(outcome: Postponed) -> Failed:
    """What was only postponed so far has had its time (RFC 3463 X.4.7); the last reply stays in the text."""
    reply = Reply(550, "5.4.7", f"delivery time expired; last: {outcome.reply}")
    return Failed(**_fields(outcome) | {"reply": reply})


def _fields(outcome: Postponed | Failed) -> dict[str, Any]:
    return attrs.asdict(outcome, recurse=False)
