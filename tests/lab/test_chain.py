"""Three of ours in a row, found by signed DNS: what a tag becomes over aliases, lists and failure (B14, B15)."""

import contextlib
import email
import smtplib
from types import SimpleNamespace

import pytest

from tests.lab.ca import CA
from tests.lab.dns import Lab
from tests.lab.mta import MTA, free_port
from tests.lab.test_reports import settled, wait
from tests.lab.test_tag import starttls
from tests.report.rfc3464 import read
from tests.smtp.fake_mx import FakeMX

A, B, C, WEAK, CHURN, NODSN, KEEPS, DOWN = (f"127.0.3.{n}" for n in range(1, 9))
"""Where the sender lives; where aliases and lists are; where members live; hosts that lack the keyword, lose it, do
not speak DSN, have everything; and where nobody listens."""
HOSTS = {"a": A, "b": B, "c": C}
MEMBERS = {
    "team": ["one@c.test", "gone@c.test", "two@weak.test"],
    "open": ["three@weak.test", "four@c.test"],
    "outer": ["friends@b.test", "inner@b.test", "five@c.test"],
    "inner": ["six@c.test"],
}
ALIASES = """\
"sales@b.test" = ["anna@b.test", "bob@c.test"]
"both@b.test" = ["sales@b.test", "open@b.test"]
"friends@b.test" = ["friend@c.test", "anna@b.test"]
"x@b.test" = "x@weak.test"
"gone@b.test" = "gone@c.test"
"nodsn@b.test" = "x@nodsn.test"
"late@b.test" = "x@down.test"
"@old.test" = "anna+old@c.test"
"""
RULE = """\
[[requiretls.rule]]
sender = "legal@a.test"
require = true
floor = true
"""
BODY = b"Date: Wed, 25 Nov 2026 12:00:00 +0000\r\nSubject: the secret subject\r\n\r\nthe secret body\r\n"
SENT = ("REQUIRETLS", "ENVID=env+2B1", "RET=FULL")
ASKED = ("NOTIFY=SUCCESS,FAILURE,DELAY", "ORCPT=rfc822;Orig+2BX@x.test")


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    port, ca = free_port(A, B, C, WEAK, CHURN, NODSN, KEEPS, DOWN), CA(folder / "ca")
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab(folder))
        for name, address in {
            **HOSTS,
            "weak": WEAK,
            "churn": CHURN,
            "nodsn": NODSN,
            "keeps": KEEPS,
            "down": DOWN,
        }.items():
            lab.zone(f"{name}.test", [f"@ MX 10 mx.{name}.test.", f"mx A {address}"])
        # Everybody in it is somebody at the third hop.
        lab.zone("old.test", ["@ MX 10 mx.b.test."])
        lab.start()
        chain = SimpleNamespace(folder=folder, port=port, ca=ca, resolver=":".join(map(str, lab.resolver_address)))
        chain.weak = FakeMX(WEAK, port, files=ca.host("mx.weak.test"), inside=("PIPELINING",))
        chain.nodsn = FakeMX(NODSN, port, files=ca.host("mx.nodsn.test"), inside=("PIPELINING", "REQUIRETLS"))
        chain.churn = FakeMX(CHURN, port, files=ca.host("mx.churn.test"), replies={"MAIL": ["450 4.2.0 later"]})
        chain.keeps = FakeMX(KEEPS, port, files=ca.host("mx.keeps.test"), replies={"MAIL": ["450 4.2.0 later"]})
        for server in (chain.weak, chain.nodsn, chain.churn, chain.keeps):
            stack.callback(server.close)
        for name in HOSTS:
            mta = instance(chain, name)
            stack.callback(mta.stop)
            setattr(chain, name, mta.start())
        yield chain


def instance(chain, name):
    """One of ours; what is special to B and C is nowhere else."""
    folder, files = chain.folder / name, chain.ca.host(f"mx.{name}.test")
    lists = ""
    for each, members in MEMBERS.items():
        (chain.folder / each).write_text("".join(f"{member}\n" for member in members))
        # Those who keep the lists live at the first hop: what comes back crosses over to it.
        lists += f"""[[list]]
address = "{each}@b.test"
owner = "{each}-owner@a.test"
members_file = "{chain.folder}/{each}"
requiretls = "{"ignore" if each == "open" else "inherit"}"
"""
    further = {"a": RULE, "b": ALIASES + lists, "c": '"gone@c.test" = "x@weak.test"'}
    return MTA(
        folder,
        f"""hostname = "mx.{name}.test"
[tls]
certificate = "{files.chain}"
key = "{files.key}"
[listen.mx]
endpoint = "tcp:{chain.port}:interface={HOSTS[name]}"
service = "mx"
[domains]
local = ["{name}.test"]
[delivery]
maildir = "{folder}/mail/{{domain}}/{{local}}"
recipient_delimiter = "+"
[aliases]
{further.get(name, "")}
[dns]
servers = ["{chain.resolver}"]
[relay]
port = {chain.port}
trust = "{chain.ca.roots}"
retry = ["2s"]
delay_warning = "2s"
idle = "1s"
[requiretls]
lifetime = "5s"
""",
        (HOSTS[name], chain.port),
    )


def send(chain, sender, to, *, mail=SENT, rcpt=(), body=BODY):
    """Give a message to the first hop, inside TLS; its queue id there."""
    with smtplib.SMTP(A, chain.port, timeout=10) as client:
        starttls(client)
        client.ehlo("client.test")
        assert client.mail(sender, mail)[0] == 250
        assert client.rcpt(to, rcpt)[0] == 250
        return client.data(body)[1].rpartition(b" ")[2].decode()


def hops(octets):
    """The trace of a message from the client on: by which host, and whether it came to it tagged."""
    found = []
    for field in reversed(email.message_from_bytes(octets).get_all("Received")):
        words = field.split()
        tagged = "(requiretls)" in words
        if "(list" in words:
            found.append((words[words.index("(list") + 1].rstrip(")"), tagged))
        else:
            assert words[words.index("with") + 1] == "ESMTPS"
            found.append((words[words.index("by") + 1], tagged))
    return found


def tagged(*hosts):
    return [(host, True) for host in hosts]


ROW = ("mx.a.test", "mx.b.test", "mx.c.test")


def test_b15_an_alias_in_the_middle_keeps_the_tag_to_the_end(chain):
    """Two copies of one message: into a mailbox there, and over the third hop, by DNSSEC and PKIX at each."""
    sender = "alias@a.test"
    send(chain, sender, "sales@b.test")
    (last,) = chain.c.mail("bob@c.test")
    assert hops(last) == tagged(*ROW)
    assert last.startswith(b"Return-Path: <alias@a.test>\n") and last.endswith(b"\nthe secret body\n")
    assert hops(chain.b.mail("anna@b.test")[0]) == tagged(*ROW[:2])
    for mta, recipient in ((chain.a, "sales@b.test"), (chain.b, "bob@c.test")):
        event = settled(mta, "delivered", sender=sender, recipient=recipient)
        assert (event["requiretls"], event["keyword"]) == ("required", True)
        assert (event["mx_security"], event["auth"]) == ("dnssec", "pkix")


@pytest.mark.parametrize(("to", "reporter"), [("x@weak.test", "a"), ("x@b.test", "b"), ("gone@b.test", "c")])
def test_a_failing_hop_comes_back_protected(chain, to, reporter):
    """Whichever hop has no further way: its report has REQUIRETLS up to the sender, and shows the header only."""
    sender = f"fails-{reporter}@a.test"
    send(chain, sender, to, rcpt=ASKED)
    (octets,) = chain.a.mail(sender)
    got = read(octets)
    assert got.about["Reporting-MTA"] == f"dns; mx.{reporter}.test"
    assert got.about["Original-Envelope-Id"] == "env+1"
    (block,) = got.recipients
    assert (block["Action"], block["Status"]) == ("failed", "5.7.30")
    assert block["Original-Recipient"] == "rfc822;Orig+X@x.test"
    assert "mx.weak.test" in block["Diagnostic-Code"] and "requiretls" in block["Diagnostic-Code"]
    assert got.kind == "text/rfc822-headers"
    assert b"the secret subject" in got.returned and b"the secret body" not in octets
    if reporter != "a":
        assert hops(octets) == tagged("mx.a.test")
        sent = settled(getattr(chain, reporter), "delivered", recipient=sender)
        assert (sent["requiretls"], sent["keyword"], sent["sender"]) == ("required", True, "")
    assert b"secret" not in chain.weak.tls + chain.weak.clear


def test_b07_what_a_host_without_dsn_took_is_told_protected(chain):
    """The middle says "relayed" to the sender: tagged, the header only, as RFC 8689 5 wants of failures."""
    send(chain, "nodsn@a.test", "nodsn@b.test", rcpt=ASKED)
    (octets,) = chain.a.mail("nodsn@a.test")
    got = read(octets)
    assert hops(octets) == tagged("mx.a.test")
    (block,) = got.recipients
    assert (block["Action"], block["Status"], block["Remote-MTA"]) == ("relayed", "2.0.0", "dns; mx.nodsn.test")
    assert block["Original-Recipient"] == "rfc822;Orig+X@x.test"
    assert got.kind == "text/rfc822-headers" and b"the secret body" not in octets
    mail, rcpt = (line for line in chain.nodsn.tls.split(b"\r\n") if line[:4] in (b"MAIL", b"RCPT"))
    assert mail.endswith(b" REQUIRETLS") and rcpt == b"RCPT TO:<x@nodsn.test>"


def test_b09_a_delay_and_the_end_of_it_are_told_protected(chain):
    """Nobody listens behind the middle: a warning, and the failure at the end of the time for tagged mail."""
    send(chain, "late@a.test", "late@b.test", rcpt=ASKED)
    delayed, failed = map(read, chain.a.mail("late@a.test", 2))
    for got, action, status in ((delayed, "delayed", "4.4.1"), (failed, "failed", "5.4.7")):
        assert hops(got.message.as_bytes()) == tagged("mx.a.test")
        (block,) = got.recipients
        assert (block["Action"], block["Status"]) == (action, status)
        assert "connect" in block["Diagnostic-Code"] and block["Original-Recipient"] == "rfc822;Orig+X@x.test"
        assert got.kind == "text/rfc822-headers" and b"the secret subject" in got.returned
        assert "secret" not in got.message["Subject"]


def test_what_the_sender_asked_for_outlives_a_crash(chain):
    """Each parameter as it came, but RET, to a host that speaks DSN; taken before the kill, given to it behind it."""
    send(chain, "keeps@a.test", "x@keeps.test", rcpt=ASKED)
    settled(chain.a, "deferred", sender="keeps@a.test")
    chain.a.kill()
    chain.a.start()
    settled(chain.a, "delivered", sender="keeps@a.test")
    *_, mail, rcpt = (line for line in chain.keeps.tls.split(b"\r\n") if line[:5] in (b"MAIL ", b"RCPT "))
    assert mail.startswith(b"MAIL FROM:<keeps@a.test> ")
    assert set(mail.split()[2:]) >= {b"REQUIRETLS", b"RET=HDRS", b"ENVID=env+2B1"}
    assert rcpt == b"RCPT TO:<x@keeps.test> NOTIFY=DELAY,FAILURE,SUCCESS ORCPT=rfc822;Orig+2BX@x.test"
    assert chain.a.mailbox("keeps@a.test") == []


def test_p01_p02_a_rule_upgrades_for_the_whole_way(chain):
    """Sent as mail that even waives TLS: the floor makes it required, as log and trace tell; the field stays."""
    body = b"TLS-Required: No\r\n" + BODY
    queue_id = send(chain, "legal@a.test", "dora@c.test", mail=(), body=body)
    (octets,) = chain.c.mail("dora@c.test")
    assert hops(octets) == tagged("mx.a.test", "mx.c.test") and b"\nTLS-Required: No\n" in octets
    assert b"(requiretls) (by requiretls.rule[0])" in b" ".join(octets.split())
    event = settled(chain.a, "queued", queue_id=queue_id)
    assert (event["rule"], event["effect"], event["requiretls"]) == ("requiretls.rule[0]", "required", "required")


def test_p08_each_attempt_looks_anew_at_what_a_host_can(chain):
    """The keyword was there when the host said "later", and is gone when we come again: 5.7.30, nothing was sent."""
    send(chain, "churn@a.test", "x@churn.test")
    settled(chain.a, "deferred", sender="churn@a.test")
    chain.churn.options["inside"] = ("PIPELINING",)
    got = read(chain.a.mail("churn@a.test")[0])
    assert got.recipients[0]["Status"] == "5.7.30"
    assert "450 4.2.0 later" in " ".join(got.text.split()), got.text
    assert chain.churn.messages == [] and b"RCPT" not in chain.churn.tls.rpartition(b"EHLO")[2]


def test_b14_a_list_in_the_middle_and_what_its_owner_hears(chain):
    """Members behind the third hop get it tagged; each failure goes to the owner, tagged, the sender hears of none."""
    sender = "lister@a.test"
    send(chain, sender, "team@b.test", rcpt=("NOTIFY=SUCCESS,FAILURE",))
    (one,) = chain.c.mail("one@c.test")
    assert hops(one) == tagged(*ROW[:2], "team@b.test", "mx.c.test")
    assert one.startswith(b"Return-Path: <team-owner@a.test>\n")
    found = {}
    for octets in chain.a.mail("team-owner@a.test", 2):
        got = read(octets)
        assert hops(octets) == tagged("mx.a.test")
        assert b"the secret body" not in octets
        (block,) = got.recipients
        assert (block["Action"], block["Status"]) == ("failed", "5.7.30")
        assert "Original-Envelope-Id" not in got.about
        found[block["Final-Recipient"]] = got.about["Reporting-MTA"]
    assert found == {"rfc822; two@weak.test": "dns; mx.b.test", "rfc822; x@weak.test": "dns; mx.c.test"}
    # To the sender a list is the end of the way (RFC 3461 5.2.7.1).
    (octets,) = chain.a.mail(sender)
    assert read(octets).actions() == {"team@b.test": "delivered"} and hops(octets) == tagged("mx.a.test")
    assert b"secret" not in chain.weak.tls + chain.weak.clear


def test_a_list_in_a_list_with_an_alias(chain):
    """Each copy tagged; members of the inner one by its own."""
    send(chain, "nested@a.test", "outer@b.test")
    for address in ("five@c.test", "friend@c.test"):
        (octets,) = chain.c.mail(address)
        assert hops(octets) == tagged(*ROW[:2], "outer@b.test", "mx.c.test")
    (octets,) = chain.c.mail("six@c.test")
    assert hops(octets) == tagged(*ROW[:2], "inner@b.test", "mx.c.test")
    assert octets.startswith(b"Return-Path: <inner-owner@a.test>\n")


def test_p03_the_suffix_asks_for_the_whole_way(chain):
    """Untagged from the client, required from the first hop on, and taken off there; the rule is on record."""
    send(chain, "suffix@a.test", "carl+requiretls@c.test", mail=())
    (octets,) = chain.c.mail("carl@c.test")
    assert hops(octets) == tagged("mx.a.test", "mx.c.test")
    first = email.message_from_bytes(octets).get_all("Received")[-1]
    assert "(by user+requiretls@)" in " ".join(first.split()) and "for <carl@c.test>" in first
    send(chain, "suffix@a.test", "carl+requiretls@weak.test", mail=())
    got = read(chain.a.mail("suffix@a.test")[0])
    assert got.actions() == {"carl@weak.test": "failed"} and got.recipients[0]["Status"] == "5.7.30"


def test_a_catch_all_and_what_is_added_to_a_name(chain):
    """A whole domain leads to a mailbox elsewhere; what follows the plus is its owner's affair: the tag stays."""
    send(chain, "catch@a.test", "anybody+x@old.test", rcpt=("NOTIFY=SUCCESS",))
    (octets,) = chain.c.mail("anna@c.test")
    assert hops(octets) == tagged(*ROW)
    (octets,) = chain.a.mail("catch@a.test")
    (block,) = read(octets).recipients
    assert (block["Action"], block["Final-Recipient"]) == ("delivered", "rfc822; anna@c.test")
    assert block["Original-Recipient"] == "rfc822;anybody+x@old.test" and hops(octets) == tagged("mx.a.test")


def test_b14_a_list_that_ignores_the_tag_reaches_all(chain):
    """`requiretls = "ignore"`, behind an alias whose other copies keep it; and its members' hosts need no keyword."""
    before = len(chain.weak.messages)
    send(chain, "ignore@a.test", "both@b.test")
    (octets,) = chain.c.mail("four@c.test")
    assert hops(octets) == [*tagged(*ROW[:2]), ("open@b.test", False), ("mx.c.test", False)]
    wait(lambda: len(chain.weak.messages) > before, lambda: chain.b.log.read_text()[-3000:])
    event = settled(chain.b, "delivered", sender="ignore@a.test", recipient="bob@c.test")
    assert event["requiretls"] == "required"
    assert chain.a.mailbox("open-owner@a.test") == chain.a.mailbox("ignore@a.test") == []
