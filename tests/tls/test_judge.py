"""The decision table: every combination, exactly one row, and what must hold whatever the rows say."""

import itertools

import attrs
import pytest

from requiretls_mta.message.envelope import Tag
from requiretls_mta.message.outcome import Step
from requiretls_mta.tls.elements import (
    AUTHENTICATING,
    DANE,
    STS,
    Facts,
    MXSecurity,
    Proof,
    Requirement,
    TLSState,
    Verdict,
    requirement_of,
)
from requiretls_mta.tls.judge import TABLE, judge
from requiretls_mta.tls.policy import Level, Policies

STRICTEST_FIRST = [Level.ENFORCE, Level.OPPORTUNISTIC_STARTTLS, Level.OPPORTUNISTIC, Level.DISABLE]
FOUND = {
    "DNSSEC MX": [(MXSecurity.DNSSEC, sts) for sts in STS],
    "MTA-STS": [(MXSecurity.MTA_STS, STS.ENFORCED), (MXSecurity.MTA_STS, STS.VOUCHES)],
    "neither": [(MXSecurity.NONE, sts) for sts in (STS.NONE, STS.UNLISTED, STS.UNAVAILABLE)],
    "implicit MX": [(MXSecurity.DNSSEC, STS.NONE), (MXSecurity.NONE, STS.NONE)],
    "static route": [(MXSecurity.NOT_APPLICABLE, STS.NONE)],
    "literal": [(MXSecurity.NOT_APPLICABLE, STS.NONE)],
}
BY_DANE = (Proof.DANE_EE, Proof.DANE_TA)
FAILED = (Proof.WRONG_NAME, Proof.EXPIRED, Proof.UNTRUSTED)
PROOFS = {
    DANE.NONE: (Proof.PKIX, *FAILED),
    DANE.USABLE: (*BY_DANE, *FAILED),
    DANE.UNUSABLE: (Proof.PKIX, *FAILED),
    DANE.UNKNOWN: (Proof.PKIX, *FAILED),
}
NO_TLS = [state for state in TLSState if state is not TLSState.ESTABLISHED]


def sessions(dane):
    """How a connection may stand. A keyword before TLS counts for none, so yes and no are all there is."""
    yield from ((state, None, False) for state in (None, *NO_TLS))
    yield from ((TLSState.ESTABLISHED, proof, keyword) for proof in PROOFS[dane] for keyword in (False, True))


PRODUCT = sorted(
    {
        Facts(
            requirement=requirement,
            level=level,
            mx_security=security,
            dane=dane,
            sts=sts,
            tls=tls,
            proof=proof,
            keyword=keyword,
        )
        for requirement, level, dane in itertools.product(Requirement, Level, DANE)
        for security, sts in itertools.chain(*FOUND.values())
        for tls, proof, keyword in sessions(dane)
    },
    key=repr,
)
SESSIONS = [facts for facts in PRODUCT if facts.tls is not None]


def approves(facts):
    """Whether a message goes out under these facts."""
    return judge(facts).verdict is not Verdict.NEXT_HOST


def strict(facts):
    return facts.requirement is Requirement.REQUIRED and facts.level is Level.ENFORCE


def test_each_combination_is_decided_and_each_row_decides_some():
    """No hole, no row that can never be reached."""
    deciding = {id(judge(facts)) for facts in PRODUCT}
    assert deciding == {id(row) for row in TABLE}
    assert 40 <= len(TABLE) <= 50


def test_before_and_after_the_connection_agree():
    """What is refused as it was found is refused with a session too: a kept one needs no second question."""
    for facts in SESSIONS:
        before = judge(attrs.evolve(facts, tls=None, proof=None, keyword=False))
        after = judge(facts)
        if Verdict.NEXT_HOST in (before.verdict, after.verdict if after.step is Step.LOOKUP else None):
            assert after is before, facts


def test_required_under_enforce_goes_only_where_everything_holds():
    """RFC 8689 4.2.1 once more: secure look-up, authentication and the keyword inside TLS, or not at all."""
    for facts in SESSIONS:
        if not strict(facts):
            continue
        if facts.dane is DANE.USABLE:
            authenticated = facts.proof in BY_DANE
        elif facts.dane is DANE.UNUSABLE and facts.mx_security is MXSecurity.DNSSEC:
            authenticated = facts.proof is Proof.PKIX and facts.sts in (STS.ENFORCED, STS.VOUCHES)
        else:
            authenticated = facts.proof is Proof.PKIX
        listed = facts.sts is not STS.UNLISTED or (facts.dane is DANE.USABLE and facts.mx_security is MXSecurity.DNSSEC)
        found = facts.mx_security is not MXSecurity.NONE and facts.dane is not DANE.UNKNOWN and listed
        holds = found and authenticated and facts.keyword and facts.tls is TLSState.ESTABLISHED
        assert approves(facts) == holds, facts
        if holds:
            assert judge(facts).verdict is Verdict.PROCEED_TAGGED


def test_relaxing_the_policy_never_refuses_what_was_approved():
    """A level further down approves at least as much."""
    for facts in PRODUCT:
        verdicts = [approves(attrs.evolve(facts, level=level)) for level in STRICTEST_FIRST]
        assert verdicts == sorted(verdicts), facts


def test_a_weaker_demand_is_never_refused_what_a_stronger_one_gets():
    """Required, report, none, optional: each may go where the one before may."""
    for facts in PRODUCT:
        verdicts = [
            approves(attrs.evolve(facts, requirement=requirement))
            for requirement in (Requirement.REQUIRED, Requirement.REPORT, Requirement.NONE, Requirement.OPTIONAL)
        ]
        assert verdicts == sorted(verdicts), facts


def test_better_facts_never_refuse():
    """TLS instead of none, a proof instead of none, the keyword instead of none."""
    for facts in SESSIONS:
        if facts.tls is not TLSState.ESTABLISHED:
            for proof in PROOFS[facts.dane]:
                better = attrs.evolve(facts, tls=TLSState.ESTABLISHED, proof=proof)
                assert approves(better) or not approves(facts) or proof in FAILED, facts
        elif approves(facts):
            assert approves(attrs.evolve(facts, keyword=True)), facts
            best = Proof.DANE_EE if facts.dane is DANE.USABLE else Proof.PKIX
            assert approves(attrs.evolve(facts, proof=best)), facts


def test_the_keyword_is_sent_only_where_it_was_offered_and_asked_for():
    """Never in the clear, never for an untagged message, never where the level says ordinary mail."""
    for facts in PRODUCT:
        tagged = facts.requirement in (Requirement.REQUIRED, Requirement.REPORT)
        if judge(facts).verdict is Verdict.PROCEED_TAGGED:
            assert facts.keyword and facts.tls is TLSState.ESTABLISHED and tagged and facts.level is not Level.DISABLE


def test_optional_is_never_refused():
    """RFC 8689 4.2.2: TLS is tried, policies are not asked, and never the reason for a failure (C41, C43)."""
    for facts in PRODUCT:
        if facts.requirement is Requirement.OPTIONAL:
            assert approves(facts)


def test_a_domain_that_publishes_nothing_never_stops_untagged_mail():
    """Only DANE and an MTA-STS policy in enforce mode bind mail that asks for nothing."""
    for facts in PRODUCT:
        if facts.requirement is not Requirement.REQUIRED and not approves(facts):
            assert facts.dane is not DANE.NONE or facts.sts in (STS.ENFORCED, STS.UNLISTED), facts


def test_dane_binds_untagged_mail():
    """RFC 7672 2.2: usable records, a match; unusable ones, TLS; none to be had, nothing goes."""
    for facts in SESSIONS:
        if facts.requirement is Requirement.OPTIONAL:
            continue
        if facts.dane is DANE.UNKNOWN:
            assert not approves(facts), facts
        if facts.dane is DANE.USABLE and facts.proof not in BY_DANE:
            assert not approves(facts), facts
        if facts.dane is DANE.UNUSABLE and facts.tls is not TLSState.ESTABLISHED:
            assert not approves(facts), facts


def test_an_enforced_sts_policy_binds_untagged_mail():
    """RFC 8461 5: a listed host, TLS and a valid certificate, unless DANE authenticates a host of signed MX records."""
    for facts in SESSIONS:
        if facts.requirement is Requirement.OPTIONAL or not approves(facts):
            continue
        if facts.sts is STS.ENFORCED:
            assert facts.proof in AUTHENTICATING, facts
        if facts.sts is STS.UNLISTED:
            assert facts.proof in BY_DANE and facts.mx_security is MXSecurity.DNSSEC, facts


def test_a_tag_without_a_secure_look_up_is_not_even_tried():
    """C05, C06: whatever the host itself publishes, the connection is not opened."""
    for facts in PRODUCT:
        if strict(facts) and facts.mx_security is MXSecurity.NONE:
            assert judge(facts).step is Step.LOOKUP and not approves(facts)


def test_starttls_level_never_sends_in_the_clear():
    """opportunistic+starttls: some TLS session is needed."""
    for facts in PRODUCT:
        if facts.requirement is Requirement.REQUIRED and facts.level in STRICTEST_FIRST[:2]:
            assert judge(facts).verdict is not Verdict.CLEAR


def test_what_may_mend_itself_is_temporary_and_nothing_else():
    """Unknown records, STARTTLS answered 4xx, a policy that might have vouched; and all that stops untagged mail."""
    for facts in PRODUCT:
        row = judge(facts)
        if approves(facts):
            continue
        if facts.requirement is not Requirement.REQUIRED or facts.level in STRICTEST_FIRST[2:]:
            assert row.temporary, facts
            continue
        unknown = facts.dane is DANE.UNKNOWN
        later = row.step is Step.STARTTLS and facts.tls is TLSState.UNAVAILABLE
        if facts.level is Level.OPPORTUNISTIC_STARTTLS:
            clear = facts.tls in NO_TLS and row.step is Step.STARTTLS
            assert row.temporary == (unknown or later or not clear), facts
            continue
        vouch = facts.mx_security is MXSecurity.NONE or (
            facts.mx_security is MXSecurity.DNSSEC and facts.dane is DANE.UNUSABLE and facts.proof is Proof.PKIX
        )
        assert row.temporary == (unknown or later or (facts.sts is STS.UNAVAILABLE and vouch)), facts


def test_in_the_clear_is_what_it_says():
    """With a connection that has no TLS, and only there; a session inside TLS never goes back."""
    for facts in PRODUCT:
        if approves(facts):
            assert (judge(facts).verdict is Verdict.CLEAR) == (facts.tls in NO_TLS), facts


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
