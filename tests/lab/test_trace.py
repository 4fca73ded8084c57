"""The trace of real messages: from the session that brought them to the report, with nothing secret in it."""

import contextlib
import json
import smtplib
import ssl
import subprocess
import time

import pytest

from tests.lab.ca import CA
from tests.lab.mta import BIN, MTA, free_port, user_file

A, B, C, NOBODY = "127.0.0.71", "127.0.0.72", "127.0.0.73", "127.0.0.74"
PASSWORD = "correct-horse-battery"
BODY = b"From: s\r\nTo: x\r\nMessage-ID: <%b@client.test>\r\nSubject: the secret subject\r\n\r\nthe secret body\r\n"


class World:
    """Everything that runs for the tests of this module."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trace")
    world = World()
    world.port, world.login = free_port(A, B, C, NOBODY), free_port(A)
    world.folder, world.ca = folder, CA(folder / "ca")
    user_file(folder / "users", "ann", PASSWORD)
    submission = f"""
[listen.submission]
endpoint = "tcp:{world.login}:interface={A}"
service = "submission"
[access]
users = "{folder}/users"
"""
    world.a = ours(world, "a", A, submission, routes={"b.test": B, "c.test": C, "down.test": NOBODY})
    world.b = ours(world, "b", B)
    world.c = ours(world, "c", C, "[requiretls]\nenabled = false\n")
    with contextlib.ExitStack() as stack:
        for mta in (world.a, world.b, world.c):
            stack.callback(mta.stop)
            mta.start()
        yield world


def ours(world, name, address, more="", routes=()):
    """One of ours: `NAME.test` is local to it."""
    ca, port, home = world.ca, world.port, world.folder / name
    files = ca.host(f"{name}.test", address)
    lines = "".join(f'"{domain}" = "smtp:[{host}]:{port}"\n' for domain, host in dict(routes).items())
    return MTA(
        home,
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
maildir = "{home}/mail/{{domain}}/{{local}}"
[dns]
servers = ["127.0.0.1:1"]
{more}
[relay]
trust = "{ca.roots}"
retry = ["1s"]
[relay.routes]
{lines}""",
        (address, port),
    )


def submit(world, to, message_id, mail=("REQUIRETLS",)):
    """Give a message to A as a user of it; the queue id."""
    context = ssl.create_default_context(cafile=str(world.ca.roots))
    context.check_hostname = False
    with smtplib.SMTP(A, world.login, timeout=10) as client:
        client.ehlo("client.test")
        client.starttls(context=context)
        client.ehlo("client.test")
        client.login("ann", PASSWORD)
        client.mail("ann@a.test", list(mail))
        client.rcpt(to)
        _, text = client.data(BODY % message_id)
    return text.decode().rsplit(" ", 1)[1]


def story(world, query, *, until):
    """The trace as JSON, once it satisfies `until`."""
    end = time.monotonic() + 20
    while True:
        done = world.a.tool("trace", query, "--json", check=False)
        if done and until(json.loads(done)["messages"]):
            return json.loads(done)["messages"]
        assert time.monotonic() < end, done
        time.sleep(0.2)


def all_finished(messages):
    return all(message["finished"] for message in messages)


def lines(event):
    """Verbs are in the client's own case."""
    return [line["text"].upper() for line in event["transcript"]]


def no_secrets(world, *texts):
    """Neither in what is shown nor in any file of a trace."""
    files = [
        path.read_text() for mta in (world.a, world.b, world.c) for path in mta.folder.glob("state/shards/*/trace/*")
    ]
    assert files
    for text in (*texts, *files):
        for secret in (PASSWORD, "AGFubgBjb3JyZWN0", "the secret body", "the secret subject"):
            assert secret not in text


def test_a_tagged_message_is_followed_to_the_next_hop(world):
    """Session, decision, attempt with the table's clause, both transcripts, delivery."""
    queue_id = submit(world, "x@b.test", b"good")
    (message,) = story(world, queue_id, until=all_finished)
    assert message["requiretls"] == "required" and message["message_id"] == "<good@client.test>"
    assert [r["state"] for r in message["recipients"]] == ["delivered"]
    by_name = {event["event"]: event for event in message["events"]}
    accepted, attempt = by_name["accepted"], by_name["attempt"]
    assert accepted["user"] == "ann" and accepted["protocol"] == "ESMTPSA" and accepted["tls_version"]
    said = lines(accepted)
    assert "EHLO CLIENT.TEST" in said and "STARTTLS" in said
    assert any(line.startswith("AUTH") and line.endswith("***") for line in said)
    assert "MAIL FROM:<ANN@A.TEST> REQUIRETLS" in said and "RCPT TO:<X@B.TEST>" in said
    assert f"({len(BODY % b'good')} OCTETS)" in said and said[-1] == f"250 2.0.0 OK: QUEUED AS {queue_id.upper()}"
    (host,) = attempt["hosts"]
    assert host["decision"]["clause"] == "RFC 8689 4.2.1"
    said = lines(host)
    assert "STARTTLS" in said and any(" REQUIRETLS" in line and line.startswith("MAIL") for line in said)
    assert any(line.endswith("OCTETS)") for line in said)
    assert by_name["delivered"]["attempt"] == attempt["attempt"]
    times = [event["time"] for event in message["events"]]
    assert times == sorted(times)
    text = world.a.tool("trace", queue_id)
    assert "REQUIRETLS" in text and "x@b.test" in text
    no_secrets(world, text, json.dumps(message), world.a.tool("trace", "good@client.test"))


def test_a_message_that_fails_and_its_report(world):
    """The host lacks the keyword: the failure has its clause, and the report's own way is part of the trace."""
    queue_id = submit(world, "x@c.test", b"bad")
    message, report = story(world, "<bad@client.test>", until=lambda found: len(found) == 2 and all_finished(found))
    assert message["id"] == queue_id and message["born"] == [report["id"]]
    (recipient,) = message["recipients"]
    assert recipient["state"] == "failed" and " 5.7.30 " in recipient["last_reply"]
    (attempt,) = [event for event in message["events"] if event["event"] == "attempt"]
    failure = attempt["hosts"][0]["failure"]
    assert failure["step"] == "requiretls" and failure["clause"] == "RFC 8689 4.2.1 (5)" and not failure["temporary"]
    assert [e["event"] for e in message["events"]][-2:] == ["reported", "bounced"]
    assert (report["origin"], report["parent"], report["sender"]) == ("report", queue_id, "")
    assert [r["address"] for r in report["recipients"]] == ["ann@a.test"]
    assert report["events"][-1]["event"] == "delivered"
    no_secrets(world, json.dumps([message, report]), world.a.tool("trace", queue_id))
    # P07: and it is counted.
    counted = world.a.tool("observe", "--counters")
    assert 'requiretls_mta_requiretls_total{outcome="bounced",reason="5.7.30"} 1\n' in counted


def test_the_operator_gives_a_held_message_up(world):
    """While the service runs: one report, protected as for any failure, and all of it in the trace."""
    queue_id = submit(world, "x@down.test", b"down")
    story(world, queue_id, until=lambda found: found[0]["recipients"][0]["attempts"] >= 1)
    world.a.tool("queue", "hold", queue_id)
    world.a.tool("queue", "bounce", queue_id)
    message, report = story(world, queue_id, until=lambda found: len(found) == 2 and all_finished(found))
    assert [e["action"] for e in message["events"] if e["event"] == "operator"] == ["hold", "bounce"]
    assert "operator" in message["recipients"][0]["last_reply"] and report["requiretls"] == "required"
    (octets,) = [o for o in world.a.mail("ann@a.test", 2) if b"given up by the operator" in o]
    assert b"Status: 5.3.0" in octets and b"the secret body" not in octets
    assert "no such message" in refused(world, "queue", "bounce", queue_id)
    no_secrets(world, world.a.tool("trace", queue_id))


def refused(world, *words):
    """What the tool says on standard error, with status 1."""
    command = [BIN / "requiretls-mta", *words, "--config", world.a.file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    return done.stderr


def test_the_log_has_no_transcripts_and_no_more_events(world):
    """At most two events per accepted message, and one per delivered recipient."""
    queue_id = submit(world, "y@b.test", b"log", mail=())
    story(world, queue_id, until=all_finished)
    events = [event["event"] for event in world.a.events() if event.get("queue_id") == queue_id]
    assert sorted(set(events) - {"tls"}) == ["accepted", "delivered", "queued"]
    assert "transcript" not in world.a.log.read_text()


def test_a_kill_leaves_a_trace_that_can_be_read(world):
    """What was written stays, and the service goes on in new lines."""
    before = submit(world, "z@b.test", b"before", mail=())
    story(world, before, until=all_finished)
    world.a.kill()
    for path in world.a.folder.glob("state/shards/*/trace/*"):
        with path.open("ab") as file:
            file.write(b'{"time":"2026-01-01T00:00:00.000Z","event":"torn","queue_id":"' + before[:9].encode())
    world.a.start()
    after = submit(world, "z@b.test", b"after", mail=())
    for queue_id in (before, after):
        (message,) = story(world, queue_id, until=all_finished)
        assert message["events"][0]["event"] == "accepted"
    assert world.a.stop() == 0
    (message,) = story(world, after, until=all_finished)
    world.a.start()
