"""Reports, read back by Python's email package: who gets one, what it says, and what it must not show."""

import email
import email.policy

import attrs
import pytest

from requiretls_mta.message.address import Address
from requiretls_mta.message.content import ContentScanner
from requiretls_mta.message.envelope import Envelope, Notify, Recipient, Tag
from requiretls_mta.message.outcome import Cause, Failed, Step
from requiretls_mta.message.reply import Reply
from requiretls_mta.message.stored import BytesBody, Message
from requiretls_mta.report.dsn import FailureReports, ReportSettings
from requiretls_mta.report.dsn_format import redact_report
from requiretls_mta.tls.judge import conclude
from tests.receive.fakes import RecordedEvents

OCTETS = (
    b"From: Anna <s@x.test>\r\nTo: r@y.test\r\nSubject: the secret subject\r\n"
    b"Message-ID: <1@x.test>\r\nX-Secret: header\r\n\r\nthe secret body\r\n"
)
CAUSES = (
    Cause(host="mx1.y.test", address="192.0.2.1:25", step=Step.STARTTLS, detail="no STARTTLS", temporary=False,
          clause="RFC 8689 4.2.1 (4)"),
    Cause(host="mx2.y.test", address="192.0.2.2:25", step=Step.REQUIRETLS, detail="no REQUIRETLS", temporary=False,
          clause="RFC 8689 4.2.1 (5)"),
)  # fmt: skip
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
    return Failed(recipient=recipient, reply=reply or conclude(causes), causes=causes, host="mx2.y.test")


class Bench:
    def __init__(self, bounce="requiretls-then-redacted"):
        self.events = RecordedEvents()
        ids = iter("abcdefgh")
        self.reports = FailureReports(
            settings=lambda: ReportSettings(hostname="mx.x.test", bounce=bounce),
            new_id=lambda: next(ids) * 16,
            wall=lambda: 1_700_000_100.0,
            events=self.events,
        )


def parsed(report):
    return email.message_from_bytes(b"".join(report.pieces()), policy=email.policy.default)


def parts(report):
    whole = parsed(report)
    assert whole.get_content_type() == "multipart/report"
    assert whole.get_param("report-type") == "delivery-status"
    text, status, quoted = whole.iter_parts()
    return text.get_content(), status.get_payload(), quoted


def test_b10_the_report_names_each_mx_and_the_step_that_failed():
    """RFC 3464 fields, 5.7.30, the queue id, and the clause in the text for the sender."""
    (report,) = Bench().reports(message(tag=Tag.REQUIRED, envid="e+2Bx"), [failed()])
    text, (about, recipient), _ = parts(report)
    assert about["Reporting-MTA"] == "dns; mx.x.test"
    assert about["X-requiretls-mta-Queue-ID"] == "0123456789abcdef"
    assert about["Original-Envelope-Id"] == "e+x"
    assert about["Arrival-Date"] == "Tue, 14 Nov 2023 22:13:20 +0000"
    assert recipient["Final-Recipient"] == "rfc822; r@y.test"
    assert recipient["Action"] == "failed"
    assert recipient["Status"] == "5.7.30"
    assert recipient["Remote-MTA"] == "dns; mx2.y.test"
    for words in ("mx1.y.test", "starttls", "mx2.y.test", "requiretls"):
        assert words in recipient["Diagnostic-Code"]
        assert words in text
    assert "RFC 8689 4.2.1 (4)" in text
    assert recipient["Diagnostic-Code"].startswith("smtp; 550 5.7.30 ")


def test_b01_a_tagged_message_comes_back_as_its_header_only():
    """RET=FULL disregarded (RFC 8689 5); empty reverse path, REQUIRETLS on the report, a subject of its own."""
    (report,) = Bench().reports(message(tag=Tag.REQUIRED, ret="FULL"), [failed()])
    assert report.envelope.sender is None
    assert report.envelope.tag is Tag.REQUIRED
    assert [r.address for r in report.envelope.recipients] == [SENDER]
    assert (report.origin, report.parent) == ("report", "0123456789abcdef")
    octets = b"".join(report.pieces())
    assert b"secret body" not in octets
    assert "secret" not in parsed(report)["Subject"]
    _, _, quoted = parts(report)
    assert quoted.get_content_type() == "text/rfc822-headers"
    assert b"Received: from somewhere\r\nFrom: Anna" in octets and b"X-Secret" in octets
    assert parsed(report)["Auto-Submitted"] == "auto-replied"


@pytest.mark.parametrize(
    ("ret", "size", "kind"),
    [(None, 1, "message/rfc822"), ("FULL", 1, "message/rfc822"), ("HDRS", 1, "text/rfc822-headers"),
     ("FULL", 60_000, "text/rfc822-headers")],
)  # fmt: skip
def test_an_untagged_message_comes_back_as_asked(ret, size, kind):
    """RET decides, and beyond a limit only the header section is returned."""
    original = message(OCTETS + b"x" * size + b"\r\n", ret=ret)
    (report,) = Bench().reports(original, [failed(causes=(), reply=Reply(550, "5.1.1", "unknown"))])
    _, _, quoted = parts(report)
    assert quoted.get_content_type() == kind
    assert (b"secret body" in b"".join(report.pieces())) == (kind == "message/rfc822")
    assert report.envelope.tag is None


def test_b11_tls_required_no_is_carried_over():
    """The report of TLS-optional mail is TLS-optional; B12: that of a tagged one is not."""
    (report,) = Bench().reports(message(tag=Tag.OPTIONAL), [failed()])
    assert report.envelope.tag is Tag.OPTIONAL
    assert parsed(report)["TLS-Required"] == "No"
    tagged = message(b"TLS-Required: No\r\n" + OCTETS, tag=Tag.REQUIRED)
    (report,) = Bench().reports(tagged, [failed()])
    assert parsed(report)["TLS-Required"] is None


def test_b06_nobody_is_told_who_asked_for_nothing():
    """NOTIFY=NEVER, or without FAILURE; the others of the same message are reported."""
    bench = Bench()
    never = Recipient(Address("n", "y.test"), notify=frozenset({Notify.NEVER}))
    success = Recipient(Address("s", "y.test"), notify=frozenset({Notify.SUCCESS}))
    assert bench.reports(message(), [failed(never), failed(success)]) == ()
    assert bench.events.of("discarded")
    (report,) = bench.reports(message(), [failed(never), failed(RECIPIENT)])
    _, status, _ = parts(report)
    assert [block["Final-Recipient"] for block in status[1:]] == ["rfc822; r@y.test"]


def test_b05_no_report_of_what_has_no_sender():
    """Somebody else's report that fails ends here, tagged or not."""
    bench = Bench()
    assert bench.reports(message(sender=None), [failed()]) == ()
    assert bench.reports(message(sender=None, tag=Tag.REQUIRED), [failed()]) == ()
    assert len(bench.events.of("discarded")) == 2


def redacted_ones():
    yield "at once", *Bench("redacted").reports(message(tag=Tag.REQUIRED), [failed()])
    bench = Bench()
    (report,) = bench.reports(message(tag=Tag.REQUIRED), [failed()])
    back = Failed(recipient=report.envelope.recipients[0], reply=Reply(550, "5.7.30", "x"))
    yield "as the way back cannot", *bench.reports(report, [back])


@pytest.mark.parametrize("report", [r for _, r in redacted_ones()], ids=[n for n, _ in redacted_ones()])
def test_b03_the_redacted_report_shows_no_more_than_it_may(report):
    """No tag; of the original only Date, Message-ID, From, To and trace fields; the verdict is all there."""
    assert report.envelope.tag is None
    assert report.envelope.sender is None and report.origin == "report"
    assert [r.address for r in report.envelope.recipients] == [SENDER]
    octets = b"".join(report.pieces())
    for secret in (b"secret subject", b"X-Secret", b"secret body"):
        assert secret not in octets
    text, (_, recipient), quoted = parts(report)
    assert recipient["Status"] == "5.7.30"
    assert "mx1.y.test" in text
    shown = email.message_from_string(quoted.get_payload())
    assert sorted(shown.keys()) == ["From", "Message-ID", "Received", "To"]
    assert report.content.size == len(octets)


def test_a_report_is_redacted_once_and_then_ends():
    """Neither the redacted report nor one that fails for another reason gives birth to a further one."""
    for bounce in ("requiretls-then-redacted", "requiretls-only", "redacted"):
        bench = Bench(bounce)
        (report,) = bench.reports(message(tag=Tag.REQUIRED), [failed()])
        unknown = Failed(recipient=report.envelope.recipients[0], reply=Reply(550, "5.1.1", "unknown"))
        assert bench.reports(report, [unknown]) == ()
        hopeless = attrs.evolve(unknown, reply=Reply(550, "5.7.10", "no TLS"))
        again = bench.reports(report, [hopeless])
        assert len(again) == (bounce == "requiretls-then-redacted")
        for second in again:
            assert bench.reports(second, [hopeless]) == ()


def test_nothing_from_a_peer_can_add_a_field():
    """Controls in replies, ORCPT and addresses are escaped; lines stay short."""
    evil = Reply(550, "5.0.0", "a\r\nBcc: evil@z.test\r\n\r\n" + "x" * 10_000)
    recipient = Recipient(Address("r", "y.test"), orcpt="rfc822;a+0D+0ABcc:+20evil")
    (report,) = Bench().reports(message(envid="e+0D+0ABcc:"), [failed(recipient, evil, ())])
    octets = b"".join(report.pieces())
    assert b"\r\nBcc:" not in octets
    assert max(map(len, octets.split(b"\r\n"))) < 998
    _, (_, block), _ = parts(report)
    assert block["Original-Recipient"].startswith("rfc822;a")


def test_addresses_and_headers_outside_ascii():
    """RFC 6533: shown as utf-8 type in ASCII; a report that needs SMTPUTF8 says so."""
    recipient = Recipient(Address("jürgen", "bücher.test"))
    original = message(sender=Address("änna", "x.test"), smtputf8=True, recipients=(recipient,))
    (report,) = Bench().reports(original, [failed(recipient)])
    _, (_, block), _ = parts(report)
    assert block["Final-Recipient"] == "utf-8; j\\x{FC}rgen@b\\x{FC}cher.test"
    assert report.envelope.smtputf8
    assert report.envelope.body == "8BITMIME"


@pytest.mark.parametrize("octets", [b"", b"Subject: x\r\n\r\n", b'boundary="x"\r\n--x\r\n--x\r\n--x\r\n--x--'])
def test_only_our_own_reports_can_be_redacted(octets):
    """Anything else is refused, not mangled."""
    with pytest.raises(ValueError, match="not a report of ours"):
        redact_report(octets)
