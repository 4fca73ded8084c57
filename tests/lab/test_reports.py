"""Reports between real servers: two of ours, Debian's Postfix that speaks DSN, and a host without DSN and TLS."""

import contextlib
import pwd
import shutil
import smtplib
import ssl
import tempfile
import time
from pathlib import Path

import pytest

from tests.lab.ca import CA
from tests.lab.mta import MTA, Recorder, Report, free_port
from tests.lab.postfix import postfix
from tests.lab.require import need
from tests.report.rfc3464 import read

A, B, P, PLAIN, NOBODY = (f"127.0.0.{n}" for n in range(61, 66))
BODY = b"From: s\r\nTo: x\r\nMessage-ID: <1@x>\r\nSubject: the secret subject\r\n\r\nthe secret body\r\n"


class World:
    """Everything that runs for the tests of this module."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    need("postfix")
    folder = tmp_path_factory.mktemp("reports")
    folder.chmod(0o755)
    world = World()
    world.port, world.folder = free_port(A, B, P, PLAIN, NOBODY), folder
    ca = CA(folder / "ca")
    world.a = ours(world, "a", A, ca, relay='lifetime = "9s"\ndelay_warning = "3s"')
    aliases = '"team@b.test" = ["one@b.test", "two@b.test"]'
    requiretls = 'bounce = "requiretls-only"\npolicy = { "post.test" = "opportunistic" }'
    world.b = ours(world, "b", B, ca, requiretls=requiretls, aliases=aliases)
    with contextlib.ExitStack() as stack:
        # pytest closes its own folder to others whenever it starts, and Postfix is one of those.
        open_to_all = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        open_to_all.chmod(0o755)
        world.postfix_mail = open_to_all / "mail"
        world.postfix_mail.mkdir()
        shutil.chown(world.postfix_mail, "postfix")
        stack.enter_context(postfix(open_to_all / "postfix", world.port, neighbour(world, ca), address=P))
        world.plain = Recorder(PLAIN, world.port)
        stack.callback(world.plain.close)
        for mta in (world.a, world.b):
            stack.callback(mta.stop)
            mta.start()
        yield world


def ours(world, name, address, ca, *, relay="", requiretls="", aliases=""):
    """One of ours: `NAME.test` is local to it, all others are found by routes."""
    folder, files = world.folder / name, ca.host(f"{name}.test", address)
    routes = {"a.test": A, "b.test": B, "post.test": P, "plain.test": PLAIN, "down.test": NOBODY}
    routes["far.test"] = B if name == "a" else PLAIN
    return MTA(
        folder,
        f"""hostname = "{name}.test"
[tls]
certificate = "{files.chain}"
key = "{files.key}"
[listen.mx]
endpoint = "tcp:{world.port}:interface={address}"
service = "mx"
[domains]
local = ["{name}.test"]
[delivery]
maildir = "{folder}/mail/{{domain}}/{{local}}"
[aliases]
{aliases}
[dns]
servers = ["127.0.0.1:1"]
[access]
relay_from = ["127.0.0.0/8"]
[requiretls]
{requiretls}
[relay]
trust = "{ca.roots}"
retry = ["1s"]
{relay}
[relay.routes]
"""
        + "".join(f'"{d}" = "smtp:[{host}]:{world.port}"\n' for d, host in routes.items() if d != f"{name}.test"),
        (address, world.port),
    )


def neighbour(world, ca):
    """Postfix with a certificate of the same CA and mailboxes of its own."""
    files, user = ca.host("mx.post.test", P), pwd.getpwnam("postfix")
    for path in (files.key, files.chain):
        path.chmod(0o644)
    return {
        "myhostname": "mx.post.test",
        "virtual_mailbox_domains": "post.test",
        "virtual_mailbox_base": str(world.postfix_mail),
        "virtual_mailbox_maps": "inline:{s@post.test=s/, p@post.test=p/}",
        "virtual_minimum_uid": "1",
        "virtual_uid_maps": f"static:{user.pw_uid}",
        "virtual_gid_maps": f"static:{user.pw_gid}",
        "virtual_alias_maps": "inline:{broken@post.test=x@broken.test}",
        "transport_maps": f"inline:{{a.test=smtp:[{A}]:{world.port}, b.test=smtp:[{B}]:{world.port}, "
        "broken.test=error:broken}",
        "smtpd_tls_security_level": "may",
        "smtpd_tls_chain_files": f"{files.key} {files.chain}",
        "smtp_tls_security_level": "may",
    }


def send(world, sender, to, *, at=A, mail=(), rcpt=(), body=BODY):
    """Give a message to one of ours, inside TLS."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP(at, world.port, timeout=10) as client:
        client.ehlo("c.test")
        client.starttls(context=context)
        client.ehlo("c.test")
        client.sendmail(sender, [to], body, mail_options=list(mail), rcpt_options=list(rcpt))


def wait(found, why):
    """Until `found` gives something."""
    end = time.monotonic() + 20
    while not (got := found()):
        assert time.monotonic() < end, why()
        time.sleep(0.05)
    return got


def reports_to(world, address, count=1):
    """The reports that came to a mailbox of A, read field by field."""
    return [read(octets) for octets in world.a.mail(address, count)]


def settled(mta, name, **fields):
    """Wait for an event of this instance."""

    def found():
        return [e for e in mta.events(name) if all(e.get(key) == value for key, value in fields.items())]

    return wait(found, lambda: mta.log.read_text()[-3000:])[0]


ASKED = ("NOTIFY=SUCCESS,FAILURE,DELAY", "ORCPT=rfc822;Orig+2BX@x.test")


@pytest.mark.parametrize("tag", [(), ("REQUIRETLS",)])
def test_the_host_that_delivers_reports(world, tag):
    """Over a hop that speaks DSN: its "delivered", with what the sender gave, the only report; tagged likewise."""
    sender = f"two-hops{len(tag)}@a.test"
    send(world, sender, "p@b.test", mail=(*tag, "ENVID=env+2B1", "RET=FULL"), rcpt=ASKED)
    (got,) = reports_to(world, sender)
    assert got.about["Reporting-MTA"] == "dns; b.test"
    assert got.about["Original-Envelope-Id"] == "env+1"
    (block,) = got.recipients
    assert (block["Action"], block["Original-Recipient"]) == ("delivered", "rfc822;Orig+X@x.test")
    assert got.kind == "text/rfc822-headers" and b"the secret subject" in got.returned
    assert ("(requiretls)" in got.message["Received"]) == bool(tag)
    assert got.message["Return-Path"] == "<>"
    assert not [e for e in world.a.events("reported") if e.get("sender") == sender]


def test_postfix_reports_what_we_asked_it_to(world):
    """ENVID, ORCPT and NOTIFY cross over to Debian's Postfix, which delivers and says so; we say nothing."""
    send(world, "neighbour@a.test", "p@post.test", mail=("ENVID=e2", "RET=HDRS"), rcpt=ASKED)
    (octets,) = world.a.mail("neighbour@a.test")
    got = Report(octets)
    assert "mx.post.test" in got.about["Reporting-MTA"]
    assert got.about["Original-Envelope-Id"] == "e2"
    (block,) = got.recipients
    assert (block["Action"], block["Original-Recipient"]) == ("delivered", "rfc822;Orig+X@x.test")


@pytest.mark.parametrize("tag", [(), ("REQUIRETLS",)])
def test_b08_a_host_without_the_keyword_returns_no_tagged_message_whole(world, tag):
    """A lax policy lets the message through to Postfix, where it fails: told RET=HDRS, Postfix returns no body."""
    sender = f"b08{len(tag)}@a.test"
    send(world, sender, "broken@post.test", at=B, mail=(*tag, "RET=FULL"))
    (octets,) = world.a.mail(sender)
    assert Report(octets).status.startswith("5.")
    assert (b"the secret body" in octets) is not bool(tag)


def test_a_host_without_dsn_is_spoken_for(world):
    """RFC 3461 5.2.2 (b): "relayed", and it hears of no DSN parameter."""
    send(world, "plain@a.test", "x@plain.test", mail=("ENVID=e3", "RET=FULL"), rcpt=ASKED)
    (got,) = reports_to(world, "plain@a.test")
    (block,) = got.recipients
    assert (block["Action"], block["Status"], block["Remote-MTA"]) == ("relayed", "2.0.0", f"dns; {PLAIN}")
    assert got.about["Original-Envelope-Id"] == "e3" and b"secret body" not in got.returned
    for word in (b"NOTIFY", b"ORCPT", b"ENVID", b"RET="):
        assert word not in world.plain.octets


@pytest.mark.parametrize(("notify", "reports"), [("NEVER", 0), ("SUCCESS", 0), ("FAILURE", 1)])
def test_b06_nobody_hears_of_a_failure_unasked(world, notify, reports):
    """An unknown user at Postfix: told to whoever wants to know, by what it said to which command."""
    sender = f"b06-{notify.lower()}@a.test"
    send(world, sender, "unknown@post.test", rcpt=(f"NOTIFY={notify}",))
    settled(world.a, "bounced", sender=sender)
    settled(world.a, "reported" if reports else "discarded")
    if not reports:
        assert world.a.mailbox(sender) == []
        return
    (got,) = reports_to(world, sender)
    assert got.recipients[0]["Status"] == "5.1.1"
    assert got.kind == "message/rfc822" and b"the secret body" in got.returned
    assert f"{P} said to RCPT: 550 5.1.1" in " ".join(got.text.split())


def test_b01_b02_b15_a_failure_behind_the_second_hop_comes_back_protected(world):
    """Two hops with the tag; the third has no TLS: 5.7.10, host, step, clause; headers only, REQUIRETLS all the way."""
    before = len(world.plain.octets)
    send(world, "chain@a.test", "x@far.test", mail=("REQUIRETLS", "RET=FULL"))
    (got,) = reports_to(world, "chain@a.test")
    assert got.about["Reporting-MTA"] == "dns; b.test"
    assert "(requiretls)" in got.message["Received"] and "ESMTPS" in got.message["Received"]
    (block,) = got.recipients
    assert (block["Action"], block["Status"]) == ("failed", "5.7.10")
    assert f"{PLAIN}" in block["Diagnostic-Code"] and "starttls" in block["Diagnostic-Code"]
    assert "RFC 8689 4.2.1 (4)" in got.text
    assert got.kind == "text/rfc822-headers" and b"the secret body" not in got.returned
    assert b"secret" not in world.plain.octets[before:]


def test_b03_a_way_back_without_the_keyword_gets_the_redacted_form(world):
    """Postfix is the sender's server: the report is tried with REQUIRETLS, then goes without, and shows nothing."""
    send(world, "s@post.test", "x@plain.test", mail=("REQUIRETLS", "RET=FULL"))
    folder = world.postfix_mail / "s" / "new"
    (file,) = wait(lambda: folder.is_dir() and list(folder.iterdir()), lambda: world.a.log.read_text()[-3000:])
    octets = file.read_bytes()
    got = read(octets)
    assert got.recipients[0]["Status"] == "5.7.10"
    assert b"secret" not in octets
    assert b"Message-ID: <1@x>" in got.returned
    assert not [e for e in world.a.events("discarded") if "report" in e.get("reason", "")]


def test_b04_a_way_back_without_tls(world):
    """The redacted form in the clear, or with `requiretls-only` none at all."""
    world.plain.octets = b""
    send(world, "s@plain.test", "unknown@post.test", mail=("REQUIRETLS",))
    wait(lambda: b"multipart/report" in world.plain.octets, lambda: world.a.log.read_text()[-3000:])
    wait(lambda: world.plain.octets.endswith(b"QUIT\r\n"), lambda: world.plain.octets)
    assert b"MAIL FROM:<>" in world.plain.octets and b"REQUIRETLS" not in world.plain.octets.partition(b"DATA")[0]
    assert b"secret" not in world.plain.octets
    world.plain.octets = b""
    send(world, "s2@plain.test", "unknown@post.test", at=B, mail=("REQUIRETLS",))
    settled(world.b, "discarded")
    assert b"MAIL" not in world.plain.octets


@pytest.mark.parametrize("tag", [(), ("REQUIRETLS",)])
def test_b05_a_report_of_others_makes_none(world, tag):
    """MAIL FROM:<>, tagged or not: delivered where the keyword is missing, and nobody hears when it fails."""
    folder = world.postfix_mail / "p" / "new"
    before = len(list(folder.iterdir())) if folder.is_dir() else 0
    send(world, "", "p@post.test", mail=tag)
    wait(lambda: folder.is_dir() and len(list(folder.iterdir())) > before, lambda: world.a.log.read_text()[-3000:])
    discarded = len(world.a.events("discarded"))
    send(world, "", "unknown@post.test", mail=tag)
    wait(lambda: len(world.a.events("discarded")) > discarded, lambda: world.a.log.read_text()[-3000:])
    assert not [e for e in world.a.events("reported") if e["queue_id"] == world.a.events("discarded")[-1]["queue_id"]]


def test_an_alias_for_several_is_reported_once(world):
    """Our second hop has the alias: "expanded" for it, the mail for both, and no word of each."""
    send(world, "expanded@a.test", "team@b.test", mail=("REQUIRETLS",), rcpt=ASKED)
    (got,) = reports_to(world, "expanded@a.test")
    assert got.actions() == {"team@b.test": "expanded"}
    assert "(requiretls)" in got.message["Received"]
    for member in ("one@b.test", "two@b.test"):
        assert len(world.b.mail(member)) == 1
    assert len(world.a.mailbox("expanded@a.test")) == 1


def test_b09_a_delay_is_told_once_over_a_restart_and_then_the_end(world):
    """Nobody listens there: one warning in spite of a kill, then the failure, with how the attempts went."""
    send(world, "late@a.test", "x@down.test", rcpt=ASKED)
    (got,) = reports_to(world, "late@a.test")
    (block,) = got.recipients
    assert (block["Action"], block["Status"]) == ("delayed", "4.4.1")
    assert "Will-Retry-Until" in block and "connection refused" in got.text
    world.a.told("delivered", recipient="late@a.test")  # killed before that, it would deliver it once more
    world.a.kill()
    world.a.start()
    _, got = reports_to(world, "late@a.test", 2)
    (block,) = got.recipients
    assert (block["Action"], block["Status"]) == ("failed", "5.4.7")
    assert got.text.count("451 4.4.1") >= 3
    assert len(world.a.mailbox("late@a.test")) == 2


def test_b11_b12_the_wish_not_to_need_tls_is_carried_over(world):
    """The report of such mail bears the field; where the parameter overruled it, not."""
    body = b"TLS-Required: No\r\n" + BODY
    send(world, "optional@a.test", "unknown@post.test", body=body)
    (got,) = reports_to(world, "optional@a.test")
    assert got.message["TLS-Required"] == "No"
    send(world, "required@a.test", "unknown@post.test", body=body, mail=("REQUIRETLS",))
    (got,) = reports_to(world, "required@a.test")
    assert got.message["TLS-Required"] is None and got.recipients[0]["Status"] == "5.7.30"


def test_utf8_reports_for_smtputf8_mail(world):
    """RFC 6533: addresses as they are, to a sender that has such an address itself."""
    body = BODY.replace(b"secret subject", "grüße".encode())
    mail = ("SMTPUTF8", "BODY=8BITMIME")
    orcpt = "ORCPT=utf-8;j\\x{FC}rgen@plain.test"
    send(world, "änna@a.test", "jürgen@plain.test", mail=mail, rcpt=("NOTIFY=FAILURE", orcpt), body=body)
    (octets,) = world.a.mail("änna@a.test")
    assert b"Content-Type: message/global-delivery-status" in octets
    got = read(octets)
    (block,) = got.recipients
    assert block["Final-Recipient"] == "utf-8; jürgen@plain.test"
    assert block["Original-Recipient"] == "utf-8;jürgen@plain.test"
    assert block["Status"] == "5.6.7"
    assert got.kind == "message/global" and "the grüße".encode() in got.returned
