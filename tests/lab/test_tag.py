"""S27 and S31 from end to end: each copy of an alias keeps the tag, over a kill, into verified TLS at the next hop."""

import json
import smtplib
import ssl
import time

from tests.lab.ca import CA
from tests.lab.mta import MTA, free_port

A, B = "127.0.0.47", "127.0.0.48"
TO = ["a@far.test", "b@far.test", "c@far.test"]


def test_three_copies_keep_the_tag_over_a_kill(tmp_path):
    """Taken while the next hop is down, killed, restarted: three copies, each required, each delivered over there."""
    port = free_port(A, B)
    ca = CA(tmp_path / "ca")
    here, far = ca.host("a.test"), ca.host("b.test", B)
    common = f"""
[dns]
servers = ["127.0.0.1:1"]
[relay]
trust = "{ca.roots}"
retry = ["1s"]
"""
    b = MTA(
        tmp_path / "b",
        f"""hostname = "b.test"
[tls]
certificate = "{far.chain}"
key = "{far.key}"
[listen.mx]
endpoint = "tcp:{port}:interface={B}"
service = "mx"
[domains]
local = ["far.test"]
[delivery]
maildir = "{tmp_path}/b/mail/{{domain}}/{{local}}"
{common}""",
        (B, port),
    )
    a = MTA(
        tmp_path / "a",
        f"""hostname = "a.test"
[tls]
certificate = "{here.chain}"
key = "{here.key}"
[listen.mx]
endpoint = "tcp:{port}:interface={A}"
service = "mx"
[domains]
local = ["here.test"]
[delivery]
maildir = "{tmp_path}/a/mail/{{domain}}/{{local}}"
[aliases]
"x@here.test" = {json.dumps(TO)}
{common}
[relay.routes]
"far.test" = "smtp:[{B}]:{port}"
""",
        (A, port),
    )
    a.start()
    try:
        with smtplib.SMTP(A, port, timeout=10) as client:
            starttls(client)
            client.ehlo("c.test")
            client.sendmail("s@x.test", ["x@here.test"], b"Subject: x\r\n\r\nbody\r\n", mail_options=["REQUIRETLS"])
        end = time.monotonic() + 10
        while not a.events("deferred"):
            assert time.monotonic() < end, a.log.read_text()[-2000:]
            time.sleep(0.05)
        a.kill()
        rows = json.loads(a.tool("queue", "list", "--json"))
        assert {row["requiretls"] for row in rows} == {"required"}
        assert sorted(r["address"] for row in rows for r in row["recipients"]) == TO
        b.start()
        a.start()
        for address in TO:
            (octets,) = b.mail(address)
            assert octets.count(b"(requiretls)") == 2
            assert octets.endswith(b"\nbody\n")
        sent = a.told("delivered", 3)
        assert [e["auth"] for e in sent] == ["pkix"] * 3
        assert {e["requiretls"] for e in sent} == {"required"}
    finally:
        a.stop()
        b.stop()


def starttls(client):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client.ehlo("c.test")
    client.starttls(context=context)
