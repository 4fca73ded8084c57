"""Reports, read back by Python's email package: who gets one, what it says, and what it must not show."""

import email
import email.policy
import re
import time
from collections import deque

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.message.address import Address
from requiretls_mta.message.envelope import Notify, Recipient, Tag
from requiretls_mta.message.header import fields
from requiretls_mta.message.outcome import Cause, Deferred, Delivered, Failed, Step
from requiretls_mta.message.profile import Profile
from requiretls_mta.message.reply import Reply, quote
from requiretls_mta.message.xtext import encode
from requiretls_mta.report.dsn_format import redact_report
from requiretls_mta.tls.conclude import conclude
from tests.report.rfc3464 import read
from tests.report.samples import CAUSES, OCTETS, RECIPIENT, SENDER, Bench, back, failed, message, told


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
    [
        (None, 1, "message/rfc822"),
        ("FULL", 1, "message/rfc822"),
        ("HDRS", 1, "text/rfc822-headers"),
        ("FULL", 60_000, "text/rfc822-headers"),
    ],
)
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


def test_the_draft_profile_writes_the_draft_names():
    """`RequireTLS: NO`, and a code of the draft's that explains itself, and lets the report go redacted likewise."""
    bench = Bench(profile=Profile.DRAFT_03)
    (report,) = bench.reports(message(tag=Tag.OPTIONAL), [failed()])
    assert parsed(report)["RequireTLS"] == "NO" and parsed(report)["TLS-Required"] is None
    reply = conclude(CAUSES, Profile.DRAFT_03)
    assert str(reply).startswith("530 5.7.4 REQUIRETLS needed: mx1.y.test")
    (report,) = bench.reports(message(tag=Tag.REQUIRED), [failed(reply=reply)])
    text, status, _ = parts(report)
    assert "None of the recipient's makes that promise" in " ".join(text.split())
    assert status[1]["Status"] == "5.7.4"
    (second,) = bench.reports(report, back(report, "5.7.4"))
    assert second.envelope.tag is None


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
    assert octets.isascii()


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
    """RFC 6533: shown as they are to whoever sent with SMTPUTF8, else in ASCII; a report that needs it says so."""
    recipient = Recipient(Address("jürgen", "bücher.test"))
    original = message(sender=Address("änna", "x.test"), smtputf8=True, recipients=(recipient,))
    (report,) = Bench().reports(original, [failed(recipient)])
    (block,) = read(b"".join(report.pieces())).recipients
    assert block["Final-Recipient"] == "utf-8; jürgen@bücher.test"
    assert report.envelope.smtputf8
    assert report.envelope.body == "8BITMIME"
    # An alias may lead there though the message came without SMTPUTF8.
    (report,) = Bench().reports(message(), [failed(recipient), failed(Recipient(Address("r", "bücher.test")))])
    _, (_, first, second), _ = parts(report)
    assert first["Final-Recipient"] == "utf-8; j\\x{FC}rgen@xn--bcher-kva.test"
    assert second["Final-Recipient"] == "rfc822; r@xn--bcher-kva.test"


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        (b"From: J\xc3\xbcrgen <s@x.test>\r\nTo: r@y.test\r\nX-Secret: \xe9 \r\n", "J\xc3\xbcrgen"),
        (b"From: s@x.test " + b"x" * 2000 + b"\r\nX-Secret: y\r\n", "x" * 2000),
        (b"From: nul \0 in it\r\nX-Secret: y", "nul \0 in it"),
        (b"From: =?utf-8?q?as_it_was=3D?=\r\n\tfolded = \r\nX-Secret: y\r\n", "folded ="),
    ],
)
def test_a_quoted_header_is_7_bit_and_still_itself(header, shown):
    """RFC 6522 4: quoted-printable where it must; nothing of it is lost, and redaction sees through it."""
    bench = Bench()
    (report,) = bench.reports(message(header + b"\r\n\r\nbody", tag=Tag.REQUIRED), [failed()])
    octets = b"".join(report.pieces())
    assert octets.isascii() and max(map(len, octets.split(b"\r\n"))) <= 998
    assert report.envelope.body is None
    _, _, quoted = parts(report)
    assert quoted.get_payload(decode=True).startswith(b"Received: from somewhere\r\n" + header)
    (redacted,) = bench.reports(report, back(report, "5.7.30"))
    _, _, quoted = parts(redacted)
    assert shown.encode("latin-1") in quoted.get_payload(decode=True)
    assert b"X-Secret" not in quoted.get_payload(decode=True)


def test_an_8_bit_message_comes_back_whole_or_where_that_cannot_be_in_7_bit():
    """A message/rfc822 may not be encoded; a way back without 8BITMIME gets the redacted form, once."""
    bench = Bench()
    original = message(OCTETS + b"\xe9\r\n", tag=Tag.OPTIONAL)
    (report,) = bench.reports(original, [failed(causes=(), reply=Reply(550, "5.1.1", "unknown"))])
    assert report.envelope.body == "8BITMIME" and not report.envelope.smtputf8
    _, _, quoted = parts(report)
    assert quoted.get_content_type() == "message/rfc822"
    (second,) = bench.reports(report, back(report, "5.6.3"))
    octets = b"".join(second.pieces())
    assert octets.isascii() and b"secret body" not in octets
    assert second.envelope.body is None
    assert second.envelope.tag is Tag.OPTIONAL
    _, _, quoted = parts(second)
    assert quoted.get_content_type() == "text/rfc822-headers"
    assert bench.reports(second, back(second, "5.6.3")) == ()
    assert bench.reports(report, back(report, "5.7.10")) == ()


@pytest.mark.parametrize("odd", [b"x" * 999 + b"\r\n", b"\0\r\n"])
def test_what_not_every_server_takes_is_not_returned_whole(odd):
    """Over-long lines and NULs could keep the report from arriving."""
    (report,) = Bench().reports(message(OCTETS + odd), [failed()])
    _, _, quoted = parts(report)
    assert quoted.get_content_type() == "text/rfc822-headers"


@pytest.mark.parametrize(("ret", "kind"), [(None, "message/global"), ("HDRS", "message/global-headers")])
def test_an_internationalized_message_comes_back_as_one(ret, kind):
    """RFC 6533 4: types of its own, which may be encoded; no SMTPUTF8 unless the address of the sender needs it."""
    octets = "From: ä@x.test\r\n\r\nbödy\r\n".encode()
    (report,) = Bench().reports(message(octets, smtputf8=True, ret=ret), [failed()])
    assert b"".join(report.pieces()).isascii()
    assert not report.envelope.smtputf8
    assert f"Content-Type: {kind}\r\n".encode() in b"".join(report.pieces())


def test_a_sender_with_an_internationalized_domain_is_written_to_in_ascii():
    """Only a local part outside ASCII makes the report need SMTPUTF8."""
    (report,) = Bench().reports(message(sender=Address("s", "bücher.test"), smtputf8=True), [failed()])
    assert parsed(report)["To"] == "s@xn--bcher-kva.test"
    assert b"".join(report.pieces()).isascii()
    # No such address is ever taken in; but whatever the queue holds leads to a report.
    (report,) = Bench().reports(message(sender=Address("s", "ä" * 300)), [failed()])
    assert not parsed(report).defects


def test_a_huge_header_is_cut_to_the_fields_that_fit():
    """One megabyte of them comes in; what matters comes back."""
    filler = b"".join(b"X-%d: %s\r\n" % (i, b"y" * 900) for i in range(1000))
    octets = b"X-Long: " + b"z" * 100_000 + b"\r\nSubject: x\r\n" + filler + b"From: Anna <s@x.test>\r\n\r\nbody"
    (report,) = Bench().reports(message(octets, tag=Tag.REQUIRED), [failed()])
    assert len(b"".join(report.pieces())) < 120_000
    _, _, quoted = parts(report)
    assert "Subject: x\r\n" in quoted.get_payload() and "From: Anna" in quoted.get_payload()
    assert "X-Long" not in quoted.get_payload()


@pytest.mark.parametrize("tag", [None, Tag.REQUIRED])
@pytest.mark.parametrize("bounce", ["redacted", "requiretls-then-redacted"])
def test_a_header_of_a_great_many_fields_costs_little(tag, bounce):
    """A report is written while everybody waits: no walk over 200,000 of them, and what comes back has an end."""
    octets = b"Subject: x\r\n" + b"a" * 49_985 + b":\r\n" + b"aa:\r\n" * 200_000 + b"To: r@y.test\r\n\r\nbody"
    original = message(octets, tag=tag)
    start = time.process_time()
    deque(fields(octets), maxlen=0)
    walk = time.process_time() - start
    (report,) = Bench(bounce).reports(original, [failed()])
    assert time.process_time() - start - walk < walk / 2
    assert report.size < 120_000


def test_many_failures_stay_a_readable_report():
    """A thousand recipients, each with a reply of its own: all in the status, the text has an end."""
    many = [
        failed(Recipient(Address(f"r{i}", "y.test")), Reply(550, "5.1.1", f"{i} " + "x" * 500)) for i in range(1000)
    ]
    (report,) = Bench().reports(message(), many)
    assert len(b"".join(report.pieces())) < 1_000_000
    text, status, _ = parts(report)
    assert len(status) == 1001
    assert re.search(r"and \d+ more recipients", text)
    equal = [failed(Recipient(Address(f"r{i}", "y.test"))) for i in range(1000)]
    (report,) = Bench().reports(message(), equal)
    text, _, _ = parts(report)
    assert text.count("mx1.y.test") == 1 and "r999@y.test" in text


class Gone:
    """A body whose file is lost."""

    size = 1000

    def read(self, offset, length):
        raise FileNotFoundError(2, "no such file")


@pytest.mark.parametrize("tag", [None, Tag.REQUIRED])
def test_a_lost_body_does_not_cost_the_sender_the_report(tag):
    """The failure is told without the header; the same for a report that cannot be read again: it ends, and says so."""
    bench = Bench()
    (report,) = bench.reports(attrs.evolve(message(tag=tag), body=Gone()), [failed()])
    text, _, quoted = parts(report)
    assert "r@y.test" in text and quoted.get_payload().strip() == ""
    lost = attrs.evolve(report, body=Gone(), envelope=attrs.evolve(report.envelope, tag=Tag.REQUIRED))
    assert bench.reports(lost, back(report, "5.7.10")) == ()
    assert bench.events.of("discarded")


def test_a_sender_cannot_spoil_the_redaction():
    """Text that looks like the report's own boundary, in an address and in the header, changes nothing."""
    octets = b'Content-Type: multipart/mixed; boundary="=_' + b"0" * 32 + b'"\r\n--=_' + b"0" * 32 + b"\r\n" + OCTETS
    bench = Bench()
    original = message(octets, tag=Tag.REQUIRED, sender=Address('x boundary="=_' + "0" * 32, "x.test"))
    (report,) = bench.reports(original, [failed()])
    (redacted,) = bench.reports(report, back(report, "5.7.10"))
    assert b"secret" not in b"".join(redacted.pieces())
    assert len(parts(redacted)) == 3


def test_names_of_hosts_stay_whole_in_folded_fields():
    """A fold within a name would put a blank into it when the field is read."""
    names = [f"mail-exchanger-{i}.a-rather-long-name-of-a-domain.example.test" for i in range(5)]
    causes = tuple(Cause(host=name, step=Step.CONNECT, detail="refused", temporary=True) for name in names)
    (report,) = Bench().reports(message(), [failed(causes=causes)])
    text, (_, block), _ = parts(report)
    for name in names:
        assert name in " ".join(block["Diagnostic-Code"].split())
        assert name in text


@pytest.mark.parametrize(
    ("failure", "words", "not_words"),
    [
        (
            failed(reply=Reply(550, "5.1.1", "no such user"), causes=()),
            ["mx2.y.test said to RCPT: 550 5.1.1 no such user", "mistakes"],
            [],
        ),
        (
            failed(),
            ["5.7.30", "REQUIRETLS support required", "starttls: no STARTTLS"],
            ["said", "or send the message again"],
        ),
        (
            failed(reply=Reply(550, "5.4.7", f"delivery time expired; last: 451 4.4.1 {CAUSES[0]}")),
            ["550 5.4.7 delivery time expired; last: 451 4.4.1\r\n", "queue is over"],
            ["said"],
        ),
        (
            Failed(recipient=RECIPIENT, reply=Reply(553, "5.1.3", "Local part not allowed")),
            ["553 5.1.3 Local"],
            ["said"],
        ),
    ],
)
def test_what_the_sender_reads(failure, words, not_words):
    """Who said what, each host once, and what can be done; REQUIRETLS is mentioned only to whoever asked for it."""
    text, _, _ = parts(Bench().reports(message(), [failure])[0])
    for wanted in words:
        assert wanted in text
    for unwanted in not_words:
        assert unwanted not in text
    text, _, _ = parts(Bench().reports(message(tag=Tag.REQUIRED), [failed()])[0])
    assert "or send the message again without it" in " ".join(text.split())


foreign = st.text(
    st.sampled_from('a \r\n\t;:,.=_-\0\x1b\xe9\u2028\U0001f600"<>@\\{}') | st.characters(exclude_categories=["Cs"]),
    max_size=60,
)
xtexts = st.text(st.characters(max_codepoint=0x7F), min_size=1, max_size=30).map(encode)
addresses = st.builds(
    Address,
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E) | st.sampled_from("äß例"), min_size=1, max_size=20),
    st.sampled_from(["x.test", "bücher.test", "[192.0.2.1]"]),
)
orcpts = st.none() | xtexts.map("rfc822;{}".format) | foreign.map(lambda text: f"utf-8;{re.sub('[= ]', '', text)}x")
outcomes = st.builds(
    lambda kind, address, orcpt, code, text, causes: kind(
        recipient=Recipient(address, frozenset({Notify.SUCCESS, Notify.FAILURE, Notify.DELAY}), orcpt),
        reply=Reply(550, code, quote(text, breaks=True)),
        host="mx.y.test",
        causes=causes,
    ),
    st.sampled_from([Failed, Deferred, Delivered]),
    addresses,
    orcpts,
    st.sampled_from(["5.7.30", "5.7.10", "5.1.1", None]),
    foreign,
    st.lists(
        st.builds(
            lambda detail: Cause(host="mx.y.test", step=Step.CONNECT, detail=quote(detail), temporary=False), foreign
        ),
        max_size=2,
    ).map(tuple),
)
messages = st.builds(
    lambda octets, **envelope: message(octets.replace(b"\r", b"").replace(b"\n", b"\r\n"), **envelope),
    st.binary(max_size=60),
    sender=addresses,
    envid=st.none() | xtexts,
    tag=st.sampled_from([None, *Tag]),
    smtputf8=st.booleans(),
)


@given(messages, st.lists(outcomes, min_size=1, max_size=3))
def test_whatever_was_said_the_report_is_well_formed(original, outcomes):
    """RFC 3464's fields and no others, lines that every server takes, no defects; and it can be redacted."""
    bench = Bench()
    (report,) = bench.reports(original, outcomes)
    tagged = original.envelope.tag is Tag.REQUIRED
    for one in (report, *(bench.reports(report, back(report, "5.7.10")) if tagged else ())):
        whole = b"".join(one.pieces())
        assert whole.count(b"\r\n") == whole.count(b"\n") == whole.count(b"\r") and b"\0" not in whole
        assert one.content.size == len(whole)
        got = read(whole)
        assert set(got.message.keys()) - {"TLS-Required"} == {
            "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type",
        }  # fmt: skip
        for part in email.message_from_bytes(whole).get_payload():
            assert not part.defects
        assert [block["Action"] for block in got.recipients] == [told(outcome).action.value for outcome in outcomes]


@given(
    st.sampled_from([None, *Tag]),
    st.sampled_from(["requiretls-then-redacted", "requiretls-only", "redacted"]),
    st.lists(st.sampled_from(["5.7.30", "5.7.10", "5.4.7", "5.6.3", "5.1.1"]), min_size=3, max_size=3),
    st.booleans(),
)
def test_one_failure_never_leads_to_more_than_one_report_at_a_time(tag, bounce, codes, eight_bit):
    """Reports that fail, whatever for, end after one further form; only a report that could not get there has one."""
    bench = Bench(bounce)
    octets = OCTETS + b"\xe9\r\n" if eight_bit else OCTETS
    generation, count = bench.reports(message(octets, tag=tag), [failed()]), 1
    for code in codes:
        assert len(generation) <= 1
        if not generation:
            break
        count += 1
        before, generation = generation[0], bench.reports(generation[0], back(generation[0], code))
        for after in generation:
            assert after.envelope.tag is (Tag.OPTIONAL if tag is Tag.OPTIONAL else None)
            assert after.envelope.recipients == before.envelope.recipients
    assert count <= 3 and generation == ()


@pytest.mark.parametrize("octets", [b"", b"Subject: x\r\n\r\n", b'boundary="x"\r\n--x\r\n--x\r\n--x\r\n--x--'])
def test_only_our_own_reports_can_be_redacted(octets):
    """Anything else is refused, not mangled."""
    with pytest.raises(ValueError, match="not a report of ours"):
        redact_report(octets)
