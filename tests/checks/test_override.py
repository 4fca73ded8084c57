"""The no of SPF and the yes of a whitelist (RFC 7208 D.3, RFC 8904 appendix A; scenarios 77 to 81)."""

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from requiretls_mta.checks.dnswl import DNSWLCheck
from requiretls_mta.checks.dnswl_rules import ListSettings, patterns, query_name
from requiretls_mta.checks.interfaces import Client, Tools
from requiretls_mta.checks.pipeline import Pipeline
from requiretls_mta.checks.spf import SPFCheck, SPFSettings
from requiretls_mta.message.address import Address
from requiretls_mta.message.authres import show_result
from requiretls_mta.message.envelope import Envelope
from requiretls_mta.message.stored import BytesBody
from tests.checks.answers import answer, failure
from tests.checks.fakes import FakeResolver, RecordedEvents
from tests.checks.test_spf import IP

ZONE = "list.example"
LISTED = query_name(IP, ZONE)
SAVING = patterns(["127.0.[2..15].[1..3]"])


class Bench:
    """A client at a listener that has one list, and rejects by SPF; the sender lets nobody send its mail."""

    def __init__(self, record=b"v=spf1 -all", override=SAVING, action="reject"):
        self.clock, self.resolver = Clock(), FakeResolver()
        settings = {
            "dnswl": (ListSettings(zone=ZONE, display_zone=ZONE, selftest="off", override_spf=override),),
            "spf": SPFSettings(action=action, receiver="mx.example.org"),
        }
        tools = Tools(clock=self.clock, resolver=self.resolver, events=RecordedEvents(), settings=settings.get)
        self.resolver.on("far.example.", "TXT", answer("TXT", record))
        self.pipeline = Pipeline([DNSWLCheck(tools), SPFCheck(tools)], clock=self.clock, events=RecordedEvents())

    def transaction(self):
        session = self.pipeline.begin(Client(session="s", address=str(IP)))
        return session.transaction("mail.fwd.example", Envelope(sender=Address("a", "far.example")))


def now(answered):
    return answered.result if isinstance(answered, Deferred) else answered


@pytest.mark.parametrize(
    ("number", "said", "reply"),
    [
        (77, answer("A", "127.0.10.1"), "None"),
        (78, answer("A", rcode="NXDOMAIN"), "550 5.7.23"),
        (79, failure("SERVFAIL"), "451 4.7.1"),
        (80, failure("REFUSED"), "550 5.7.23"),
        (80, answer("A", "127.0.0.255"), "550 5.7.23"),
        (81, answer("A", "127.0.5.0"), "550 5.7.23"),
    ],
)
def test_a_whitelist_saves_from_a_rejection(number, said, reply):
    """77 to 81: a qualifying pass saves, a temperror puts off, all else saves nobody."""
    bench = Bench()
    bench.resolver.on(LISTED, "A", said)
    transaction = bench.transaction()
    refusal = now(transaction.refusal())
    assert str(refusal)[: len(reply)] == reply
    dnswl, spf = now(transaction.message(b"", BytesBody(b"")))
    comment = " (not rejected: client is whitelisted)" if number == 77 else ""
    assert show_result(spf.results[0]) == f"spf=fail{comment} smtp.mailfrom=far.example"
    assert spf.trace[0].startswith("Received-SPF: fail\r\n")
    assert spf.refusal == refusal
    assert dnswl.refusal is None


@pytest.mark.parametrize("said", [answer("A", "127.0.10.1"), failure("SERVFAIL")])
def test_a_list_without_override_saves_nobody(said):
    """interface.md: its temperror does not defer anything either."""
    bench = Bench(override=())
    bench.resolver.on(LISTED, "A", said)
    assert now(bench.transaction().refusal()).code == 550


@pytest.mark.parametrize("said", [answer("A", "127.0.10.1"), failure("SERVFAIL")])
def test_what_is_not_rejected_needs_no_saving(said):
    """Annotate: nothing is put off, and nothing claims to have been saved."""
    bench = Bench(action="annotate")
    bench.resolver.on(LISTED, "A", said)
    transaction = bench.transaction()
    assert transaction.refusal() is None
    _, spf = now(transaction.message(b"", BytesBody(b"")))
    assert (spf.refusal, spf.results[0].comment) == (None, None)


def test_an_answer_of_spf_that_is_not_to_be_had_is_no_rejection():
    """SPF's own temperror keeps its own rule, whitelisted or not."""
    bench = Bench(record=b"v=spf1 a:slow.example -all")
    bench.resolver.on("slow.example.", "A", failure("SERVFAIL"))
    bench.resolver.on(LISTED, "A", answer("A", "127.0.10.1"))
    assert str(now(bench.transaction().refusal())).startswith("451 4.7.1 SPF cannot be evaluated")


def test_only_who_is_turned_away_waits_for_the_list():
    """A list that hangs delays nobody else."""
    bench = Bench(record=b"v=spf1 +all")
    bench.resolver.on(LISTED, "A", None)
    assert bench.transaction().refusal() is None
    bench.resolver.on("far.example.", "TXT", answer("TXT", b"v=spf1 -all"))
    waiting = bench.transaction().refusal()
    assert not waiting.called
    bench.clock.advance(5)
    assert waiting.result.code == 451
