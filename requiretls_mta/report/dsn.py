"""Reports: who gets one, how it is protected, and what becomes of one that cannot be delivered."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
from twisted.logger import Logger

from requiretls_mta.message.content import ContentScanner
from requiretls_mta.message.envelope import Envelope, Recipient, Tag
from requiretls_mta.message.offspring import NONE, News, Offspring
from requiretls_mta.message.outcome import Delivered, Failed
from requiretls_mta.message.profile import SUPPORT_REQUIRED, Profile
from requiretls_mta.message.reply import Reply
from requiretls_mta.message.stored import BytesBody, Message
from requiretls_mta.message.trace import date_time
from requiretls_mta.report.dsn_brief import write_brief
from requiretls_mta.report.dsn_format import Report, redact_report, write_report
from requiretls_mta.report.dsn_rules import Action, Told, is_wanted

# The last is for a way back that was in trouble for as long as a protected report may wait (`requiretls.lifetime`):
# RFC 8689 5 does not want it discarded for its protection.
_NO_PROTECTED_WAY = SUPPORT_REQUIRED | {"5.7.10", "5.4.7"}
_NO_8BIT_WAY = frozenset({"5.6.3"})
_EXPANDED = Reply(250, "2.0.0", "passed on to several recipients")
_LISTED = Reply(250, "2.0.0", "taken for the members of the list")


@attrs.frozen(kw_only=True)
class ReportSettings:
    """How reports are written and protected."""

    hostname: str
    bounce: str = "requiretls-then-redacted"
    """Of tagged messages: that, `requiretls-only`, or `redacted`."""
    profile: Profile = Profile.RFC8689


class Reports:
    """What an attempt gives birth to. Called by the schedule within the settlement."""

    _log = Logger()

    def __init__(
        self, *, settings: Callable[[], ReportSettings], new_id: Callable[[], str], wall: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._new_id = new_id
        self._wall = wall

    def __call__(self, message: Message, told: Sequence[Told]) -> Offspring:
        """At most one message: never a report of a report, and none that the sender did not want (RFC 3461 4.1)."""
        if message.envelope.sender is None:
            failed = [one.outcome for one in told if isinstance(one.outcome, Failed)]
            return self._report_failed(message, failed) if failed else NONE
        wanted = [one for one in told if is_wanted(one)]
        if not wanted:
            return _discarded(message, "the sender asked for none", level="info", message="no report is sent")
        settings, envelope = self._settings(), message.envelope
        tagged = envelope.tag is Tag.REQUIRED
        redacted = tagged and settings.bounce == "redacted"
        now, report_id = self._wall(), self._new_id()
        octets = self._written(
            Report(
                hostname=settings.hostname,
                message_id=report_id,
                date=date_time(now),
                arrival=date_time(message.received),
                original=message,
                told=wanted,
                # RFC 8689 5: of a tagged message only the header section comes back, whatever RET says.
                # RFC 3461 6.2: likewise where nothing failed.
                whole=not tagged and envelope.ret != "HDRS" and any(one.action is Action.FAILED for one in wanted),
                redacted=redacted,
                profile=settings.profile,
            )
        )
        reported = {
            "queue_id": message.id,
            "sender": envelope.reverse_path,
            "report": report_id,
            "recipients": len(wanted),
            "actions": sorted({one.action.value for one in wanted}),
        }
        tag = None if redacted else envelope.tag
        report = _message(report_id, octets, message, to=(Recipient(message.envelope.sender),), tag=tag, now=now)
        return Offspring((report,), (News("reported", reported),))

    def _written(self, report: Report) -> bytes:
        try:
            return write_report(report)
        except Exception:
            # Else who failed would be tried in vain, and a success never be heard of.
            self._log.failure("the report about message {queue_id} says who and what only", queue_id=report.original.id)
            return write_brief(report)

    def expanded(self, message: Message, aliases: Sequence[Recipient], lists: Sequence[Recipient] = ()) -> Offspring:
        """Of aliases for several recipients (RFC 3461 5.2.7.3 (c)), and of lists, which are final delivery (5.2.7.1).

        The sender wants to hear of their success.
        """
        told = [(Action.EXPANDED, _EXPANDED, alias) for alias in aliases]
        told += [(Action.DELIVERED, _LISTED, each) for each in lists]
        return self(
            message,
            [
                Told(action=action, outcome=Delivered(recipient=recipient, reply=reply, host=""))
                for action, reply, recipient in told
            ],
        )

    def _report_failed(self, message: Message, failed: Sequence[Failed]) -> Offspring:
        """RFC 8689 5: a report must not be lost because the way back cannot protect it; it goes redacted instead.

        So does one that quotes a whole 8-bit message, where 8-bit does not pass. What is redacted is neither tagged nor
        8-bit in its body: it has no further form.
        """
        # Those of the sender's alias who got it are not written to again.
        to = tuple(failure.recipient for failure in failed if self._can_be_less(message, failure.reply.enhanced))
        if message.origin != "report" or not to:
            what = "an automatic reply" if message.origin == "reply" else "a report"
            return _discarded(message, f"{what} that cannot be delivered ends there")
        try:
            octets = redact_report(b"".join(message.pieces()))
        except (ValueError, OSError, EOFError) as error:
            self._log.error("report {queue_id} cannot be redacted: {error}", queue_id=message.id, error=str(error))
            return _discarded(message, "a report that cannot be delivered, nor redacted, ends there")
        tag = None if message.envelope.tag is Tag.REQUIRED else message.envelope.tag
        return Offspring((_message(self._new_id(), octets, message, to=to, tag=tag, now=self._wall()),))

    def _can_be_less(self, message: Message, why: str | None) -> bool:
        """Whether a redacted form of our report could get where this one did not."""
        if message.envelope.tag is Tag.REQUIRED:
            return why in _NO_PROTECTED_WAY and self._settings().bounce != "requiretls-only"
        return why in _NO_8BIT_WAY and message.content.eight_bit_body


def _discarded(about: Message, reason: str, **more: str) -> Offspring:
    """Nothing, and why."""
    return Offspring(news=(News("discarded", {"queue_id": about.id, "reason": reason, **more}),))


def _message(
    report_id: str, octets: bytes, about: Message, *, to: tuple[Recipient, ...], tag: Tag | None, now: float
) -> Message:
    """A report as a message."""
    scanner = ContentScanner(len(octets))
    scanner.feed(octets)
    content = scanner.finish()
    eight_bit = content.eight_bit_body or content.eight_bit_header
    return Message(
        id=report_id,
        envelope=Envelope(
            sender=None,
            recipients=to,
            tag=tag,
            body="8BITMIME" if eight_bit else None,
            smtputf8=content.eight_bit_header or not all(r.address.is_ascii for r in to),
        ),
        body=BytesBody(octets),
        content=content,
        received=now,
        origin="report",
        parent=about.id,
    )
