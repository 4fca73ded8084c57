"""The decision table: every combination, exactly one row, and what must hold whatever the rows say."""

import itertools

import attrs
import pytest

from requiretls_mta.message.envelope import Tag
from requiretls_mta.message.outcome import Cause, Step
from requiretls_mta.message.reply import Reply
from requiretls_mta.tls.judge import (
    TABLE,
    Facts,
    MXSecurity,
    Requirement,
    TLSState,
    Verdict,
    conclude,
    judge,
    requirement_of,
)
from requiretls_mta.tls.policy import Level, Policies

IN_TLS = (TLSState.UNAUTHENTICATED, TLSState.AUTHENTICATED)
PRODUCT = [
    Facts(requirement=requirement, level=level, mx_security=security, tls=state, keyword=keyword)
    for requirement, level, security, state, keyword in itertools.product(
        Requirement, Level, MXSecurity, (None, *TLSState), (False, True)
    )
    if not keyword or state in IN_TLS
]
STRICTEST_FIRST = [Level.ENFORCE, Level.OPPORTUNISTIC_STARTTLS, Level.OPPORTUNISTIC, Level.DISABLE]


def approves(facts):
    """Whether a message could go out under these facts, the look-up before the connection included."""
    before = judge(attrs.evolve(facts, tls=None, keyword=False))
    return before.verdict is not Verdict.NEXT_HOST and judge(facts).verdict is not Verdict.NEXT_HOST


def test_each_combination_is_decided_and_each_row_decides_some():
    """No hole, no row that can never be reached."""
    deciding = {id(judge(facts)) for facts in PRODUCT}
    assert deciding == {id(row) for row in TABLE}


def test_required_under_enforce_goes_only_where_everything_holds():
    """RFC 8689 4.2.1: secure look-up, authentication and the keyword inside TLS, or not at all."""
    for facts in PRODUCT:
        if facts.requirement is Requirement.REQUIRED and facts.level is Level.ENFORCE and facts.tls is not None:
            holds = facts.mx_security is not MXSecurity.NONE and facts.tls is TLSState.AUTHENTICATED and facts.keyword
            assert approves(facts) == holds, facts
            if holds:
                assert judge(facts).verdict is Verdict.PROCEED_TAGGED


def test_relaxing_the_policy_never_refuses_what_was_approved():
    """A level further down approves at least as much."""
    for facts in PRODUCT:
        if facts.tls is None:
            continue
        verdicts = [approves(attrs.evolve(facts, level=level)) for level in STRICTEST_FIRST]
        assert verdicts == sorted(verdicts), facts


def test_the_keyword_is_sent_only_where_it_was_offered_and_asked_for():
    """Never in the clear, never for an untagged message, never where the level says ordinary mail."""
    for facts in PRODUCT:
        tagged = facts.requirement in (Requirement.REQUIRED, Requirement.REPORT)
        if judge(facts).verdict is Verdict.PROCEED_TAGGED:
            assert facts.keyword and facts.tls in IN_TLS and tagged and facts.level is not Level.DISABLE


def test_untagged_optional_and_report_are_never_refused():
    """RFC 8689 4.2.2 and 5: TLS is tried, and never the reason for a failure."""
    for facts in PRODUCT:
        if facts.requirement is not Requirement.REQUIRED and facts.tls is not None:
            assert approves(facts)


def test_starttls_level_never_sends_in_the_clear():
    """opportunistic+starttls: some TLS session is needed."""
    for facts in PRODUCT:
        strict = facts.level in (Level.ENFORCE, Level.OPPORTUNISTIC_STARTTLS)
        if facts.requirement is Requirement.REQUIRED and strict:
            assert judge(facts).verdict is not Verdict.CLEAR


def test_every_refusal_says_where_and_why():
    """Step, text and clause of what the sender will read."""
    for row in TABLE:
        assert row.clause
        if row.verdict is Verdict.NEXT_HOST:
            assert row.detail and row.step is not Step.TRANSACTION


@pytest.mark.parametrize(
    ("tag", "empty", "expected"),
    [
        (None, False, Requirement.NONE),
        (Tag.OPTIONAL, True, Requirement.OPTIONAL),
        (Tag.REQUIRED, False, Requirement.REQUIRED),
        (Tag.REQUIRED, True, Requirement.REPORT),
    ],
)
def test_the_requirement_of_a_tag(tag, empty, expected):
    """A tagged message with an empty reverse path is a report (RFC 8689 5)."""
    assert requirement_of(tag, empty_reverse_path=empty) is expected


def cause(step, *, temporary=False, reply=None, host="mx.test"):
    return Cause(host=host, step=step, detail="x", temporary=temporary, reply=reply)


@pytest.mark.parametrize(
    ("causes", "code", "enhanced"),
    [
        ([cause(Step.STARTTLS)], 550, "5.7.10"),  # C12
        ([cause(Step.AUTHENTICATE)], 550, "5.7.10"),  # C13
        ([cause(Step.LOOKUP)], 550, "5.7.10"),  # C05
        ([cause(Step.REQUIRETLS)], 550, "5.7.30"),  # C11
        ([cause(Step.STARTTLS), cause(Step.REQUIRETLS, host="b")], 550, "5.7.30"),
        ([cause(Step.REQUIRETLS), cause(Step.CONNECT, temporary=True, host="b")], 451, "4.4.1"),  # C14
        ([cause(Step.REQUIRETLS), cause(Step.CONNECT, temporary=True)], 550, "5.7.30"),  # its other address
        ([cause(Step.STARTTLS, temporary=True)], 451, "4.7.5"),
        ([cause(Step.CONNECT, temporary=True, reply=Reply(421, "4.3.2", "busy"))], 421, "4.3.2"),
        ([cause(Step.CONNECT, reply=Reply(554, "5.7.1", "no"))], 554, "5.7.1"),
        ([cause(Step.LOOKUP, reply=Reply(550, "5.4.4", "no address"))], 550, "5.4.4"),
    ],
)
def test_what_all_causes_come_to(causes, code, enhanced):
    """5.7.30 where only the keyword lacked, 5.7.10 elsewhere; one temporary element keeps the message."""
    reply = conclude(causes)
    assert (reply.code, reply.enhanced) == (code, enhanced)
    assert causes[0].host in reply.text or causes[-1].host in reply.text


def test_policies_by_domain():
    """Its own key, then the nearest `.parent`, then the default; IDNs by their A-labels. (C49)."""
    policies = Policies(
        levels={
            "a.example": Level.DISABLE,
            ".example": Level.OPPORTUNISTIC,
            ".b.example": Level.OPPORTUNISTIC_STARTTLS,
            "xn--bcher-kva.test": Level.DISABLE,
        }
    )
    assert policies.of("A.Example") is Level.DISABLE
    assert policies.of("x.a.example") is Level.OPPORTUNISTIC
    assert policies.of("x.b.example") is Level.OPPORTUNISTIC_STARTTLS
    assert policies.of("b.example") is Level.OPPORTUNISTIC
    assert policies.of("bücher.test") is Level.DISABLE
    assert policies.of("example") is Level.ENFORCE
    assert Policies().of("x") is Level.ENFORCE
