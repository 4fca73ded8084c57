"""The way of one message: real clients, real DNSSEC, two of our MTAs, Postfix as a neighbour, mailboxes at the end."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.lab.ca import CA
from tests.lab.dns import Lab
from tests.lab.mta import MTA, Recorder, Report, free_port, user_file
from tests.lab.postfix import postfix
from tests.lab.require import need

A, B, NOKEY, PLAIN = "127.0.0.11", "127.0.0.12", "127.0.0.13", "127.0.0.14"
BODY = b"From: Alice <alice@home.test>\r\nTo: bob@good.test\r\nSubject: a secret\r\n\r\n.dot\r\nbody text\r\n"


class World:
    """Everything that runs for the tests of this module."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    need("knotd"), need("unbound"), need("postfix")
    folder = tmp_path_factory.mktemp("journey")
    folder.chmod(0o755)
    world = World()
    world.port = free_port(A, B, NOKEY, PLAIN)
    world.submission = free_port(A)
    world.ca = CA(folder / "ca")
    other = CA(folder / "other", "Another Root")
    files = {
        "good": world.ca.host("mx.good.test"),
        "wrong": world.ca.host("elsewhere.test"),
        "expired": world.ca.expired("mx.expired.test"),
        "unknown": other.host("mx.unknown.test"),
    }
    with Lab(folder / "dns") as lab:
        for name in ("good", "wrong", "expired", "unknown"):
            lab.zone(f"{name}.test", [f"@ MX 10 mx.{name}.test.", f"mx A {B}"])
        lab.zone("unsigned.test", ["@ MX 10 mx.good.test."], signed=False)
        lab.zone("bogus.test", ["@ MX 10 mx.good.test."], bogus=True)
        lab.zone("nokey.test", ["@ MX 10 mx.nokey.test.", f"mx A {NOKEY}"])
        lab.zone("notls.test", ["@ MX 10 mx.notls.test.", f"mx A {PLAIN}"])
        lab.zone("two.test", ["@ MX 10 mx.notls.test.", "@ MX 20 mx.good.test."])
        lab.zone("null.test", ["@ MX 0 ."])
        lab.zone("home.test", ["@ MX 10 mx.home.test.", f"mx A {A}"])
        lab.start()
        resolver = ":".join(map(str, lab.resolver_address))
        common = f"""
[dns]
servers = ["{resolver}"]
[relay]
port = {world.port}
trust = "{world.ca.roots}"
retry = ["2s"]
"""
        sni = "".join(
            f'[[tls.sni]]\nnames = ["mx.{name}.test"]\ncertificate = "{f.chain}"\nkey = "{f.key}"\n'
            for name, f in files.items()
        )
        domains = ", ".join(f'"{name}.test"' for name in (*files, "two", "unsigned", "bogus"))
        world.b = MTA(
            folder / "b",
            f"""hostname = "mx.good.test"
[tls]
certificate = "{files["good"].chain}"
key = "{files["good"].key}"
{sni}
[listen.mx]
endpoint = "tcp:{world.port}:interface={B}"
service = "mx"
[domains]
local = [{domains}]
[delivery]
maildir = "{folder}/b/mail/{{domain}}/{{local}}"
[access]
relay_from = []
{common}""",
            (B, world.port),
        )
        home = world.ca.host("mx.home.test")
        user_file(folder / "users", "alice", "secret")
        world.a = MTA(
            folder / "a",
            f"""hostname = "mx.home.test"
[tls]
certificate = "{home.chain}"
key = "{home.key}"
[listen.submission]
endpoint = "tcp:{world.submission}:interface={A}"
service = "submission"
[listen.mx]
endpoint = "tcp:{world.port}:interface={A}"
service = "mx"
[domains]
local = ["home.test"]
[delivery]
maildir = "{folder}/a/mail/{{domain}}/{{local}}"
[access]
users = "{folder}/users"
{common}""",
            (A, world.port),
        )
        nokey = world.ca.host("mx.nokey.test")
        settings = {
            "myhostname": "mx.nokey.test",
            "mynetworks": "127.0.0.1/32",
            "smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination",
            "relay_domains": "nokey.test, good.test",
            "transport_maps": f"inline:{{good.test=smtp:[{B}]:{world.port}, nokey.test=discard:}}",
            "smtpd_tls_security_level": "may",
            "smtpd_tls_chain_files": f"{nokey.key} {nokey.chain}",
            "smtp_tls_security_level": "may",
            "maximal_backoff_time": "2s",
            "minimal_backoff_time": "2s",
        }
        for path in (nokey.key, nokey.chain):
            path.chmod(0o644)
        world.plain = Recorder(PLAIN, world.port)
        world.folder = folder
        try:
            with postfix(folder / "postfix", world.port, settings, address=NOKEY) as world.postfix:
                world.a.start()
                world.b.start()
                yield world
        finally:
            world.plain.close()
            for mta in (world.a, world.b):
                mta.stop()


def swaks(world, to, *options, sender="alice@home.test", require=True, body=BODY):
    """Submit through A as an ordinary mail user would."""
    file = world.folder / "message"
    file.write_bytes(body.replace(b"\r\n", b"\n"))
    # swaks writes MAIL FROM:<TEXT>: what TEXT opens, the last parameter closes.
    mail_from = f"{sender}> REQUIRETLS ENVID=swaks" if require else sender
    return subprocess.run(
        [
            need("swaks"), "--server", f"{A}:{world.submission}", "--tls", "--tls-verify", "--tls-ca-path",
            world.ca.roots, "--auth", "PLAIN", "--auth-user", "alice",
            "--auth-password", "secret", "--from", mail_from, "--to", to, "--data", f"@{file}", "--ehlo", "client.test",
            *options,
        ],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def submit(world, to, **options):
    """Submit, expecting that it is taken; the queue id."""
    done = swaks(world, to, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.rpartition("queued as ")[2].split()[0]


def report(world, to):
    """Send a tagged message that cannot arrive; its non-delivery report."""
    before = len(world.a.mailbox("alice@home.test"))
    submit(world, to)
    newest = world.a.mail("alice@home.test", before + 1)
    (mine,) = [octets for octets in newest if to.encode() in octets and b"multipart/report" in octets]
    return Report(mine)


def body_of(octets):
    """The message as it was sent: without the trace fields in front."""
    at = octets.index(b"From: Alice")
    return octets[at:].replace(b"\n", b"\r\n")


def test_nodemailer_sends_a_tagged_message_through_both(world):
    """S29: MAIL with REQUIRETLS, two hops inside verified TLS, byte for byte into the mailbox, both hops on record."""
    need("node")
    file = world.folder / "nodemailer.eml"
    file.write_bytes(BODY)
    options = {
        "host": A, "port": world.submission, "user": "alice", "password": "secret", "ca": str(world.ca.roots),
        "name": "mx.home.test", "from": "alice@home.test", "to": "nodemailer@good.test", "file": str(file),
    }  # fmt: skip
    script = Path(__file__).with_name("send.cjs")
    modules = os.environ.get("NODE_PATH")
    if not modules:
        why = "NODE_PATH names no folder with nodemailer (npm install nodemailer)"
        pytest.fail(why) if os.environ.get("REQUIRE_ALL") == "1" else pytest.skip(why)
    done = subprocess.run(
        ["node", script, json.dumps(options)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (octets,) = world.b.mail("nodemailer@good.test")
    assert octets.startswith(b"Return-Path: <alice@home.test>\nAuthentication-Results: mx.good.test;\n spf=none ")
    assert b"\nReceived: from mx.home.test ([127.0.0." in octets
    assert octets.count(b"(requiretls)") == 2
    assert b"with ESMTPS " in octets and b"with ESMTPSA " in octets
    assert body_of(octets) == BODY


def test_swaks_sends_a_tagged_message_through_both(world):
    """Another client, the same way; the log tells the evidence of the hop."""
    queue_id = submit(world, "swaks@good.test")
    (octets,) = world.b.mail("swaks@good.test")
    assert octets.count(b"(requiretls)") == 2
    (event,) = world.a.told("delivered", queue_id=queue_id)
    assert event["auth"] == "pkix"
    assert event["mx_security"] == "dnssec"
    assert event["requiretls"] == "required"
    assert event["keyword"] is True
    assert event["tls_version"] == "TLSv1.3"


def test_a_host_without_the_keyword(world):
    """Debian's Postfix in verified TLS, but without REQUIRETLS: 5.7.30, naming it and the step."""
    got = report(world, "bob@nokey.test")
    assert got.status == "5.7.30"
    assert "mx.nokey.test" in got.diagnostic and "requiretls" in got.diagnostic
    assert "mx.nokey.test" in got.text
    assert b"a secret" in got.octets  # the subject, for the way back is this very server
    assert b"body text" not in got.octets


@pytest.mark.parametrize(
    ("domain", "step"),
    [
        ("notls", "starttls"),
        ("wrong", "authenticate"),
        ("expired", "authenticate"),
        ("unknown", "authenticate"),
        ("unsigned", "lookup"),
    ],
)
def test_a_host_that_cannot_keep_the_promise(world, domain, step):
    """No STARTTLS, wrong name, expired, unknown CA, unsigned MX: 5.7.10 with the step, nothing delivered."""
    before = len(world.b.events("connected"))
    got = report(world, f"bob@{domain}.test")
    assert got.status == "5.7.10"
    assert f": {step}: " in got.diagnostic
    assert "RFC 8689 4.2.1" in got.text
    assert world.b.mailbox(f"bob@{domain}.test") == []
    if domain == "unsigned":
        assert len(world.b.events("connected")) == before, "a host was tried that may not be"


def test_the_next_mx_is_tried_and_the_unfit_one_hears_nothing(world):
    """MX1 without TLS gets EHLO and QUIT and not one octet of the envelope; MX2 gets the message."""
    world.plain.octets = b""
    submit(world, "walk@two.test")
    (octets,) = world.b.mail("walk@two.test")
    assert octets.count(b"(requiretls)") == 2
    assert world.plain.octets
    commands = {line.split(b" ")[0].strip().upper() for line in world.plain.octets.split(b"\r\n") if line}
    assert commands <= {b"EHLO", b"QUIT"}


def test_a_bogus_zone_defers(world):
    """Data that do not verify are a temporary failure."""
    queue_id = submit(world, "bob@bogus.test")
    end = time.monotonic() + 15
    while not (got := [e for e in world.a.events("deferred") if e["queue_id"] == queue_id]):
        assert time.monotonic() < end, world.a.log.read_text()[-2000:]
        time.sleep(0.1)
    assert got[0]["reply"].startswith("451 4.7.5")
    (row,) = [r for r in json.loads(world.a.tool("queue", "list", "--json")) if r["id"] == queue_id]
    assert row["requiretls"] == "required"
    world.a.tool("queue", "remove", queue_id)


def test_null_mx(world):
    """RFC 7505: 5.1.10, tagged or not."""
    assert report(world, "bob@null.test").status == "5.1.10"


def test_untagged_mail_to_an_unfit_host_goes(world):
    """Ordinary mail goes as well as it can: in the clear where there is no TLS."""
    world.plain.octets = b""
    queue_id = submit(world, "bob@notls.test", require=False)
    end = time.monotonic() + 15
    while not [e for e in world.a.events("delivered") if e["queue_id"] == queue_id]:
        assert time.monotonic() < end, world.a.log.read_text()[-2000:]
        time.sleep(0.1)
    assert b"body text" in world.plain.octets
    assert b"REQUIRETLS" not in world.plain.octets


def test_tls_required_no_goes_over_unverified_tls(world):
    """RFC 8689 3: the header's wish is kept, TLS is still tried, the field stays in the message."""
    submit(world, "optional@wrong.test", require=False, body=b"TLS-Required: No\r\n" + BODY)
    (octets,) = world.b.mail("optional@wrong.test")
    assert b"TLS-Required: No\n" in octets
    assert octets.count(b"with ESMTPS (TLSv1.3") == 1
    assert b"(requiretls)" not in octets


def test_postfix_relays_to_us_and_we_to_it(world):
    """Debian's Postfix as a neighbour in both directions, untagged."""
    queue_id = submit(world, "bob@nokey.test", require=False)
    end = time.monotonic() + 15
    while not [e for e in world.a.events("delivered") if e["queue_id"] == queue_id]:
        assert time.monotonic() < end, world.a.log.read_text()[-2000:]
        time.sleep(0.1)
    import smtplib

    with smtplib.SMTP(NOKEY, world.port, timeout=10, source_address=("127.0.0.1", 0)) as client:
        client.sendmail("carl@postfix.test", ["postfix@good.test"], BODY)
    (octets,) = world.b.mail("postfix@good.test")
    assert b"Received: from mx.nokey.test" in octets
    assert octets.endswith(b"\n\n" + BODY.partition(b"\r\n\r\n")[2].replace(b"\r\n", b"\n"))  # it adds fields on top


def test_we_are_no_relay_for_strangers(world):
    """Nobody relays through B, not even from loopback, and submission wants a login."""
    import smtplib

    with smtplib.SMTP(B, world.port, timeout=10) as client:
        client.ehlo("x.test")
        client.mail("x@x.test")
        assert client.rcpt("bob@nokey.test")[0] == 550
    with smtplib.SMTP(A, world.submission, timeout=10) as client:
        client.ehlo("x.test")
        assert client.mail("alice@home.test")[0] == 530
