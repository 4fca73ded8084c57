"""policy.txt: shown whole and unaltered, or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.checks.dnswl_text import MOST_OCTETS, Text, reportable
from requiretls_mta.message.authres import AuthenticationResults, Property, Result, parse, write
from tests.checks.answers import answer


def shown(*records, needs_domain=True, **more):
    """What is shown of TXT records, each octets or a tuple of strings."""
    octets = [r.encode() if isinstance(r, str) else r for r in records]
    return reportable(answer("TXT", *octets).records, needs_domain=needs_domain, **more)


@pytest.mark.parametrize(
    ("number", "records", "value", "in_ascii", "domain"),
    [
        (1, ["fwd.example https://dnswl.example/?d=fwd.example"], ..., ..., "fwd.example"),
        (32, [(b"fwd.exa", b"mple")], "fwd.example", "fwd.example", "fwd.example"),
        (33, ["b.example", "a.example"], "a.example b.example", ..., "a.example"),
        (38, ["bücher.example"], "bücher.example", "xn--bcher-kva.example", "xn--bcher-kva.example"),
        (39, ["bücher.example see x"], ..., "xn--bcher-kva.example see x", "xn--bcher-kva.example"),
        (41, ["bücher.example siehe ü"], ..., None, "xn--bcher-kva.example"),
        (43, ["президент.example"], ..., "xn--d1abbgf6aiiy.example", "xn--d1abbgf6aiiy.example"),
        (46, ["AUTOPROMOTED.INVALID"], ..., ..., None),
        (0, ["a.example\tb"], "a.example b", "a.example b", "a.example"),
        (0, ["日本語のテスト.example"], ..., "xn--u9j5hmbj5909dcvb2w6i.example", ...),
        (0, ["نامه‌ای.example"], ..., "xn--mgba3gch31f060k.example", ...),
        (0, ["fwd.example. x"], ..., ..., "fwd.example"),
    ],
)
def test_texts_that_are_shown(number, records, value, in_ascii, domain):
    """With a domain in front (txt = domain)."""
    text = shown(*records)
    assert text is not None
    value = records[0] if value is ... else value
    assert text.value == value
    assert text.in_ascii == (value if in_ascii is ... else in_ascii)
    assert domain is ... or text.domain == domain


@pytest.mark.parametrize(
    ("number", "record"),
    [
        (35, b"fwd.example\r\nBcc: v@x"),
        (36, b"fwd.example \0"),
        (36, b"fwd.example \x1b[31m"),
        (36, b"fwd.example \x7f"),
        (36, "fwd.example \x85"),
        (37, b"\xff\xfe"),
        (37, b"fwd.example \xed\xa0\x80"),
        (40, "bu\u0308cher.example"),
        (42, "fwd.example \u202eelpmaxe"),
        (42, "fwd\u200b.example"),
        (42, "fwd.example \u200d"),
        (42, "fwd.example \u2028"),
        (43, "раураl.example"),
        (43, "fwd.example раураl"),
        (43, "bücher-а.example"),
        (44, (b"fwd.example " + b"x" * 200, b"x" * 88)),
        (47, "v=spf1 -all"),
        (47, "see www.example"),
        (0, ""),
        (0, " fwd.example"),
        (0, "example"),
        (0, "127.0.0.2"),
        (0, "[192.0.2.1]"),
        (0, "a..example"),
        (0, "fwd.example \ue000"),
        (0, "fwd.example \U000e0041"),
        (0, "fwd.example \u0378"),
        (0, "fwd.example\u00a0x"),
        (0, "ｂank.example"),
        (0, "x" * 64 + ".example"),
    ],
)
def test_texts_that_are_left_out(number, record):
    """What could do harm or mislead, or is no domain: omitted as a whole."""
    assert shown(record) is None


def test_never_shortened():
    """Scenario 45: example.company must not become example.com."""
    assert shown("example.company", limit=11) is None


def test_any_text_where_it_was_asked_for():
    """Scenario 34: txt = any."""
    assert shown('say "hi" c:\\x', needs_domain=False) == Text('say "hi" c:\\x', 'say "hi" c:\\x', None)
    assert shown("größer ü", needs_domain=False) == Text("größer ü", None, None)


@given(st.lists(st.lists(st.binary(max_size=255), min_size=1, max_size=3).map(tuple), max_size=4), st.booleans())
def test_whatever_the_dns_says_the_field_is_sound(records, needs_domain):
    """Any octets: nothing, or a text that is written and read back as it is, on lines that are legal."""
    check(records, needs_domain)


@given(st.text(max_size=80), st.booleans())
def test_whatever_the_text_says_the_field_is_sound(text, needs_domain):
    """Likewise for text."""
    check([("a.example " + text).encode("utf-8", "surrogatepass")[:255]], needs_domain)


def check(records, needs_domain):
    text = shown(*records, needs_domain=needs_domain)
    if text is None:
        return
    assert len(text.value.encode()) <= MOST_OCTETS
    prop = Property("policy", "txt", text.value, quoted=True, in_ascii=text.in_ascii)
    for utf8 in (True, False):
        field = write(AuthenticationResults("mta.example", (Result("dnswl", "pass", properties=(prop,)),)), utf8=utf8)
        lines = field.removesuffix(b"\r\n").split(b"\r\n")
        assert all(len(line) <= 998 and line.startswith(b" ") for line in lines[1:])
        read = parse(field.partition(b":")[2].removesuffix(b"\r\n"))
        value = text.value if utf8 else text.in_ascii
        assert [p.value for p in read.results[0].properties] == ([] if value is None else [value])
