"""Debian's exim4 and Postfix, which speak DSN but no REQUIRETLS, as next hops and as the way back (RFC 8689 5)."""

import contextlib
import pwd
import shutil
import smtplib
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.lab.ca import CA
from tests.lab.exim import exim
from tests.lab.exim import log as exim_log
from tests.lab.mta import MTA, Recorder, Report, free_port
from tests.lab.postfix import postfix
from tests.lab.require import need
from tests.lab.test_reports import send, settled, wait
from tests.report.rfc3464 import read
from tests.smtp.fake_mx import FakeMX

EXIM, POST, PLAIN, REFUSES = (f"127.0.2.{n}" for n in range(11, 15))
AT = {"a": "127.0.2.1", "o": "127.0.2.2", "r": "127.0.2.3"}
MODES = {"a": "requiretls-then-redacted", "o": "requiretls-only", "r": "redacted"}
"""Three of ours, where they are and how they protect what they report."""
NEIGHBOURS = ("exim", "post")
BOXES = (*MODES, "asks", "fails", "through", "relayed")
"""Mailboxes of each neighbour. `nobody` it refuses at RCPT, `gone` it takes and then cannot deliver."""
SENT = ("ENVID=env+2B1", "RET=FULL")
ASKED = ("NOTIFY=SUCCESS,FAILURE,DELAY", "ORCPT=rfc822;Orig+2BX@x.test")


@pytest.fixture(scope="module")
def world():
    need("postfix"), need("exim4")
    with contextlib.ExitStack() as stack:
        # The neighbours run as users of their own, who cannot enter pytest's folder.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        port = free_port(*AT.values(), EXIM, POST, PLAIN, REFUSES)
        world = SimpleNamespace(folder=folder, port=port, ca=CA(folder / "ca"))
        world.mail = {"exim": folder / "exim" / "mail", "post": folder / "post-mail"}
        stack.enter_context(an_exim(world))
        stack.enter_context(a_postfix(world))
        stack.callback(FakeMX(REFUSES, world.port, clear=("DSN",), replies={"RCPT": "550 5.1.1 gone"}).close)
        world.plain = Recorder(PLAIN, world.port)
        stack.callback(world.plain.close)
        for name in AT:
            mta = ours(world, name)
            stack.callback(mta.stop)
            setattr(world, name, mta.start())
        yield world


def ours(world, name):
    """One of ours. The neighbours may have tagged mail for their domain `lax` though they lack the keyword."""
    address, folder = AT[name], world.folder / name
    files = world.ca.host(f"{name}.test", address)
    routes = {"a": AT["a"], "exim": EXIM, "lax.exim": EXIM, "post": POST, "lax.post": POST, "plain": PLAIN}
    lines = "".join(f'"{d}.test" = "smtp:[{to}]:{world.port}"\n' for d, to in routes.items() if d != name)
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
[dns]
servers = ["127.0.0.1:1"]
[access]
relay_from = ["127.0.0.0/8"]
[requiretls]
bounce = "{MODES[name]}"
policy = {{ "lax.exim.test" = "opportunistic", "lax.post.test" = "opportunistic" }}
[relay]
trust = "{world.ca.roots}"
retry = ["1s"]
[relay.routes]
{lines}""",
        (address, world.port),
    )


def an_exim(world):
    """Whatever is not its own goes to A."""
    return exim(
        world.folder / "exim",
        world.port,
        address=EXIM,
        hostname="mx.exim.test",
        files=world.ca.host("mx.exim.test", EXIM),
        domains=("exim.test", "lax.exim.test"),
        boxes=BOXES,
        smarthost=AT["a"],
    )


def a_postfix(world):
    """The same for Postfix."""
    files, user = world.ca.host("mx.post.test", POST), pwd.getpwnam("postfix")
    for path in (files.key, files.chain):
        path.chmod(0o644)
    world.mail["post"].mkdir()
    shutil.chown(world.mail["post"], "postfix")
    boxes = ", ".join(f"{box}@{domain}={box}/" for box in (*BOXES, "gone") for domain in ("post.test", "lax.post.test"))
    gone = f"smtp:[{REFUSES}]:{world.port}"
    settings = {
        "myhostname": "mx.post.test",
        "virtual_mailbox_domains": "post.test, lax.post.test",
        "virtual_mailbox_base": str(world.mail["post"]),
        "virtual_mailbox_maps": f"inline:{{{boxes}}}",
        "virtual_minimum_uid": "1",
        "virtual_uid_maps": f"static:{user.pw_uid}",
        "virtual_gid_maps": f"static:{user.pw_gid}",
        "transport_maps": f"inline:{{gone@post.test={gone}, gone@lax.post.test={gone}}}",
        "relayhost": f"[{AT['a']}]:{world.port}",
        "smtpd_tls_security_level": "may",
        "smtpd_tls_chain_files": f"{files.key} {files.chain}",
        "smtp_tls_security_level": "may",
    }
    return postfix(world.folder / "postfix", world.port, settings, address=POST)


def mailbox(world, neighbour, box):
    """Wait for the message in a mailbox of a neighbour; its octets."""
    folder = world.mail[neighbour] / box / "new"
    (path,) = wait(
        lambda: folder.is_dir() and list(folder.iterdir()),
        lambda: world.a.log.read_text()[-3000:] + exim_log(world.folder / "exim"),
    )
    return path.read_bytes()


def through(world, neighbour, sender, to, *, body=b"Subject: the secret subject\r\n\r\nthe secret body\r\n"):
    """Give a message with all DSN parameters to a neighbour."""
    with smtplib.SMTP(EXIM if neighbour == "exim" else POST, world.port, timeout=10) as client:
        client.ehlo("c.test")
        client.sendmail(sender, [to], body, mail_options=SENT, rcpt_options=ASKED)


def about(reporter, octets):
    """One recipient's block of a neighbour's report, in the common fields of RFC 3464."""
    got = Report(octets)
    assert got.message.get_param("report-type") == "delivery-status"
    assert got.about["Reporting-MTA"].replace(" ", "") == f"dns;mx.{reporter}.test"
    (block,) = got.recipients
    assert {"Final-Recipient", "Action", "Status"} <= set(block)
    return got, block


def asked_for(got, block):
    """Whether it tells the ENVID and ORCPT that the sender gave. exim 4.96 shows them in xtext still."""
    shown = got.about["Original-Envelope-Id"], block["Original-Recipient"].replace("; ", ";")
    return tuple(text.replace("+2B", "+") for text in shown) == ("env+1", "rfc822;Orig+X@x.test")


@pytest.mark.parametrize("neighbour", NEIGHBOURS)
def test_a_neighbour_reports_what_we_asked_it_to(world, neighbour):
    """NOTIFY, ORCPT, ENVID reach it as they were given: it delivers and says so to our sender; we say nothing."""
    sender = f"asks-{neighbour}@a.test"
    send(world, sender, f"asks@{neighbour}.test", at=AT["a"], mail=SENT, rcpt=ASKED)
    (octets,) = world.a.mail(sender)
    got, block = about(neighbour, octets)
    assert (block["Action"], block["Status"][0]) == ("delivered", "2")
    assert f"asks@{neighbour}.test" in block["Final-Recipient"]
    assert asked_for(got, block)
    assert not [e for e in world.a.events("reported") if e["sender"] == sender]


@pytest.mark.parametrize("neighbour", NEIGHBOURS)
@pytest.mark.parametrize("notify", ["FAILURE", "SUCCESS", "NEVER", None])
def test_a_neighbour_tells_of_a_failure_only_who_wants_to_know(world, neighbour, notify):
    """What it took and could not deliver; NOTIFY=NEVER, or without FAILURE, holds over the hop."""
    sender = f"fails-{notify}-{neighbour}@a.test".lower()
    send(world, sender, f"gone@{neighbour}.test", at=AT["a"], rcpt=(f"NOTIFY={notify}",) if notify else ())
    settled(world.a, "delivered", sender=sender)
    if notify in ("FAILURE", None):
        (octets,) = world.a.mail(sender)
        _, block = about(neighbour, octets)
        assert (block["Action"], block["Status"][0]) == ("failed", "5")
    else:
        # A later message, of which something is heard, has passed it by.
        send(world, f"later-{sender}", f"gone@{neighbour}.test", at=AT["a"])
        world.a.mail(f"later-{sender}")
        assert world.a.mailbox(sender) == []


@pytest.mark.parametrize("neighbour", NEIGHBOURS)
@pytest.mark.parametrize("tag", [(), ("REQUIRETLS",)])
def test_b08_of_a_tagged_message_a_neighbour_returns_the_header(world, neighbour, tag):
    """Let through by a lax policy, RET=FULL is RET=HDRS to it; ENVID, NOTIFY and ORCPT are as they came."""
    sender = f"b08-{len(tag)}-{neighbour}@a.test"
    send(world, sender, f"gone@lax.{neighbour}.test", at=AT["a"], mail=(*tag, *SENT), rcpt=ASKED)
    (octets,) = world.a.mail(sender)
    got, block = about(neighbour, octets)
    assert block["Action"] == "failed" and asked_for(got, block)
    assert b"the secret subject" in octets
    assert (b"the secret body" in octets) is not bool(tag)


@pytest.mark.parametrize("neighbour", NEIGHBOURS)
def test_what_a_neighbour_asks_of_us_is_reported_to_its_sender(world, neighbour):
    """It relays the parameters to us: "delivered" by us, with them; and the report reaches the mailbox over there."""
    through(world, neighbour, f"through@{neighbour}.test", f"from-{neighbour}@a.test")
    got = read(mailbox(world, neighbour, "through"))
    assert got.about["Reporting-MTA"] == "dns; a.test"
    assert got.about["Original-Envelope-Id"] == "env+1"
    (block,) = got.recipients
    assert (block["Action"], block["Status"]) == ("delivered", "2.0.0")
    assert block["Original-Recipient"] == "rfc822;Orig+X@x.test"
    assert block["Final-Recipient"] == f"rfc822; from-{neighbour}@a.test"
    assert got.kind == "text/rfc822-headers" and b"secret body" not in got.returned


@pytest.mark.parametrize("neighbour", NEIGHBOURS)
def test_a_host_without_dsn_behind_us_is_told_of_to_a_neighbour_s_sender(world, neighbour):
    """RFC 3461 5.2.2 (b): "relayed", by us, who are the last to speak DSN."""
    through(world, neighbour, f"relayed@{neighbour}.test", "x@plain.test")
    got = read(mailbox(world, neighbour, "relayed"))
    (block,) = got.recipients
    assert (block["Action"], block["Remote-MTA"]) == ("relayed", f"dns; {PLAIN}")
    assert block["Original-Recipient"] == "rfc822;Orig+X@x.test"


@pytest.mark.parametrize(("first", "last"), [("exim", "post"), ("post", "exim")])
def test_a_failure_between_the_neighbours_is_ours_to_tell(world, first, last):
    """One gives it to us, the other refuses: field by field ours, whole as RET=FULL asks, with the refusal's words."""
    through(world, first, f"fails@{first}.test", f"nobody@{last}.test")
    got = read(mailbox(world, first, "fails"))
    address = EXIM if last == "exim" else POST
    (block,) = got.recipients
    assert (block["Action"], block["Status"], block["Remote-MTA"]) == ("failed", "5.1.1", f"dns; {address}")
    assert block["Diagnostic-Code"].startswith("smtp; 550 5.1.1 ")
    assert (got.about["Original-Envelope-Id"], block["Original-Recipient"]) == ("env+1", "rfc822;Orig+X@x.test")
    assert got.kind == "message/rfc822" and b"the secret body" in got.returned
    assert f"{address} said to RCPT: 550 5.1.1" in " ".join(got.text.split())


@pytest.mark.parametrize("name", MODES)
def test_b02_a_way_back_with_the_keyword_is_used_as_the_mode_says(world, name):
    """The sender's server is one of ours: with REQUIRETLS and the whole header, or redacted where that is the mode."""
    sender = f"back-{name}@a.test"
    send(world, sender, "x@plain.test", at=AT[name], mail=("REQUIRETLS", *SENT), rcpt=ASKED)
    (octets,) = world.a.mail(sender)
    got = a_protected_report(octets, f"{name}.test")
    # A reports to its own mailbox; the others cross over a hop.
    crossed = name != "a" and MODES[name] != "redacted"
    assert ("(requiretls)" in (got.message["Received"] or "")) == crossed
    assert (b"secret" in octets) == (MODES[name] != "redacted")


@pytest.mark.parametrize("neighbour", NEIGHBOURS)
@pytest.mark.parametrize("name", MODES)
def test_b03_a_way_back_without_the_keyword_gets_what_the_mode_says(world, name, neighbour):
    """Redacted after the protected way was refused for lack of the keyword, redacted at once, or nothing at all."""
    mta, box, sender = getattr(world, name), name, f"{name}@{neighbour}.test"
    send(world, sender, "x@plain.test", at=AT[name], mail=("REQUIRETLS", *SENT), rcpt=ASKED)
    report = settled(mta, "reported", sender=sender)["report"]
    if MODES[name] == "redacted":
        settled(mta, "delivered", queue_id=report)
    else:
        refused = settled(mta, "bounced", queue_id=report)
        assert refused["requiretls"] == "required" and "5.7.30" in refused["reply"]
    if MODES[name] == "requiretls-only":
        settled(mta, "discarded", queue_id=report)
        assert not (world.mail[neighbour] / box).exists()
        return
    octets = mailbox(world, neighbour, box)
    got = a_protected_report(octets, f"{name}.test")
    assert b"secret" not in octets
    assert {line.partition(b":")[0] for line in got.returned.split(b"\r\n") if line[:1].strip()} <= {
        b"Received", b"From", b"To", b"Date", b"Message-ID",
    }  # fmt: skip
    assert got.message["Return-Path"] == "<>"
    (sent,) = [e for e in mta.events("delivered") if e["recipient"] == sender]
    assert sent["requiretls"] is None and sent["tls_version"] == "TLSv1.3"


def a_protected_report(octets, reporter):
    """What every report about the tagged message says; `requiretls` is nowhere promised by it itself."""
    got = read(octets)
    assert got.about["Reporting-MTA"] == f"dns; {reporter}"
    assert got.about["Original-Envelope-Id"] == "env+1"
    (block,) = got.recipients
    assert block["Original-Recipient"] == "rfc822;Orig+X@x.test"
    assert block["Final-Recipient"] == "rfc822; x@plain.test"
    assert (block["Action"], block["Status"]) == ("failed", "5.7.10")
    assert "starttls" in block["Diagnostic-Code"]
    assert got.kind == "text/rfc822-headers" and b"the secret body" not in octets
    assert "secret" not in got.message["Subject"]
    return got
