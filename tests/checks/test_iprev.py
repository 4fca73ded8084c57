"""The client's name: it leads back, elsewhere, or is not there."""

import pytest
from twisted.internet.task import Clock

from requiretls_mta.checks.interfaces import Client, Subject, Tools
from requiretls_mta.checks.iprev import MOST_NAMES, PATIENCE, QUESTIONS_AT_ONCE, IPRevCheck
from requiretls_mta.message.authres import show_result
from tests.checks.answers import answer, failure
from tests.checks.fakes import FakeResolver, RecordedEvents

POINTER = "1.2.0.192.in-addr.arpa."


class Bench:
    def __init__(self, on=True):
        self.clock, self.resolver = Clock(), FakeResolver()
        settings = {"iprev": on or None}.get
        self.check = IPRevCheck(
            Tools(clock=self.clock, resolver=self.resolver, events=RecordedEvents(), settings=settings)
        )

    def begin(self, address="192.0.2.1"):
        return self.check.begin(Subject(client=Client(session="s", address=address)))

    def told(self, **options):
        return show_result(self.begin(**options).result.results[0]).removesuffix(" policy.iprev=192.0.2.1")


def test_a_name_that_leads_back():
    """One of several is enough; it stands in a comment, for it is only a claim."""
    bench = Bench()
    bench.resolver.on(POINTER, "PTR", answer("PTR", "a.example.", "b.example."))
    bench.resolver.on("a.example.", "A", answer("A", "192.0.2.9"))
    bench.resolver.on("b.example.", "A", answer("A", "192.0.2.7", "192.0.2.1"))
    assert bench.told() == "iprev=pass (b.example)"


def test_ipv6_and_mapped_addresses():
    """Nibbles and AAAA; a mapped address is an IPv4 one."""
    bench = Bench()
    nibbles = "1.0.0.0.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa."
    bench.resolver.on(nibbles, "PTR", answer("PTR", "a.example."))
    bench.resolver.on("a.example.", "AAAA", answer("AAAA", "2001:db8::2:1"))
    assert bench.told(address="2001:db8::2:1") == 'iprev=pass (a.example) policy.iprev="2001:db8::2:1"'
    assert bench.told(address="::ffff:192.0.2.1") == "iprev=permerror"


@pytest.mark.parametrize(
    ("ptr", "a", "result"),
    [
        (answer("PTR", rcode="NXDOMAIN"), None, "permerror"),
        (failure("SERVFAIL"), None, "temperror"),
        (answer("PTR", "a.example."), answer("A", "192.0.2.9"), "fail"),
        (answer("PTR", "a.example."), answer("A", rcode="NXDOMAIN"), "fail"),
        (answer("PTR", "a.example."), failure("TIMEOUT"), "temperror"),
    ],
)
def test_other_results(ptr, a, result):
    """RFC 8601 2.7.3."""
    bench = Bench()
    bench.resolver.on(POINTER, "PTR", ptr)
    if a is not None:
        bench.resolver.on("a.example.", "A", a)
    assert bench.told() == f"iprev={result}"


def test_ten_names_at_most():
    """Whoever owns an address can give it a thousand."""
    bench = Bench()
    bench.resolver.on(POINTER, "PTR", answer("PTR", *(f"n{n}.example." for n in range(50))))
    assert bench.told() == "iprev=fail"
    assert len(bench.resolver.asked) == 1 + MOST_NAMES


def test_a_hostile_name_is_shown_harmlessly():
    """No line of its own, no end of the comment."""
    bench = Bench()
    name = "a\\)b\\013\\010c\\255.example."
    bench.resolver.on(POINTER, "PTR", answer("PTR", name))
    for asked in (r"a\)b\013\010c\255.example.",):
        bench.resolver.on(asked, "A", answer("A", "192.0.2.1"))
    shown = bench.told()
    assert shown.startswith("iprev=pass (a")
    assert shown.isprintable()


def test_who_is_not_asked_about():
    """Private and loopback addresses, UNIX sockets; nobody, where it is off."""
    for address in ("127.0.0.1", "10.0.0.1", "fd00::1", None):
        assert Bench().begin(address) is None
    assert Bench(on=False).begin() is None


def test_a_silent_server():
    """Temperror after a while, and nothing goes on."""
    bench = Bench()
    bench.resolver.on(POINTER, "PTR", None)
    waiting = bench.begin()
    bench.clock.advance(PATIENCE)
    assert show_result(waiting.result.results[0]) == "iprev=temperror policy.iprev=192.0.2.1"
    assert bench.resolver.waiting == []
    assert bench.clock.getDelayedCalls() == []


def test_one_client_with_many_sessions_takes_half():
    """The name of the next client is still asked for."""
    bench = Bench()
    bench.resolver.on("1.2.0.192.in-addr.arpa.", "PTR", None)
    bench.resolver.on("2.2.0.192.in-addr.arpa.", "PTR", None)
    waiting = [bench.begin() for _ in range(QUESTIONS_AT_ONCE)]
    assert sum(not one.called for one in waiting) == QUESTIONS_AT_ONCE // 2
    assert not bench.begin("192.0.2.2").called
    bench.clock.advance(PATIENCE)
    assert bench.resolver.waiting == []


def test_slow_zones_take_the_resolver_from_nobody():
    """A hundred open questions are enough: of further clients nobody knows, until those are answered or given up."""
    bench = Bench()
    names = [f"{n}.example." for n in range(MOST_NAMES)]
    for name in names:
        bench.resolver.on(name, "A", None)
    clients = [f"198.51.100.{n}" for n in range(QUESTIONS_AT_ONCE // MOST_NAMES + 1)]
    for client in clients:
        pointer = ".".join(reversed(client.split("."))) + ".in-addr.arpa."
        bench.resolver.on(pointer, "PTR", answer("PTR", *names))
    waiting = [bench.begin(client) for client in clients]
    assert [one.called for one in waiting] == [False] * (len(clients) - 1) + [True]
    assert bench.told() == "iprev=temperror"
    bench.clock.advance(PATIENCE)
    assert all(one.result.results[0].result == "temperror" for one in waiting)
    assert bench.told() == "iprev=permerror"
