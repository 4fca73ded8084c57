"""What a session comes to in a report."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.report.tlsrpt_session import (
    LONGEST_STRING,
    MOST_STRINGS,
    RESULT_TYPES,
    Failure,
    Policy,
    Session,
    session_of,
)
from tests.report.test_observe import GOOD

DAY = 19_700
NOW = DAY * 86_400 + 5.0
STS = Policy("sts", "there.test", ("version: STSv1", "mode: enforce"), ("mx1.there.test",))
TLSA = GOOD | {
    "policy_type": "tlsa",
    "policy_domain": "mx1.there.test",
    "policy_strings": ("3 1 1 AB",),
    "policy_mx": ("mx1.there.test",),
}
NONE = GOOD | {"policy_type": "no-policy-found", "policy_domain": "there.test", "policy_strings": (), "policy_mx": ()}


@pytest.mark.parametrize(
    ("fields", "session"),
    [
        (GOOD, Session(DAY, "there.test", STS, None)),
        # RFC 8460 1.1: the policy domain of DANE is the TLSA base domain, the report is about the recipient's
        (TLSA, Session(DAY, "there.test", Policy("tlsa", "mx1.there.test", ("3 1 1 AB",)), None)),
        (NONE, Session(DAY, "there.test", Policy("no-policy-found", "there.test"), None)),
        # ... and of MTA-STS that of a smarthost, where local policy chose one
        (
            NONE | {"policy_domain": "hub.test", "next_hop": "Hub.TEST.", "domain": "there.test"},
            Session(DAY, "hub.test", Policy("no-policy-found", "hub.test"), None),
        ),
        (
            GOOD | {"result": "certificate-host-mismatch", "detail": "it bears x.test"},
            Session(
                DAY,
                "there.test",
                STS,
                Failure("certificate-host-mismatch", "198.51.100.1", "mx1.there.test", "192.0.2.1", "it bears x.test"),
            ),
        ),
        (
            GOOD | {"result": "starttls-not-supported", "tls_version": None, "address": "2001:db8::1", "source": None},
            Session(DAY, "there.test", STS, Failure("starttls-not-supported", "", "mx1.there.test", "2001:db8::1", "")),
        ),
        (
            GOOD | {"result": "sts-policy-invalid", "tls_version": None, "address": None, "source": None, "mx": None},
            Session(DAY, "there.test", STS, Failure("sts-policy-invalid")),
        ),
        (
            GOOD | {"result": "invented", "mx": "\x1b[31m"},
            Session(
                DAY, "there.test", STS, Failure("validation-failure", "198.51.100.1", "\\x1b[31m", "192.0.2.1", "")
            ),
        ),
        # nobody is told
        (NONE | {"tls_version": None}, None),
        (GOOD | {"mx_security": "not-applicable"}, None),
        (GOOD | {"policy_type": "other"}, None),
        (GOOD | {"policy_type": None}, None),
        (GOOD | {"next_hop": "[192.0.2.1]"}, None),
        (GOOD | {"next_hop": "é.test"}, None),
        (GOOD | {"next_hop": None}, None),
        (GOOD | {"policy_domain": None}, None),
        ({"queue_id": "x", "mx": "mx.test", "tls_version": "TLSv1.3", "auth": None}, None),
    ],
)
def test_a_session(fields, session):
    """Whom it is reported to, the policy, the failure."""
    assert session_of(fields, NOW) == session


@pytest.mark.parametrize("result", sorted(RESULT_TYPES))
def test_every_result_type_is_reported_as_it_is(result):
    """RFC 8460 4.3."""
    session = session_of(GOOD | {"result": result}, NOW)
    assert session.failure.result == result


def test_the_result_types_are_those_of_the_standard():
    """RFC 8460 4.3.1 to 4.3.3: no more, no less."""
    assert len(RESULT_TYPES) == 11


def test_a_policy_is_bounded():
    """The DNS and a policy host may say what they like; I-JSON takes no lone surrogate."""
    fields = GOOD | {"policy_strings": ["\ud800" * 5 + "x" * 9000] * 1000, "policy_mx": ["m" * 900] * 1000}
    policy = session_of(fields, NOW).policy
    assert len(policy.strings) == len(policy.mx) == MOST_STRINGS
    assert all(len(one) < LONGEST_STRING + 50 and one.startswith("\\ud800") for one in policy.strings)
    json.dumps(policy.dumped()).encode("utf-8")


texts = st.text(max_size=20)


@given(st.builds(Policy, texts, texts, st.lists(texts).map(tuple), st.lists(texts).map(tuple)))
def test_a_policy_survives_the_ledger(policy):
    """The same for the same, and back."""
    assert Policy.loaded(policy.dumped()) == policy


@given(st.builds(Failure, texts, texts, texts, texts, texts))
def test_a_failure_survives_the_ledger(failure):
    """The same for the same, and back."""
    assert Failure.loaded(failure.dumped()) == failure


anything = st.none() | st.booleans() | st.integers() | texts | st.binary(max_size=5)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: st.lists(anything, max_size=3)
            if name in ("policy_strings", "policy_mx")
            else anything | st.just(value)
            for name, value in GOOD.items()
        },
    )
)
def test_no_event_does_harm(fields):
    """Fields may be missing, or of any kind."""
    session = session_of(fields, NOW)
    assert session is None or session.domain.isascii()
