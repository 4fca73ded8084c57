"""Observed and reported: real mail over DANE that holds and DANE that does not, told to both domains the day after."""

import email
import email.policy
import gzip
import hashlib
import json
import random
import smtplib
import time

import dkim
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from requiretls_mta.report import tlsrpt_store as store
from requiretls_mta.report.ledger import open_ledger, transact
from requiretls_mta.report.tlsrpt_session import DAY
from tests.lab.ca import CA
from tests.lab.dns import Lab
from tests.lab.mta import MTA, free_port
from tests.lab.require import need
from tests.lab.test_authentication import strings
from tests.lab.test_signing import as_sent, key_in_dns
from tests.lab.web import WebServer
from tests.receive import signatures

A, B, WEB = "127.0.0.65", "127.0.0.66", "127.0.0.67"


def digest(files):
    info = files.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(info).hexdigest()


@pytest.fixture
def world(tmp_path):
    """Our A, their B for good.test and bad.test, their web server for reports."""
    need("knotd"), need("unbound")
    port, ca = free_port(A, B), CA(tmp_path / "ca")
    good, bad = ca.host("mx.good.test"), ca.host("mx.bad.test")
    web = WebServer(WEB, ca.host("r.good.test"))
    with Lab(tmp_path / "dns") as lab:
        for name, record, rua in (
            ("good.test", digest(good), f"mailto:tls@good.test,https://r.good.test:{web.port}/in"),
            ("bad.test", "00" * 32, "mailto:tls@bad.test"),
        ):
            lab.zone(
                name,
                [
                    f"@ MX 10 mx.{name}.",
                    f"mx A {B}",
                    f"r A {WEB}",
                    f"_{port}._tcp.mx TLSA 3 1 1 {record}",
                    f'_smtp._tls TXT "v=TLSRPTv1; rua={rua}"',
                ],
            )
        key = signatures.record(signatures.RSA).replace(b"k=rsa;", b"k=rsa; s=tlsrpt;")
        lab.zone("here.test", [f"r1._domainkey TXT {strings(key)}"])
        lab.start()
        (tmp_path / "key.pem").write_bytes(signatures.pem(signatures.RSA))
        common = f"""
[dns]
servers = ["{":".join(map(str, lab.resolver_address))}"]
[relay]
port = {port}
trust = "{ca.roots}"
retry = ["1h"]
"""
        b = MTA(
            tmp_path / "b",
            f"""hostname = "mx.good.test"
[tls]
certificate = "{good.chain}"
key = "{good.key}"
[[tls.sni]]
names = ["mx.bad.test"]
certificate = "{bad.chain}"
key = "{bad.key}"
[listen.mx]
endpoint = "tcp:{port}:interface={B}"
service = "mx"
[domains]
local = ["good.test", "bad.test"]
[delivery]
maildir = "{tmp_path}/b/mail/{{domain}}/{{local}}"
{common}""",
            (B, port),
        ).start()
        a = MTA(
            tmp_path / "a",
            f"""hostname = "mx.here.test"
[listen.mx]
endpoint = "tcp:{port}:interface={A}"
service = "mx"
[tlsrpt]
enabled = true
contact = "mailto:reports@here.test"
[[dkim.sign]]
domain = "here.test"
selector = "r1"
key = "{tmp_path}/key.pem"
{common}""",
            (A, port),
        ).start()
        try:
            yield a, b, web, port, key_in_dns(lab.resolver_address)
        finally:
            a.stop()
            b.stop()
            web.close()


def observed(a):
    return {row["domain"]: row for row in json.loads(a.tool("observe", "--json"))}


def make_yesterday(connection):
    """What was counted is of yesterday, and due now."""
    connection.execute("UPDATE policies SET day = day - 1")
    store.claim(connection, now=(time.time() // DAY) * DAY + 400.0, limit=1, rng=random.Random(1))
    connection.execute("UPDATE reports SET due = 0")


def ledger(a, work):
    connection = open_ledger(a.folder / "state/shared/tlsrpt.db", store.SCHEMA)
    try:
        return transact(connection, work)
    finally:
        connection.close()


def report_in(octets):
    message = email.message_from_bytes(octets, policy=email.policy.default)
    _, file = message.iter_parts()
    return message, json.loads(gzip.decompress(file.get_content()))


def test_a_day_of_mail_is_observed_and_reported(world):
    """P05, B16: what sessions showed, with and without the service; reports come through broken DANE."""
    a, b, web, port, ask = world
    with smtplib.SMTP(A, port, timeout=10) as client:
        for to in ("x@good.test", "x@bad.test"):
            client.sendmail("s@here.test", [to], b"Subject: x\r\n\r\nbody\r\n")
    b.mail("x@good.test")
    end = time.monotonic() + 10
    while not a.events("deferred"):
        assert time.monotonic() < end, a.log.read_text()[-2000:]
        time.sleep(0.05)
    a.stop()
    seen = observed(a)
    for domain, auth in (("good.test", "dane-ee"), ("bad.test", None)):
        row = seen[domain]
        assert (row["mx"], row["starttls"], row["requiretls"]) == (f"mx.{domain}", True, True)
        assert (row["tls_version"], row["auth"], row["dnssec"], row["dane"]) == ("TLSv1.3", auth, True, "usable")
    ledger(a, make_yesterday)
    a.start()
    assert observed(a) == seen
    (to_good,), (to_bad,) = b.mail("tls@good.test"), b.mail("tls@bad.test")
    for domain, octets, ok in (("good.test", to_good, 1), ("bad.test", to_bad, 0)):
        # RFC 8460 3: by a key for nothing but reports, found in the DNS.
        assert dkim.verify(as_sent(octets), dnsfunc=ask, tlsrpt="strict")
        message, report = report_in(octets)
        assert " d=here.test; s=r1;" in message["DKIM-Signature"] and message["From"] == "reports@here.test"
        assert message["TLS-Report-Domain"] == domain and message["TLS-Required"] == "No"
        ((policy),) = report["policies"]
        assert policy["policy"]["policy-type"] == "tlsa"
        assert policy["policy"]["policy-domain"] == f"mx.{domain}"
        assert policy["policy"]["policy-string"][0].startswith("3 1 1 ")
        assert policy["summary"] == {
            "total-successful-session-count": ok,
            "total-failure-session-count": 1 - ok,
        }
    (failure,) = policy["failure-details"]
    assert failure["result-type"] == "certificate-not-trusted"
    assert (failure["sending-mta-ip"], failure["receiving-ip"]) == ("127.0.0.1", B)
    assert failure["receiving-mx-hostname"] == "mx.bad.test"
    ((_, _, posted),) = web.requests
    assert json.loads(gzip.decompress(posted)) == report_in(to_good)[1]
    # the sessions that carried the reports are in no report
    a.stop()
    assert ledger(a, lambda c: c.execute("SELECT count(*) FROM policies").fetchone()) == (0,)
