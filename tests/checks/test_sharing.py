"""The shared resolver: one client's questions, by whatever check, leave look-ups for those of the others."""

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from requiretls_mta.checks.interfaces import Client, Subject, Tools
from requiretls_mta.checks.pipeline import load_checks
from requiretls_mta.checks.sharing import SharedResolver
from requiretls_mta.checks.spf import SPFSettings
from requiretls_mta.dns.answer import Status
from requiretls_mta.message.address import Address
from requiretls_mta.message.envelope import Envelope
from requiretls_mta.message.stored import BytesBody
from tests.checks.answers import answer
from tests.checks.fakes import FakeResolver, RecordedEvents
from tests.checks.test_dnswl import LIST


class Bench:
    """A resolver that never answers, and its shares."""

    def __init__(self, look_ups):
        self.resolver = FakeResolver()
        self.shared = SharedResolver(self.resolver, look_ups)

    def ask(self, address, name):
        self.resolver.script.setdefault((name, "A"), [None])
        return self.shared.of(address).resolve(name, "A")


def test_a_client_gets_half_and_the_next_one_is_answered():
    """What is too much for it is a failure, at once; a /64 is one client."""
    bench = Bench(20)
    asked = [bench.ask(f"2001:db8::{n:x}", f"n{n}.test.") for n in range(20)]
    assert sum(not one.called for one in asked) == 10
    assert asked[-1].result.status is Status.FAILURE and asked[-1].result.rcode == "NETWORK"
    assert not bench.ask("192.0.2.1", "other.test.").called


def test_what_it_waits_for_already_costs_nothing():
    """Thousands of sessions with one question, answered or given up, leave no trace."""
    bench = Bench(20)
    asked = [bench.ask("192.0.2.1", "same.test.") for _ in range(3000)]
    assert not any(one.called for one in asked)
    for one in asked[:2000]:
        one.addErrback(lambda _: None)
        one.cancel()
    assert sum(not bench.ask("192.0.2.1", f"n{n}.test.").called for n in range(20)) == 9
    bench.resolver.answer("same.test.", "A", answer("A", "192.0.2.9"))
    assert all(one.called for one in asked)
    assert not bench.ask("192.0.2.1", "one-more.test.").called


class Silent:
    """Never answers."""

    def __init__(self):
        self.asked = []

    def resolve(self, name, rdtype):
        self.asked.append((name, rdtype))
        return Deferred()


def test_all_checks_of_one_client_together_leave_half():
    """Whatever it connects from, says and sends: another client's questions are asked."""
    strangers, ours = Silent(), Silent()
    shared = SharedResolver(strangers, 400)
    settings = {"spf": SPFSettings(action="reject", receiver="mx.test"), "dnswl": (LIST,)}
    tools = Tools(
        clock=Clock(),
        resolver=ours,
        resolver_of=shared.of,
        events=RecordedEvents(),
        settings=lambda name: settings.get(name, True),
    )
    checks = load_checks(tools)
    assert {"spf", "dkim", "dmarc", "dnswl", "iprev", "arc"} <= {check.name for check in checks}
    begun = []
    for number in range(500):
        domain = f"d{number}.example"
        header = f"DKIM-Signature: v=1; a=rsa-sha256; d={domain}; s=s; h=from; bh=MTIz; b=MTIz\r\nFrom: a@{domain}\r\n"
        subject = Subject(
            client=Client(session="s", address=f"2001:db8::{number + 1:x}"),
            helo=domain,
            envelope=Envelope(sender=Address("a", domain)),
            header=header.encode(),
            body=BytesBody(header.encode() + b"\r\n"),
        )
        begun += [check.begin(subject) for check in checks]
    assert len(set(strangers.asked)) == 200
    assert {"TXT", "A", "PTR"} <= {rdtype for _, rdtype in strangers.asked}
    assert not shared.of("192.0.2.1").resolve("other.test.", "A").called
    assert all(name.endswith(f".{LIST.zone}.") for name, _ in ours.asked), "the list's own test"
    for one in begun:
        if isinstance(one, Deferred):
            one.addErrback(lambda _: None)
            one.cancel()
    assert list(shared._open) == [("192.0.2.1", "other.test.", "A")] and shared._shares._free == 399
