"""Our stub against a real validating unbound, and real signatures of knot."""

import time

import pytest
from twisted.internet import reactor
from twisted.trial import unittest

from requiretls_mta.dns.answer import Status
from requiretls_mta.dns.resolvconf import believe_ad
from requiretls_mta.dns.resolver import StubResolver
from requiretls_mta.dns.settings import Settings
from tests.lab.dns import Lab
from tests.lab.require import find, need

HOST = ["@ MX 10 mx", "mx A 127.0.0.2"]


@pytest.fixture(scope="class")
def lab(request, tmp_path_factory):
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        lab.zone(
            "good.test",
            [
                *HOST,
                "alias CNAME @",
                "away CNAME mx.plain.test.",
                "*.wild A 127.0.0.9",
                "_25._tcp.mx TLSA 3 1 1 " + "ab" * 32,
                *(f'big TXT "{i} {"x" * 200}"' for i in range(100)),
            ],
        )
        lab.zone("plain.test", HOST, signed=False)
        lab.zone("sub.good.test", HOST)
        lab.zone("plain.good.test", HOST, signed=False)
        lab.zone("bad.test", HOST, bogus=True)
        begun = time.monotonic()
        lab.start()
        request.cls.started_in = time.monotonic() - begun
        request.cls.lab = lab
        yield lab


@pytest.mark.usefixtures("lab")
class RealServers(unittest.TestCase):
    """AD comes from DNSSEC here, from nowhere else."""

    timeout = 30

    def setUp(self):
        servers = (self.lab.resolver_address,)
        self.stub = StubResolver(reactor, Settings(servers=servers, trust_ad=believe_ad("auto", servers)))
        self.addCleanup(self.stub.close)

    async def look_up(self, name, rdtype, status, rcode="NOERROR"):
        answer = await self.stub.resolve(name, rdtype)
        assert (answer.status, answer.rcode) == (status, rcode), f"{answer}\n{self.lab.log()}"
        return answer

    async def test_secure_records(self):
        """MX, A, TLSA in a signed zone and in a signed zone below it."""
        mx = await self.look_up("good.test", "MX", Status.SECURE)
        assert [r.to_text() for r in mx.records] == ["10 mx.good.test."]
        assert 0 < mx.ttl <= 60
        assert (await self.look_up("mx.good.test", "A", Status.SECURE)).exists
        assert (await self.look_up("_25._tcp.mx.good.test", "TLSA", Status.SECURE)).exists
        assert (await self.look_up("sub.good.test", "MX", Status.SECURE)).exists
        assert (await self.look_up("x.wild.good.test", "A", Status.SECURE)).exists

    async def test_unsigned_zones_are_insecure(self):
        """The parent proves that there is no DS; the answer is good, and nobody vouches for it."""
        for name in ("plain.test", "plain.good.test"):
            assert (await self.look_up(name, "MX", Status.INSECURE)).exists
        await self.look_up("nowhere.plain.test", "MX", Status.INSECURE, "NXDOMAIN")

    async def test_secure_denial(self):
        """NXDOMAIN and NODATA, each proved by NSEC."""
        nx = await self.look_up("nowhere.good.test", "MX", Status.SECURE, "NXDOMAIN")
        nodata = await self.look_up("mx.good.test", "MX", Status.SECURE)
        assert (nx.exists, nodata.exists) == (False, False)
        assert 0 < nx.ttl <= 60

    async def test_bogus_data_are_refused(self):
        """The zone's key does not fit the DS record: no data, and not a denial either."""
        answer = await self.look_up("bad.test", "MX", Status.BOGUS, "SERVFAIL")
        assert answer.records == ()

    async def test_aliases(self):
        """Secure while the whole chain is signed, insecure when it leaves."""
        alias = await self.look_up("alias.good.test", "MX", Status.SECURE)
        assert (alias.canonical, alias.exists) == ("good.test.", True)
        away = await self.look_up("away.good.test", "A", Status.INSECURE)
        assert (away.canonical, away.exists) == ("mx.plain.test.", True)

    async def test_large_answers_come_by_tcp(self):
        """20 kB of TXT, still secure."""
        big = await self.look_up("big.good.test", "TXT", Status.SECURE)
        assert len(big.records) == 100

    async def test_nothing_outside_the_lab(self):
        """Names elsewhere are refused: no test asks the Internet."""
        await self.look_up("example.com", "MX", Status.FAILURE, "REFUSED")

    async def test_an_authoritative_server_is_no_resolver(self):
        """What it does not serve it refuses; that is a failure, never a denial."""
        self.stub = StubResolver(reactor, Settings(servers=(self.lab.authority_address,)))
        self.addCleanup(self.stub.close)
        assert (await self.stub.resolve("elsewhere.example", "MX")).is_failure

    def test_the_lab_is_quick(self):
        """Other tests start it often."""
        assert self.started_in < 5


def test_what_is_missing_is_named(monkeypatch):
    """A skip for users; a failure where everything has to be there."""
    monkeypatch.setenv("REQUIRE_ALL", "0")
    with pytest.raises(pytest.skip.Exception, match="Debian package"):
        need("no-such-program")
    monkeypatch.setenv("REQUIRE_ALL", "1")
    with pytest.raises(pytest.fail.Exception, match="REQUIRE_ALL"):
        need("no-such-program")
    assert find("sh")
