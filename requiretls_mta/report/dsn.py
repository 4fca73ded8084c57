"""Reports of failures: who gets one, how it is protected, and what becomes of one that cannot be delivered."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from requiretls_mta.message.content import ContentScanner
from requiretls_mta.message.envelope import Envelope, Recipient, Tag
from requiretls_mta.message.outcome import Failed
from requiretls_mta.message.ports import Events
from requiretls_mta.message.stored import BytesBody, Message
from requiretls_mta.message.trace import date_time
from requiretls_mta.report.dsn_format import Report, redact_report, write_report

WHOLE_LIMIT = 50_000
"""Octets of a message that is returned whole; of a larger one only the header section comes back."""
_NO_PROTECTED_WAY = frozenset({"5.7.10", "5.7.30", "5.4.7"})


@attrs.frozen(kw_only=True)
class ReportSettings:
    """How reports are written and protected."""

    hostname: str
    bounce: str = "requiretls-then-redacted"
    """Of tagged messages: that, `requiretls-only`, or `redacted`."""


class FailureReports:
    """What a message's failures give birth to. Called by the schedule within the settlement."""

    def __init__(
        self,
        *,
        settings: Callable[[], ReportSettings],
        new_id: Callable[[], str],
        wall: Callable[[], float],
        events: Events,
    ) -> None:
        self._settings = settings
        self._new_id = new_id
        self._wall = wall
        self._events = events

    def __call__(self, message: Message, failed: Sequence[Failed]) -> tuple[Message, ...]:
        """At most one message: never a report of a report, and none that the sender did not want (RFC 3461 4.1)."""
        if message.envelope.sender is None:
            return self._report_failed(message, failed)
        wanted = [failure for failure in failed if failure.recipient.wants_failure]
        if not wanted:
            self._discarded(message, "the sender asked for no report")
            return ()
        settings, envelope = self._settings(), message.envelope
        tagged = envelope.tag is Tag.REQUIRED
        redacted = tagged and settings.bounce == "redacted"
        now, report_id = self._wall(), self._new_id()
        octets = write_report(
            Report(
                hostname=settings.hostname,
                message_id=report_id,
                date=date_time(now),
                arrival=date_time(message.received),
                original=message,
                failed=wanted,
                # RFC 8689 5: of a tagged message only the header section comes back, whatever RET says.
                whole=not tagged and envelope.ret != "HDRS" and message.size <= WHOLE_LIMIT,
                redacted=redacted,
            )
        )
        tag = None if redacted else envelope.tag
        return (_message(report_id, octets, message, tag, now),)

    def _report_failed(self, message: Message, failed: Sequence[Failed]) -> tuple[Message, ...]:
        """RFC 8689 5: a report must not be lost because the way back cannot protect it; it goes redacted instead."""
        mode = self._settings().bounce
        own = message.origin == "report" and message.envelope.tag is Tag.REQUIRED
        hopeless = all(failure.reply.enhanced in _NO_PROTECTED_WAY for failure in failed)
        if not (own and hopeless and mode == "requiretls-then-redacted"):
            self._discarded(message, "a report that cannot be delivered ends there")
            return ()
        octets = redact_report(b"".join(message.pieces()))
        return (_message(self._new_id(), octets, message, None, self._wall()),)

    def _discarded(self, message: Message, reason: str) -> None:
        self._events.emit("discarded", queue_id=message.id, reason=reason)


def _message(report_id: str, octets: bytes, about: Message, tag: Tag | None, now: float) -> Message:
    """A report as a message: to the sender of what it is about, or to where that report was going."""
    scanner = ContentScanner(len(octets))
    scanner.feed(octets)
    content = scanner.finish()
    to = about.envelope.sender
    recipients = about.envelope.recipients if to is None else (Recipient(to),)
    eight_bit = content.eight_bit_body or content.eight_bit_header
    return Message(
        id=report_id,
        envelope=Envelope(
            sender=None,
            recipients=recipients,
            tag=tag,
            body="8BITMIME" if eight_bit else None,
            smtputf8=content.eight_bit_header or not all(r.address.is_ascii for r in recipients),
        ),
        body=BytesBody(octets),
        content=content,
        received=now,
        origin="report",
        parent=about.id,
    )
