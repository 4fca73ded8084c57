"""RFC 8904 and RFC 5782 as tables: names, patterns, and what each answer comes to."""

import ipaddress

import attrs
import dns.name
import dns.reversename
import pytest
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.checks.dnswl_rules import (
    Finding,
    ListSettings,
    client_of,
    complete,
    judge,
    parse_pattern,
    patterns,
    query_name,
    report,
    selftest_names,
)
from requiretls_mta.dns.answer import Status
from requiretls_mta.message.authres import AuthenticationResults, write
from tests.checks.answers import answer, failure

ZONE = "list.dnswl.example"
LIST = ListSettings(zone=ZONE, display_zone=ZONE)
ORG = ListSettings(zone="list.dnswl.org", display_zone="list.dnswl.org", accept=patterns(["127.0.[2..15].[0..3]"]))


@pytest.mark.parametrize(
    ("number", "client", "name"),
    [
        (3, "192.0.2.1", "1.2.0.192"),
        (7, "::ffff:192.0.2.1", "1.2.0.192"),
        (1, "2001:db8::2:1", "1.0.0.0.2" + ".0" * 19 + ".8.b.d.0.1.0.0.2"),
        (6, "2001:db8:1:2:3:4:567:89ab", "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2"),
    ],
)
def test_query_names(number, client, name):
    """Reversed octets, or nibbles; never those of RFC 8904's figure 2, which are another address's (scenario 2)."""
    assert query_name(client_of(client), ZONE) == f"{name}.{ZONE}."
    assert not name.startswith("1.0.0.0.2.0.0.0") or not name.endswith(".d.b.8.2.0.0.1")


@given(st.ip_addresses())
def test_names_agree_with_dnspython(client):
    """An independent implementation of reversed names."""
    client = client_of(str(client))
    if client is None:
        return
    origin = dns.name.from_text(ZONE)
    expected = dns.reversename.from_address(str(client), v4_origin=origin, v6_origin=origin)
    assert query_name(client, ZONE) == expected.to_text()


def test_the_entries_of_the_self_test():
    """RFC 5782 5: those of IPv6 are asked as nibbles, though the addresses are IPv4-mapped."""
    names = selftest_names(ZONE)
    assert names.listed == f"2.0.0.127.{ZONE}."
    assert names.unlisted == f"1.0.0.127.{ZONE}."
    assert names.listed_v6 == f"2.0.0.0.0.0.f.7.f.f.f.f{'.0' * 20}.{ZONE}."
    assert names.unlisted_v6 == f"1.0.0.0.0.0.f.7.f.f.f.f{'.0' * 20}.{ZONE}."


@pytest.mark.parametrize(
    "address",
    [
        None,
        "10.1.2.3",
        "127.0.0.1",
        "::1",
        "::",
        "0.0.0.0",
        "172.31.255.255",
        "192.168.0.1",
        "169.254.1.1",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:10.0.0.1",
    ],
)
def test_clients_that_no_list_knows(address):
    """Scenario 71: private, loopback, link-local, ULA and unspecified ones, mapped or not, and UNIX sockets."""
    assert client_of(address) is None


@pytest.mark.parametrize(
    "address", ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "172.32.0.1", "8.8.8.8"]
)
def test_documentation_networks_are_looked_up(address):
    """R6b: Python calls them private."""
    assert client_of(address) == ipaddress.ip_address(address)


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("127.0.0.2", ["127.0.0.2"], ["127.0.0.3", "127.0.1.2"]),
        ("127.0.[2..15].[1..3]", ["127.0.2.1", "127.0.15.3"], ["127.0.1.1", "127.0.16.1", "127.0.5.0", "127.0.5.4"]),
        ("&0.0.0.4", ["127.0.0.4", "127.0.0.6"], ["127.0.0.2", "127.0.0.3"]),
        ("&0.0.0.6", ["127.0.0.6", "127.0.0.7"], ["127.0.0.2", "127.0.0.4"]),
    ],
)
def test_patterns(pattern, good, bad):
    """RFC 5782 6: exact values, ranges, bit masks."""
    found = parse_pattern(pattern)
    assert [c for c in good + bad if found.matches(ipaddress.IPv4Address(c))] == good


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0",
        "127.0.0.256",
        "127.0.0.[3..2]",
        "127.0.0.[0..256]",
        "&0.0.0.[1..2]",
        "127.0.0.2.",
        "a.b.c.d",
        "127..0.2",
        "127.0.0.2 ",
        "::1",
        "127.0.0.[1.2]",
        "1.2.3.4.5",
    ],
)
def test_texts_that_are_no_pattern(text):
    """An error of the configuration."""
    with pytest.raises(ValueError, match="neither"):
        parse_pattern(text)


def unfolded(finding, settings=LIST):
    """The resinfo, unfolded."""
    field = write(AuthenticationResults("mta.example.org", (report(finding, settings),)))
    return field.decode().replace("\r\n", "").partition("; ")[2]


HERE = f"dns.zone={ZONE} dns.sec=na"
THERE = "dns.zone=list.dnswl.org dns.sec=na"
MASKED = attrs.evolve(LIST, accept=patterns(["&0.0.0.4"]))
TRUSTED = attrs.evolve(LIST, accept=patterns(["127.0.[2..15].[1..3]"]))
KARMA = attrs.evolve(LIST, accept=patterns(["127.0.0.1"]), selftest="off")


@pytest.mark.parametrize(
    ("number", "settings", "a", "expected"),
    [
        (3, LIST, answer("A", "127.0.0.2"), f"dnswl=pass {HERE} policy.ip=127.0.0.2"),
        (4, LIST, answer("A", rcode="NXDOMAIN"), f"dnswl=none {HERE}"),
        (5, LIST, answer("A"), f"dnswl=none {HERE}"),
        (8, LIST, failure("SERVFAIL"), f"dnswl=temperror reason=servfail {HERE}"),
        (9, LIST, failure("TIMEOUT"), f"dnswl=temperror reason=timeout {HERE}"),
        (9, LIST, failure("NETWORK"), f"dnswl=temperror reason=timeout {HERE}"),
        (10, LIST, failure("REFUSED"), f"dnswl=permerror reason=refused {HERE}"),
        (13, ORG, answer("A", "127.0.0.255"), f"dnswl=permerror reason=over-quota {THERE} policy.ip=127.0.0.255"),
        (
            14,
            ORG,
            answer("A", "127.255.255.254"),
            f"dnswl=permerror reason=over-quota {THERE} policy.ip=127.255.255.254",
        ),
        (
            15,
            LIST,
            answer("A", "127.255.255.252"),
            f"dnswl=permerror reason=over-quota {HERE} policy.ip=127.255.255.252",
        ),
        (
            16,
            LIST,
            answer("A", "127.0.5.3", "127.0.0.255"),
            f'dnswl=permerror reason=over-quota {HERE} policy.ip="127.0.0.255,127.0.5.3"',
        ),
        (26, LIST, answer("A", "93.184.216.34"), f"dnswl=permerror reason=bad-answer {HERE}"),
        (27, LIST, answer("A", "127.0.0.2", "10.0.0.1"), f"dnswl=permerror reason=bad-answer {HERE}"),
        (
            28,
            LIST,
            answer("A", "127.0.1.2", "127.0.1.1", "127.0.1.1"),
            f'dnswl=pass {HERE} policy.ip="127.0.1.1,127.0.1.2"',
        ),
        (0, LIST, answer("A", *(f"127.0.1.{n}" for n in range(21))), f"dnswl=permerror reason=bad-answer {HERE}"),
        (29, TRUSTED, answer("A", "127.0.5.0"), f"dnswl=none {HERE}"),
        (30, MASKED, answer("A", "127.0.0.6"), f"dnswl=pass {HERE} policy.ip=127.0.0.6"),
        (30, MASKED, answer("A", "127.0.0.2"), f"dnswl=none {HERE}"),
        (31, KARMA, answer("A", "127.0.0.1"), f"dnswl=pass {HERE} policy.ip=127.0.0.1"),
        (31, KARMA, answer("A", "127.0.0.2"), f"dnswl=none {HERE}"),
        (56, LIST, failure("SERVFAIL", status=Status.BOGUS, ede=(6,)), f"dnswl=temperror reason=bogus {HERE}"),
        (57, LIST, failure("SERVFAIL", ede=(32,)), f"dnswl=permerror reason=over-quota {HERE}"),
        (57, LIST, failure("REFUSED", ede=(32,)), f"dnswl=permerror reason=over-quota {HERE}"),
        (58, LIST, answer("A", "127.0.0.2", ede=(17,)), f"dnswl=permerror reason=filtered {HERE}"),
        (58, LIST, answer("A", rcode="NXDOMAIN", ede=(15,)), f"dnswl=permerror reason=filtered {HERE}"),
        (63, LIST, failure("MALFORMED"), f"dnswl=temperror reason=malformed {HERE}"),
        (0, LIST, failure("SERVFAIL", ede=(31,)), f"dnswl=temperror reason=servfail {HERE}"),
        (0, LIST, failure("NOTIMP"), f"dnswl=temperror reason=servfail {HERE}"),
        (0, LIST, answer("A", "127.0.0.2", ede=(3,)), f"dnswl=pass {HERE} policy.ip=127.0.0.2"),
    ],
)
def test_results(number, settings, a, expected):
    """Scenarios of one answer to the A question, by number."""
    finding = complete(judge(a, settings), a, answer("TXT"), settings, validating=False)
    assert unfolded(finding, settings) == expected


A, TXT = "127.0.0.2", b"a.example"
MIRROR = attrs.evolve(LIST, zone="dnswl.local")


@pytest.mark.parametrize(
    "case",
    [
        (49, MIRROR, answer("A", A, secure=True), answer("TXT", TXT, secure=True), True, "na", True),
        (50, LIST, answer("A", A, secure=True), answer("TXT", TXT, secure=True), True, "yes", True),
        (51, LIST, answer("A", A, secure=True), answer("TXT", TXT), True, "no", True),
        (52, LIST, answer("A", A), answer("TXT", TXT, secure=True), True, "no", True),
        (53, LIST, answer("A", rcode="NXDOMAIN", secure=True), None, True, "yes", False),
        (54, LIST, answer("A", A), answer("TXT", TXT), False, "na", True),
        (48, LIST, answer("A", A), failure("SERVFAIL"), True, "no", False),
        (48, LIST, answer("A", A, secure=True), None, True, "yes", False),
        (0, LIST, answer("A", A, secure=True), answer("TXT", b"\xff"), True, "yes", False),
        (0, LIST, answer("A", "127.0.0.255", secure=True), answer("TXT", TXT, secure=True), True, "na", False),
        (0, LIST, failure("REFUSED"), None, True, "na", False),
        (0, attrs.evolve(LIST, txt="off"), answer("A", A, secure=True), answer("TXT", TXT), True, "yes", False),
    ],
)
def test_how_sure_and_with_what_text(case):
    """dns.sec is of what is reported: a text that is left out does not count (R40 to R43)."""
    _, settings, a, txt, validating, sec, text = case
    finding = complete(judge(a, settings), a, txt, settings, validating=validating)
    assert finding.sec == sec
    assert (finding.text is not None) == text


def test_the_field_of_rfc_8904():
    """Scenario 1, and 83: the zone that is queried is not shown."""
    keyed = attrs.evolve(LIST, zone=f"abc123key.{ZONE}")
    a, txt = answer("A", "127.0.10.1"), answer("TXT", b"fwd.example https://dnswl.example/?d=fwd.example")
    told = f'dnswl=pass {HERE} policy.ip=127.0.10.1 policy.txt="fwd.example https://dnswl.example/?d=fwd.example"'
    for settings in (LIST, keyed):
        assert unfolded(complete(judge(a, settings), a, txt, settings, validating=False), settings) == told


@pytest.mark.parametrize(
    ("zone", "display_zone", "text", "is_shown"),
    [
        ("abc123key.wl.example", "wl.example", "a.example of 1.2.0.192.ABC123key.wl.example", False),
        ("qhzqaacotgzsxj2gpoyuhzcd24.dq.example", "wl.example", "a.example qhzqaacotgzsxj2gpoyuhzcd24", False),
        ("abc123key.wl.example", "wl.example", "a.example of wl.example", True),
        ("dnswl.local", "list.dnswl.org", "a.example https://dnswl.org/s/?s=1", True),
        ("dnswl.org", "list.dnswl.org", "a.example https://dnswl.org/s/?s=1", True),
        ("a1b2c3d4e5f6g7h8.example", "a1b2c3d4e5f6g7h8.example", "a1b2c3d4e5f6g7h8.example", True),
    ],
)  # fmt: skip
def test_a_text_does_not_tell_what_display_zone_hides(zone, display_zone, text, is_shown):
    """Lists that repeat what they were asked; what is shown anyway is no secret."""
    settings = attrs.evolve(LIST, zone=zone, display_zone=display_zone)
    a = answer("A", "127.0.0.2")
    found = complete(judge(a, settings), a, answer("TXT", text.encode()), settings, validating=False)
    assert (found.text is not None) == is_shown


def test_which_passes_save_a_client_from_spf():
    """Scenario 81: a pass without trust does not, nor does an error with a good code beside it."""
    settings = attrs.evolve(ORG, override_spf=patterns(["127.0.[2..15].[1..3]"]))
    codes = [["127.0.5.1"], ["127.0.5.0"], ["127.0.5.1", "127.0.0.255"]]
    assert [judge(answer("A", *c), settings).overrides_spf(settings) for c in codes] == [True, False, False]
    assert not judge(answer("A", "127.0.5.1"), ORG).overrides_spf(ORG)


@given(st.lists(st.ip_addresses(v=4).map(str) | st.sampled_from(["127.0.0.2", "127.0.0.255"]), max_size=4))
def test_never_a_pass_without_a_code_of_127(addresses):
    """Scenario 88, the rule's part."""
    finding = judge(answer("A", *addresses), LIST)
    assert isinstance(finding, Finding)
    if finding.result == "pass":
        assert all(a.startswith("127.") for a in addresses)
        assert "127.0.0.255" not in addresses
    elif not addresses:
        assert finding == Finding(result="none")
