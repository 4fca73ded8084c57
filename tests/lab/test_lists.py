"""Alias and list in the middle of a chain of ours: the tag reaches the end, and what fails there comes back (B15)."""

import contextlib
import json
import signal
import smtplib
import time
from types import SimpleNamespace

import pytest

from tests.lab.ca import CA
from tests.lab.mta import MTA, Report, free_port
from tests.lab.test_tag import starttls
from tests.smtp.fake_mx import FakeMX

A, B, C, WEAK = "127.0.0.91", "127.0.0.92", "127.0.0.93", "127.0.0.94"
"""Where the sender lives, where alias and list are, where members live; and a host that lacks the keyword."""


@pytest.fixture
def chain(tmp_path):
    """a.test sends all of b.test to B, which has an alias and lists with members at c.test and weak.test."""
    port, ca = free_port(A, B, C, WEAK), CA(tmp_path / "ca")
    weak = FakeMX(WEAK, port, files=ca.host("weak.test", WEAK), inside=("PIPELINING",))
    members = {"team": "one@c.test\n# at a host without the keyword\ntwo@weak.test\n", "open": "three@weak.test\n"}

    def instance(name, address, routes, further=""):
        files = ca.host(f"{name}.test", address)
        lines = "".join(f'"{domain}" = "smtp:[{to}]:{port}"\n' for domain, to in routes.items())
        return MTA(
            tmp_path / name,
            f"""hostname = "{name}.test"
[tls]
certificate = "{files.chain}"
key = "{files.key}"
[listen.mx]
endpoint = "tcp:{port}:interface={address}"
service = "mx"
[domains]
local = ["{name}.test"]
[delivery]
maildir = "{tmp_path}/{name}/mail/{{domain}}/{{local}}"
{further}
[dns]
servers = ["127.0.0.1:1"]
[relay]
trust = "{ca.roots}"
retry = ["1s"]
[relay.routes]
{lines}""",
            (address, port),
        )

    lists = ""
    for name, inherit in (("team", "inherit"), ("open", "ignore")):
        (tmp_path / name).write_text(members[name])
        lists += f"""[[list]]
address = "{name}@b.test"
owner = "owner@b.test"
members_file = "{tmp_path}/{name}"
requiretls = "{inherit}"
"""
    a = instance("a", A, {"b.test": B, "c.test": C})
    b = instance(
        "b",
        B,
        {"a.test": A, "c.test": C, "weak.test": WEAK},
        f'[aliases]\n"sales@b.test" = ["team@b.test", "anna@b.test", "four@c.test"]\n{lists}',
    )
    c = instance("c", C, {"a.test": A, "b.test": B})
    found = SimpleNamespace(a=a, b=b, c=c, weak=weak, port=port, folder=tmp_path)
    with contextlib.ExitStack() as stack:
        stack.callback(weak.close)
        for mta in (a, b, c):
            stack.callback(mta.stop)
        yield found


def send(chain, to, *options):
    with smtplib.SMTP(A, chain.port, timeout=10) as client:
        starttls(client)
        client.ehlo("client.test")
        client.sendmail("sender@a.test", to, b"Subject: hush\r\n\r\nsecret body\r\n", mail_options=options)


def test_the_tag_reaches_the_members_and_what_fails_comes_back_protected(chain):
    """Three hops with alias and list between, over a kill of the middle one; the owner hears of members, tagged."""
    a, b, c = chain.a, chain.b, chain.c
    for mta in (a, b):
        mta.start()
    send(chain, ["sales@b.test"], "REQUIRETLS")
    end = time.monotonic() + 15
    while not any("c.test" in str(event.get("recipient")) for event in b.events("deferred")):
        assert time.monotonic() < end, b.log.read_text()[-3000:]
        time.sleep(0.05)
    b.told("delivered", recipient="anna@b.test")  # killed before that, it would deliver it once more
    b.kill()
    rows = json.loads(b.tool("queue", "list", "--json"))
    assert {(row["sender"], row["requiretls"]) for row in rows} >= {
        ("sender@a.test", "required"),
        ("owner@b.test", "required"),
    }
    b.start()
    c.start()
    for address, sender in (("one@c.test", b"owner@b.test"), ("four@c.test", b"sender@a.test")):
        (octets,) = c.mail(address)
        assert octets.startswith(b"Return-Path: <" + sender)
        assert octets.endswith(b"\nsecret body\n")
        # A took it, B took it (the list once more), C took it.
        assert octets.count(b"(requiretls)") == (4 if b"(list team@b.test)" in octets else 3)
    assert len(b.mail("anna@b.test")) == 1
    report = Report(b.mail("owner@b.test")[0])
    assert report.status == "5.7.30" and "two@weak.test" in str(report.recipients[0]["Final-Recipient"])
    assert b"secret body" not in report.octets
    assert a.mailbox("sender@a.test") == []
    assert chain.weak.messages == [] and b"hush" not in chain.weak.tls + chain.weak.clear
    queued = {event["sender"]: event for event in b.events("queued")}
    assert queued["owner@b.test"]["origin"] == "list"
    assert queued["owner@b.test"]["parent"] == queued["sender@a.test"]["queue_id"]


def test_the_report_about_a_member_s_own_host_crosses_back_with_the_keyword(chain):
    """A failing third hop: the alias alone, so that the sender, not an owner, gets the report, tagged on its way."""
    chain.b.file.write_text(chain.b.file.read_text().replace('"four@c.test"]', '"two@weak.test"]'))
    for mta in (chain.a, chain.b):
        mta.start()
    send(chain, ["sales@b.test"], "REQUIRETLS")
    report = Report(chain.a.mail("sender@a.test")[0])
    assert report.status == "5.7.30"
    assert b"(requiretls)" in report.octets.split(b"\n\n")[0]
    assert b"secret body" not in report.octets
    (sent,) = chain.b.told("delivered", recipient="sender@a.test")
    assert sent["requiretls"] == "required"


def test_a_list_that_ignores_the_tag_reaches_who_cannot_keep_it(chain):
    """`requiretls = "ignore"`, and members read anew at SIGHUP; a file that is wrong changes nothing."""
    for mta in (chain.a, chain.b, chain.c):
        mta.start()
    send(chain, ["open@b.test"], "REQUIRETLS")
    until(lambda: chain.weak.messages)
    assert b"secret body" in chain.weak.messages[0]
    (chain.folder / "open").write_text("five@c.test\n")
    chain.b.process.send_signal(signal.SIGHUP)
    until(lambda: "reloaded" in chain.b.log.read_text())
    send(chain, ["open@b.test"], "REQUIRETLS")
    assert b"(list open@b.test)\n" in chain.c.mail("five@c.test")[0]
    (chain.folder / "open").write_text("five@c.test\nfive at c.test\n")
    chain.b.process.send_signal(signal.SIGHUP)
    until(lambda: "reload failed" in chain.b.log.read_text())
    assert "open, line 2" in chain.b.log.read_text()
    send(chain, ["open@b.test"])
    assert len(chain.c.mail("five@c.test", 2)) == 2


def test_p03_who_asks_by_the_suffix_has_a_message_of_its_own(chain):
    """Split at admission with a body in a file, killed before an attempt: one goes on tagged, the other as it came."""
    body = b"Subject: x\r\n\r\n" + b"a long body\r\n" * 100_000
    chain.a.start()
    with smtplib.SMTP(A, chain.port, timeout=10) as client:
        client.ehlo("client.test")
        client.sendmail("sender@a.test", ["plain@b.test", "anna+requiretls@b.test"], body)
    until(lambda: len(chain.a.events("deferred")) == 2)
    chain.a.kill()
    rows = json.loads(chain.a.tool("queue", "list", "--json"))
    assert [(row["requiretls"], row["recipients"][0]["address"]) for row in rows] == [
        (None, "plain@b.test"),
        ("required", "anna@b.test"),
    ]
    chain.b.start()
    chain.a.start()
    for name, count in (("plain", 0), ("anna", 2)):
        (octets,) = chain.b.mail(f"{name}@b.test")
        assert octets.count(b"(requiretls)") == count
        assert octets.replace(b"\r\n", b"\n").endswith(body.replace(b"\r\n", b"\n"))
    until(lambda: chain.a.tool("queue", "list", "--json").strip() == "[]")
    assert list((chain.a.folder / "state").rglob("bodies/*")) == []


def until(condition, seconds=15):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
