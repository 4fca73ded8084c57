"""TLSA records: where they are asked for, which name they belong to, and what a failed look-up means."""

import pytest

from requiretls_mta.dns.answer import Status
from requiretls_mta.relay.lookup import LookupSettings, RouteFinder
from requiretls_mta.relay.route import Host, HostAddress
from requiretls_mta.tls.elements import DANE
from tests.relay.fakes import FakeResolver

DIGEST = "ab" * 32
GOOD = [f"3 1 1 {DIGEST}"]
SERVFAIL = {"status": Status.FAILURE, "rcode": "SERVFAIL", "detail": "no\x1bserver"}
BOGUS = {"status": Status.BOGUS, "rcode": "SERVFAIL"}
INSECURE = {"status": Status.INSECURE, "rcode": "NOERROR"}
SECURE, PLAIN = HostAddress(address="192.0.2.1", secure=True), HostAddress(address="192.0.2.2", secure=False)


def at(canonical, *, secure=True):
    return HostAddress(address="192.0.2.3", secure=secure, canonical=canonical)


def look_up(table, *addresses, settings=None, **host):
    resolver = FakeResolver(table)
    finder = RouteFinder(resolver, lambda: settings or LookupSettings())
    got = []
    finder.tlsa(Host(name=host.pop("name", "mx.test"), **host), addresses).addCallback(got.append)
    return got[0], resolver.asked


def test_records_of_a_host_in_a_signed_zone():
    """At the port that is connected to; the host is the base domain."""
    found, asked = look_up({("_25._tcp.mx.test", "TLSA"): GOOD}, SECURE)
    assert (found.base, found.state, [str(r) for r in found.records]) == ("mx.test", DANE.USABLE, GOOD)
    assert asked == [("_25._tcp.mx.test", "TLSA")]
    found, asked = look_up({}, SECURE, port=2525)
    assert found.state is DANE.NONE and asked == [("_2525._tcp.mx.test", "TLSA")]


@pytest.mark.parametrize(
    ("addresses", "host", "settings"),
    [
        ([PLAIN], {}, None),  # C17: an unsigned zone
        ([at("mx.test", secure=False)], {}, None),
        ([SECURE], {"name": "[192.0.2.1]"}, None),
        ([SECURE], {"name": "2001:db8::1"}, None),
        ([SECURE], {"name": "/run/lmtp", "protocol": "lmtp"}, None),
        ([SECURE], {}, LookupSettings(dane=False)),
        ([SECURE], {"name": ".".join(["a" * 60] * 4) + ".test"}, None),
    ],
)
def test_nobody_is_asked(addresses, host, settings):
    """RFC 7672 2.2.2: unsigned addresses, no name at all, or switched off."""
    assert look_up({}, *addresses, settings=settings, **host) == (look_up({})[0], [])


def test_one_signed_address_is_enough():
    """C19: the other family may be insecure, or not to be had."""
    found, _ = look_up({("_25._tcp.mx.test", "TLSA"): GOOD}, PLAIN, SECURE)
    assert found.state is DANE.USABLE


@pytest.mark.parametrize("failure", [SERVFAIL, BOGUS])
def test_a_failed_look_up_is_no_denial(failure):
    """C16; RFC 7672 2.1.2: not known, with the reason, its octets escaped."""
    found, _ = look_up({("_25._tcp.mx.test", "TLSA"): failure}, SECURE)
    assert found.state is DANE.UNKNOWN and found.problem.isprintable()


def test_insecure_records_do_not_count():
    """An unsigned TLSA zone below a signed host, or an alias into one."""
    table = {("_25._tcp.mx.test", "TLSA"): {**INSECURE, "records": ("x",)}}
    assert look_up(table, SECURE)[0].state is DANE.NONE


def test_an_alias_in_signed_zones_has_two_names():
    """C20; RFC 7672 2.2.3: the end of the chain first, then the name that the MX record holds."""
    table = {("_25._tcp.end.test", "TLSA"): GOOD, ("_25._tcp.mx.test", "TLSA"): ["2 0 1 " + DIGEST]}
    assert look_up(table, at("end.test"))[0].base == "end.test"
    del table["_25._tcp.end.test", "TLSA"]
    found, asked = look_up(table, at("end.test"))
    assert found.base == "mx.test" and [name for name, _ in asked] == ["_25._tcp.end.test", "_25._tcp.mx.test"]
    assert look_up({("_25._tcp.end.test", "TLSA"): SERVFAIL, **table}, at("end.test"))[0].state is DANE.UNKNOWN
    assert look_up({}, at("not\\032a.host"))[1] == [("_25._tcp.mx.test", "TLSA")]


def test_an_alias_out_of_signed_zones():
    """C20; RFC 7672 2.2.2, insecure CNAME: the name that the MX record holds, if its own zone is signed."""
    away = at("far.test", secure=False)
    table = {("mx.test", "CNAME"): ["far.test."], ("_25._tcp.mx.test", "TLSA"): GOOD}
    found, asked = look_up(table, away)
    assert found.base == "mx.test" and ("_25._tcp.far.test", "TLSA") not in asked
    assert look_up({**table, ("mx.test", "CNAME"): INSECURE}, away) == (look_up({})[0], [("mx.test", "CNAME")])
    assert look_up({**table, ("mx.test", "CNAME"): BOGUS}, away)[0].state is DANE.UNKNOWN


def test_names_that_a_certificate_may_bear():
    """RFC 7672 3.2.2: base domain, MX host, next-hop domain and its alias target, each once."""
    found, _ = look_up({("_25._tcp.end.test", "TLSA"): GOOD}, at("end.test"))
    host = Host(name="mx.test", next_hops=("a.test", "b.test"), tlsa=found)
    assert host.names == ("end.test", "mx.test", "a.test", "b.test") and host.server_name == "end.test"
    assert Host(name="a.test", next_hops=("a.test",)).names == ("a.test",)
