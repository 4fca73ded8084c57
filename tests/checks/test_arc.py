"""ARC chains: sealed by dkimpy hop by hop, read here; whatever is missing or changed breaks them."""

import contextlib

import dkim
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from requiretls_mta.checks.arc import MOST_WAITING, ARCCheck, read_chain
from requiretls_mta.checks.dkim import PATIENCE
from requiretls_mta.checks.dkim_rules import Unusable
from requiretls_mta.checks.interfaces import Client, Subject, Tools
from requiretls_mta.message.authres import show_result
from requiretls_mta.message.stored import BytesBody
from tests.checks.answers import answer, failure
from tests.checks.fakes import FakeResolver, RecordedEvents
from tests.checks.signing import KEY, MESSAGE, in_strings

NAMES = "s1._domainkey.hop1.example.", "s1._domainkey.hop2.example."


def sealed(message, hop):
    """The message as a hop passes it on."""
    results = b"Authentication-Results: hop%d.example; arc=%s; spf=pass smtp.mailfrom=far.example\r\n"
    seen = results % (hop, b"none" if hop == 1 else b"pass") + message
    domain = b"hop%d.example" % hop
    fields = dkim.arc_sign(seen, b"s1", domain, KEY.pem, domain, include_headers=[b"from", b"subject", b"to"])
    return b"".join(fields) + seen


ONE = sealed(MESSAGE, 1)
TWO = sealed(ONE, 2)


class Bench:
    def __init__(self, on=True, in_thread=None):
        self.clock, self.resolver = Clock(), FakeResolver()
        for name in NAMES:
            self.resolver.on(name, "TXT", answer("TXT", in_strings(KEY.record)))
        options = {"in_thread": in_thread} if in_thread else {}
        settings = {"arc": on or None}.get
        tools = Tools(clock=self.clock, resolver=self.resolver, events=RecordedEvents(), settings=settings, **options)
        self.check = ARCCheck(tools)

    def begin(self, message):
        header = message[: message.index(b"\r\n\r\n") + 2]
        return self.check.begin(
            Subject(client=Client(session="s", address="192.0.2.1"), header=header, body=BytesBody(message))
        )

    def told(self, message):
        begun = self.begin(message)
        verdict = begun.result if isinstance(begun, Deferred) else begun
        return show_result(verdict.results[0]).removesuffix(" smtp.remote-ip=192.0.2.1")


def test_chains_that_hold():
    """One hop, or two, of which the newest is named."""
    assert Bench().told(ONE) == "arc=pass (i=1 d=hop1.example)"
    assert Bench().told(TWO) == "arc=pass (i=2 d=hop2.example)"


def test_no_chain_is_not_told_about():
    """Nor anything where it is off."""
    assert Bench().begin(MESSAGE) is None
    assert Bench(on=False).begin(ONE) is None


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"Hello", b"Hallo", "body hash did not verify"),
        (b"a  test", b"another", "signature did not verify"),
        (b"ARC-Authentication-Results: i=1; hop1", b"ARC-Authentication-Results: i=1; hopX", "seal did not verify"),
        (b"cv=none", b"cv=fail", "the chain was broken before"),
        (b"cv=none", b"cv=pass", "the chain was broken before"),
        (b"ARC-Seal: i=1", b"ARC-Seal: i=3", "sets are missing"),
        (b"ARC-Seal: i=1", b"ARC-Seal: i=2", "sets out of order"),
        (b"ARC-Seal: i=1", b"ARC-Seal: i=0", "sets out of order"),
        (b"ARC-Seal: i=1", b"X-Seal: i=1", "sets are missing"),
        (b"ARC-Seal: i=1", b"ARC-Seal: h=from; i=1", "a seal with h="),
    ],
)
def test_chains_that_do_not(old, new, reason):
    """RFC 8617 5.2."""
    assert old in TWO
    told = Bench().told(TWO.replace(old, new, 1))
    assert told.startswith("arc=fail ")
    assert f'reason="{reason}"' in told


def test_keys_that_are_not_there():
    """RFC 8617 5.2.1: an error of the DNS is a failure as well."""
    for ptr in (failure("SERVFAIL"), answer("TXT", rcode="NXDOMAIN")):
        bench = Bench()
        bench.resolver.on(NAMES[0], "TXT", ptr)
        assert 'arc=fail (i=2 d=hop2.example) reason="no key for signature"' in bench.told(TWO)
    bench = Bench()
    bench.resolver.on(NAMES[0], "TXT", None)
    waiting = bench.begin(TWO)
    bench.clock.advance(PATIENCE)
    assert "reason=timeout" in show_result(waiting.result.results[0])


def test_more_than_can_be_done_at_once_is_told():
    """As with DKIM."""
    bench = Bench(in_thread=lambda *_: Deferred())
    for _ in range(MOST_WAITING // 2):
        assert isinstance(bench.begin(ONE), Deferred)
    assert show_result(bench.begin(ONE).results[0]).startswith("arc=fail")


@given(
    st.lists(st.sampled_from([b"ARC-Seal:", b" i=1;", b"a=rsa-sha256;", b"\r\n", b"ARC-Message-Signature: i=2", b"="]))
)
def test_any_header_is_read_or_refused(parts):
    """Whatever stands in it."""
    with contextlib.suppress(Unusable):
        read_chain(b"".join(parts))
