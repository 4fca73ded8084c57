"""The table of conformance checks, and its judges on whatever a server may say."""

import re

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.cli import conformance_judges as judges
from requiretls_mta.cli.conformance_checks import CHECKS
from requiretls_mta.cli.conformance_rules import (
    Answer,
    Check,
    Finding,
    Kind,
    Say,
    Seen,
    Start,
    Trouble,
    Verdict,
    Want,
    is_conformant,
    replies,
    taken,
)
from requiretls_mta.message.reply import parse_reply
from requiretls_mta.smtp.client_replies import Heard
from requiretls_mta.tls.facts import ClientTLS

NEED, TAKE, REFUSE = Want
PASS, FAIL, WARNING, NOT_TESTED = Verdict
FACTS = ClientTLS(version="TLSv1.3", cipher="X", chain=(b"leaf",))


def answer(code, *lines):
    return Answer("X", Heard(parse_reply(code, list(lines)), lines))


def test_each_check_stands_below_what_it_needs():
    """And has a name of its own, a clause, and what is expected."""
    above = set()
    for check in CHECKS:
        assert check.id not in above
        assert set(check.needs) <= above
        assert re.match(r"RFC \d+ \d", check.clause)
        assert check.expected
        above.add(check.id)


def test_no_check_but_one_sends_a_message():
    """DATA and BDAT stand in the script that --deliver asks for, and nowhere else."""
    for check in CHECKS:
        sends = any(re.match("DATA|BDAT", say.text) for say in check.script)
        assert sends == (check.id == "deliver") == ("quiet" in check.unless)


def test_nothing_in_the_clear_is_said_where_tls_comes_first():
    """Checks whose script starts in the clear are not for implicit TLS; EHLO alone works there as well."""
    for check in CHECKS:
        clear = check.start is Start.GREETED and check.id != "ehlo"
        assert clear == ("implicit" in check.unless)


def test_a_line_is_padded_to_its_length():
    """CRLF included; what stands behind comes after it."""
    names = {"mail": "MAIL FROM:<{x}@y>"}
    assert Say("{mail} REQUIRETLS", octets=523).line(names).rstrip() == b"MAIL FROM:<{x}@y> REQUIRETLS"
    assert len(Say("{mail} REQUIRETLS", octets=523).line(names)) == 523
    assert Say("STARTTLS", behind=b"QUI").line(names) == b"STARTTLS\r\nQUI"


@pytest.mark.parametrize(
    ("wants", "codes", "verdict"),
    [
        ((TAKE,), [250], PASS),
        ((TAKE,), [555], FAIL),
        ((TAKE,), [451], NOT_TESTED),
        ((TAKE,), [], NOT_TESTED),
        ((REFUSE,), [501], PASS),
        ((REFUSE,), [250], FAIL),
        ((REFUSE,), [354], FAIL),
        ((REFUSE,), [421], WARNING),
        ((REFUSE,), [], WARNING),  # hung up
        ((NEED, REFUSE), [530, 503], NOT_TESTED),
        ((NEED, REFUSE), [250, 503], PASS),
        ((NEED, REFUSE, NEED), [250, 555, 550], NOT_TESTED),
        ((NEED, REFUSE, NEED), [250, 250, 550], FAIL),
    ],
)
def test_replies_are_judged_by_what_is_wanted(wants, codes, verdict):
    """The first that is not as it should be decides."""
    seen = Seen(answers=[answer(code) for code in codes], trouble=Trouble(Kind.CLOSED, "closed"))
    assert replies(*wants)(seen).verdict is verdict


@pytest.mark.parametrize(
    ("codes", "verdict"),
    [
        ([250], PASS),
        ([555, 250], FAIL),
        ([530, 530], NOT_TESTED),
        ([451], NOT_TESTED),
        ([555], NOT_TESTED),
        ([], NOT_TESTED),
    ],
)
def test_a_refusal_counts_where_the_plain_command_is_taken(codes, verdict):
    """A server that takes no MAIL at all says nothing about the parameter."""
    assert taken(Seen(answers=[answer(code) for code in codes])).verdict is verdict


@pytest.mark.parametrize(
    ("codes", "verdict"),
    [
        ([250, 250], FAIL),
        ([250, 530, 250], PASS),
        ([250, 555, 530], PASS),  # TLS is wanted for all mail
        ([250, 550, 550], NOT_TESTED),  # the sender is not liked
        ([250, 451], WARNING),
        ([502], NOT_TESTED),
        ([], NOT_TESTED),
    ],
)
def test_a_refusal_in_the_clear_must_be_one_of_the_parameter(codes, verdict):
    """Or of anything that is not inside TLS."""
    assert judges.refuses_in_clear(Seen(answers=[answer(code) for code in codes])).verdict is verdict


@pytest.mark.parametrize(
    ("codes", "verdict"),
    [
        ([250, 250, 503], PASS),
        ([250, 250, 220, 503], PASS),
        ([250, 250, 220, 250], FAIL),
        ([250, 250, 220, 550], NOT_TESTED),  # the recipient is not liked
        ([250, 250, 220, 451], NOT_TESTED),
        ([250, 250, 220], NOT_TESTED),
        ([250, 530], NOT_TESTED),
        ([250], NOT_TESTED),
    ],
)
def test_a_transaction_is_forgotten_when_rcpt_wants_mail(codes, verdict):
    """A recipient that is refused for its own sake proves nothing."""
    assert judges.forgets_transaction(Seen(answers=[answer(code) for code in codes])).verdict is verdict


@pytest.mark.parametrize(
    ("first", "second", "conformant"),
    [
        (PASS, PASS, True),
        (PASS, WARNING, True),
        (PASS, NOT_TESTED, True),
        (PASS, FAIL, False),
        (NOT_TESTED, PASS, False),
        (WARNING, PASS, False),
    ],
)
def test_conformant_is_who_fails_nothing_and_shows_the_essentials(first, second, conformant):
    """The first check is essential, the second is not."""
    check = Check(id="x", section="", title="", clause="", expected="", start=Start.READY, judge=taken)
    results = [(attrs.evolve(check, essential=True), Finding(first, "")), (check, Finding(second, ""))]
    assert is_conformant(results) is conformant


ANSWERS = st.builds(answer, st.integers(200, 599), st.binary(max_size=20), st.binary(max_size=20))
TROUBLES = st.none() | st.builds(Trouble, st.sampled_from(Kind), st.just("something"))


@given(
    st.sampled_from(CHECKS),
    st.lists(ANSWERS, max_size=4),
    TROUBLES,
    st.booleans(),
    st.sampled_from([None, FACTS, attrs.evolve(FACTS, chain_errors=("x",), name_error="y")]),
)
def test_every_judge_has_a_verdict_on_whatever_was_seen(check, answers, trouble, started, tls):
    """No dialogue, however it goes or ends, leaves a judge without words; and no judge passes what was not said."""
    answers = answers[: len(check.script)]
    finding = check.judge(Seen(answers=answers, trouble=trouble, started=started, tls=tls))
    assert finding.seen
    assert finding.seen.isprintable()
    if not answers and tls is None and trouble is None:
        assert finding.verdict is not PASS
