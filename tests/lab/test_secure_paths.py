"""Every way in which a host can be found and authenticated, with real signatures of knot, judged by a real unbound."""

import contextlib
import hashlib
import smtplib
import time
from types import SimpleNamespace

import attrs
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks

from requiretls_mta.dns.resolver import StubResolver
from requiretls_mta.dns.settings import Settings
from requiretls_mta.message.address import parse_mailbox
from requiretls_mta.message.envelope import Tag
from requiretls_mta.message.outcome import Delivered
from requiretls_mta.relay.explain import explain
from requiretls_mta.relay.lookup import LookupSettings, RouteFinder
from requiretls_mta.relay.manager import RelayManager
from requiretls_mta.relay.settings import RelaySettings
from requiretls_mta.tls.client import client_context
from tests.lab.ca import CA
from tests.lab.dns import Lab
from tests.lab.mta import MTA, free_port
from tests.lab.test_tag import starttls
from tests.receive.fakes import RecordedEvents
from tests.relay.walking import SECRET, Walking, message
from tests.smtp.fake_mx import FakeMX

ODD, ANCHORED, MISNAMED, GOOD = "127.0.0.81", "127.0.0.82", "127.0.0.83", "127.0.0.84"
"""Hosts with a certificate of nobody's, expired and for another name; below the TLSA anchor; the same with the name
of a domain; and below the trusted root with the right name."""


def ee(files):
    info = files.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"3 1 1 {hashlib.sha256(info).hexdigest()}"


def ta(ca):
    return f"2 0 1 {hashlib.sha256(ca.certificate.public_bytes(Encoding.DER)).hexdigest()}"


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """Zones, certificates, and four servers with them; every host of the lab is at one port."""
    folder = tmp_path_factory.mktemp("paths")
    port = free_port(ODD, ANCHORED, MISNAMED, GOOD)
    roots, anchors = CA(folder / "ca"), CA(folder / "other", "Nobody's Root").intermediate()
    files = {
        ODD: anchors.expired("x.test"),
        ANCHORED: anchors.host("mx.ta.test"),
        MISNAMED: anchors.host("hop.test"),
        GOOD: roots.host("*.pkix.test", "*.wrong.test", "*.unusable.test", "*.plain.test", "implicit.test"),
    }
    odd, other = ee(files[ODD]), ee(files[GOOD])
    at = f"_{port}._tcp"
    with Lab(folder) as lab:
        lab.zone("ee.test", ["@ MX 10 mx", f"mx A {ODD}", f"{at}.mx TLSA {odd}"])
        lab.zone("ta.test", ["@ MX 10 mx", f"mx A {ANCHORED}", f"{at}.mx CNAME _dane", f"_dane TLSA {ta(anchors)}"])
        lab.zone("misnamed.test", ["@ MX 10 mx", f"mx A {MISNAMED}", f"{at}.mx TLSA {ta(anchors)}"])
        lab.zone("wrong.test", ["@ MX 10 mx", f"mx A {GOOD}", f"{at}.mx TLSA {odd}"])
        lab.zone("unusable.test", ["@ MX 10 mx", f"mx A {GOOD}", f"{at}.mx TLSA 1 1 1 {other[6:]}"])
        short = f"{at}.mx TYPE52 \\# 5 030101aabb"  # a digest of two octets
        lab.zone("malformed.test", ["@ MX 10 mx", f"mx A {GOOD}", short, f"{at}.mx TLSA {other}"])
        lab.zone("nonsense.test", ["@ MX 10 mx", f"mx A {GOOD}", short])
        lab.zone("hidden.test", ["@ MX 10 mx", f"mx A {GOOD}"])
        lab.zone("_tcp.mx.hidden.test", [f"_{port} TLSA {other}"], bogus=True)
        lab.zone("pkix.test", ["@ MX 10 mx", f"mx A {GOOD}"])
        lab.zone("tounsigned.test", ["@ MX 10 mx.plain.test."])
        lab.zone("plain.test", ["@ MX 10 mx", f"mx A {GOOD}", f"{at}.mx TLSA {odd}"], signed=False)
        lab.zone("half.test", ["@ MX 10 mx.ee.test."], signed=False)
        lab.zone("halfwrong.test", ["@ MX 10 mx.wrong.test."], signed=False)
        lab.zone("implicit.test", [f"@ A {GOOD}"])
        lab.zone("implicitplain.test", [f"@ A {GOOD}"], signed=False)
        lab.zone("null.test", ["@ MX 0 ."])
        lab.zone("bad.test", ["@ MX 10 mx", f"mx A {GOOD}"], bogus=True)
        lab.zone("badhost.test", ["@ MX 10 mx.bad.test."])
        lab.zone("alias.test", ["@ MX 10 in", "in CNAME mx.ee.test.", "via CNAME hop.test."])
        lab.zone("aliasout.test", ["@ MX 10 out", "out CNAME mx.plain.test.", f"{at}.out TLSA {other}"])
        lab.zone("hop.test", ["@ MX 10 mx.misnamed.test."])
        lab.zone("walk.test", ["@ MX 10 mx.wrong.test.", "@ MX 20 mx.plain.test.", "@ MX 30 mx.ta.test."])
        lab.start()
        yield SimpleNamespace(lab=lab, files=files, port=port, roots=roots)


TAGGED = [
    # domain, code, auth, mx_security
    ("ee.test", "2.0.0", "dane-ee", "dnssec"),  # C03
    ("ta.test", "2.0.0", "dane-ta", "dnssec"),  # C04
    ("misnamed.test", "5.7.10", None, None),
    ("hop.test", "2.0.0", "dane-ta", "dnssec"),
    ("via.alias.test", "2.0.0", "dane-ta", "dnssec"),
    ("wrong.test", "5.7.10", None, None),
    ("unusable.test", "5.7.10", None, None),  # C18
    ("malformed.test", "2.0.0", "dane-ee", "dnssec"),
    ("nonsense.test", "5.7.10", None, None),
    ("hidden.test", "4.7.5", None, None),  # C16
    ("pkix.test", "2.0.0", "pkix", "dnssec"),  # C01
    ("tounsigned.test", "2.0.0", "pkix", "dnssec"),
    ("plain.test", "5.7.10", None, None),  # C05
    ("half.test", "5.7.10", None, None),  # C06
    ("implicit.test", "2.0.0", "pkix", "dnssec"),  # C30
    ("implicitplain.test", "5.7.10", None, None),
    ("null.test", "5.1.10", None, None),  # C31
    ("bad.test", "4.7.5", None, None),  # C15
    ("badhost.test", "4.7.5", None, None),
    ("nowhere.test", "5.1.2", None, None),
    ("alias.test", "2.0.0", "dane-ee", "dnssec"),  # C20
    ("aliasout.test", "2.0.0", "dane-ee", "dnssec"),
    ("walk.test", "2.0.0", "pkix", "dnssec"),
]
UNTAGGED = [
    ("ee.test", "2.0.0", "dane-ee", "dnssec"),
    ("misnamed.test", "4.7.5", None, None),
    ("wrong.test", "4.7.5", None, None),
    ("unusable.test", "2.0.0", "pkix", "dnssec"),
    ("hidden.test", "4.7.5", None, None),
    ("plain.test", "2.0.0", "pkix", "none"),
    ("half.test", "2.0.0", "dane-ee", "none"),
    ("halfwrong.test", "4.7.5", None, None),
    ("implicitplain.test", "2.0.0", None, "none"),
    ("bad.test", "4.7.5", None, None),
]


class SecurePaths(Walking):
    """The relay manager and our stub; nothing of the DNS is made up."""

    timeout = 60

    @pytest.fixture(autouse=True)
    def _house(self, house):
        self.house, self.lab, self.port = house, house.lab, house.port

    def setUp(self):
        self.settings = RelaySettings(
            hostname="here.test", context=client_context(str(self.house.roots.roots)), idle=0.3
        )
        self.events = RecordedEvents()
        self.watch(*(FakeMX(address, self.port, files=files) for address, files in self.house.files.items()))
        self.stub = StubResolver(reactor, Settings(servers=(self.lab.resolver_address,), trust_ad=True))
        finder = RouteFinder(self.stub, lambda: LookupSettings(port=self.port))
        self.manager = RelayManager(reactor, finder=finder, settings=lambda: self.settings, events=self.events)
        for server in self.servers:
            self.addCleanup(server.close)
        self.addCleanup(self.quiet)
        self.addCleanup(self.stub.close)

    @inlineCallbacks
    def rounds(self, table, whole):
        for domain, code, auth, mx_security in table:
            before = [len(server.messages) for server in self.servers]
            got = yield self.one(whole, f"secret-rcpt@{domain}", approved=self.servers)
            sent = [len(server.messages) for server in self.servers] != before
            told = (got.reply.enhanced, got.security and got.security.auth, got.security and got.security.mx_security)
            assert told == (code, auth, mx_security), f"{domain}: {got}\n{self.lab.log()[-3000:]}"
            assert sent == isinstance(got, Delivered), domain

    @inlineCallbacks
    def test_what_asks_for_protection(self):
        """Tagged: over each path that RFC 8689 knows, and over no other. Whoever fails has seen no octet of it."""
        yield self.rounds(TAGGED, message())
        for server in self.servers:
            assert b"MAIL" not in server.clear and SECRET not in server.clear
            assert server.tls.count(b"MAIL") == server.tls.count(b" REQUIRETLS") == len(server.messages)

    @inlineCallbacks
    def test_what_is_explained(self):
        """`explain` comes to the same codes by the same paths, and says nothing but EHLO, STARTTLS and QUIT."""
        finder = RouteFinder(self.stub, lambda: LookupSettings(port=self.port))
        for domain, code, auth, mx_security in TAGGED:
            said = yield explain(reactor, parse_mailbox(f"r@{domain}"), finder=finder, settings=self.settings)
            chosen = said.chosen
            assert (said.status, chosen and chosen.proved.auth) == (code, auth), (domain, said)
            assert mx_security in (None, said.mx_security.value), (domain, said)
        for server in self.servers:
            assert set(server.verbs) <= {"EHLO", "STARTTLS", "QUIT"}

    @inlineCallbacks
    def test_what_asks_for_nothing(self):
        """Untagged: DANE is enforced where it is published, and holds nothing up where it is not."""
        yield self.rounds(UNTAGGED, message(None))

    @inlineCallbacks
    def test_what_waives_it(self):
        """C41, C43: every host that can be found gets it."""
        domains = ("ee.test", "misnamed.test", "wrong.test", "unusable.test", "hidden.test", "half.test", "plain.test")
        for domain in domains:
            got = yield self.one(message(Tag.OPTIONAL), f"r@{domain}")
            assert isinstance(got, Delivered), (domain, got)

    @inlineCallbacks
    def test_switched_off(self):
        """`dane.enabled = false`: PKIX alone decides."""
        settings = attrs.evolve(LookupSettings(port=self.port), dane=False)
        finder = RouteFinder(self.stub, lambda: settings)
        self.manager = RelayManager(reactor, finder=finder, settings=lambda: self.settings, events=self.events)
        yield self.rounds(
            [
                ("ee.test", "5.7.10", None, None),
                ("wrong.test", "2.0.0", "pkix", "dnssec"),
                ("hidden.test", "5.7.10", None, None),
            ],
            message(),
        )

    @inlineCallbacks
    def test_c54_ad_of_nobody_in_particular(self):
        """A resolver whose AD is not believed makes everything insecure: no promise, and no DANE either."""
        yield self.stub.close()
        self.stub = StubResolver(reactor, Settings(servers=(self.lab.resolver_address,), trust_ad=False))
        self.addCleanup(self.stub.close)
        finder = RouteFinder(self.stub, lambda: LookupSettings(port=self.port))
        self.manager = RelayManager(reactor, finder=finder, settings=lambda: self.settings, events=self.events)
        yield self.rounds([("ee.test", "5.7.10", None, None), ("pkix.test", "5.7.10", None, None)], message())
        yield self.rounds([("wrong.test", "2.0.0", "pkix", "none")], message(None))


def test_the_service_does_so(house, tmp_path):
    """Configuration, queue and log around it: a tagged message leaves by DANE, and stays where the records say no."""
    here = "127.0.0.85"
    port, own = free_port(here), house.roots.host("here.test")
    resolver = ":".join(map(str, house.lab.resolver_address))
    mta = MTA(
        tmp_path / "mta",
        f"""hostname = "here.test"
[tls]
certificate = "{own.chain}"
key = "{own.key}"
[listen.mx]
endpoint = "tcp:{port}:interface={here}"
service = "mx"
[access]
relay_from = ["127.0.0.0/8"]
[dns]
servers = ["{resolver}"]
[relay]
port = {house.port}
trust = "{house.roots.roots}"
""",
        (here, port),
    )
    expected = {"ee.test": "dane-ee", "ta.test": "dane-ta", "pkix.test": "pkix"}
    with contextlib.ExitStack() as stack:
        for address, files in house.files.items():
            stack.callback(FakeMX(address, house.port, files=files).close)
        stack.callback(mta.stop)
        mta.start()
        with smtplib.SMTP(here, port, timeout=10) as client:
            starttls(client)
            client.ehlo("c.test")
            for domain in (*expected, "wrong.test"):
                client.sendmail("s@here.test", [f"r@{domain}"], b"Subject: x\r\n\r\nx\r\n", mail_options=["REQUIRETLS"])
        end = time.monotonic() + 15
        while len(mta.events("delivered")) < len(expected) or not mta.events("bounced"):
            assert time.monotonic() < end, mta.log.read_text()[-3000:]
            time.sleep(0.05)
    by_domain = {event["recipient"].partition("@")[2]: event for event in mta.events("delivered")}
    assert {domain: event["auth"] for domain, event in by_domain.items()} == expected
    assert {event["mx_security"] for event in by_domain.values()} == {"dnssec"}
    (reply,) = [event["reply"] for event in mta.events("bounced") if event["recipient"] == "r@wrong.test"]
    assert " 5.7.10 " in reply
    told = {event["domain"]: event for event in mta.events("tls") if "domain" in event}
    assert told["wrong.test"]["result"] == "certificate-not-trusted" and told["ee.test"]["result"] is None
