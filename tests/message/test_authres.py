"""Authentication-Results: what is written reads back, injects nothing, and what pretends to be ours is found."""

import json
import subprocess
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.message.authres import (
    MOST_OCTETS,
    AuthenticationResults,
    Property,
    Result,
    forged,
    parse,
    write,
)
from tests.lab.require import need

OURS = "mta.example.org"
DNSWL = Result(
    "dnswl",
    "pass",
    properties=(
        Property("dns", "zone", "list.dnswl.example"),
        Property("dns", "sec", "na"),
        Property("policy", "ip", "127.0.10.1"),
        Property("policy", "txt", "fwd.example https://dnswl.example/?d=fwd.example", quoted=True),
    ),
)
SPF = Result(
    "spf",
    "fail",
    comment="not rejected: client is whitelisted",
    properties=(Property("smtp", "mailfrom", "example.com"),),
)


def body(field):
    """What stands behind the colon."""
    name, _, value = field.partition(b":")
    assert name == b"Authentication-Results"
    return value.removesuffix(b"\r\n")


def test_the_example_of_rfc_8904():
    """Appendix A: one field for all methods, folded at 78 columns."""
    assert write(AuthenticationResults(OURS, (DNSWL, SPF))) == (
        b"Authentication-Results: mta.example.org;\r\n"
        b" dnswl=pass dns.zone=list.dnswl.example dns.sec=na policy.ip=127.0.10.1\r\n"
        b' policy.txt="fwd.example https://dnswl.example/?d=fwd.example";\r\n'
        b" spf=fail (not rejected: client is whitelisted) smtp.mailfrom=example.com\r\n"
    )


def test_nothing_was_done():
    """The special case `none` (RFC 8601 2.2)."""
    field = write(AuthenticationResults(OURS))
    assert field == b"Authentication-Results: mta.example.org; none\r\n"
    assert parse(body(field)) == AuthenticationResults(OURS)


def test_what_is_no_token_is_quoted():
    """Scenarios 34 and 84: the authserv-id, values, quotes and backslashes, and the empty value."""
    result = Result(
        "dnswl",
        "pass",
        reason="",
        properties=(Property("policy", "ip", "127.0.1.1,127.0.1.2"), Property("policy", "txt", 'say "hi" c:\\x')),
    )
    field = write(AuthenticationResults("my id", (result,)))
    assert field == (
        b'Authentication-Results: "my id";\r\n dnswl=pass reason="" policy.ip="127.0.1.1,127.0.1.2"\r\n'
        b' policy.txt="say \\"hi\\" c:\\\\x"\r\n'
    )
    assert parse(body(field)) == AuthenticationResults("my id", (result,))


def test_outside_ascii_only_with_smtputf8():
    """RFC 6532: otherwise the ASCII form of the value, or nothing."""
    result = Result(
        "dnswl",
        "pass",
        reason="größe",
        comment="größe",
        properties=(Property("policy", "txt", "bücher.example", in_ascii="xn--bcher-kva.example"),),
    )
    assert "bücher.example".encode() in write(AuthenticationResults("bücher.example", (result,)), utf8=True)
    lost = Result("dnswl", "none", properties=(Property("policy", "txt", "ü"),))
    assert write(AuthenticationResults("bücher.example", (result, lost))) == (
        b"Authentication-Results: xn--bcher-kva.example;\r\n"
        b" dnswl=pass policy.txt=xn--bcher-kva.example;\r\n dnswl=none\r\n"
    )


@pytest.mark.parametrize(
    "text", ["a\r\nBcc: v@x", "a\nb", "a\0b", "\x1b[1m", "a\x85b", "a\u202eb", "x" * 451, "é" * 300]
)
def test_values_that_could_do_harm_are_refused(text):
    """Controls and what no line could hold: a mistake of the caller, never a field."""
    for make in (lambda: Property("policy", "txt", text), lambda: Result("a", "b", reason=text)):
        with pytest.raises(ValueError, match="controls"):
            make()
    with pytest.raises(ValueError, match="controls"):
        AuthenticationResults(text)


@pytest.mark.parametrize("word", ["", "a b", "a=b", "a-", "a;", "ü", "a\n", "x" * 41])
def test_names_are_keywords(word):
    """RFC 5321 4.1.2."""
    for make in (lambda: Property(word, "a", ""), lambda: Property("a", word, ""), lambda: Result(word, "a")):
        with pytest.raises(ValueError, match="letters"):
            make()


def test_what_stands_for_a_value_in_ascii_is_ascii():
    """Or the field could not be written."""
    with pytest.raises(ValueError, match="outside ASCII"):
        Property("policy", "txt", "ü", in_ascii="ü")


WORDS = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,10}[A-Za-z0-9])?", fullmatch=True).filter(
    lambda word: word.lower() != "reason"
)
VALUES = st.text(
    st.one_of(
        st.sampled_from('"\\ ;()=@.,a'),
        st.characters(codec="utf-8").filter(lambda c: c.isprintable() and (c == " " or not c.isspace())),
    ),
    max_size=100,
)
RESULTS = st.builds(
    Result,
    WORDS,
    WORDS,
    reason=st.none() | VALUES,
    comment=st.none() | VALUES,
    properties=st.lists(st.builds(Property, WORDS, WORDS, VALUES, st.booleans()), max_size=4).map(tuple),
)


@given(st.builds(AuthenticationResults, VALUES, st.lists(RESULTS, max_size=4).map(tuple)))
def test_what_is_written_reads_back(field):
    """Scenario 87: writer and parser are inverse; one field, no line too long, no line of blanks."""
    written = write(field, utf8=True)
    assert parse(body(written)) == field
    lines = written.split(b"\r\n")
    assert lines.pop() == b""
    assert b"\r" not in b"".join(lines)
    assert b"\n" not in b"".join(lines)
    assert all(len(line) <= 998 for line in lines)
    assert all(line.startswith(b" ") and line.strip() for line in lines[1:])


@given(st.builds(AuthenticationResults, VALUES, st.lists(RESULTS, max_size=3).map(tuple)))
def test_ours_is_always_found(field):
    """Whatever our writer can write under some id is removed from a message that comes in under that id."""
    written = write(field, utf8=True)
    assert forged(b"A: b\r\n" + written + b"C: d\r\n", field.authserv_id) == ((6, 6 + len(written)),)


@given(st.binary(max_size=300))
def test_reading_never_fails(octets):
    """Any octets: a field or None, and ranges within the header."""
    assert parse(octets) is None or b"=" in octets or b"none" in octets.lower()
    header = b"Authentication-Results:" + octets + b"\r\n"
    for start, end in forged(header, OURS):
        assert 0 <= start < end <= len(header)


@pytest.mark.parametrize(
    "text",
    [
        "mta.example.org; none",
        "(c) mta.example.org (c) 1 (c) ; (c) none (c)",
        "example.com; auth=pass (cram-md5) smtp.auth=sender@example.com; spf=pass smtp.mailfrom=example.com",
        "foo.example.net (foo) 1 (baz); dkim (yes) / 1 (1) = (wait) fail\r\n policy (dot) . expired (oh) = 1362471462",
        "a.example; x=y reason=because; none=other",
        "a.example; spf=pass smtp.mailfrom=SRS0=ab/cd=x@example.com",
        'a.example; x=y header.i=@example.com z.z="a\\"b"',
    ],
)
def test_fields_that_rfc_8601_allows(text):
    """Appendix B and the corners of 2.2."""
    assert parse(text.encode()) is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        ";",
        "mta.example.org",
        "mta.example.org;",
        "mta.example.org 2; none",
        "mta.example.org; none; spf=pass",
        "mta.example.org; spf",
        "mta.example.org; spf=",
        "mta.example.org; spf=pass;",
        "mta.example.org; spf=pass smtp=x",
        "mta.example.org; spf=pass smtp.mailfrom=",
        "mta.example.org; spf=pass smtp.mailfrom=x reason=late",
        "mta.example.org; spf=pass reason=a reason=b",
        "mta.example.org; spf=pass (unfinished",
        'mta.example.org; spf=pass reason="unfinished',
        "mta.example.org; spf=pass\x00",
        "mta.example.org; spf=pass\r\nBcc: x",
        "x" * 70_000 + "; none",
    ],
)
def test_fields_that_are_none(text):
    """The parser is strict."""
    assert parse(text.encode()) is None


@pytest.mark.parametrize(
    "value",
    [
        " MTA.Example.ORG; dnswl=pass",
        ' "mta.example.org" 1; dnswl=pass',
        " (c) mta.example.org(x);",
        "\r\n\tmta.example.org\r\n ;\r\n dnswl=pass",
        " mta.example.org",
        " mta.example.org.; spf=pass",
        " (a(b\\)c))mta.example.org; spf=pass",
        ' "mta.ex\\ample.org"; spf=pass',
        " ｍｔａ.example.org; spf=pass",  # full-width letters are the same name to IDNA
        ' "mta.example.org "; spf=pass',
        " mta.example.org\u00a0; spf=pass",
        " mta.ex\u00adample.org; spf=pass",
        " mta.example.org\u200b; spf=pass",
        " mta.example.org/1; spf=pass",
        " mta.example.org \xff",
    ],
)
@pytest.mark.parametrize("name", ["Authentication-Results:", "AUTHENTICATION-RESULTS \t:"])
def test_fields_in_our_name_are_found(name, value):
    """Scenario 72: whatever the folding, letter case, quotes, comments, version or what follows."""
    field = name.encode() + value.encode("latin-1" if "\xff" in value else "utf-8") + b"\r\n"
    assert forged(b"From: a\r\n" + field + b"To: b\r\n", OURS) == ((9, 9 + len(field)),)
    assert forged(field, OURS) == ((0, len(field)),)
    assert forged(field[:-2], OURS) == ((0, len(field) - 2),)


@pytest.mark.parametrize(
    "value",
    [
        " mta.example.org.evil; dnswl=pass",
        " other.example; dnswl=pass header.from=mta.example.org",
        " other.example 1; x",
        " other.example (mta.example.org); garbage = = \xff",
    ],
)
def test_fields_of_others_are_kept(value):
    """Scenario 73: only the authserv-id counts, not what follows it."""
    assert forged(b"Authentication-Results:" + value.encode("latin-1") + b"\r\n", OURS) == ()


@pytest.mark.parametrize(
    "value",
    [
        " other.example 2; spf=pass",
        " other.example 12345678901234567890; spf=pass",
        " ; spf=pass",
        "",
        " (unfinished",
        " spf=pass (sender IP is 192.0.2.1) smtp.mailfrom=x",
        " other\x00.example; spf=pass",
        " mta(c).example.org; spf=pass",
        " \xff; spf=pass",
        " " + "(" * 100_000,
        " " + "(a)" * 30_000 + "x" * 10_000 + "=",
    ],
)
def test_fields_that_nobody_could_read_for_certain_are_found(value):
    """Scenario 74: another version, or a beginning that is none; in bounded time, however large."""
    begun = time.perf_counter()
    field = b"Authentication-Results:" + value.encode("latin-1") + b"\r\n"
    assert forged(field, OURS) == ((0, len(field)),)
    assert time.perf_counter() - begun < 1


@pytest.mark.parametrize(("theirs", "ours"), [("xn--bcher-kva.example", "bücher.example")])
def test_a_labels_and_u_labels_are_one_id(theirs, ours):
    """Scenario 75, in both directions, composed or not."""
    for one, other in ((theirs, ours), (ours, theirs), ("bu\u0308cher.example", theirs), ("BÜCHER.example", theirs)):
        assert forged(f"Authentication-Results: {one}; spf=pass\r\n".encode(), other)


def test_other_fields_are_left_alone():
    """ARC's field has another name, a name inside a value is none, and a body is not looked at."""
    header = (
        b"ARC-Authentication-Results: i=1; mta.example.org; spf=pass\r\n"
        b"X: Authentication-Results: mta.example.org; spf=pass\r\n"
        b" Authentication-Results: mta.example.org; spf=pass\r\n"
        b"Authentication-Results-Original: mta.example.org; spf=pass\r\n"
    )
    assert forged(header, OURS) == ()


def test_a_header_full_of_them_takes_no_time():
    """A megabyte of forged fields between others."""
    header = b"a:\r\nAuthentication-Results: mta.example.org;\r\n" * 22_000
    begun = time.perf_counter()
    assert len(forged(header, OURS)) == 22_000
    assert time.perf_counter() - begun < 5


PERL = """
use Mail::AuthenticationResults::Parser; local $/;
print Mail::AuthenticationResults::Parser->new->parse(<STDIN>)->as_json;
"""


def test_an_independent_parser_reads_the_same():
    """Mail::AuthenticationResults, the one that milters written in Perl use; it knows no special quotes."""
    perl = need("perl")
    if subprocess.run([perl, "-MMail::AuthenticationResults", "-e", "1"], check=False, capture_output=True).returncode:
        need("libmail-authenticationresults-perl")
    temporary = Result("dnswl", "temperror", reason="servfail", properties=(Property("dns", "zone", "b.example"),))
    several = Result("dnswl", "pass", properties=(Property("policy", "ip", "127.0.1.1,127.0.1.2"),))
    special = Result("dnswl", "pass", properties=(Property("policy", "txt", "a b (d) ; e=f"),))
    results = (DNSWL, several, special, temporary, SPF)
    field = body(write(AuthenticationResults(OURS, results)))
    done = subprocess.run([perl, "-e", PERL], input=field, capture_output=True, check=True, timeout=30)
    read = json.loads(done.stdout)
    assert read["authserv_id"]["value"] == OURS
    for entry, result in zip(read["children"], results, strict=True):
        assert (entry["key"], entry["value"]) == (result.method, result.result)
        found = {child["key"]: child["value"] for child in entry["children"] if child["type"] == "subentry"}
        told = {f"{p.ptype}.{p.name}": p.value for p in result.properties}
        assert {name: value for name, value in found.items() if name != "reason"} == told


def test_the_longest_line_is_legal():
    """RFC 5322 2.1.1: 998 octets, with every octet special."""
    field = write(AuthenticationResults(OURS, (Result("a", "b", properties=(Property("c", "d", '"' * MOST_OCTETS),)),)))
    assert max(map(len, field.split(b"\r\n"))) <= 998
