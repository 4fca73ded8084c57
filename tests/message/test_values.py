"""Envelopes, outcomes and dates: the small values."""

import email.utils
import locale

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.message.address import Address
from requiretls_mta.message.envelope import Envelope, Notify, Recipient
from requiretls_mta.message.outcome import Cause, Deferred, Delivered, Failed, Step
from requiretls_mta.message.ports import NoEvents
from requiretls_mta.message.reply import Reply
from requiretls_mta.message.trace import date_time

ADDRESS = Address("a", "x.test")


@pytest.mark.parametrize(
    ("notify", "wanted"),
    [(None, "FAILURE DELAY"), ({"FAILURE"}, "FAILURE"), ({"FAILURE", "SUCCESS"}, "FAILURE SUCCESS"), ({"NEVER"}, ""),
     ({"SUCCESS"}, "SUCCESS"), ({"DELAY"}, "DELAY")],
)  # fmt: skip
def test_who_wants_to_hear_of_what(notify, wanted):
    """RFC 3461 4.1: whoever named it; and of failures and delays whoever said nothing."""
    recipient = Recipient(ADDRESS, None if notify is None else frozenset(map(Notify, notify)))
    assert recipient.wants_failure is ("FAILURE" in wanted)
    assert recipient.wants_delay is ("DELAY" in wanted)
    assert recipient.wants_success is ("SUCCESS" in wanted)


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        (Cause(host="mx.x.test", step=Step.LOOKUP, detail="SERVFAIL", temporary=True), "mx.x.test: lookup: SERVFAIL"),
        (
            Cause(host="mx.x.test", address="192.0.2.1:25", step=Step.STARTTLS, detail="not offered", temporary=False),
            "mx.x.test[192.0.2.1:25]: starttls: not offered",
        ),
    ],
)
def test_a_cause_in_words(cause, text):
    """Host, address if one was tried, step and detail."""
    assert str(cause) == text


@pytest.mark.parametrize("kind", [Delivered, Deferred, Failed])
def test_values_are_equal_by_what_they_say_and_never_change(kind):
    """Outcomes are compared, kept in sets and passed around between threads."""
    made = [kind(recipient=Recipient(ADDRESS), reply=Reply(250, "2.0.0", "Ok"), host="x") for _ in range(2)]
    assert made[0] == made[1] and hash(made[0]) == hash(made[1])
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        made[0].host = "y"
    assert Envelope(sender=None) == Envelope(sender=None)


@given(st.integers(0, 4_000_000_000))
def test_dates_are_read_by_others_as_they_were_meant(now):
    """RFC 5322 3.3, in UTC."""
    assert email.utils.parsedate_to_datetime(date_time(now)).timestamp() == now
    assert date_time(now).endswith(" +0000")


def test_dates_do_not_follow_the_locale():
    """Names of days and months are English in every country."""
    old = locale.setlocale(locale.LC_TIME)
    try:
        for name in ("de_DE.UTF-8", "C.UTF-8", "C"):
            try:
                locale.setlocale(locale.LC_TIME, name)
            except locale.Error:
                continue
            assert date_time(1_700_000_000.9) == "Tue, 14 Nov 2023 22:13:20 +0000"
    finally:
        locale.setlocale(locale.LC_TIME, old)


def test_events_that_nobody_listens_to_are_dropped():
    """The default of everything that tells."""
    assert NoEvents().emit("anything", with_fields=1) is None
