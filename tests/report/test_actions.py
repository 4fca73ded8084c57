"""Reports of every action (RFC 3464 2.3.3), read field by field: what they tell, how they are protected, in UTF-8."""

import attrs
import pytest

from requiretls_mta.message.address import Address
from requiretls_mta.message.envelope import Notify, Recipient, Tag
from requiretls_mta.message.outcome import Cause, Deferred, Delivered, Failed, Security, Step, Tried
from requiretls_mta.message.reply import Reply
from tests.report.rfc3464 import read
from tests.report.samples import Bench, back, failed, message


def asking(local="r", words="SUCCESS,FAILURE,DELAY", orcpt=None):
    return Recipient(Address(local, "y.test"), frozenset(map(Notify, words.split(","))), orcpt)


OK = Reply(250, "2.0.0", "Ok: queued")
LATER = Reply(451, "4.4.1", "mx1.y.test[192.0.2.1:25]: connect: connection refused")
REFUSED = Cause(host="mx1.y.test", address="192.0.2.1:25", step=Step.CONNECT, detail="refused", temporary=True)
IN_MAILBOX = Delivered(recipient=asking("m"), reply=OK, host="this", in_mailbox=True)
RELAYED = Delivered(recipient=asking("h"), reply=OK, host="mx1.y.test", security=Security())
DELAYED = Deferred(recipient=asking("d"), reply=LATER, host="mx1.y.test", causes=(REFUSED,))
UNTIL = 1_700_400_000.0
EVERY = [
    ("failed", failed(asking("f")), "Your message could not be delivered", "5.7.30"),
    ("delayed", DELAYED, "Your message is delayed", "4.4.1"),
    ("delivered", IN_MAILBOX, "Your message has been delivered", "2.0.0"),
    ("relayed", RELAYED, "Your message has been passed on", "2.0.0"),
]


@pytest.mark.parametrize("one", EVERY, ids=[one[0] for one in EVERY])
@pytest.mark.parametrize("tag", [None, *Tag])
@pytest.mark.parametrize("bounce", ["requiretls-then-redacted", "requiretls-only", "redacted"])
def test_b07_b09_reports_of_every_action(one, tag, bounce):
    """Field by field as RFC 3464 has it; protected, or redacted, whatever it tells; whole only where one failed."""
    action, outcome, subject, status = one
    bench = Bench(bounce)
    original = message(tag=tag, ret="FULL", envid="e")
    (report,) = bench.reports(original, [outcome], until=UNTIL if action == "delayed" else None)
    got = read(b"".join(report.pieces()))
    assert got.message["Subject"] == subject
    assert got.message["TLS-Required"] == ("No" if tag is Tag.OPTIONAL else None)
    assert got.about["Original-Envelope-Id"] == "e"
    (block,) = got.recipients
    assert (block["Action"], block["Status"]) == (action, status)
    assert block["Final-Recipient"] == f"rfc822; {outcome.recipient.address}"
    assert ("Remote-MTA" in block) == (action != "delivered"), "no other MTA took part in local delivery"
    assert ("Will-Retry-Until" in block) == (action == "delayed")
    redacted = tag is Tag.REQUIRED and bounce == "redacted"
    assert report.envelope.tag is (None if redacted else tag)
    assert got.kind == ("message/rfc822" if action == "failed" and tag is not Tag.REQUIRED else "text/rfc822-headers")
    assert (b"X-Secret" in got.returned) is not redacted
    assert (b"secret body" in got.returned) == (got.kind == "message/rfc822")
    assert bench.events.of("reported") == [
        {
            "queue_id": original.id,
            "sender": "s@x.test",
            "report": report.id,
            "recipients": 1,
            "actions": [action],
        }
    ]
    second = bench.reports(report, back(report, "5.7.10"))
    assert len(second) == (tag is Tag.REQUIRED and bounce == "requiretls-then-redacted")
    for less in second:
        again = read(b"".join(less.pieces()))
        assert again.recipients[0].items() == block.items()
        assert b"ecret" not in again.returned
        assert b"secret" not in b"".join(less.pieces())


def test_one_report_for_all_that_an_attempt_came_to():
    """Actions side by side; the gravest names the report; the text has them apart; nobody is told unasked."""
    never = failed(asking("n", "NEVER"))
    outcomes = [RELAYED, IN_MAILBOX, DELAYED, never, failed(asking("f"))]
    (report,) = Bench().reports(message(), outcomes, until=None)
    got = read(b"".join(report.pieces()))
    assert got.actions() == {
        "h@y.test": "relayed", "m@y.test": "delivered", "d@y.test": "delayed", "f@y.test": "failed",
    }  # fmt: skip
    assert got.message["Subject"] == "Your message could not be delivered"
    places = [got.text.index(f"    {local}@y.test") for local in "fdmh"]
    assert places == sorted(places)
    assert "n@y.test" not in got.text


def test_an_expanded_alias():
    """RFC 3461 5.2.7.3 (c): the alias is told, not who is behind it."""
    bench = Bench()
    (report,) = bench.expanded(message(tag=Tag.REQUIRED), [asking("team", orcpt="rfc822;Team@y.test")])
    got = read(b"".join(report.pieces()))
    assert got.actions() == {"team@y.test": "expanded"}
    (block,) = got.recipients
    assert (block["Original-Recipient"], block["Status"]) == ("rfc822;Team@y.test", "2.0.0")
    assert "Remote-MTA" not in block
    assert "team@y.test" in got.text
    assert report.envelope.tag is Tag.REQUIRED
    assert bench.expanded(message(sender=None), [asking("team")]) == ()


def test_a_list_is_final_delivery():
    """RFC 3464 2.3.3: "expanded" is for aliases; both may be told of in one report."""
    (report,) = Bench().expanded(message(), [asking("team")], [asking("list")])
    got = read(b"".join(report.pieces()))
    assert got.actions() == {"team@y.test": "expanded", "list@y.test": "delivered"}
    assert "taken for the members of the list" in got.text


def test_the_text_tells_how_each_attempt_went():
    """What was said at the earlier ones and when, what the last one came to, and until when it goes on."""
    tried = (Tried(1_699_999_000.0, "451 4.4.1 refused"), Tried(1_699_999_900.0, "450 4.2.0 greylisted"))
    (report,) = Bench().reports(message(), [DELAYED], tried=tried, until=UNTIL)
    text = " ".join(read(b"".join(report.pieces())).text.split())
    for words in (
        "* mx1.y.test [192.0.2.1:25] connect: refused",
        "Attempts before this one",
        "* Tue, 14 Nov 2023 21:56:40 +0000 451 4.4.1 refused",
        "* Tue, 14 Nov 2023 22:11:40 +0000 450 4.2.0 greylisted",
        "It will be tried until Sun, 19 Nov 2023 13:20:00 +0000.",
        "you need not send it again",
    ):
        assert words in text
    refusal = attrs.evolve(failed(reply=Reply(554, "5.7.1", "spam"), causes=()), command="DATA")
    (report,) = Bench().reports(message(), [refusal])
    assert "mx2.y.test said to DATA: 554 5.7.1 spam" in read(b"".join(report.pieces())).text


def test_a_sender_with_a_local_part_outside_ascii_gets_utf8_throughout():
    """RFC 6533 4.4: 8-bit, for such a report passes nowhere else; Original-Recipient as it was meant."""
    octets = "From: änna@x.test\r\nSubject: grüße\r\n\r\nbödy\r\n".encode()
    recipient = Recipient(Address("jürgen", "y.test"), orcpt="utf-8;j\\x{FC}rgen\\x{2B}a@y.test")
    original = message(octets, sender=Address("änna", "x.test"), smtputf8=True)
    (report,) = Bench().reports(original, [failed(recipient)])
    octets = b"".join(report.pieces())
    assert b"Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit\r\n" in octets
    assert b"Content-Type: message/global\r\nContent-Transfer-Encoding: 8bit\r\n" in octets
    got = read(octets)
    (block,) = got.recipients
    assert block["Original-Recipient"] == "utf-8;jürgen+a@y.test"
    assert block["Final-Recipient"] == "utf-8; jürgen@y.test"
    assert got.message["To"] == "änna@x.test"
    # Whoever can be reached without SMTPUTF8 is: the same in 7-bit.
    (report,) = Bench().reports(message(original.body.data, smtputf8=True), [failed(recipient)])
    octets = b"".join(report.pieces())
    assert octets.isascii() and not report.envelope.smtputf8
    (block,) = read(octets).recipients
    assert block["Original-Recipient"] == "utf-8;jürgen+a@y.test"


@pytest.mark.parametrize(
    ("smtputf8", "orcpt", "shown"),
    [
        (True, "utf-8;a\\x{0D}\\x{0A}Bcc:\\x{20}x", "utf-8;a\\r\\nBcc: x"),
        (True, "utf-8;\\x{D800}\\x{FFFFFF}\\x{zz}", "utf-8;\\x{D800}\\x{FFFFFF}\\x{zz}"),
        (False, "utf-8;ü\\x{2B}", "utf-8;\\x{FC}\\x{2B}"),
        (False, "rfc822;a+40b", "rfc822;a@b"),
        (True, "x-odd;a+40b", "x-odd;a@b"),
        (False, "rfc822;+20", "rfc822;+20"),
        (True, "utf-8;a\\x{20}", "utf-8;a\\x{20}"),
        (True, "utf-8; a", "utf-8;\\x{20}a"),
    ],
)
def test_original_recipients(smtputf8, orcpt, shown):
    """Decoded unless a blank at an end were lost, harmless, in UTF-8 only to whoever sent with SMTPUTF8."""
    (report,) = Bench().reports(message(smtputf8=smtputf8), [failed(Recipient(Address("r", "y.test"), orcpt=orcpt))])
    assert read(b"".join(report.pieces())).recipients[0]["Original-Recipient"] == shown


def test_a_report_to_several_is_redacted_for_those_who_did_not_get_it():
    """The sender may be an alias; for one of those behind it the way back is protected, for another not."""
    bench = Bench()
    (report,) = bench.reports(message(tag=Tag.REQUIRED), [failed()])
    both = (Recipient(Address("a", "x.test")), Recipient(Address("b", "x.test")))
    report = attrs.evolve(report, envelope=attrs.evolve(report.envelope, recipients=both))
    ends = [Failed(recipient=r, reply=Reply(550, code, "x")) for r, code in zip(both, ("5.7.30", "5.1.1"), strict=True)]
    (second,) = bench.reports(report, ends)
    assert second.envelope.recipients == both[:1]
