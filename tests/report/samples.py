"""A message, what became of it, and reports on the bench."""

from requiretls_mta.message.address import Address
from requiretls_mta.message.content import ContentScanner
from requiretls_mta.message.envelope import Envelope, Recipient
from requiretls_mta.message.outcome import Cause, Failed, Security, Step
from requiretls_mta.message.profile import Profile
from requiretls_mta.message.reply import Reply
from requiretls_mta.message.stored import BytesBody, Message
from requiretls_mta.report.dsn import Reports, ReportSettings
from requiretls_mta.report.dsn_rules import Told, action_of
from requiretls_mta.tls.conclude import conclude
from tests.receive.fakes import RecordedEvents

OCTETS = (
    b"From: Anna <s@x.test>\r\nTo: r@y.test\r\nSubject: the secret subject\r\n"
    b"Message-ID: <1@x.test>\r\nX-Secret: header\r\n\r\nthe secret body\r\n"
)
CAUSES = (
    Cause(
        host="mx1.y.test",
        address="192.0.2.1:25",
        step=Step.STARTTLS,
        detail="no STARTTLS",
        temporary=False,
        clause="RFC 8689 4.2.1 (4)",
    ),
    Cause(
        host="mx2.y.test",
        address="192.0.2.2:25",
        step=Step.REQUIRETLS,
        detail="no REQUIRETLS",
        temporary=False,
        clause="RFC 8689 4.2.1 (5)",
    ),
)
SENDER, RECIPIENT = Address("s", "x.test"), Recipient(Address("r", "y.test"))


def message(octets=OCTETS, **envelope):
    scanner = ContentScanner(1 << 20)
    scanner.feed(octets)
    envelope = {"sender": SENDER, "recipients": (RECIPIENT,)} | envelope
    return Message(
        id="0123456789abcdef",
        envelope=Envelope(**envelope),
        body=BytesBody(octets),
        content=scanner.finish(),
        prepend=b"Received: from somewhere\r\n",
        received=1_700_000_000.0,
    )


def failed(recipient=RECIPIENT, reply=None, causes=CAUSES):
    security = None if causes else Security()
    return Failed(
        recipient=recipient,
        reply=reply or conclude(causes),
        causes=causes,
        host="mx2.y.test",
        security=security,
        command=None if causes else "RCPT",
    )


class Bench:
    def __init__(self, bounce="requiretls-then-redacted", profile=Profile.RFC8689):
        self.events = RecordedEvents()
        ids = iter("abcdefgh")
        self._reports = Reports(
            settings=lambda: ReportSettings(hostname="mx.x.test", bounce=bounce, profile=profile),
            new_id=lambda: next(ids) * 16,
            wall=lambda: 1_700_000_100.0,
        )

    def reports(self, original, outcomes, **more):
        """The report about these outcomes, each told as RFC 3461 has it; delays are late."""
        return self.stored(self._reports(original, [told(outcome, **more) for outcome in outcomes]))

    def expanded(self, *words):
        """The report about aliases and lists."""
        return self.stored(self._reports.expanded(*words))

    def stored(self, offspring):
        """The messages, and their news are told."""
        for news in offspring.news:
            news.tell(self.events)
        return offspring.messages


def told(outcome, **more):
    return Told(action=action_of(outcome, late=True), outcome=outcome, **more)


def back(report, enhanced):
    """The report itself fails."""
    return [Failed(recipient=report.envelope.recipients[0], reply=Reply(550, enhanced, "x"))]
