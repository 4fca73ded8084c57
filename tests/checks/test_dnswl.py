"""The whitelist check: what it asks and when, whom it believes, and what it reports; scenarios by number."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from requiretls_mta.checks.dnswl import MOST_AT_ONCE, PATIENCE, TEXT_PATIENCE, DNSWLCheck
from requiretls_mta.checks.dnswl_health import FIRST_PAUSE, MOST_FAILURES, REGULAR, SOON, WATCHED
from requiretls_mta.checks.dnswl_rules import ListSettings, client_of, patterns, query_name, selftest_names
from requiretls_mta.checks.interfaces import Client, Subject, Tools
from requiretls_mta.checks.pipeline import Pipeline
from requiretls_mta.message.authres import AuthenticationResults, parse, write
from requiretls_mta.message.envelope import Envelope
from tests.checks.answers import answer, failure
from tests.checks.fakes import FakeResolver, RecordedEvents
from tests.smtp.test_session import failures

ZONE = "list.dnswl.example"
LIST = ListSettings(zone=ZONE, display_zone=ZONE)
V4, V6 = "192.0.2.1", "2001:db8::2:1"
HERE = f"dns.zone={ZONE} dns.sec=na"
SELFTEST = f"dnswl=permerror reason=selftest {HERE}"
LISTED, NOWHERE = answer("A", "127.0.0.2"), answer("A", rcode="NXDOMAIN")


class Bench:
    """A check with a fake resolver behind it whose test entries are as they should be."""

    def __init__(self, *lists):
        self.clock, self.resolver, self.events = Clock(), FakeResolver(), RecordedEvents()
        self.lists = lists or (LIST,)
        for one in self.lists:
            names = selftest_names(one.zone)
            self.resolver.on(names.listed, "A", LISTED)
        tools = Tools(clock=self.clock, resolver=self.resolver, events=self.events, settings={"dnswl": self.lists}.get)
        self.names = selftest_names(self.lists[0].zone)
        self.check = DNSWLCheck(tools, chance=lambda: 0.0)

    def on(self, client, rdtype, *answers, zone=ZONE):
        self.resolver.on(query_name(client_of(client), zone), rdtype, *answers)

    def begin(self, client):
        return self.check.begin(Subject(client=Client(session="s1", address=client)))

    def says(self, client=V4):
        """What is reported of a client, unfolded; the check must know it at once."""
        deferred = self.begin(client)
        assert deferred.called
        return told(deferred.result)


def told(verdict):
    field = write(AuthenticationResults("mta.example.org", verdict.results)).decode().replace("\r\n", "")
    return field.partition("; ")[2]


def test_the_example_of_the_rfc():
    """1: A and TXT asked at once, one field."""
    bench = Bench()
    bench.on(V6, "A", answer("A", "127.0.10.1"))
    bench.on(V6, "TXT", answer("TXT", b"fwd.example https://dnswl.example/?d=fwd.example"))
    assert bench.says(V6) == (
        f'dnswl=pass {HERE} policy.ip=127.0.10.1 policy.txt="fwd.example https://dnswl.example/?d=fwd.example"'
    )


def test_the_owner_name_of_the_rfc_s_figure_is_another_address_s():
    """2: nobody must copy it."""
    bench = Bench()
    wrong = "1.0.0.0.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.b.8.2.0.0.1"
    bench.resolver.on(f"{wrong}.{ZONE}.", "A", answer("A", "127.0.10.1"))
    assert bench.says(V6) == f"dnswl=none {HERE}"


def test_everything_is_asked_at_once():
    """R7: A, TXT, the test entries and the root, before any of them has answered."""
    bench = Bench()
    name = query_name(client_of(V4), ZONE)
    for question in ((name, "A"), (name, "TXT"), (".", "SOA"), *((n, "A") for n in attrs.astuple(bench.names))):
        bench.resolver.on(*question, None)
    verdict = bench.begin(V4)
    assert not verdict.called
    assert set(bench.resolver.asked) == {
        (name, "A"),
        (name, "TXT"),
        (".", "SOA"),
        (bench.names.listed, "A"),
        (bench.names.unlisted, "A"),
        (bench.names.unlisted_v6, "A"),
    }
    verdict.addErrback(lambda _: None).cancel()


def test_a_mapped_client_is_an_ipv4_client():
    """7: no nibbles."""
    bench = Bench()
    bench.on(V4, "A", LISTED)
    assert bench.says("::ffff:192.0.2.1") == f"dnswl=pass {HERE} policy.ip=127.0.0.2"
    assert bench.resolver.count("1.2.0.192." + ZONE + ".") == 1


@pytest.mark.parametrize(
    ("number", "entries", "state"),
    [
        (17, {"listed": LISTED, "unlisted": LISTED}, "selftest"),
        (18, {"listed": answer("A", "127.0.10.3"), "unlisted": answer("A", "127.0.10.3")}, "selftest"),
        (19, {"listed": NOWHERE}, "selftest"),
        (0, {"listed": answer("A", "93.184.216.34"), "unlisted": answer("A", "93.184.216.34")}, "bad-answer"),
        (0, {"listed": answer("A", "127.0.0.255"), "unlisted": answer("A", "127.0.0.255")}, "over-quota"),
        (0, {"listed": failure("REFUSED")}, "refused"),
        (0, {"unlisted_v6": LISTED, "unlisted": LISTED}, "selftest"),
    ],
)
@pytest.mark.parametrize("client", [V4, V6])
@pytest.mark.parametrize("listed", [True, False])
def test_lists_that_cannot_be_believed(number, entries, state, client, listed):
    """Wildcard, "returnhi", dead list, sold domain: permerror for each client, listed or not, and one critical line."""
    bench = Bench()
    for name, found in entries.items():
        bench.resolver.on(getattr(bench.names, name), "A", found)
    bench.on(client, "A", LISTED if listed else NOWHERE)
    code = " policy.ip=127.0.0.255" if state == "over-quota" else ""
    for _ in range(3):
        assert bench.says(client) == f"dnswl=permerror reason={state} {HERE}{code}"
    assert bench.events.states() == [("critical", "bad", state)]
    # It is bypassed now: the first look-up was the last.
    assert bench.resolver.count(query_name(client_of(client), ZONE)) == 1


def test_the_listed_entry_need_not_be_accepted():
    """20: dnswl.org answers 127.0.10.0 for it."""
    bench = Bench(attrs.evolve(LIST, accept=patterns(["127.0.[2..15].[1..3]"])))
    bench.resolver.on(bench.names.listed, "A", answer("A", "127.0.10.0"))
    bench.on(V4, "A", answer("A", "127.0.5.1"))
    assert bench.says() == f"dnswl=pass {HERE} policy.ip=127.0.5.1"


def test_a_test_that_cannot_be_made():
    """21: with nothing known, nobody passes; the next client tries again."""
    bench = Bench()
    bench.resolver.on(bench.names.unlisted, "A", failure("SERVFAIL"), NOWHERE)
    bench.on(V4, "A", LISTED)
    assert bench.says() == f"dnswl=temperror reason=servfail {HERE}"
    assert bench.says() == f"dnswl=pass {HERE} policy.ip=127.0.0.2"


def test_what_was_known_last_stays():
    """22: a later test that cannot be made changes nothing."""
    bench = Bench()
    bench.on(V4, "A", LISTED)
    bench.check.startService()
    bench.resolver.on(bench.names.unlisted, "A", failure("SERVFAIL"))
    bench.clock.advance(REGULAR)
    assert bench.resolver.count(bench.names.unlisted) == 2
    assert bench.says() == f"dnswl=pass {HERE} policy.ip=127.0.0.2"
    bench.check.stopService()
    assert bench.clock.getDelayedCalls() == []


def test_a_list_that_goes_bad_and_gets_well():
    """23: pass before the test, permerror behind it, one line for each change; the pauses grow to four hours."""
    bench = Bench()
    bench.on(V4, "A", LISTED)
    bench.check.startService()
    bench.resolver.on(bench.names.unlisted, "A", LISTED)
    assert bench.says() == f"dnswl=pass {HERE} policy.ip=127.0.0.2"
    bench.clock.advance(REGULAR)
    assert bench.says() == SELFTEST
    for pauses in range(7):
        count = bench.resolver.count(bench.names.unlisted)
        bench.clock.advance(min(FIRST_PAUSE * 2**pauses, REGULAR) - 1)
        assert bench.resolver.count(bench.names.unlisted) == count
        bench.clock.advance(1)
        assert bench.resolver.count(bench.names.unlisted) == count + 1
    assert bench.events.states() == [("critical", "bad", "selftest")]
    bench.resolver.on(bench.names.unlisted, "A", NOWHERE)
    bench.clock.advance(REGULAR)
    assert bench.says() == f"dnswl=pass {HERE} policy.ip=127.0.0.2"
    assert bench.events.states()[1:] == [("warn", "good", None)]


def test_a_list_that_is_bad_for_ipv6_only():
    """24: IPv4 clients are none the worse for it."""
    bench = Bench()
    bench.resolver.on(bench.names.unlisted_v6, "A", LISTED)
    bench.on(V4, "A", LISTED)
    bench.on(V6, "A", LISTED)
    assert bench.says(V6) == SELFTEST
    assert bench.says(V4) == f"dnswl=pass {HERE} policy.ip=127.0.0.2"


@pytest.mark.parametrize(
    ("selftest", "expected"), [("both", SELFTEST), ("ipv4", f"dnswl=pass {HERE} policy.ip=127.0.0.2")]
)
def test_the_positive_entry_of_ipv6_is_asked_for_where_wanted(selftest, expected):
    """25: many lists have none."""
    bench = Bench(attrs.evolve(LIST, selftest=selftest))
    bench.on(V6, "A", LISTED)
    assert bench.says(V6) == expected


def test_a_combined_list_is_not_tested():
    """31: it answers for 127.0.0.1 by design."""
    bench = Bench(attrs.evolve(LIST, selftest="off", accept=patterns(["127.0.0.1"])))
    bench.resolver.on(bench.names.unlisted, "A", answer("A", "127.0.0.1"))
    bench.on(V4, "A", answer("A", "127.0.0.1"))
    assert bench.says() == f"dnswl=pass {HERE} policy.ip=127.0.0.1"
    assert bench.resolver.count(bench.names.unlisted) == 0


def test_the_text_is_not_waited_for():
    """48: a second behind the A record, no longer; and nothing is left of the question."""
    bench = Bench()
    bench.on(V4, "A", LISTED)
    bench.on(V4, "TXT", None)
    verdict = bench.begin(V4)
    assert not verdict.called
    bench.clock.advance(1)
    assert told(verdict.result) == f"dnswl=pass {HERE} policy.ip=127.0.0.2"
    assert bench.resolver.waiting == []


def test_the_text_and_the_root_are_waited_for_together():
    """48: when both are late it is one second, not one for each."""
    bench = Bench()
    bench.on(V4, "A", LISTED)
    bench.on(V4, "TXT", None)
    bench.resolver.on(".", "SOA", None)
    verdict = bench.begin(V4)
    bench.clock.advance(TEXT_PATIENCE)
    assert told(verdict.result) == f"dnswl=pass {HERE} policy.ip=127.0.0.2"
    assert bench.resolver.waiting == []


@pytest.mark.parametrize("a", [NOWHERE, failure("SERVFAIL"), answer("A", "127.0.0.255")])
def test_without_a_pass_the_text_is_not_wanted(a):
    """5, 13: the result is that of the A record alone."""
    bench = Bench()
    bench.on(V4, "A", a)
    bench.on(V4, "TXT", None)
    assert bench.begin(V4).called
    assert bench.resolver.waiting == []
    assert bench.resolver.cancelled == 1


@pytest.mark.parametrize("root", [True, False])
def test_dns_sec_needs_a_resolver_that_validates(root):
    """50, 52, 54: the root says whether absence of AD means anything."""
    bench = Bench()
    bench.on(V4, "A", answer("A", "127.0.0.2", secure=True))
    bench.on("192.0.2.2", "A", LISTED)
    if root:
        bench.resolver.on(".", "SOA", answer("SOA", "a. b. 1 1 1 1 1", secure=True))
    assert f"dns.sec={'yes' if root else 'na'}" in bench.says()
    assert f"dns.sec={'no' if root else 'na'}" in bench.says("192.0.2.2")


@pytest.mark.parametrize(
    ("root", "told"),
    [
        (answer("SOA", "a. b. 1 1 1 1 1"), ["warn"]),
        (answer("SOA", "a. b. 1 1 1 1 1", secure=True), []),
        (failure("SERVFAIL"), []),
    ],
)
def test_a_resolver_that_does_not_validate_is_told_once(root, told):
    """54: at the start, for dns.sec will never be anything but na; where there are lists at all."""
    bench = Bench()
    bench.resolver.on(".", "SOA", root)
    bench.check.startService()
    bench.says()
    bench.says(V6)
    assert [fields["level"] for _, fields in bench.events.seen if "dns.sec" in fields.get("message", "")] == told
    bench.check.stopService()


def test_a_silent_list_is_given_up():
    """9: after five seconds, whatever the resolver's own limit is."""
    bench = Bench()
    bench.on(V4, "A", None)
    verdict = bench.begin(V4)
    bench.clock.advance(PATIENCE - 0.1)
    assert not verdict.called
    bench.clock.advance(0.1)
    assert told(verdict.result) == f"dnswl=temperror reason=timeout {HERE}"
    assert bench.resolver.waiting == []


@pytest.mark.parametrize("reason", ["over-quota", "refused"])
def test_a_list_that_refuses_is_left_alone(reason):
    """10, 13: one look-up tells it, the others are spared; after a pause the test shows whether it still does."""
    bench = Bench()
    bench.on(V4, "A", LISTED)
    bench.says()
    refusal = answer("A", "127.0.0.255") if reason == "over-quota" else failure("REFUSED")
    bench.on("192.0.2.9", "A", refusal)
    code = " policy.ip=127.0.0.255" if reason == "over-quota" else ""
    assert bench.says("192.0.2.9") == f"dnswl=permerror reason={reason} {HERE}{code}"
    assert bench.says() == f"dnswl=permerror reason={reason} {HERE}{code}"
    bench.clock.advance(FIRST_PAUSE)
    assert bench.says() == f"dnswl=pass {HERE} policy.ip=127.0.0.2"
    assert bench.events.states() == [("critical", "bad", reason), ("warn", "good", None)]


def test_one_bad_answer_is_looked_into():
    """26: an entry may be wrong, or the domain sold: the test entries tell."""
    bench = Bench()
    bench.on(V4, "A", answer("A", "93.184.216.34"))
    bench.on("192.0.2.2", "A", LISTED)
    assert bench.says() == f"dnswl=permerror reason=bad-answer {HERE}"
    assert bench.says("192.0.2.2") == f"dnswl=pass {HERE} policy.ip=127.0.0.2"
    bench.clock.advance(SOON)
    bench.resolver.on(bench.names.listed, "A", answer("A", "93.184.216.34"))
    bench.says()
    assert bench.events.states() == [("critical", "bad", "bad-answer")]
    assert bench.says("192.0.2.2") == f"dnswl=permerror reason=bad-answer {HERE}"


def test_a_hanging_list_takes_the_resolver_from_nobody():
    """A hundred look-ups under way are enough: further clients are not asked about, and the others end in time."""
    bench = Bench()
    clients = [f"198.51.100.{n}" for n in range(MOST_AT_ONCE + 1)]
    for client in clients:
        bench.on(client, "A", None)
    waiting = [bench.begin(client) for client in clients[:-1]]
    assert bench.says(clients[-1]) == f"dnswl=temperror reason=timeout {HERE}"
    bench.clock.advance(PATIENCE)
    assert all(one.called for one in waiting)
    assert bench.events.states() == [("error", "failing", "timeout")]
    bench.clock.advance(SOON)
    bench.on(V4, "A", LISTED)
    assert bench.says().startswith("dnswl=pass")


@pytest.mark.parametrize(
    ("first", "seconds"),
    [(LISTED, 60), (attrs.evolve(LISTED, ttl=0), 0), (attrs.evolve(NOWHERE, ttl=300), 300), (failure("SERVFAIL"), 30)],
)
def test_a_session_s_verdict_holds_as_long_as_the_answer(first, seconds):
    """66: within one session, what the list says later counts for the messages that come later (RFC 5782 6)."""
    bench = Bench()
    bench.on(V4, "A", first, attrs.evolve(LISTED, ttl=1000))
    pipeline = Pipeline([bench.check], clock=bench.clock, events=bench.events)
    session = pipeline.begin(Client(session="s1", address=V4))

    def asked():
        session.transaction("x", Envelope(sender=None))
        return bench.resolver.count(query_name(client_of(V4), ZONE))

    if seconds:
        bench.clock.advance(seconds - 1)
        assert asked() == 1
        bench.clock.advance(1)
    assert asked() == 2
    bench.clock.advance(999)
    assert asked() == 2


def test_one_network_with_many_addresses_takes_half_of_a_list():
    """And many sessions of one client ask no more than one of them."""
    bench = Bench()
    clients = [f"2001:db8:0:9::{n:x}" for n in range(1, MOST_AT_ONCE)]
    for client in (*clients, V4):
        bench.on(client, "A", None)
    waiting = [bench.begin(client) for client in clients]
    assert sum(not one.called for one in waiting) == MOST_AT_ONCE // 2
    more = [bench.begin(V4) for _ in range(MOST_AT_ONCE)]
    assert not any(one.called for one in more)
    bench.clock.advance(PATIENCE)
    assert all(one.called for one in (*waiting, *more))


def test_lists_in_order():
    """68: one field, in the order of the configuration, whoever answers first."""
    other = attrs.evolve(LIST, zone="b.example", display_zone="b.example")
    bench = Bench(LIST, other)
    bench.on(V4, "A", None)
    verdict = bench.begin(V4)
    bench.resolver.answer(query_name(client_of(V4), ZONE), "A", LISTED)
    assert told(verdict.result) == (f"dnswl=pass {HERE} policy.ip=127.0.0.2; dnswl=none dns.zone=b.example dns.sec=na")


def test_none_need_not_be_reported():
    """70: nothing then stands for it, and the field says so."""
    bench = Bench(attrs.evolve(LIST, report_none=False))
    assert bench.says() == "none"
    bench.on(V4, "A", LISTED)
    assert bench.says().startswith("dnswl=pass")


@pytest.mark.parametrize("client", ["10.1.2.3", "127.0.0.1", "::1", "fe80::1%eth0", None])
def test_private_clients_are_not_looked_up(client):
    """71: no query, no verdict."""
    bench = Bench()
    assert bench.begin(client) is None
    assert bench.resolver.asked == []


def test_a_client_that_leaves():
    """86: its questions are given up, those of the test are not."""
    bench = Bench()
    bench.on(V4, "A", None)
    bench.on(V4, "TXT", None)
    bench.resolver.on(bench.names.unlisted, "A", None)
    verdict = bench.begin(V4)
    verdict.addErrback(lambda _: None)
    verdict.cancel()
    assert [name for name, _, _ in bench.resolver.waiting] == [bench.names.unlisted]
    bench.resolver.answer(bench.names.unlisted, "A", NOWHERE)
    assert bench.says("192.0.2.5") == f"dnswl=none {HERE}"


def test_leaving_and_stopping_are_no_failures():
    """A session that ends, and a service that stops, while questions are under way: nothing is logged."""
    with failures() as logged:
        bench = Bench()
        bench.on(V4, "A", None)
        bench.resolver.on(bench.names.unlisted, "A", None)
        bench.resolver.on(".", "SOA", None)
        bench.check.startService()
        session = Pipeline([bench.check], clock=bench.clock, events=bench.events).begin(
            Client(session="s1", address=V4)
        )
        session.stop()
        bench.check.stopService()
        assert bench.resolver.waiting == []
        assert bench.clock.getDelayedCalls() == []
    assert logged == []
    assert bench.events.seen == []


def test_the_key_in_a_zone_is_shown_to_nobody():
    """83: neither in the field nor in any event."""
    keyed = attrs.evolve(LIST, zone=f"abc123key.{ZONE}")
    bench = Bench(keyed)
    bench.on(V4, "A", LISTED, zone=keyed.zone)
    assert bench.says() == f"dnswl=pass {HERE} policy.ip=127.0.0.2"
    bench.on("192.0.2.2", "A", failure("REFUSED"), zone=keyed.zone)
    bench.says("192.0.2.2")
    assert bench.events.states()
    assert "abc123key" not in str(bench.events.seen)


def test_the_breaker():
    """85: five failures in a row, and the list is not asked for a minute; its test entries open the way again."""
    bench = Bench()
    bench.on(V4, "A", failure("SERVFAIL"))
    bench.resolver.on(bench.names.unlisted, "A", NOWHERE, failure("SERVFAIL"))
    name = query_name(client_of(V4), ZONE)
    for _ in range(MOST_FAILURES + 3):
        assert bench.says() == f"dnswl=temperror reason=servfail {HERE}"
    assert bench.resolver.count(name) == MOST_FAILURES
    assert bench.events.states() == [("error", "failing", "servfail")]
    bench.clock.advance(SOON)
    assert bench.resolver.count(bench.names.unlisted) == 2
    bench.says()
    assert bench.resolver.count(name) == MOST_FAILURES
    bench.resolver.on(bench.names.unlisted, "A", NOWHERE)
    bench.on(V4, "A", LISTED)
    bench.clock.advance(SOON)
    assert bench.says() == f"dnswl=pass {HERE} policy.ip=127.0.0.2"
    assert bench.events.states()[1:] == [("warn", "answering", None)]


def test_a_single_failure_opens_nothing():
    """Only those that follow each other count."""
    bench = Bench()
    bench.on(V4, "A", failure("SERVFAIL"))
    bench.on("192.0.2.2", "A", LISTED)
    for _ in range(3 * MOST_FAILURES):
        bench.says()
        assert bench.says("192.0.2.2").startswith("dnswl=pass")
    assert bench.events.states() == []


def test_everybody_passes():
    """R26: the last twenty different clients: an alarm, once, and a test at once."""
    bench = Bench()
    clients = [f"192.0.2.{n}" for n in range(1, WATCHED + 3)]
    for client in clients:
        bench.on(client, "A", LISTED)
    for _ in range(3):
        bench.says(clients[0])  # the same one again is no other one
    for client in clients[1 : WATCHED - 1]:
        bench.says(client)
    assert bench.events.states() == []
    count = bench.resolver.count(bench.names.unlisted)
    for client in clients[WATCHED - 1 :]:
        bench.says(client)
    bench.says("198.51.100.1")
    for client in clients:
        bench.says(client)
    assert bench.events.states() == [("critical", "suspect", None)]
    assert bench.resolver.count(bench.names.unlisted) == count + 1


def test_each_look_up_is_an_event():
    """For the log and for metrics; all but a pass is only of interest to those who debug."""
    bench = Bench()
    bench.on(V4, "A", LISTED)
    bench.on(V4, "TXT", answer("TXT", b"a.example x"))
    bench.says()
    bench.says("192.0.2.7")
    first, second = (fields for event, fields in bench.events.seen if event == "dnswl")
    assert (first["level"], first["session"], first["client"], first["zone"]) == ("info", "s1", V4, ZONE)
    assert (first["result"], first["codes"], first["domain"]) == ("pass", ["127.0.0.2"], "a.example")
    assert (second["level"], second["result"]) == ("debug", "none")


CODES = st.one_of(
    st.lists(st.integers(0, 255).map("127.0.0.{}".format), max_size=30),
    st.lists(st.ip_addresses(v=4).map(str), max_size=3),
)
TEXTS = st.lists(
    st.one_of(
        st.binary(max_size=255), st.text(max_size=60).map(lambda t: f"a.example {t}".encode("utf-8", "surrogatepass"))
    ),
    max_size=3,
)


@given(CODES, TEXTS, st.sampled_from(["domain", "any"]), st.sampled_from(["NOERROR", "NXDOMAIN"]))
def test_whatever_the_dns_says_the_field_is_sound(codes, texts, txt, rcode):
    """88: a field that reads back, on legal lines, without anything in it that the list could have put there."""
    bench = Bench(attrs.evolve(LIST, txt=txt))
    bench.on(V4, "A", answer("A", *codes, rcode=rcode))
    bench.on(V4, "TXT", answer("TXT", *texts))
    (result,) = bench.begin(V4).result.results
    field = write(AuthenticationResults("mta.example.org", (result,)), utf8=True)
    read = parse(field.partition(b":")[2].removesuffix(b"\r\n"))
    assert read.results == (result,)
    lines = field.removesuffix(b"\r\n").split(b"\r\n")
    assert all(len(line) <= 998 and line.startswith(b" ") for line in lines[1:])
    assert result.result != "pass" or all(code.startswith("127.") for code in codes)


def test_a_reload_keeps_the_state_of_lists_that_stay():
    """What is new is tested, what is gone is left alone."""
    bench = Bench()
    other = attrs.evolve(LIST, zone="b.example", display_zone="b.example")
    current = {"dnswl": bench.lists}
    bench.check = DNSWLCheck(
        Tools(clock=bench.clock, resolver=bench.resolver, events=bench.events, settings=lambda name: current[name]),
        chance=lambda: 0.0,
    )
    bench.check.startService()
    assert bench.resolver.count(bench.names.unlisted) == 1
    current["dnswl"] = (other, LIST)
    bench.says()
    assert bench.resolver.count(bench.names.unlisted) == 1
    assert bench.resolver.count(selftest_names("b.example").unlisted) == 1
    current["dnswl"] = ()
    assert bench.begin(V4) is None
    assert bench.clock.getDelayedCalls() == []


def test_a_list_that_is_gone_is_tested_no_more():
    """86: whatever the look-ups come to that were under way when a reload took it away."""
    bench = Bench()
    current = {"dnswl": bench.lists}
    tools = Tools(clock=bench.clock, resolver=bench.resolver, events=bench.events, settings=lambda name: current[name])
    bench.check = DNSWLCheck(tools)
    bench.check.startService()
    bench.on(V4, "A", None)
    verdict = bench.begin(V4)
    current["dnswl"] = ()
    assert bench.begin(V4) is None
    bench.resolver.answer(query_name(client_of(V4), ZONE), "A", failure("REFUSED"))
    assert told(verdict.result) == f"dnswl=permerror reason=refused {HERE}"
    assert bench.clock.getDelayedCalls() == []
