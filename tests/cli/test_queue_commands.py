"""`requiretls-mta queue`, with the service and without it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner

from requiretls_mta.cli import queue_access
from requiretls_mta.cli.main import cli
from requiretls_mta.message.address import parse_mailbox
from requiretls_mta.message.content import Content
from requiretls_mta.message.envelope import Envelope, Notify, Recipient, Tag
from requiretls_mta.message.stored import BytesBody, Message
from requiretls_mta.queue.changes import Accept, encode
from requiretls_mta.queue.shard import Shard

ROOT = Path(__file__).parents[2]
IDS = ("0000000000000001", "0000000000000002")
HEADER = b"From: a@example.org\r\nSubject: \x1b[31mred\r\n"


def message(message_id, tag=None):
    recipients = tuple(Recipient(parse_mailbox(address)) for address in ("b@example.net", "c@example.net"))
    body = BytesBody(HEADER + b"\r\nthe body\r\n")
    return Message(
        id=message_id,
        envelope=Envelope(sender=parse_mailbox("a@example.org"), recipients=recipients, tag=tag),
        body=body,
        content=Content(size=body.size, header_end=len(HEADER)),
        prepend=b"Received: from there\r\n",
        received=1_700_000_000.0,
    )


@pytest.fixture
def shard(tmp_path, monkeypatch):
    """A queue of two messages, closed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mta.toml").write_text('state = "state"\n')
    made = Shard(tmp_path / "state" / "shards" / "0", wall=time.time)
    with made:
        rows = [encode(m, made.files.folder, 65536) for m in (message(IDS[0], Tag.REQUIRED), message(IDS[1]))]
        assert made.apply([Accept(tuple(rows))]) == [None]
    return made


def run(*words):
    return CliRunner().invoke(cli, ["queue", *words, "--config", "mta.toml"])


def listed():
    return json.loads(run("list", "--json").stdout)


def test_the_list_is_as_documented(shard):
    """Names, values and their kinds."""
    first, second = listed()
    assert first == {
        "id": IDS[0],
        "sender": "a@example.org",
        "size": len(HEADER) + 12 + 22,
        "received": "2023-11-14T22:13:20.000Z",
        "requiretls": "required",
        "held": False,
        "recipients": [
            {"address": address, "state": "queued", "attempts": 0, "next_attempt": when, "last_reply": None}
            for address, when in zip(
                ("b@example.net", "c@example.net"), (r["next_attempt"] for r in first["recipients"]), strict=True
            )
        ],
    }
    assert second["requiretls"] is None


def test_the_list_for_people(shard):
    """Every recipient on a line, nothing cut in a pipe."""
    text = run("list").stdout
    assert IDS[0] in text
    assert "c@example.net" in text
    assert "2 queued" in text


def test_a_message_is_shown_without_its_controls(shard):
    """A header section cannot paint the terminal; the body stays private."""
    text = run("show", IDS[0]).stdout
    assert "Received: from there" in text
    assert "\\x1b[31mred" in text
    assert "\x1b" not in text
    assert "the body" not in text
    assert json.loads(run("show", IDS[0], "--json").stdout)["header"].startswith("Received: from there\nFrom")


def test_hold_release_retry_remove(shard):
    """Each does what it says, and says whether there was such a message."""
    assert run("hold", IDS[0]).output == f"{IDS[0]}: held\n"
    assert [row["held"] for row in listed()] == [True, False]
    assert run("release", IDS[0].upper(), "--json").exit_code == 0
    assert [row["held"] for row in listed()] == [False, False]
    before = time.time()
    assert run("retry", IDS[1]).exit_code == 0
    assert run("retry", "--all").output == "2 retried\n"
    due = listed()[1]["recipients"][0]["next_attempt"]
    assert due[:10] == time.strftime("%Y-%m-%d", time.gmtime(before))
    assert run("remove", IDS[1]).exit_code == 0
    assert [row["id"] for row in listed()] == [IDS[0]]


def report_of(shard, message_id):
    """The one report in the queue, about this message."""
    with shard:
        (row,) = [row for row in shard.rows() if row.sender == ""]
        found = shard.message(row.id)
        return found, b"".join(found.pieces()).decode()


def test_a_message_is_given_up_with_one_report(shard):
    """Held or not; the report is protected like any, and says who did it. A second word changes nothing."""
    assert run("hold", IDS[0]).exit_code == 0
    assert run("bounce", IDS[0].upper()).output == f"{IDS[0].upper()}: bounced\n"
    assert run("bounce", IDS[0]).exit_code == 1
    assert [row["sender"] for row in listed()] == ["a@example.org", ""]
    report, text = report_of(shard, IDS[0])
    assert report.envelope.tag is Tag.REQUIRED and report.parent == IDS[0] and report.origin == "report"
    assert [str(r.address) for r in report.envelope.recipients] == ["a@example.org"]
    assert "given up by the operator" in text and "5.3.0" in text and "the body" not in text
    assert text.count("Final-Recipient:") == 2
    assert run("bounce", report.id).exit_code == 0
    assert [row["id"] for row in listed()] == [IDS[1]], "a report of a report"


def test_what_the_operator_did_is_in_the_trace(shard):
    """Without the service, too, and for how long it is kept."""
    for words in (["hold", IDS[0]], ["release", IDS[0]], ["retry", IDS[0]], ["bounce", IDS[0]], ["remove", IDS[1]]):
        assert run(*words).exit_code == 0
    result = CliRunner().invoke(cli, ["trace", IDS[0], "--json", "--config", "mta.toml"])
    message, report = json.loads(result.stdout)["messages"]
    told = [event.get("action") or event["event"] for event in message["events"]]
    assert told == ["hold", "release", "retry", "reported", "bounced", "bounced", "bounce"]
    assert report["parent"] == IDS[0]
    Path("mta.toml").write_text('state = "state"\n[trace]\nkeep = "0s"\n')
    assert run("hold", report["id"]).exit_code == 0
    assert CliRunner().invoke(cli, ["trace", report["id"], "--json", "--config", "mta.toml"]).stdout.count("hold") == 0


def test_nobody_is_told_who_did_not_want_to_hear(shard):
    """NOTIFY=NEVER: the message goes without a report."""
    quiet = message("0000000000000003")
    recipients = tuple(attrs.evolve(r, notify=frozenset({Notify.NEVER})) for r in quiet.envelope.recipients)
    quiet = attrs.evolve(quiet, envelope=attrs.evolve(quiet.envelope, recipients=recipients))
    with shard:
        shard.apply([Accept((encode(quiet, shard.files.folder, 65536),))])
    assert run("bounce", quiet.id).exit_code == 0
    assert [row["id"] for row in listed()] == list(IDS)


def test_a_configuration_that_cannot_be_read_gives_nobody_up(shard):
    """A report is for the sender's alias, and that may be a list."""
    with Path("mta.toml").open("a") as file:
        file.write('[[list]]\naddress = "l@example.org"\nowner = "o@example.org"\nmembers_file = "missing"\n')
        file.write('[domains]\nlocal = ["example.org"]\n[delivery]\nmaildir = "/m/{local}"\n')
    result = run("bounce", IDS[0])
    assert result.exit_code == 3 and "missing" in result.stderr
    assert [row["id"] for row in listed()] == list(IDS)


@pytest.mark.parametrize("verb", ["show", "hold", "release", "retry", "remove", "bounce"])
def test_an_unknown_id_is_status_1(shard, verb):
    """The others of the same command are done all the same."""
    assert run(verb, "zzzzzzzzzzzzzzzz").exit_code == 1
    if verb != "show":
        result = run(verb, "zzzzzzzzzzzzzzzz", IDS[0])
        assert result.exit_code == 1
        assert IDS[0] in result.stdout


def test_retry_needs_to_be_told_which(shard):
    """Neither nothing nor both."""
    assert run("retry").exit_code == 2
    assert run("retry", "--all", IDS[0]).exit_code == 2


def test_no_state_folder_is_an_empty_queue(tmp_path, monkeypatch):
    """And none is made by looking."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mta.toml").write_text('state = "state"\n')
    assert run("list", "--json").stdout == "[]\n"
    assert run("list").output == "the queue is empty\n"
    assert not (tmp_path / "state").exists()


def test_a_queue_that_somebody_has_but_does_not_serve_is_status_3(shard, monkeypatch):
    """After some patience: it may just be starting."""
    monkeypatch.setattr(queue_access.open_queue.__wrapped__, "__defaults__", (0.3,))
    shard.open()
    try:
        result = run("list")
    finally:
        shard.close()
    assert result.exit_code == 3
    assert "another process has the queue" in result.stderr


@pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("REQUIRE_ALL") != "1", reason="only root can become somebody else"
)
def test_root_works_as_the_services_user(shard, reachable):
    """No file of root's stays behind in the state folder."""
    for path in [reachable / "state", *(reachable / "state").rglob("*")]:
        os.chown(path, 12345, 12346)
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from requiretls_mta.cli.main import main; main()"
    for words in (["list"], ["bounce", IDS[1]], ["hold", IDS[0]], ["list", "--json"]):
        command = [sys.executable, "-c", code, "queue", *words, "--config", "mta.toml"]
        done = subprocess.run(command, check=True, timeout=30, stdout=subprocess.PIPE)
    assert json.loads(done.stdout)[0]["held"] is True
    assert {path.stat().st_uid for path in (reachable / "state").rglob("*")} == {12345}


def test_a_queue_that_is_let_go_is_taken(shard):
    """A service that is just stopping is waited for."""
    import threading

    shard.open()
    threading.Timer(0.5, shard.close).start()
    assert len(listed()) == 2
