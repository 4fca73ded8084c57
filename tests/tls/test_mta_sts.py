"""MTA-STS by the letter of RFC 8461: what announces, what is a policy, and which hosts it lists."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from requiretls_mta.tls.mta_sts import (
    LONGEST_AGE,
    MOST_OCTETS,
    Mode,
    Policy,
    PolicyError,
    can_have_policy,
    parse_policy,
    parse_record,
)

GOOD = b"version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n"


def policy(*lines, end=b"\r\n"):
    """The policy of these lines, each ended."""
    return parse_policy(b"".join(line.encode() + end for line in lines), "1")


def fields(**changes):
    """The lines of a good policy with some changed (None: left out)."""
    whole = {"version": "STSv1", "mode": "enforce", "mx": "a.test", "max_age": "86400"} | changes
    return [f"{name}: {value}" for name, value in whole.items() if value is not None]


# --- the announcement


@pytest.mark.parametrize(
    ("record", "announced"),
    [
        (b"v=STSv1; id=20160831085700Z;", "20160831085700Z"),
        (b"v=STSv1;id=a", "a"),
        (b"v=STSv1; id=a; ", "a"),
        (b"v=STSv1; \t id=a \t ;\t", "a"),
        (b"v=STSv1; id=" + b"Z9" * 16, "Z9" * 16),
        (b"v=STSv1; x=y; id=a; more.of-it_=!:<>~", "a"),
        (b"v=STSv1; id=a; id=b", "a"),
        (b"v=STSv1; ID=other; id=a", "a"),
        (b"v=STSv1; id=a; v=STSv2", "a"),
    ],
)
def test_a_record_announces_a_policy(record, announced):
    """RFC 8461 3.1: fields in any order, unknown ones ignored, blanks around semicolons, the first of two counts."""
    assert parse_record([record]) == announced
    assert parse_record([b"v=spf1 -all", record, b""]) == announced


@pytest.mark.parametrize(
    "record",
    [
        b"v=STSv1;",
        b"v=STSv1; ",
        b"v=STSv1; x=y",
        b"v=STSv1; id=",
        b"v=STSv1; id=a-b",
        b"v=STSv1; id=a_b; id=c",
        b"v=STSv1; id=" + b"a" * 33,
        b"v=STSv1; id=a ",
        b"v=STSv1; id=a\n",
        b"v=STSv1; id = a",
        b"v=STSv1;; id=a",
        b"v=STSv1; id=a;;",
        b"v=STSv1; id=a; lonely",
        b"v=STSv1; id=a; x=",
        b"v=STSv1; id=a; x=b=c",
        b"v=STSv1; id=a; -x=y",
        b"v=STSv1; id=a; " + b"x" * 33 + b"=y",
        b"v=STSv1; id=a; x=\xc3\xa4",
        b"v=STSv1; id=a\x00",
        b"v=STSv1; id=a b",
    ],
)
def test_a_record_against_the_grammar_announces_nothing(record):
    """RFC 8461 3.1: senders must assume that there is no policy."""
    with pytest.raises(PolicyError) as caught:
        parse_record([record])
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "records",
    [
        [],
        [b"v=spf1 -all"],
        [b" v=STSv1; id=a"],
        [b"v=stsv1; id=a"],
        [b"V=STSv1; id=a"],
        [b"v=STSv2; id=a"],
        [b"v=STSv1"],
        # Within the ABNF, but "records that do not begin with v=STSv1; are discarded".
        [b"v=STSv1 ; id=a"],
        [b"id=a; v=STSv1;"],
    ],
)
def test_other_records_are_passed_over(records):
    """What does not begin with v=STSv1; is somebody else's."""
    assert parse_record(records) is None


def test_several_announcements_are_none():
    """RFC 8461 3.1: if the number of resulting records is not one."""
    with pytest.raises(PolicyError, match="several"):
        parse_record([b"v=STSv1; id=a", b"v=STSv1; id=a"])


# --- the policy


def test_a_policy_is_read():
    """The example of RFC 8461 3.2."""
    got = parse_policy(GOOD, "a")
    assert got == Policy(
        mode=Mode.ENFORCE,
        mx=("mail.example.com", "*.example.net"),
        max_age=604800,
        id="a",
        text=GOOD.decode(),
    )
    assert got.lines == (
        "version: STSv1",
        "mode: enforce",
        "mx: mail.example.com",
        "mx: *.example.net",
        "max_age: 604800",
    )
    assert "STSv1" not in repr(got), "64 KiB of text have no place in a log"


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
@pytest.mark.parametrize("last", [True, False])
def test_lines_end_with_crlf_or_lf_and_the_last_with_either_or_nothing(end, last):
    """sts-policy-term = LF / CRLF, the last one optional."""
    octets = end.join(line.encode() for line in fields()) + (end if last else b"")
    assert parse_policy(octets, "1").mx == ("a.test",)
    assert parse_policy(octets.replace(b"test", b"test \t"), "1").mx == ("a.test",)


@pytest.mark.parametrize(
    "lines",
    [
        fields(mode="testing"),
        fields(mode="none", mx=None),
        fields(mode="none", max_age="0"),
        fields(max_age=str(LONGEST_AGE)),
        fields(max_age="0000000001"),
        ["max_age:1", "mx:\t a.test", "mode:enforce", "version:STSv1"],
        [*fields(), "mode: nonsense", "version: STSv9", "max_age: never"],
        [*fields(), "x: y", "future.field-1_: a value, with \u00fcmlauts \U0001f4e7 inside"],
        [*fields(), "Mode: none", "MX: not a host"],
        fields(mx="a"),
        fields(mx="*.test"),
        fields(mx="xn--mgbh0fb.xn--kgbechtv"),
        fields(mx="A-1.B2.TEST"),
    ],
)
def test_policies_within_the_grammar(lines):
    """Order, unknown fields, repetition, the bounds of max_age, mode none without mx."""
    assert isinstance(policy(*lines), Policy)


def test_the_first_of_a_repeated_field_counts():
    """RFC 8461 3.2: all entries except for the first are ignored, but every mx counts."""
    got = policy(*fields(), "mode: none", "max_age: 1", "mx: b.test", "mx: A.test")
    assert (got.mode, got.max_age, got.mx) == (Mode.ENFORCE, 86400, ("a.test", "b.test"))


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [""],
        [*fields(), ""],
        ["", *fields()],
        [*fields(version=None)],
        fields(version="STSv2"),
        fields(version="stsv1"),
        fields(mode=None),
        fields(mode="Enforce"),
        ["mode: nonsense", *fields()],
        fields(mx=None),
        fields(mode="testing", mx=None),
        fields(max_age=None),
        fields(max_age=str(LONGEST_AGE + 1)),
        fields(max_age="10000000000"),
        fields(max_age="00000000001"),
        fields(max_age="-1"),
        fields(max_age="1.0"),
        fields(max_age="\u0661"),
        fields(mx="a.test."),
        fields(mx=".a.test"),
        fields(mx="a..test"),
        fields(mx="*"),
        fields(mx="*."),
        fields(mx="*.*.test"),
        fields(mx="a.*.test"),
        fields(mx="m*.test"),
        fields(mx="a_b.test"),
        fields(mx="-a.test"),
        fields(mx="a-.test"),
        fields(mx="a.test b.test"),
        fields(mx="a.test,b.test"),
        fields(mx="[192.0.2.1]"),
        fields(mx="m\u00fcller.test"),
        fields(mx="a" * 64 + ".test"),
        fields(mx=".".join(["a" * 63] * 4)),
        [*fields(), "no colon"],
        [*fields(), "x:"],
        [*fields(), "x: "],
        [*fields(), " x: y"],
        [*fields(), "x : y"],
        [*fields(), "-x: y"],
        [*fields(), "x" * 33 + ": y"],
        [*fields(), "x: y\x00"],
        [*fields(), "x: a\tb"],
        [*fields(), "x: a\rb"],
        [*fields(), "x: y\r"],
        ["\ufeff" + fields()[0], *fields()[1:]],
        ["<html>"],
    ],
)
def test_what_is_no_policy(lines):
    """Anything against the grammar, told in words that can be shown."""
    with pytest.raises(PolicyError) as caught:
        policy(*lines)
    assert str(caught.value).isprintable()


def test_octets_that_are_no_policy():
    """Not UTF-8, too many, a lone CR at the end."""
    for octets in (b"", GOOD + b"x: \xff", GOOD + b"x: " + b"y" * MOST_OCTETS, GOOD[:-1], GOOD + b"\r\n"):
        with pytest.raises(PolicyError):
            parse_policy(octets, "1")
    assert parse_policy(GOOD + b"x: " + b"y" * (MOST_OCTETS - len(GOOD) - 3), "1")


@pytest.mark.parametrize(
    ("host", "listed"),
    [
        ("mail.example.com", True),
        ("MAIL.example.COM", True),
        ("a.example.net", True),
        ("xn--nxa.example.net", True),
        ("example.net", False),
        ("a.b.example.net", False),
        ("example.com", False),
        ("x.mail.example.com", False),
        ("mail.example.com.evil.test", False),
        ("evilexample.net", False),
        ("*.example.net", False),
        (".example.net", False),
        ("", False),
        ("net", False),
    ],
)
def test_which_hosts_a_policy_lists(host, listed):
    """RFC 8461 4.1: the whole name, or one label for the wildcard."""
    assert parse_policy(GOOD, "1").matches(host) is listed


@pytest.mark.parametrize(
    ("domain", "can"),
    [
        ("a.test", True),
        ("xn--mller-kva.test", True),
        ("[192.0.2.1]", False),
        ("", False),
        ("a_b.test", False),
        ("a/b.test", False),
        (".".join(["a" * 60] * 4), True),
        (".".join(["a" * 60] * 4) + ".ab", False),
    ],
)
def test_domains_that_can_have_a_policy(domain, can):
    """Literals have none (RFC 8461 3.4), nor has what makes no host name."""
    assert can_have_policy(domain) is can


# --- hostile octets

TEXTS = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.lists(
            st.sampled_from([b"v=STSv1", b";", b" ", b"\t", b"id=", b"a1", b"=", b"x", b"\xff", b"\x00", b"\n"]),
            max_size=12,
        ).map(b"".join),
    ),
    max_size=3,
)
PIECES = [
    b"version", b"mode", b"mx", b"max_age", b":", b": ", b"STSv1", b"enforce", b"none", b"testing", b"*.", b"a.test",
    b"604800", b"99999999999", b"\r\n", b"\n", b"\r", b" ", b"\t", b"\x00", b"\xc3\xa4", b"\xff", b"x",
]  # fmt: skip


@given(TEXTS)
@example([b"v=STSv1;" + b" ;" * 1000])
def test_no_record_crashes_or_passes_for_an_announcement(texts):
    """Whatever the DNS says: an id of letters and digits out of exactly one record, nothing, or a `PolicyError`."""
    try:
        announced = parse_record(texts)
    except PolicyError:
        return
    if announced is not None:
        assert announced.isascii() and announced.isalnum() and len(announced) <= 32
        (record,) = [text for text in texts if text.startswith(b"v=STSv1;")]
        assert b"id=" + announced.encode() in record


@given(st.one_of(st.binary(max_size=300), st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join)))
@example(b"mx: " + b"a-" * 30_000)
@example(b"x: " + b" y" * 30_000 + b"\x00")
def test_no_octets_crash_or_pass_for_a_policy(octets):
    """Whatever the policy host serves: a policy that keeps its own bounds, or a `PolicyError`."""
    try:
        got = parse_policy(octets, "1")
    except PolicyError:
        return
    assert 0 <= got.max_age <= LONGEST_AGE
    assert got.mx or got.mode is Mode.NONE
    assert not any(got.matches(host) for host in ("", ".a.test", "*.a.test"))
    again = parse_policy("\n".join(got.lines).encode(), "1")
    assert (again.mode, again.mx, again.max_age, again.lines) == (got.mode, got.mx, got.max_age, got.lines)


@given(
    st.lists(
        st.sampled_from(["x: y", "mode: none", "mx: b.test", "mx: *.c.test", "max_age: 5", "é: z", "z9._-: é é"]),
        max_size=5,
    ),
    st.permutations(fields()),
    st.sampled_from([b"\n", b"\r\n"]),
)
def test_what_stands_behind_a_good_policy_only_adds_hosts(more, order, end):
    """Later fields never change mode or age, and a line against the grammar makes the whole no policy."""
    octets = end.join(line.encode() for line in [*order, *more])
    if "é: z" in more:
        with pytest.raises(PolicyError):
            parse_policy(octets, "1")
    else:
        got = parse_policy(octets, "1")
        assert (got.mode, got.max_age) == (Mode.ENFORCE, 86400)
        assert set(got.mx) == {"a.test"} | {line[4:] for line in more if line.startswith("mx: ")}
