"""The record that says where reports go, by the letter of RFC 8460 3."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.message.address import Address
from requiretls_mta.report.tlsrpt_record import LONGEST_URI, MOST_TARGETS, Mail, Post, parse_records, record_name

MAIL = Mail(Address("reports", "example.com"))


def test_the_name_of_the_record():
    """RFC 8460 3."""
    assert record_name("example.com") == "_smtp._tls.example.com"


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("v=TLSRPTv1;rua=mailto:reports@example.com", [MAIL]),
        ("v=TLSRPTv1; rua=mailto:reports@example.com;", [MAIL]),
        ("v=TLSRPTv1;\t rua=mailto:reports@example.com \t; ", [MAIL]),
        (
            "v=TLSRPTv1; rua=https://reporting.example.com/v1/tlsrpt",
            [Post("reporting.example.com", 443, "https://reporting.example.com/v1/tlsrpt")],
        ),
        (
            "v=TLSRPTv1; rua=mailto:reports@example.com , https://r.example:8443/?a=b#c",
            [MAIL, Post("r.example", 8443, "https://r.example:8443/?a=b")],
        ),
        ("v=TLSRPTv1; rua=mailto:reports@example.com,mailto:reports@example.com", [MAIL]),
        ("v=TLSRPTv1; new.field-1=a b=c; rua=mailto:reports@example.com", [MAIL]),
        (
            "v=TLSRPTv1; rua=mailto:reports@example.com; rua=mailto:b@example.com",
            [MAIL, Mail(Address("b", "example.com"))],
        ),
        ("v=TLSRPTv1; rua=ftp://example.com/,MAILTO:reports@example.com", [MAIL]),
        # encoded, as RFC 8460 3 asks for
        ("v=TLSRPTv1; rua=mailto:a%21b%2Cc%3Bd@example.com", []),
        ("v=TLSRPTv1; rua=mailto:a%21b@example.com", [Mail(Address("a!b", "example.com"))]),
        ("v=TLSRPTv1; rua=mailto:%22a%2Cb%22@example.com", [Mail(Address("a,b", "example.com"))]),
        # header fields of the mail are ours to choose
        ("v=TLSRPTv1; rua=mailto:reports@example.com?bcc=x@example.net&subject=y", [MAIL]),
        # passed over
        ("v=TLSRPTv1; rua=mailto:reports@example.com!10m", []),
        ("v=TLSRPTv1; rua=mailto:a@example.com%0D%0ABcc:x@example.net", []),
        ("v=TLSRPTv1; rua=mailto:%C3%A9@example.com", []),
        ("v=TLSRPTv1; rua=mailto:a@[127.0.0.1]", []),
        ("v=TLSRPTv1; rua=mailto:", []),
        ("v=TLSRPTv1; rua=reports@example.com", []),
        ("v=TLSRPTv1; rua=http://example.com/", []),
        ("v=TLSRPTv1; rua=https:///path", []),
        ("v=TLSRPTv1; rua=https://127.0.0.1/", []),
        ("v=TLSRPTv1; rua=https://[::1]/", []),
        ("v=TLSRPTv1; rua=https://[::1", []),
        ("v=TLSRPTv1; rua=https://user:word@example.com/", []),
        ("v=TLSRPTv1; rua=https://example.com:0/", []),
        ("v=TLSRPTv1; rua=https://example.com:65536/", []),
        ("v=TLSRPTv1; rua=https://exa_mple..com/", []),
        ("v=TLSRPTv1; rua=https://example.com/" + "x" * LONGEST_URI, []),
        # no record of this version
        ("v=TLSRPTv1", []),
        ("v=TLSRPTv1;", []),
        ("v=TLSRPTv1 ;rua=mailto:reports@example.com", []),
        ("v=TLSRPTv2;rua=mailto:reports@example.com", []),
        ("V=TLSRPTv1;rua=mailto:reports@example.com", []),
        ("v=tlsrptv1;rua=mailto:reports@example.com", []),
        (" v=TLSRPTv1;rua=mailto:reports@example.com", []),
        ("rua=mailto:reports@example.com;v=TLSRPTv1", []),
        # not pairs of names and values
        ("v=TLSRPTv1;rua=mailto:reports@example.com;x", []),
        ("v=TLSRPTv1;rua=mailto:reports@example.com;;", []),
        ("v=TLSRPTv1;rua=mailto:reports@example.com;x=", []),
        ("v=TLSRPTv1;rua=mailto:reports@example.com;-x=y", []),
        ("v=TLSRPTv1;rua=mailto:reports@example.com;x=\x01", []),
        ("v=TLSRPTv1;RUA=mailto:reports@example.com", []),
        ("v=TLSRPTv1;rua=", []),
        ("", []),
    ],
)
def test_a_record(text, targets):
    """One record; what cannot be used is passed over, what is no record is none."""
    assert parse_records([text.encode()]) == tuple(targets)


GOOD = b"v=TLSRPTv1;rua=mailto:reports@example.com"


@pytest.mark.parametrize(
    ("texts", "targets"),
    [
        ([], ()),
        ([GOOD], (MAIL,)),
        ([b"v=spf1 -all", GOOD, b"v=TLSRPTv1.5;x=y"], (MAIL,)),
        ([GOOD, GOOD], ()),
        ([GOOD, b"v=TLSRPTv1;x"], ()),
        ([b"\xff\xfe", GOOD], (MAIL,)),
        ([b"v=TLSRPTv1;rua=mailto:\xe9@example.com"], ()),
    ],
)
def test_there_is_one_record_or_none(texts, targets):
    """RFC 8460 3: records of other things are discarded first; then exactly one must be left."""
    assert parse_records(texts) == targets


def test_destinations_are_bounded():
    """A record must not make us a cannon."""
    uris = ",".join(f"mailto:r{n}@example.com" for n in range(100))
    assert len(parse_records([f"v=TLSRPTv1;rua={uris}".encode()])) == MOST_TARGETS


pieces = st.sampled_from(
    [b"v=TLSRPTv1;", b"rua=", b"mailto:", b"https://", b"a@b.c", b"b.c", b":", b"/", b"%", b",", b";", b"=", b"[", b"]",
     b"!", b" ", b"\xc3\xa9", b"\0", b"@", b"?", b"#", b"x" * 300]
)  # fmt: skip


@given(st.lists(st.lists(pieces).map(b"".join) | st.binary(max_size=60).map(b"v=TLSRPTv1;".__add__), max_size=3))
def test_no_octets_do_harm(texts):
    """Whatever stands there, what comes out is an ASCII mailbox or a URL with a host name."""
    for target in parse_records(texts):
        match target:
            case Mail(address):
                assert address.is_ascii and address.domain and str(address).isprintable()
            case Post(host, port, uri):
                assert host.isascii() and 0 < port < 65536
                assert uri.isascii() and uri.isprintable() and " " not in uri
