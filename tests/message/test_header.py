"""Header sections: fields with their places, and what TLS-Required says (scenarios S19 to S26)."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from requiretls_mta.message.content import ContentScanner
from requiretls_mta.message.header import TLSRequired, exceeds, fields, fields_named, tls_required

NO, ABSENT, INVALID = TLSRequired.NO, TLSRequired.ABSENT, TLSRequired.INVALID


def test_fields_with_their_places():
    """Names in lower case, values unfolded, ranges that hold the whole field; what is no field is passed over."""
    header = b"From: a\r\nSUBJECT : x\r\n y\r\n\tz \r\nno field\r\n: nameless\r\n\xe9: x\r\nTo:\r\nLast: w"
    found = list(fields(header))
    assert [(f.name, f.value) for f in found] == [
        (b"from", b"a"), (b"subject", b"x y\tz"), (b"to", b""), (b"last", b"w"),
    ]  # fmt: skip
    assert header[found[1].start : found[1].end] == b"SUBJECT : x\r\n y\r\n\tz \r\n"
    assert header[found[3].start : found[3].end] == b"Last: w"


@pytest.mark.parametrize(
    ("header", "names"),
    [
        (b"", []),
        (b"\r\n", []),
        (b" folded: into nothing\r\nA: b\r\n", [b"a"]),
        (b"From x@y.test Mon Sep 1 10:00:00 2025\r\nA: b\r\n", [b"a"]),
        (b"A: b\nB: c\r\nC: d\r\n", [b"a", b"c"]),
        (b"A: b\rB: c\r\n", [b"a"]),
        (b"A B: c\r\n", []),
    ],
)
def test_what_counts_as_a_field(header, names):
    """A line that begins with a blank belongs to the one before, even if there is none; bare CR and LF end no line."""
    assert [f.name for f in fields(header)] == names


lines = st.sampled_from(
    [
        b"A: b",
        b"Received: x",
        b" folded",
        b"\tfolded",
        b"no field",
        b"TLS-Required: No",
        b"",
        b"RECEIVED:",
        b"x: received:",
    ]
)


@given(st.lists(lines, max_size=10), st.booleans())
def test_the_places_of_fields_never_overlap(parts, ended):
    """Each begins where the line does, ends behind a CRLF or with the header, and holds its name and its value."""
    header = b"\r\n".join(parts) + (b"\r\n" if ended else b"")
    at = 0
    for field in fields(header):
        assert at <= field.start < field.end <= len(header)
        assert field.start == 0 or header[: field.start].endswith(b"\r\n")
        assert field.end == len(header) or header[: field.end].endswith(b"\r\n")
        raw = header[field.start : field.end]
        assert raw.lower().startswith(field.name)
        assert b"\r\n" not in field.value
        at = field.end
    count = sum(f.name == b"received" for f in fields(header))
    for limit in range(4):
        assert exceeds(header, b"received", limit) == (count > limit)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"TLS-Required: No\r\n", NO),  # S19
        (b"From: a\r\nTLS-Required: No\r\nTo: b\r\n", NO),
        (b"TLS-Required: No", NO),
        # S21: any case, blanks and folding around it
        (b"tls-required:no\r\n", NO),
        (b"TLS-REQUIRED: NO\r\n", NO),
        (b"TLS-Required:\r\n No\r\n", NO),
        (b"TLS-Required: No \t \r\n", NO),
        (b"TLS-Required: No\r\n \r\n", NO),
        (b"TLS-Required :\tnO\r\n", NO),
        # S22: anything but the word itself
        (b"TLS-Required: Yes\r\n", INVALID),
        (b"TLS-Required:\r\n", INVALID),
        (b"TLS-Required: No (really)\r\n", INVALID),
        (b"TLS-Required: (really) No\r\n", INVALID),
        (b"TLS-Required: No, No\r\n", INVALID),
        (b'TLS-Required: "No"\r\n', INVALID),
        (b"TLS-Required: N\r\n o\r\n", INVALID),
        (b"TLS-Required: No;\r\n", INVALID),
        (b"TLS-Required: \xce\x9do\r\n", INVALID),
        (b"TLS-Required: No\0\r\n", INVALID),
        # S23: several fields
        (b"TLS-Required: No\r\nTLS-Required: no\r\n", NO),
        (b"TLS-Required: No\r\nTLS-Required: bogus\r\n", INVALID),
        (b"TLS-Required: bogus\r\nTLS-Required: No\r\n", INVALID),
        (b"TLS-Required: No\r\nRequireTLS: bogus\r\n", INVALID),
        # S24: the draft's name
        (b"RequireTLS: NO\r\n", NO),
        (b"RequireTLS: YES\r\n", INVALID),
        # other fields, and values that look like one
        (b"", ABSENT),
        (b"Subject: TLS-Required: No\r\n", ABSENT),
        (b"Subject: x\r\n TLS-Required: No\r\n", ABSENT),
        (b"X-TLS-Required: No\r\n", ABSENT),
        (b"TLS-Required-X: No\r\n", ABSENT),
        (b"TLS_Required: No\r\n", ABSENT),
        (b"X: y\nTLS-Required: No\r\n", ABSENT),
        (b"TLS-Required No\r\n", ABSENT),
    ],
)
def test_what_tls_required_says(header, said):
    """RFC 8689 3: exactly `No`, or it is as if nothing had been said."""
    assert tls_required(header) is said


@pytest.mark.parametrize(
    "message",
    [
        b"Subject: x\r\n\r\nTLS-Required: No\r\n",
        b"\r\nTLS-Required: No\r\n\r\n",
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nTLS-Required: No\r\n\r\nx\r\n--b--\r\n",
        b"Content-Type: message/rfc822\r\n\r\nFrom: a\r\nTLS-Required: No\r\n\r\nx\r\n",
    ],
)
def test_s25_only_the_header_of_the_message_itself_counts(message):
    """Not the body, not a part of it, not the header of a message inside."""
    scanner = ContentScanner(1 << 20)
    scanner.feed(message)
    assert tls_required(scanner.header) is ABSENT


@pytest.mark.parametrize(
    "header",
    [b"A: " + b"x" * 2_000_000 + b"\r\n", b"a" * 1_000_000, (b"a" + b" " * 100) * 10_000, b"a\r\n" * 300_000,
     b" \r\n" * 300_000, b"A:\r\n" + b" \r\n" * 300_000, b"A: b\r\n" * 170_000, b"tls-required" * 80_000,
     b":" * 1_000_000],
    ids=range(9),
)  # fmt: skip
def test_s26_a_huge_header_is_read_in_its_length(header):
    """A megabyte of anything takes no more than a moment, and the verdict at its end is right."""
    start = time.perf_counter()
    assert tls_required(header + b"\r\nTLS-Required: No\r\n") is NO
    assert time.perf_counter() - start < 2


@given(st.binary(max_size=100))
@example(b"tls-required:\r\n")
def test_any_octets_can_be_read(header):
    """Nothing raises."""
    assert tls_required(header) in TLSRequired
    assert all(header[f.start : f.end].lower().startswith(f.name) for f in fields(header))


def test_fields_of_one_name():
    """The same as those found by a walk through all, wherever they stand."""
    header = b"From: a\r\n b\r\nX: From: c\r\n From: d\r\nfrom \t:\r\nFROM:e"
    found = list(fields_named(header, b"from"))
    assert found == [field for field in fields(header) if field.name == b"from"]
    assert [field.value for field in found] == [b"a b", b"", b"e"]


@given(
    st.lists(st.sampled_from([b"a", b"B", b":", b" ", b"\t", b"\r\n", b"\n", b"\r", b"a: x\r\n"]), max_size=20).map(
        b"".join
    )
)
@example(b"a: x\na: y\r\n")
def test_a_field_found_by_its_name_is_one_found_by_a_walk(header):
    """In any octets: a bare LF ends no line for the one or the other."""
    assert list(fields_named(header, b"a")) == [field for field in fields(header) if field.name == b"a"]


def test_many_other_fields_cost_little():
    """Anybody may send a megabyte of them: it is not taken apart for the one that is looked for."""
    header = b"a:\r\n" * 250_000 + b"Received: x\r\n" * 60 + b"TLS-Required: No\r\n"

    def seconds(work):
        start = time.process_time()
        work()
        return time.process_time() - start

    whole = seconds(lambda: list(fields(header)))
    assert seconds(lambda: tls_required(header)) < whole / 3
    assert seconds(lambda: exceeds(header, b"received", 50)) < whole / 3
