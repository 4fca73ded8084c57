"""What an attempt comes to: the end of each recipient, or its next attempt, and the event that tells of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from requiretls_mta.message.birth import birth
from requiretls_mta.message.offspring import NONE, News, Offspring
from requiretls_mta.message.outcome import Deferred as Postponed
from requiretls_mta.message.outcome import Delivered, Failed, Outcome, Step, Tried, attempt_id
from requiretls_mta.message.ports import Events, Trace
from requiretls_mta.message.reply import Reply
from requiretls_mta.message.stored import Message
from requiretls_mta.message.trace import rfc3339
from requiretls_mta.queue.store import Entry, Lease, Settled, Settlement
from requiretls_mta.relay.retry import RetrySettings, lifetime_of, next_attempt
from requiretls_mta.report.dsn_rules import Told, action_of

Reporter = Callable[[Message, Sequence[Told]], Offspring]
"""What an attempt gives birth to: reports, or nothing."""
Responder = Callable[[Message, Sequence[Delivered]], Deferred[Offspring]]
"""What is said to the sender when a message has arrived in mailboxes; never fails."""

GIVEN_UP = Reply(554, "5.3.0", "given up by the operator of this mail server")
_log = Logger()
_TRIED = 5
"""Attempts remembered for the report, the first and the last ones."""
_TRIED_LIMIT = 256
"""Characters remembered of each."""
_EARLY = 1.0
"""Seconds before its time at which a warning goes out rather than cost an attempt of its own."""


@attrs.frozen
class Ended:
    """What an attempt came to for one recipient."""

    entry: Entry
    settled: Settled
    told: Told | None
    """What the sender may be told of it."""


def settle(
    lease: Lease, outcomes: Mapping[int, Outcome], now: float, retry: RetrySettings, rng: random.Random
) -> list[Ended]:
    """How each entry that has an outcome (by its number) is settled; whose time is over has failed."""
    return [
        _settle(lease.message, entry, outcomes[entry.number], now=now, retry=retry, rng=rng)
        for entry in lease.entries
        if entry.number in outcomes
    ]


def _settle(
    message: Message, entry: Entry, outcome: Outcome, *, now: float, retry: RetrySettings, rng: random.Random
) -> Ended:
    due = None
    if isinstance(outcome, Postponed):
        due = next_attempt(message, entry.attempts + 1, now, retry, rng)
        if due is None:
            outcome = _expired(outcome)
    if due is None:
        action = action_of(outcome, late=False)
        told = action and Told(action=action, outcome=outcome, tried=entry.tried)
        return Ended(entry, Settled(number=entry.number, outcome=outcome), told)
    warning = message.received + retry.delay_warning
    unwarned = not entry.warned and message.envelope.sender is not None
    late = unwarned and now >= warning - _EARLY
    if unwarned and not late and entry.recipient.wants_delay:
        # The sender hears of a delay when it is one, not at the end of a pause of hours.
        due = min(due, warning)
    action = action_of(outcome, late=late)
    told = action and Told(
        action=action, outcome=outcome, tried=entry.tried, until=message.received + lifetime_of(message, retry)
    )
    settled = Settled(
        number=entry.number,
        outcome=outcome,
        next_attempt=due,
        final=False,
        warned=entry.warned or told is not None,
        tried=_remember(entry.tried, Tried(now, str(outcome.reply)[:_TRIED_LIMIT])),
    )
    return Ended(entry, settled, told)


def _remember(tried: tuple[Tried, ...], one: Tried) -> tuple[Tried, ...]:
    return (*tried, one) if len(tried) < _TRIED else (tried[0], *tried[2:], one)


def keep_unreported(ended: Ended, due: float) -> Ended:
    """The same; but who failed stays queued until `due` (Unix seconds), and a delay untold, for nobody heard of it."""
    settled, outcome = ended.settled, ended.settled.outcome
    if not isinstance(outcome, Failed):
        return attrs.evolve(ended, settled=attrs.evolve(settled, warned=ended.entry.warned))
    reply = Reply(451, "4.3.0", f"failed, but no report could be written: {outcome.reply}")
    kept = Postponed(**_ours(outcome, reply))
    return attrs.evolve(
        ended,
        settled=Settled(
            number=settled.number,
            outcome=kept,
            next_attempt=due,
            final=False,
            warned=ended.entry.warned,
            tried=ended.entry.tried,
        ),
    )


def unheard(message: Message, ended: Sequence[Ended]) -> tuple[News, ...]:
    """Of each success that its sender asked to be told of and will not be: it is over, so the operator is told."""
    if message.envelope.sender is None:
        return ()
    fields = {"level": "error", "message": "no report is sent", "queue_id": message.id}
    fields |= {"sender": message.envelope.reverse_path, "reason": "it cannot be written"}
    return tuple(
        News("discarded", fields | {"recipient": str(told.outcome.recipient.address), "action": told.action.value})
        for told in (one.told for one in ended)
        if told is not None and isinstance(told.outcome, Delivered)
    )


def in_mailboxes(ended: Sequence[Ended]) -> list[Delivered]:
    """Those of the outcomes that are final delivery."""
    outcomes = (one.settled.outcome for one in ended)
    return [outcome for outcome in outcomes if isinstance(outcome, Delivered) and outcome.in_mailbox]


def given_up(lease: Lease) -> dict[int, Outcome]:
    """What becomes of all entries of a lease when the operator gives the message up, by their numbers."""
    return {entry.number: Failed(recipient=entry.recipient, reply=GIVEN_UP) for entry in lease.entries}


def conclude(
    lease: Lease,
    outcomes: Mapping[int, Outcome],
    report: Reporter,
    *,
    now: float,
    retry: RetrySettings,
    rng: random.Random,
) -> Ending:
    """The end of a lease, with the reports that it gives birth to."""
    ended = settle(lease, outcomes, now, retry, rng)
    born = NONE
    try:
        if told := [one.told for one in ended if one.told is not None]:
            born = report(lease.message, told)
    except Exception:
        # Nobody is given up in silence, and nobody who was delivered is attempted again for it.
        _log.failure("no report about message {queue_id} can be written", queue_id=lease.message.id)
        born = Offspring(news=unheard(lease.message, ended))
        ended = [keep_unreported(one, now + retry.pauses[-1]) for one in ended]
    settled = tuple(one.settled for one in ended)
    return Ending(Settlement(lease=lease, settled=settled, offspring=born.messages), ended, now, born.news)


@attrs.frozen
class Ending:
    """The end of a lease: as it is stored, and as it is told once it is."""

    settlement: Settlement
    ended: Sequence[Ended]
    at: float
    """Unix seconds."""
    news: tuple[News, ...] = ()
    """Of its offspring."""

    @property
    def is_final(self) -> bool:
        """Whether nobody of the lease is attempted again."""
        return all(one.final for one in self.settlement.settled)

    def with_replies(self, replies: Offspring) -> Ending:
        """The same, with what is said to the sender."""
        offspring = self.settlement.offspring + replies.messages
        return attrs.evolve(
            self, settlement=attrs.evolve(self.settlement, offspring=offspring), news=self.news + replies.news
        )

    def tell(self, events: Events, trouble: Exception | None, trace: Trace | None = None) -> None:
        """One event for each recipient: what became of it, or `unsettled` where, by this trouble, it is not stored.

        And what there is to tell of the messages that entered with it; `trace` is told how these came into the world.
        """
        if trouble is None:
            for news in self.news:
                news.tell(events)
        for one in self.ended:
            event, fields = _event(self.settlement.lease.message, one.entry, one.settled, self.at)
            if trouble is None:
                events.emit(event, **fields)
            else:
                events.emit("unsettled", **fields, outcome=event, error=str(trouble))
        if trouble is None and trace is not None:
            for message in self.settlement.offspring:
                trace.put("queued", partial(birth, message))


def _event(message: Message, entry: Entry, settled: Settled, now: float) -> tuple[str, dict[str, Any]]:
    """`delivered`, `deferred`, `bounced` or `expired`, and its fields."""
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
            return "delivered", fields
        case Postponed():
            return "deferred", fields | {"next_attempt": rfc3339(settled.next_attempt)}
        case Failed():
            return "expired" if outcome.reply.enhanced == "5.4.7" else "bounced", fields


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
    return Failed(**_ours(outcome, reply))


def _ours(outcome: Postponed | Failed, reply: Reply) -> dict[str, Any]:
    """The fields of an outcome, but for the reply, which is our own word."""
    return attrs.asdict(outcome, recurse=False) | {"reply": reply, "command": None}
