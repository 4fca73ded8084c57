"""The check of SPF: questions and answers, its limits, what it writes, whom it turns away."""

import contextlib
import ipaddress
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from requiretls_mta.checks.interfaces import Client, Stage, Subject, Tools
from requiretls_mta.checks.spf import (
    PATIENCE,
    QUESTIONS_AT_ONCE,
    SPFCheck,
    SPFSettings,
    identity_of,
    received_spf,
    report,
)
from requiretls_mta.checks.spf_record import LONGEST_RECORD, SyntaxFault, parse_record
from requiretls_mta.checks.spf_rules import Outcome, check_host
from requiretls_mta.message import authres
from requiretls_mta.message.address import Address
from requiretls_mta.message.authres import show_result
from requiretls_mta.message.envelope import Envelope
from tests.checks.answers import answer, failure
from tests.checks.fakes import FakeResolver, RecordedEvents

SENDER = Address("anna", "far.example")
IP = ipaddress.ip_address("192.0.2.1")


class Bench:
    """The check, with a resolver that knows the records of far.example."""

    def __init__(self, *texts, action="reject"):
        self.clock, self.resolver, self.events = Clock(), FakeResolver(), RecordedEvents()
        if texts:
            self.resolver.on("far.example.", "TXT", answer("TXT", *(t.encode() for t in texts)))
        self.settings = SPFSettings(action=action, receiver="mx.example.org") if action != "off" else None
        tools = Tools(clock=self.clock, resolver=self.resolver, events=self.events, settings=lambda _: self.settings)
        self.check = SPFCheck(tools, wall=lambda: 1e9)

    def begin(self, sender=SENDER, address="192.0.2.1", helo="mail.far.example", **client):
        subject = Subject(
            client=Client(session="s1", address=address, **client), helo=helo, envelope=Envelope(sender=sender)
        )
        return self.check.begin(subject)

    def verdict(self, **options):
        return self.begin(**options).result


@pytest.mark.parametrize(
    ("record", "result", "refusal"),
    [
        ("v=spf1 ip4:192.0.2.0/24 -all", "pass", None),
        ("v=spf1 -all", "fail", "550 5.7.23"),
        ("v=spf1 ~all", "softfail", None),
        ("v=spf1 ?all", "neutral", None),
        ("no record", "none", None),
        ("v=spf1 nonsense", "permerror", None),
        ("v=spf1 a:slow.example -all", "temperror", "451 4.7.1"),
    ],
)
def test_what_it_finds_and_whom_it_turns_away(record, result, refusal):
    """78, 79: fail is refused, and what may be one later; with annotate, nobody is."""
    for action, expected in (("reject", refusal), ("annotate", None)):
        bench = Bench(record, action=action)
        bench.resolver.on("slow.example.", "A", failure("SERVFAIL"))
        verdict = bench.verdict()
        assert show_result(verdict.results[0]) == f"spf={result} smtp.mailfrom=far.example"
        assert str(verdict.refusal)[: len(expected or "None")] == str(expected)
        assert verdict.trace[0].startswith(f"Received-SPF: {result}\r\n (mx.example.org: ")
        assert bench.clock.getDelayedCalls() == []


def test_recipients_wait_only_for_a_rejection():
    """What is only written down is needed with the message."""
    assert Bench(action="reject").check.needed is Stage.RECIPIENT
    assert Bench(action="annotate").check.needed is Stage.MESSAGE


def test_off_is_off():
    """No question at all; nor for a client whose address nobody knows."""
    bench = Bench("v=spf1 -all", action="off")
    assert bench.begin() is None
    assert Bench("v=spf1 -all").begin(address=None, via_proxy=True) is None
    assert bench.resolver.asked == []


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "::ffff:192.0.2.9", "fe80::1%eth0"])
def test_clients_at_home_are_no_exception(address):
    """interface.md: loopback included."""
    assert Bench("v=spf1 -all").verdict(address=address).outcome.result == "fail"


def test_a_report_is_judged_by_its_greeting():
    """RFC 7208 2.4: the postmaster of the name in EHLO."""
    bench = Bench()
    bench.resolver.on("mail.far.example.", "TXT", answer("TXT", b"v=spf1 exists:%{l}.%{o} -all"))
    verdict = bench.verdict(sender=None)
    assert ("postmaster.mail.far.example.", "A") in bench.resolver.asked
    assert show_result(verdict.results[0]) == "spf=fail smtp.helo=mail.far.example"
    assert "envelope-from" not in verdict.trace[0]


@pytest.mark.parametrize("helo", ["[192.0.2.1]", "localhost", "a..b", 'x" \\', "x" * 64 + ".example", "ü" * 250])
def test_a_greeting_that_is_no_domain_has_no_record(helo):
    """RFC 7208 4.3: none, and nobody is asked for it."""
    bench = Bench()
    assert bench.verdict(sender=None, helo=helo).outcome.result == "none"
    assert all("localhost" not in name for name, _ in bench.resolver.asked)


def test_internationalized_senders():
    """A-labels are asked for; a macro for a local part outside ASCII matches nothing (RFC 8616 4)."""
    bench = Bench()
    name = "xn--bcher-kva.example."
    bench.resolver.on(name, "TXT", answer("TXT", b"v=spf1 exists:%{l}.far.example -exists:x.example ~all"))
    verdict = bench.verdict(sender=Address("jürgen", "bücher.example"))
    assert verdict.outcome.result == "softfail"
    assert show_result(verdict.results[0]) == "spf=softfail smtp.mailfrom=xn--bcher-kva.example"
    bench.resolver.on(name, "TXT", answer("TXT", b"v=spf1 redirect=%{l}.far.example"))
    assert bench.verdict(sender=Address("jürgen", "bücher.example")).outcome.result == "neutral"


def test_a_stranger_s_explanation_is_shown_as_one():
    """RFC 7208 6.2; a line of its own, quoted, no longer than a reply's."""
    bench = Bench("v=spf1 -all exp=why.far.example")
    bench.resolver.on("why.far.example.", "TXT", answer("TXT", b"%{c} is not ours, see http://far.example/?%{S}"))
    reply = bench.verdict().refusal
    assert reply.wire == (
        b"550-5.7.23 SPF: far.example does not let 192.0.2.1 send its mail\r\n"
        b"550 5.7.23 far.example explains: 192.0.2.1 is not ours, see http://far.example/?anna%40far.example\r\n"
    )
    for text in (b"no\r\n550 control", (b"x" * 250, b"x" * 250), "ü".encode()):
        bench.resolver.on("why.far.example.", "TXT", answer("TXT", text))
        assert bench.verdict().refusal.wire.count(b"\r\n") == 1


def test_the_whole_evaluation_has_a_deadline():
    """Twenty seconds, however many look-ups there are; then it is a temperror, and nothing goes on."""
    bench = Bench()
    bench.resolver.on("far.example.", "TXT", None)
    waiting = bench.begin()
    bench.clock.advance(PATIENCE - 1)
    bench.resolver.on("slow.example.", "A", None)
    bench.resolver.answer("far.example.", "TXT", answer("TXT", b"v=spf1 a:slow.example -all"))
    assert not waiting.called
    bench.clock.advance(1)
    assert waiting.result.outcome.result == "temperror"
    assert waiting.result.refusal.code == 451
    assert bench.clock.getDelayedCalls() == []


def test_a_client_that_leaves_leaves_nothing_behind():
    """Cancelled, the questions are given up."""
    bench = Bench()
    bench.resolver.on("far.example.", "TXT", None)
    waiting = bench.begin()
    waiting.addErrback(lambda _: None)
    waiting.cancel()
    assert bench.resolver.waiting == []
    assert bench.clock.getDelayedCalls() == []


def test_thousands_at_once_take_turns():
    """Each is its own; together they ask no more at once than their share of the resolver."""
    bench = Bench()
    for number in range(2000):
        bench.resolver.on(f"d{number}.example.", "TXT", None)
    clients = [f"198.51.{number // 250}.{number % 250}" for number in range(2000)]
    waiting = [bench.begin(Address("a", f"d{number}.example"), client) for number, client in enumerate(clients)]
    assert len(bench.resolver.waiting) == QUESTIONS_AT_ONCE
    for number in range(2000):
        record = f"v=spf1 {'+' if number % 3 else '-'}all"
        bench.resolver.answer(f"d{number}.example.", "TXT", answer("TXT", record.encode()))
    results = [d.result.outcome.result for d in waiting]
    assert results == ["pass" if number % 3 else "fail" for number in range(2000)]


def test_turns_are_given_back():
    """By evaluations that end, and by those that are given up while they ask or wait for their turn."""
    bench = Bench("v=spf1 -all")
    bench.resolver.on("slow.example.", "TXT", None)
    waiting = [bench.begin(sender=Address("a", "slow.example")) for _ in range(QUESTIONS_AT_ONCE + 50)]
    assert not bench.begin().called
    for begun in waiting:
        begun.addErrback(lambda _: None)
        begun.cancel()
    assert bench.resolver.waiting == []
    assert bench.begin().called


@pytest.mark.parametrize("host", ["192.0.2.9", "2001:db8:0:9::{}"])
def test_one_client_with_many_sessions_keeps_only_himself_waiting(host):
    """Half of the turns at the most; who comes after has his at once, and those who wait are taken site by site."""
    bench = Bench()
    for number in range(1000):
        bench.resolver.on(f"d{number}.example.", "TXT", None)
    for number in range(999):
        bench.begin(Address("a", f"d{number}.example"), host.format(number))
    assert len(bench.resolver.waiting) == QUESTIONS_AT_ONCE // 2
    bench.begin(Address("a", "d999.example"), "192.0.2.1")
    assert bench.resolver.waiting[-1][0] == "d999.example."
    bench.clock.advance(PATIENCE)
    assert bench.resolver.waiting == []


def test_many_who_wait_for_the_same_are_answered_without_end():
    """What was just asked is known to all who come behind: thousands, and none of them deep inside of another."""
    bench = Bench()
    bench.resolver.on("slow.example.", "TXT", *[None] * (QUESTIONS_AT_ONCE // 2), answer("TXT", b"v=spf1 -all"))
    waiting = [bench.begin(sender=Address("a", "slow.example")) for _ in range(3000)]
    bench.resolver.answer("slow.example.", "TXT", answer("TXT", b"v=spf1 -all"))
    assert {begun.result.outcome.result for begun in waiting} == {"fail"}


HOSTILE = [
    b"v=spf1 a:x." + b"a" * 8000 + b"! -all",
    b"v=spf1 a:" + b"%{" * 4000,
    b"v=spf1 a:" + b"%{d}." * 1600 + b"example -all",
    b"v=spf1 exists:" + b"%{s}" * 2000 + b".example -all",
    b"v=spf1 " + b"ip4:1.2.3.4 " * 600 + b"-all",
    b"v=spf1 a:" + b"a." * 4000 + b" -all",
    b"v=spf1 a/" + b"1" * 8000,
    b"v=spf1 exists:%{d" + b"9" * 5000 + b"}.example -all",
    b"v=spf1 " + b"a" * 8000 + b"=",
    b"v=spf1 exists:%{l" + b"-" * 8000 + b"}.example",
    b"v=spf1 include:far.example -all",
    b"v=spf1 redirect=far.example",
    b"v=spf1 " + b"x" * LONGEST_RECORD,
    b"v=spf1 \x00\xff -all",
]


@pytest.mark.parametrize("record", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_records_cost_little(record):
    """Whoever writes a record writes it for us too: no exception, and no time worth mentioning."""
    bench = Bench()
    bench.resolver.on(
        "far.example.", "TXT", answer("TXT", tuple(record[i : i + 255] for i in range(0, len(record), 255)))
    )

    before = time.perf_counter()
    assert bench.verdict().outcome.result in ("permerror", "fail", "neutral", "none")
    assert time.perf_counter() - before < 1
    assert len(bench.resolver.asked) <= 12


TERMS = st.sampled_from(
    ["a", "mx", "-all", "include:", "exists:", "ptr", "%{l1r-.}", "/24", "//64", "redirect=", "exp="]
)


@given(st.lists(TERMS | st.text(st.characters(codec="ascii"), max_size=12), max_size=30).map(lambda t: " ".join(t)))
def test_any_record_is_read_or_refused(text):
    """Never another exception than the one that says so."""
    with contextlib.suppress(SyntaxFault):
        parse_record(b"v=spf1 " + text.encode())


WORDS = st.text(max_size=80)
_FIELD = re.compile(rb"Received-SPF: [a-z]+(?:\r\n [^\r\n]{1,980})+\Z")


@given(WORDS, WORDS, WORDS, WORDS)
def test_whatever_is_said_the_field_is_one(local, domain, helo, problem):
    """RFC 7208 9.1: nothing of the envelope breaks out of it; each value is a dot-atom or a quoted-string."""
    identity = identity_of(IP, Address(local, domain), helo, receiver="mx.example.org")
    field = received_spf(identity, Outcome(result="temperror", problem=problem))
    octets = field.encode("ascii", "backslashreplace")
    assert _FIELD.match(octets)
    assert re.search(rb";\r\n receiver=mx\.example\.org;\r\n identity=mailfrom;", octets)
    results = authres.AuthenticationResults("mx.example.org", (report(identity, Outcome(result="none")),))
    assert authres.parse(authres.write(results).partition(b":")[2].removesuffix(b"\r\n")) == results


def test_received_spf_as_rfc_7208_has_it():
    """9.1, with an IPv6 address, which is no dot-atom, in quotes."""
    identity = identity_of(
        ipaddress.ip_address("2001:db8::2:1"), SENDER, "mail.fwd.example", receiver="mta.example.org"
    )
    assert received_spf(identity, Outcome(result="fail", mechanism="all")).split("\r\n ") == [
        "Received-SPF: fail",
        "(mta.example.org: domain of far.example does not designate 2001:db8::2:1 as permitted sender)",
        'client-ip="2001:db8::2:1";',
        'envelope-from="anna@far.example";',
        "helo=mail.fwd.example;",
        "receiver=mta.example.org;",
        "identity=mailfrom;",
        "mechanism=all;",
    ]


def test_what_is_asked_together():
    """The addresses of all MX hosts, ten at most, at once."""
    run = check_host(identity_of(IP, SENDER, "x.example"))
    assert next(run) == (("far.example.", "TXT"),)
    assert run.send((answer("TXT", b"v=spf1 mx -all"),)) == (("far.example.", "MX"),)
    questions = run.send((answer("MX", *(f"1 mx{n}.example." for n in range(10))),))
    assert questions == tuple((f"mx{n}.example.", "A") for n in range(10))
