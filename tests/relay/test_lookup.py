"""Routes: MX records and their security, what stands in for them, and where mail would only come back to us."""

import random

import pytest

from requiretls_mta.dns.answer import Status
from requiretls_mta.message.outcome import Cause
from requiretls_mta.relay.lookup import LookupSettings, RouteFinder
from requiretls_mta.relay.route import Host, NoPolicy, NoRoute, Route
from requiretls_mta.relay.static_routes import RouteError, StaticRoute, parse_route, route_for
from requiretls_mta.tls.elements import STS, MXSecurity
from tests.relay.fakes import FakePolicies, FakePolicy, FakeResolver

NXDOMAIN = {"status": Status.SECURE, "rcode": "NXDOMAIN"}
SERVFAIL = {"status": Status.FAILURE, "rcode": "SERVFAIL"}
BOGUS = {"status": Status.BOGUS, "rcode": "SERVFAIL"}


def find(domain, table, settings=None, status=Status.SECURE, seed=1):
    finder = RouteFinder(FakeResolver(table, status), lambda: settings or LookupSettings(), random.Random(seed))
    got = []
    finder.find(domain).addCallback(got.append)
    return got[0]


def names(route):
    assert isinstance(route, Route), route
    return [host.name for host in route.hosts]


def test_mx_hosts_come_by_preference_and_equals_in_random_order():
    """RFC 5321 5.1; hosts in lower case, each bearing the security of the look-up."""
    table = {("a.test", "MX"): ["20 C.test.", "10 b1.test.", "10 b2.test."]}
    orders = {tuple(names(find("a.test", table, seed=seed))) for seed in range(20)}
    assert orders == {("b1.test", "b2.test", "c.test"), ("b2.test", "b1.test", "c.test")}
    assert {h.mx_security for h in find("a.test", table).hosts} == {MXSecurity.DNSSEC}
    assert {h.mx_security for h in find("a.test", table, status=Status.INSECURE).hosts} == {MXSecurity.NONE}


def test_without_mx_records_the_domain_is_the_host():
    """C30: secure only where the denial is."""
    assert find("a.test", {}).hosts == (Host(name="a.test", mx_security=MXSecurity.DNSSEC, next_hops=("a.test",)),)
    assert find("a.test", {}, status=Status.INSECURE).hosts[0].mx_security is MXSecurity.NONE


@pytest.mark.parametrize(
    ("answer", "code", "enhanced"),
    [
        (["0 ."], 556, "5.1.10"),  # C31
        (NXDOMAIN, 550, "5.1.2"),
        (SERVFAIL, 451, "4.4.3"),  # C15
        (BOGUS, 451, "4.7.5"),
        (["10 bad\\032name.test."], 550, "5.4.4"),
        (["10 192.0.2.1."], 550, "5.4.4"),
        (["10 mx.own.test.", "20 b.test."], 554, "5.4.6"),
    ],
)
def test_where_there_is_no_route(answer, code, enhanced):
    """Null MX, no such domain, a look-up that failed, names that are none, and ourselves as the best."""
    settings = LookupSettings(own_names=frozenset({"mx.own.test"}))
    got = find("a.test", {("a.test", "MX"): answer}, settings)
    assert isinstance(got, NoRoute)
    assert (got.reply.code, got.reply.enhanced) == (code, enhanced)
    assert got.cause.temporary == (code == 451)


def test_our_own_record_takes_those_no_better_along():
    """RFC 5321 5.1, by name and by an address and port on which we listen."""
    table = {
        ("a.test", "MX"): ["5 best.test.", "10 mx.own.test.", "10 equal.test.", "20 worse.test."],
        ("worse.test", "A"): ["192.0.2.9"],
        ("equal.test", "A"): ["192.0.2.8"],
    }
    by_name = LookupSettings(own_names=frozenset({"mx.own.test"}))
    assert names(find("a.test", table, by_name)) == ["best.test"]
    by_address = LookupSettings(own_addresses=frozenset({("192.0.2.9", 25)}))
    assert names(find("a.test", table, by_address))[-1] in ("mx.own.test", "equal.test")
    assert len(find("a.test", table, LookupSettings(own_addresses=frozenset({("192.0.2.8", 25)}))).hosts) == 1


def test_literals_and_idns():
    """C32: a literal needs no look-up; an IDN is asked by its A-labels; nonsense is no domain."""
    assert find("[192.0.2.1]", {}).hosts[0].mx_security is MXSecurity.NOT_APPLICABLE
    assert find("[IPv6:2001:db8::1]", {}).hosts[0].name == "[IPv6:2001:db8::1]"
    assert find("[nonsense]", {}).reply.enhanced == "5.1.2"
    assert names(find("bücher.test", {("xn--bcher-kva.test", "MX"): ["1 m.test."]})) == ["m.test"]


def test_static_routes():
    """`[host]` is no look-up, a bare domain is one; the nearest key wins; `*` is the last."""
    routes = {
        "a.test": parse_route("smtp:[mail.a.test]:2525"),
        ".b.test": parse_route("smtps:b-hub.test"),
        "*": parse_route("lmtp:unix:/run/lmtp"),
    }
    settings = LookupSettings(static=routes)
    host = find("A.test", {}, settings).hosts[0]
    assert (host.name, host.port, host.mx_security) == ("mail.a.test", 2525, MXSecurity.NOT_APPLICABLE)
    through = find("x.b.test", {("b-hub.test", "MX"): ["1 m.test."]}, settings)
    assert [(h.name, h.port, h.protocol) for h in through.hosts] == [("m.test", 465, "smtps")]
    other = find("b.test", {}, settings)
    assert other.local and other.hosts[0].is_socket
    assert route_for("c.d.test", {}) is None


@pytest.mark.parametrize(
    "text", ["", "smtp", "http:[a.test]", "smtp:[a b]", "smtp:[a.test]:0", "smtp:[a.test]:99999", "smtp:a:b:c"]
)
def test_a_bad_route_is_named(text):
    """The error quotes what was found."""
    with pytest.raises(RouteError, match=r"is no route|is not between|host name"):
        parse_route(text)


def test_route_text_forms():
    """Ports by protocol; IPv6 literals in brackets."""
    assert parse_route("smtp:[a.test]") == StaticRoute(protocol="smtp", host="a.test", port=25, lookup=False)
    assert parse_route("lmtp:[127.0.0.1]:24").port == 24
    assert parse_route("smtp:[2001:db8::1]:26").host == "2001:db8::1"


def addresses(table, name="m.test", status=Status.SECURE):
    got = []
    RouteFinder(FakeResolver(table, status), LookupSettings).addresses(Host(name=name)).addCallback(got.append)
    return got[0]


def test_addresses_of_both_families_in_turn():
    """IPv6 and IPv4 interleaved; one family's failure does not hide the other (C19)."""
    table = {("m.test", "A"): ["192.0.2.1", "192.0.2.2"], ("m.test", "AAAA"): ["2001:db8::1"]}
    assert [a.address for a in addresses(table)] == ["2001:db8::1", "192.0.2.1", "192.0.2.2"]
    assert [a.address for a in addresses(table | {("m.test", "AAAA"): SERVFAIL})] == ["192.0.2.1", "192.0.2.2"]
    assert [a.address for a in addresses({}, "[192.0.2.7]")] == ["192.0.2.7"]
    assert [a.address for a in addresses({}, "2001:db8::9")] == ["2001:db8::9"]
    assert addresses({("m.test", "A"): ["0.0.0.0"]}).reply.enhanced == "5.4.4"


def test_no_address_is_definite_only_if_both_answers_are():
    """A failed look-up is temporary."""
    assert isinstance(addresses({}), Cause)
    assert not addresses({}).temporary
    assert addresses({("m.test", "AAAA"): SERVFAIL}).temporary
    assert addresses({("m.test", "A"): BOGUS}).reply.enhanced == "4.7.5"


def standing(policy, status=Status.INSECURE, *, testing=False, domain="a.test"):
    """How two hosts stand under the policy of their domain."""
    table = {("a.test", "MX"): ["10 m1.test.", "20 m2.test."]}
    settings = LookupSettings(testing_vouches=testing)
    policies = FakePolicies({"a.test": policy})
    finder = RouteFinder(FakeResolver(table, status), lambda: settings, policies=policies)
    got = []
    finder.find(domain).addCallback(got.append)
    assert got[0].policy is policy and policies.asked == ["a.test"]
    return [(host.mx_security, host.sts) for host in got[0].hosts]


def test_a_policy_vouches_for_the_hosts_it_lists():
    """RFC 8689 4.2.1 (2): DNSSEC, else MTA-STS in enforce mode; in testing mode only where the operator says so."""
    none, sts, dnssec = MXSecurity.NONE, MXSecurity.MTA_STS, MXSecurity.DNSSEC
    assert standing(FakePolicy("enforce", "m2.test")) == [(none, STS.UNLISTED), (sts, STS.ENFORCED)]
    assert standing(FakePolicy("enforce", "m2.test"), Status.SECURE) == [
        (dnssec, STS.UNLISTED),
        (dnssec, STS.ENFORCED),
    ]
    assert standing(FakePolicy("testing", "m2.test")) == [(none, STS.NONE)] * 2
    assert standing(FakePolicy("testing", "m2.test"), testing=True) == [(none, STS.NONE), (sts, STS.VOUCHES)]
    assert standing(FakePolicy("none", "m2.test"), testing=True) == [(none, STS.NONE)] * 2
    assert standing(NoPolicy()) == [(none, STS.NONE)] * 2
    assert standing(NoPolicy(problem="x", temporary=True)) == [(none, STS.UNAVAILABLE)] * 2


def test_whose_policy_counts():
    """RFC 8461 3.4: that of the next hop; of a `[host]` route, a literal, or for TLS-optional mail none."""
    policies = FakePolicies({})
    settings = LookupSettings(static={"a.test": parse_route("smtp:hub.test"), "b.test": parse_route("smtp:[b.test]")})
    finder = RouteFinder(FakeResolver(), lambda: settings, policies=policies)
    for domain in ("x.test", "A.test", "b.test", "[192.0.2.1]"):
        finder.find(domain)
    finder.find("y.test", policy=False)
    assert policies.asked == ["x.test", "hub.test"]


def test_a_route_under_a_newer_policy():
    """RFC 8461 5.1 (3): what was unlisted is listed; the policy that holds still changes nothing."""
    old, new = FakePolicy("enforce", "other.test"), FakePolicy("enforce", "a.test")
    for newer, expected in ((new, MXSecurity.MTA_STS), (NoPolicy(), MXSecurity.NONE), (None, None)):
        policies = FakePolicies({"a.test": old}, newer)
        finder = RouteFinder(FakeResolver({}, Status.INSECURE), LookupSettings, policies=policies)
        got = []
        finder.find("a.test").addCallback(got.append)
        assert got[0].hosts[0].sts is STS.UNLISTED
        finder.renewed(got[0]).addCallback(got.append)
        assert (got[1] and got[1].hosts[0].mx_security) == expected
    found = []
    RouteFinder(FakeResolver(), LookupSettings).renewed(got[0]).addCallback(found.append)
    assert found == [None]
