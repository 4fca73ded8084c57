"""The PROXY header: what it says, what is none, and that no octets do harm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.smtp.proxy import Header, Malformed, ProxiedAddress, parse_header
from tests.smtp.headers import SIGNATURE, tlv, v1, v2, with_checksum

FULL = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
NOBODY = ProxiedAddress()
UNIX = b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0")
HEADERS = [
    # Version 1: the examples of proxy-protocol.txt and the ends of its ranges.
    (b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", ProxiedAddress("192.168.0.1", 56324)),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", ProxiedAddress("255.255.255.255", 65535)),
    (f"PROXY TCP6 {FULL} {FULL} 65535 65535\r\n".encode(), ProxiedAddress(FULL, 65535)),
    (b"PROXY TCP6 2001:DB8::1 :: 0 0\r\n", ProxiedAddress("2001:db8::1", 0)),
    (b"PROXY UNKNOWN\r\n", NOBODY),
    (f"PROXY UNKNOWN {FULL} {FULL} 65535 65535\r\n".encode(), NOBODY),
    (b"PROXY UNKNOWN what ever\r\n", NOBODY),
    # Version 2.
    (v2("192.0.2.1", 1), ProxiedAddress("192.0.2.1", 1)),
    (v2("2001:db8::1", 65535), ProxiedAddress("2001:db8::1", 65535)),
    (v2("192.0.2.1", tlvs=tlv(1, b"smtp") + tlv(4, b"") + tlv(0xE0, bytes(300))), ProxiedAddress("192.0.2.1", 40000)),
    (v2("2001:db8::1", tlvs=tlv(0x20, b"\x01\0\0\0\0" + tlv(0x21, b"TLSv1.3"))), ProxiedAddress("2001:db8::1", 40000)),
    (with_checksum("192.0.2.1"), ProxiedAddress("192.0.2.1", 40000)),
    (with_checksum("2001:db8::1", tlv(1, b"smtp"), behind=tlv(5, b"id")), ProxiedAddress("2001:db8::1", 40000)),
    (v2("192.0.2.1", tlvs=tlv(4, bytes(4096 - 12 - 3))), ProxiedAddress("192.0.2.1", 40000)),
    (v2(block=UNIX, family=0x31), NOBODY),
    (v2(), NOBODY),
    (v2(block=b"any", family=0x00), NOBODY),
    # Datagrams, and the family without its protocol: the fallback that the specification asks for.
    (v2("192.0.2.1", family=0x12), NOBODY),
    (v2("2001:db8::1", family=0x22), NOBODY),
    (v2("192.0.2.1", family=0x10), NOBODY),
    (v2(block=b"short", family=0x32), NOBODY),
    # LOCAL: the block is skipped, whatever it is.
    (v2(command=0x20), NOBODY),
    (v2("192.0.2.1", command=0x20), NOBODY),
    (v2(command=0x20, family=0xFF, block=b"\xff" * 9), NOBODY),
]
LINES = [
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
    b"PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
    b"PROXY\tTCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\nX\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\rX\r\n",
    b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 mx.test 1 2\r\n",
    b"PROXY TCP4 ::1 ::2 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 ::2 1 2\r\n",
    b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
    b"PROXY TCP6 ::1::2 ::2 1 2\r\n",
    b"PROXY TCP6 [::1] ::2 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1_0 2\r\n",
    "PROXY TCP4 192.0.2.1 192.0.2.2 ١ 2\r\n".encode(),
    b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
    b"PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n",
    b"PROXY UNKNOWN\nEHLO x.example\r\n",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY \r\n",
    b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    b"PROXY " + b"x" * 101,
    b"PROXX",
    b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    b"EHLO x.example\r\n",
    b"\x16\x03\x01\x02\x00",
    b" ",
    b"\r\n\r\n\r\n",
]
BLOCKS = [
    SIGNATURE[:-1] + b"\r",
    v2("192.0.2.1", command=0x11),
    v2("192.0.2.1", command=0x22),
    v2("192.0.2.1", command=0x2F),
    v2("192.0.2.1", family=0x13),
    v2("192.0.2.1", family=0x41),
    v2(block=b"\xc0\0\2\1" * 2 + b"\0\1\0", family=0x11),
    v2("192.0.2.1", family=0x21),
    v2(block=UNIX[:-1], family=0x31),
    v2("192.0.2.1", tlvs=b"\x01"),
    v2("192.0.2.1", tlvs=b"\x01\0"),
    v2("192.0.2.1", tlvs=tlv(1, b"smtp")[:-1]),
    v2("192.0.2.1", tlvs=tlv(3, b"\0\0\0\0")),
    v2("192.0.2.1", tlvs=tlv(3, b"\0\0\0")),
    v2("192.0.2.1", tlvs=tlv(3, b"")),
    with_checksum("192.0.2.1", tlv(3, bytes(4))),
    with_checksum("192.0.2.1").replace(b"\xc0\0\2\1", b"\xc0\0\2\2", 1),
    v2("192.0.2.1", tlvs=tlv(4, bytes(4096 - 12 - 2))),
    v2(command=0x20, block=bytes(4097), family=0)[:16],
]


@pytest.mark.parametrize(("octets", "address"), HEADERS)
def test_headers(octets, address):
    """The address that is claimed; what stands behind the header is not looked at."""
    for behind in (b"", b"\r\n", b"EHLO x.example\r\n", octets):
        assert parse_header(octets + behind) == parse_header(bytearray(octets + behind)) == Header(address, len(octets))


@pytest.mark.parametrize(("octets", "address"), HEADERS)
def test_every_beginning_of_a_header_waits_for_the_rest(octets, address):
    """Nothing is said before the last octet."""
    assert all(parse_header(octets[:length]) is None for length in range(len(octets)))


@pytest.mark.parametrize("octets", LINES + BLOCKS)
def test_what_is_no_header(octets):
    """Refused, and said so for good."""
    assert isinstance(parse_header(octets), Malformed)
    assert isinstance(parse_header(octets + b"x"), Malformed)


def test_a_lone_signature_is_awaited():
    """The octet that tells the versions apart may be the last to come."""
    assert parse_header(b"") is None
    assert parse_header(b"\r") is None
    assert parse_header(b"PROX") is None


@given(st.binary(max_size=200), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11\0"]))
def test_no_octets_do_harm(octets, start):
    """An answer for everything, within the octets that there are; more octets never change one that was final."""
    octets = start + octets
    answer = parse_header(octets)
    if isinstance(answer, Header):
        assert 0 < answer.size <= len(octets)
    for length in range(len(octets)):
        earlier = parse_header(octets[:length])
        assert earlier is None or type(earlier) is type(answer)
        if isinstance(earlier, Header):
            assert earlier == answer


@given(st.ip_addresses(), st.integers(0, 65535))
def test_any_address(address, port):
    """Both versions bring each address over."""
    for octets in (v1(str(address), port), v2(str(address), port)):
        assert parse_header(octets) == Header(ProxiedAddress(str(address), port), len(octets))


@pytest.mark.parametrize(("start", "most"), [(b"PROXY ", 106), (SIGNATURE + b"\x21\x11\x10\x00", 16 + 4095)])
def test_what_is_awaited_is_bounded(start, most):
    """A header that does not end is given up."""
    assert parse_header(start.ljust(most, b"x")) is None
    assert parse_header(start.ljust(most + 1, b"x")) is not None
