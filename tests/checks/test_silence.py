"""All of the house's checks together: DNS that never answers, and clients that have no address."""

import attrs
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from requiretls_mta.checks import dkim, dmarc, spf
from requiretls_mta.checks.dnswl_rules import ListSettings, patterns, selftest_names
from requiretls_mta.checks.interfaces import Client, Tools
from requiretls_mta.checks.pipeline import Pipeline, load_checks
from requiretls_mta.checks.spf import SPFSettings
from requiretls_mta.message.address import Address
from requiretls_mta.message.envelope import Envelope
from requiretls_mta.message.stored import BytesBody
from tests.checks.answers import failure
from tests.checks.fakes import FakeResolver, RecordedEvents
from tests.checks.signing import KEY
from tests.smtp.test_session import failures

ZONE = "list.example"
MESSAGE = KEY.sign(b"From: a@far.example\r\nSubject: x\r\n\r\nbody\r\n", domain="far.example")
HEADER = MESSAGE.partition(b"\r\n\r\n")[0] + b"\r\n"
ENVELOPE = Envelope(sender=Address("a", "far.example"))


class Silent(FakeResolver):
    """Keeps every question; one of `said` is the answer to all, when it has been set."""

    said = None

    def resolve(self, name, rdtype):
        self.on(name, rdtype, self.said)
        return super().resolve(name, rdtype)


class Bench:
    """A listener that rejects, with a list that could save."""

    def __init__(self, said=None):
        self.clock, self.resolver, self.events = Clock(), Silent(), RecordedEvents()
        self.resolver.said = said
        saving = patterns(["127.0.0.2"])
        settings = {
            "dnswl": (ListSettings(zone=ZONE, display_zone=ZONE, override_spf=saving),),
            "iprev": True,
            "spf": SPFSettings(action="reject", receiver="mx.example.org"),
            "dkim": True,
            "arc": True,
            "dmarc": "reject",
        }
        tools = Tools(clock=self.clock, resolver=self.resolver, events=self.events, settings=settings.get)
        self.pipeline = Pipeline(load_checks(tools), clock=self.clock, events=self.events)

    def took(self, answered):
        """What it came to, and the seconds until then."""
        begun = self.clock.seconds()
        while isinstance(answered, Deferred) and not answered.called:
            self.clock.advance(0.5)
            assert self.clock.seconds() - begun < 120
        found = answered.result if isinstance(answered, Deferred) else answered
        return found, self.clock.seconds() - begun


def test_the_longest_that_silence_can_take():
    """9: whatever the resolver's own limit is: RCPT is answered when SPF's time is up, the message after two more."""
    bench = Bench()
    session = bench.pipeline.begin(Client(session="s", address="192.0.2.1"))
    transaction = session.transaction("helo.example", ENVELOPE)
    refusal, seconds = bench.took(transaction.refusal())
    assert (str(refusal)[:9], seconds) == ("451 4.7.1", spf.PATIENCE)
    verdicts, seconds = bench.took(transaction.message(HEADER, BytesBody(MESSAGE)))
    assert seconds == dkim.PATIENCE + dmarc.PATIENCE
    said = [(result.method, result.result) for verdict in verdicts for result in verdict.results]
    assert said == [(method, "temperror") for method in ("dnswl", "iprev", "spf", "dkim", "dmarc")]
    session.stop()
    tests = attrs.astuple(selftest_names(ZONE))  # they wait for the resolver, nobody for them
    assert not [name for name, _, _ in bench.resolver.waiting if name not in tests]


@pytest.mark.parametrize("via_proxy", [True, False])
def test_a_client_without_an_address(via_proxy):
    """A UNIX socket, or a proxy that does not say for whom: nothing is asked about it, and no check fails."""
    with failures() as logged:
        bench = Bench(failure("SERVFAIL"))
        session = bench.pipeline.begin(Client(session="s", address=None, via_proxy=via_proxy))
        transaction = session.transaction("helo.example", ENVELOPE)
        assert transaction.refusal() is None
        verdicts, _ = bench.took(transaction.message(HEADER, BytesBody(MESSAGE)))
    assert [verdict.check for verdict in verdicts] == ["dkim", "dmarc"]
    assert {rdtype for _, rdtype in bench.resolver.asked} == {"TXT"}
    assert logged == []
