"""`requiretls-mta queue`, with the service and without it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from requiretls_mta.cli import queue_access
from requiretls_mta.cli.main import cli
from requiretls_mta.message.address import parse_mailbox
from requiretls_mta.message.content import Content
from requiretls_mta.message.envelope import Envelope, Recipient, Tag
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


@pytest.mark.parametrize("verb", ["show", "hold", "release", "retry", "remove"])
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
def test_root_works_as_the_services_user(shard, tmp_path):
    """No file of root's stays behind in the state folder."""
    for folder in (tmp_path.parent.parent, tmp_path.parent, tmp_path):
        folder.chmod(0o755)
    for path in [tmp_path / "state", *(tmp_path / "state").rglob("*")]:
        os.chown(path, 12345, 12346)
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from requiretls_mta.cli.main import main; main()"
    for words in (["list"], ["hold", IDS[0]], ["list", "--json"]):
        command = [sys.executable, "-c", code, "queue", *words, "--config", "mta.toml"]
        done = subprocess.run(command, check=True, timeout=30, stdout=subprocess.PIPE)
    assert json.loads(done.stdout)[0]["held"] is True
    assert {path.stat().st_uid for path in (tmp_path / "state").rglob("*")} == {12345}


def test_a_queue_that_is_let_go_is_taken(shard):
    """A service that is just stopping is waited for."""
    import threading

    shard.open()
    threading.Timer(0.5, shard.close).start()
    assert len(listed()) == 2
