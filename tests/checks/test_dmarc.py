"""DMARC: whose name a message bears, what that domain wishes, and what speaks for it."""

import contextlib
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from requiretls_mta.checks.dkim import DKIMVerdict
from requiretls_mta.checks.dkim_rules import Finding as DKIMFinding
from requiretls_mta.checks.dkim_rules import Unusable, parse_signature
from requiretls_mta.checks.dmarc import PATIENCE, DMARCCheck, organization
from requiretls_mta.checks.dmarc_rules import BadFrom, addresses, author_domains, read_policy
from requiretls_mta.checks.interfaces import Client, Subject, Tools, Verdict
from requiretls_mta.checks.spf import SPFVerdict, identity_of
from requiretls_mta.checks.spf_rules import Outcome
from requiretls_mta.message.address import Address
from requiretls_mta.message.authres import show_result
from requiretls_mta.message.header import Field
from tests.checks.answers import answer, failure
from tests.checks.fakes import FakeResolver, RecordedEvents

FROM = b"From: Anna <anna@news.far.example>\r\n"
SUBDOMAIN, DOMAIN = "_dmarc.news.far.example.", "_dmarc.far.example."


def spf(result, domain):
    identity = identity_of(ipaddress.ip_address("192.0.2.1"), Address("bounce", domain), "x.example")
    return SPFVerdict(check="spf", identity=identity, outcome=Outcome(result=result))


def dkim(*findings):
    found = []
    for result, domain in findings:
        value = f"v=1; a=rsa-sha256; d={domain}; s=s; h=from; bh=AAAA; b=AAAA".encode()
        found.append(DKIMFinding(result, None, parse_signature(Field(b"dkim-signature", value, 0, 0))))
    return DKIMVerdict(check="dkim", findings=tuple(found))


class Bench:
    def __init__(self, action="reject", records=None, chance=0.0):
        self.clock, self.resolver = Clock(), FakeResolver()
        for name, text in (records or {}).items():
            self.resolver.on(name, "TXT", answer("TXT", text.encode()))
        tools = Tools(
            clock=self.clock,
            resolver=self.resolver,
            events=RecordedEvents(),
            settings={"dmarc": action if action != "off" else None}.get,
        )
        self.check = DMARCCheck(tools, chance=lambda: chance)

    def begin(self, *verdicts, header=FROM):
        subject = Subject(client=Client(session="s", address="192.0.2.1"), header=header, verdicts=verdicts)
        return self.check.begin(subject)

    def verdict(self, *verdicts, **options):
        begun = self.begin(*verdicts, **options)
        return begun.result if isinstance(begun, Deferred) else begun

    def told(self, *verdicts, **options):
        """What is written, and the code of the refusal."""
        verdict = self.verdict(*verdicts, **options)
        shown = "; ".join(map(show_result, verdict.results))
        return shown.replace(" header.from=news.far.example", ""), verdict.refusal and verdict.refusal.code


@pytest.mark.parametrize(
    ("record", "verdicts", "result"),
    [
        ("p=reject", [spf("pass", "far.example")], "pass"),
        ("p=reject", [spf("pass", "mail.far.example")], "pass"),
        ("p=reject; aspf=s", [spf("pass", "far.example")], "fail (p=reject)"),
        ("p=reject; aspf=s", [spf("pass", "news.far.example")], "pass"),
        ("p=reject", [spf("pass", "far.example.evil.example")], "fail (p=reject)"),
        ("p=reject", [spf("softfail", "far.example")], "fail (p=reject)"),
        ("p=reject", [dkim(("fail", "far.example"), ("pass", "far.example"))], "pass"),
        ("p=reject; adkim=s", [dkim(("pass", "far.example"))], "fail (p=reject)"),
        ("p=reject", [dkim(("pass", "evil.example"))], "fail (p=reject)"),
        ("p=reject", [dkim(("policy", "far.example"))], "fail (p=reject)"),
        ("p=reject", [spf("fail", "far.example"), dkim(("pass", "far.example"))], "pass"),
        ("p=quarantine", [], "fail (p=quarantine)"),
        ("p=none", [spf("none", "far.example"), dkim()], "fail (p=none)"),
    ],
)
def test_alignment(record, verdicts, result):
    """RFC 7489 3.1: SPF or DKIM have to pass for the domain, or, relaxed, for its organization."""
    shown, refusal = Bench(records={SUBDOMAIN: f"v=DMARC1; {record}"}).told(*verdicts)
    assert shown == f"dmarc={result}"
    assert refusal == (550 if result == "fail (p=reject)" else None)


def test_the_organization_s_policy():
    """RFC 7489 6.6.3: where the domain has none; sp is for subdomains, p for those who have it themselves."""
    bench = Bench(records={DOMAIN: "v=DMARC1; p=reject; sp=quarantine"})
    assert bench.told() == ("dmarc=fail (p=quarantine)", None)
    assert bench.resolver.asked == [(SUBDOMAIN, "TXT"), (DOMAIN, "TXT")]
    assert bench.told(header=b"From: a@far.example\r\n")[1] == 550
    assert Bench().told() == ("dmarc=none", None)


def test_names_without_a_dot_have_no_policy():
    """A try-out on localhost needs no DNS."""
    bench = Bench()
    assert bench.told(header=b"From: me@localhost\r\n") == ("dmarc=none header.from=localhost", None)
    assert bench.resolver.asked == []


def test_the_reply_says_whose_policy_it_is():
    """RFC 7489 10.3."""
    verdict = Bench(records={SUBDOMAIN: "v=DMARC1; p=reject"}).verdict()
    assert str(verdict.refusal) == "550 5.7.1 Email rejected per DMARC policy for news.far.example"


def test_annotate_and_off():
    """Nobody is turned away, or nothing is asked."""
    assert Bench("annotate", {SUBDOMAIN: "v=DMARC1; p=reject"}).told() == ("dmarc=fail (p=reject)", None)
    bench = Bench("off")
    assert bench.begin() is None
    assert bench.resolver.asked == []


@pytest.mark.parametrize(("chance", "refusal"), [(0.0, 550), (0.29, 550), (0.3, None), (0.99, None)])
def test_pct_is_a_share(chance, refusal):
    """RFC 7489 6.3: the rest is not rejected."""
    assert Bench(records={SUBDOMAIN: "v=DMARC1; p=reject; pct=30"}, chance=chance).told()[1] == refusal


@pytest.mark.parametrize(
    ("record", "result"),
    [
        ("v=DMARC1", "permerror"),
        ("v=DMARC1; p=bogus", "permerror"),
        ("v=DMARC1; p=reject; sp=bogus", "permerror"),
        ("v=DMARC1; p=bogus; rua=mailto:a@far.example", "fail"),
        ("v=DMARC1; p=reject; nonsense", "permerror"),
        ("v=DMARC2; p=reject", "none"),
        ("v=DMARC10; p=reject", "none"),
        ("p=reject; v=DMARC1", "none"),
    ],
)
def test_policies_that_are_none(record, result):
    """RFC 7489 6.6.3."""
    shown, refusal = Bench(records={SUBDOMAIN: record}).told()
    assert shown.split(" ")[0] == f"dmarc={result}"
    assert refusal is None


def test_what_is_not_to_be_had_now():
    """A policy, or an SPF or DKIM that could have spoken for the domain: later, where it may be rejected."""
    bench = Bench()
    bench.resolver.on(SUBDOMAIN, "TXT", failure("SERVFAIL"))
    assert bench.told() == ('dmarc=temperror reason="policy not available"', 451)
    for policy, refusal in (("reject", 451), ("none", None)):
        bench = Bench(records={SUBDOMAIN: f"v=DMARC1; p={policy}"})
        assert bench.told(spf("temperror", "far.example"))[1] == refusal
        assert bench.told(dkim(("temperror", "far.example")))[1] == refusal
    bench = Bench(records={SUBDOMAIN: "v=DMARC1; p=reject"})
    assert bench.told(spf("temperror", "other.example"))[1] == 550
    assert bench.told(spf("fail", "far.example"), Verdict(check="dkim"))[1] == 451  # a mistake of ours
    bench = Bench()
    bench.resolver.on(SUBDOMAIN, "TXT", None)
    waiting = bench.begin()
    bench.clock.advance(PATIENCE)
    assert show_result(waiting.result.results[0]).startswith("dmarc=temperror")


def test_several_domains_in_from():
    """RFC 7489 6.6.1: each has its say, and the strictest counts."""
    bench = Bench(records={"_dmarc.b.example.": "v=DMARC1; p=reject", "_dmarc.a.example.": "v=DMARC1; p=none"})
    for header in (b"From: x@a.example, y@b.example\r\n", b"From: x@a.example\r\nFROM : <y@b.example>\r\n"):
        shown, refusal = bench.told(spf("pass", "a.example"), header=header)
        assert shown == "dmarc=pass header.from=a.example; dmarc=fail (p=reject) header.from=b.example"
        assert refusal == 550


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("a@x.example", ["x.example"]),
        ("Anna <a@x.example>", ["x.example"]),
        ('"Bank <b@bank.example>" <a@x.example>', ["x.example"]),
        ("(b@bank.example) a@x.example", ["x.example"]),
        ("Anna (<b@bank.example>) <a@X.Example>", ["x.example"]),
        ("<a@x.example> <b@y.example>", ["x.example", "y.example"]),
        ("Team: a@x.example, Bob <b@y.example>;", ["x.example", "y.example"]),
        ('"a@b"@x.example', ["x.example"]),
        ("<@relay.example:a@x.example>", ["x.example"]),
        ("a @ x . example", ["x.example"]),
        ("a@bücher.example.", ["xn--bcher-kva.example"]),
    ],
)
def test_the_domains_in_from(value, found):
    """Names, comments and quotes are not addresses; two addresses are two, whatever the grammar says."""
    assert author_domains(b"To: z@z.example\r\nFrom: " + value.encode() + b"\r\n") == found


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"Subject: x\r\n",
        b"From:\r\n",
        b"From: Anna\r\n",
        b"From: <anna>\r\n",
        b'From: "Anna <a@x.example>\r\n',
        b"From: (Anna <a@x.example>\r\n",
        b"From: <a@x..example>\r\n",
        b"From: \xff@\xff\r\n",
        b"From: " + b", ".join(b"a@d%d.example" % n for n in range(6)) + b"\r\n",
        b"From: " + b"x" * 20000 + b"@x.example\r\n",
        b"From: a@x.example\r\n" * 2000,
    ],
)
def test_in_nobody_s_name(header):
    """Where nobody can say whose name it bears, nobody's policy can be kept: refused where policies are enforced."""
    with pytest.raises(BadFrom):
        author_domains(header)
    shown, refusal = Bench().told(header=header)
    assert shown.startswith("dmarc=permerror reason=")
    assert refusal == 550
    assert Bench("annotate").told(header=header)[1] is None


def test_organizations():
    """RFC 7489 3.2, private suffixes included."""
    pairs = [("a.b.far.example", "far.example"), ("x.co.uk", "x.co.uk"), ("a.x.co.uk", "x.co.uk"), ("uk", "uk")]
    pairs += [("a.me.github.io", "me.github.io"), ("localhost", "localhost")]
    for domain, expected in pairs:
        assert organization(domain) == expected


@given(st.text(st.sampled_from('ab@<>()",;:\\ .[]ü'), max_size=60))
def test_any_from_is_read_or_refused(value):
    """Never another exception; the addresses are parts of the field."""
    addresses(value)
    with contextlib.suppress(BadFrom):
        author_domains(b"From: " + value.encode() + b"\r\n")


@given(st.binary(max_size=100))
def test_any_record_is_read_or_refused(octets):
    """Likewise."""
    with contextlib.suppress(Unusable):
        read_policy(answer("TXT", b"v=DMARC1;" + octets))
