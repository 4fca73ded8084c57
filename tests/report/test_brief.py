"""Where a report cannot be written the sender hears of it all the same: who and what, protected like any report."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.message.address import Address
from requiretls_mta.message.envelope import Recipient, Tag
from requiretls_mta.message.outcome import Delivered, Failed
from requiretls_mta.message.reply import Reply
from requiretls_mta.report import dsn_format
from requiretls_mta.report.dsn_brief import write_brief
from requiretls_mta.report.dsn_rules import Action, Told
from tests.report.rfc3464 import read
from tests.report.samples import Bench, back, failed, message
from tests.report.test_actions import DELAYED, EVERY, IN_MAILBOX, asking


@pytest.fixture(params=["explain", "delivery_status", "_quoted", "_part", "_head"])
def bug(request, monkeypatch):
    """One part of what writes reports breaks."""

    def breaks(*words, **more):
        raise ZeroDivisionError

    monkeypatch.setattr(dsn_format, request.param, breaks)


@pytest.mark.usefixtures("bug")
@pytest.mark.parametrize("tag", [None, *Tag])
def test_who_and_what_is_told_whatever_breaks(tag):
    """All actions in one, field by field as RFC 3464 has it; nothing of the message in it; known to the log."""
    bench = Bench()
    original = message(tag=tag, ret="FULL", envid="e")
    (report,) = bench.reports(original, [one for _, one, _, _ in EVERY], until=None)
    octets = b"".join(report.pieces())
    got = read(octets)
    assert got.actions() == {
        "f@y.test": "failed", "d@y.test": "delayed", "m@y.test": "delivered", "h@y.test": "relayed",
    }  # fmt: skip
    assert [block["Diagnostic-Code"] for block in got.recipients] == ["smtp; 550", "smtp; 451", None, None]
    assert all(f"    {action}: {outcome.recipient.address}" in got.text for action, outcome, _, _ in EVERY)
    assert b"secret" not in octets and got.returned == b""
    assert report.envelope.tag is tag and report.envelope.sender is None
    assert [str(r.address) for r in report.envelope.recipients] == ["s@x.test"]
    assert got.message["To"] == "s@x.test" and (got.message["TLS-Required"] == "No") == (tag is Tag.OPTIONAL)
    (told,) = bench.events.of("reported")
    assert told["report"] == report.id and told["recipients"] == 4


@pytest.mark.usefixtures("bug")
def test_of_expansions_likewise():
    """Else the message could not be taken."""
    (report,) = Bench().expanded(message(), [asking("team")], [asking("list")])
    assert read(b"".join(report.pieces())).actions() == {"team@y.test": "expanded", "list@y.test": "delivered"}


def test_it_goes_redacted_where_it_cannot_be_protected(monkeypatch):
    """RFC 8689 5, as other reports; there is nothing in it to take out."""
    bench = Bench()
    with monkeypatch.context() as broken:
        broken.setattr(dsn_format, "explain", None)
        (report,) = bench.reports(message(tag=Tag.REQUIRED), [failed()])
    (second,) = bench.reports(report, back(report, "5.7.30"))
    assert second.envelope.tag is None
    assert read(second.body.data).actions() == {"r@y.test": "failed"}


TEXT = st.text(st.characters(), max_size=64)


@given(TEXT, TEXT, TEXT)
def test_no_address_breaks_out_of_it(local, domain, sender):
    """Whatever stands in one: lines of ASCII, one block for each, and a reader gets it back or its numbers."""
    first, second = Recipient(Address(local, domain)), Recipient(Address("x" * 64, "y" * 1000))
    told = [
        Told(action=Action.FAILED, outcome=Failed(recipient=first, reply=Reply(550, "5.1.1", "no"))),
        Told(action=Action.DELIVERED, outcome=Delivered(recipient=second, reply=Reply(250, "2.0.0", "ok"), host="h")),
    ]
    octets = write_brief(
        dsn_format.Report(
            hostname="mx.x.test",
            message_id="a" * 16,
            date="Tue, 14 Nov 2023 22:13:20 +0000",
            arrival="Tue, 14 Nov 2023 22:13:20 +0000",
            original=message(sender=Address(sender, "x.test")),
            told=told,
            whole=True,
            redacted=False,
        )
    )
    assert octets.isascii()
    assert [block["Action"] for block in read(octets).recipients] == ["failed", "delivered"]


def test_where_not_even_that_can_be_written_the_caller_hears_it(monkeypatch):
    """What then becomes of whom is the settlement's to decide."""
    monkeypatch.setattr(dsn_format, "explain", None)
    monkeypatch.setattr("requiretls_mta.report.dsn.write_brief", None)
    bench = Bench()
    for outcome in (failed(), DELAYED, IN_MAILBOX):
        with pytest.raises(TypeError):
            bench.reports(message(), [attrs.evolve(outcome, recipient=asking())])
    assert bench.events.seen == []
