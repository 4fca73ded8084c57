"""`requiretls-mta trace`: by id and by Message-ID, for people and for programs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from requiretls_mta.cli.main import cli
from requiretls_mta.queue.ids import TICK, tick_of
from requiretls_mta.report.trace import write_event
from requiretls_mta.report.trace_files import SegmentWriter, TraceSettings

ROOT = Path(__file__).parents[2]
ONE, TWO = "3627j8dcvhprz4z8", "3627j8ta63prz4z8"
WHEN = tick_of(ONE) * TICK
TEXT = "[0, 1]\nCMAIL FROM:<\x1b[31ma@x.example>\nS250-ok\r\nS250 [bold]really\r\n"
ATTEMPT = {
    "attempt": "a1",
    "domain": "y.example",
    "count": 1,
    "hosts": [
        {
            "host": "mx.y.example",
            "address": "192.0.2.7:25",
            "decision": {
                "step": "requiretls",
                "detail": "the message goes with REQUIRETLS",
                "clause": "RFC 8689 4.2.1",
            },
            "transcript": TEXT,
        },
        {
            "host": "mx2.y.example",
            "failure": {"step": "connect", "detail": "connection refused", "clause": "RFC 5321 5.1", "temporary": True},
        },
    ],
}
LINES = (
    (
        "queued",
        {
            "queue_id": ONE,
            "sender": "a@x.example",
            "recipients": ["b@y.example"],
            "count": 1,
            "size": 10,
            "origin": "smtp",
            "requiretls": "required",
            "message_id": "<1@x.example>",
            "session": {"id": "s1", "listener": "mx", "client": "192.0.2.1", "helo": "x.example", "protocol": "ESMTPS"},
            "checks": [{"method": "spf", "result": "pass", "text": "spf=pass smtp.mailfrom=x.example"}],
            "transcript": TEXT,
        },
    ),
    ("attempt", {"queue_id": ONE, **ATTEMPT}),
    (
        "bounced",
        {"queue_id": ONE, "recipient": "b@y.example", "mx": "mx.y.example", "reply": "550 5.7.1 no", "delay": 1},
    ),
    ("reported", {"queue_id": ONE, "sender": "a@x.example", "report": TWO, "actions": ["failed"]}),
    ("operator", {"queue_id": ONE, "action": "hold"}),
    ("surprise", {"queue_id": ONE, "colour": "red"}),
    ("queued", {"queue_id": TWO, "recipients": ["a@x.example"], "origin": "report", "parent": ONE, "sender": ""}),
)


@pytest.fixture
def state(tmp_path, monkeypatch):
    """A state folder with a trace of two messages."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mta.toml").write_text('state = "state"\n')
    shard = tmp_path / "state" / "shards" / "0"
    shard.mkdir(parents=True)
    writer = SegmentWriter(shard / "trace", TraceSettings(keep=1e9))
    writer.append([write_event("2026-11-25T18:49:12.166Z", event, fields) for event, fields in LINES], WHEN)
    writer.close()
    return tmp_path / "state"


def run(*words):
    return CliRunner().invoke(cli, ["trace", *words, "--config", "mta.toml"])


@pytest.mark.parametrize("query", [ONE, ONE.upper(), "<1@x.example>", "1@x.example"])
def test_a_message_is_found_with_its_report(state, query):
    """By id in any case, by Message-ID with its brackets or without."""
    result = run(query, "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["query"] == query
    message, report = found["messages"]
    assert message["id"] == ONE and message["born"] == [TWO] and report["parent"] == ONE
    assert [event["event"] for event in message["events"]] == [
        "accepted",
        "queued",
        "attempt",
        "bounced",
        "reported",
        "operator",
        "surprise",
    ]
    assert message["events"][2]["hosts"][0]["transcript"][0]["from"] == "client"


def test_a_report_by_itself_names_its_message(state):
    """Without telling of it again."""
    (report,) = json.loads(run(TWO, "--json").stdout)["messages"]
    assert report["id"] == TWO and report["parent"] == ONE
    assert f"a report about {ONE}" in run(TWO).stdout


def test_the_story_for_people(state):
    """Everything in order; nothing of it paints the terminal or is taken for markup."""
    text = run(ONE).stdout
    for part in (
        f"Message {ONE}",
        "REQUIRETLS",
        "b@y.example  failed 550 5.7.1 no",
        "by mx from x.example [192.0.2.1], ESMTPS, without TLS",
        "spf=pass smtp.mailfrom=x.example",
        "0.000  C MAIL FROM:<\\x1b[31ma@x.example>",
        "250 ok; [bold]really",
        "mx.y.example at 192.0.2.7:25",
        "ok requiretls   the message goes with REQUIRETLS  RFC 8689 4.2.1",
        "NO connect      connection refused (not now)  RFC 5321 5.1",
        "for b@y.example; 10 octets; REQUIRETLS was asked for by MAIL",
        "queue hold",
        "colour=red",
        f"a report about {ONE}",
    ):
        assert part in text, (part, text)
    assert "\x1b" not in text


@pytest.mark.parametrize("query", ["0000000000000000", "nobody@x.example", "<>", "\x1b", "\udcff"])
def test_what_is_not_there_is_status_1(state, query):
    """Neither in the text is anything painted."""
    result = run(query)
    assert result.exit_code == 1 and "\x1b" not in result.stderr and "not in the trace" in result.stderr


def test_no_state_folder_is_an_empty_trace(tmp_path, monkeypatch):
    """And where nothing is traced that is said."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mta.toml").write_text('state = "state"\n[trace]\nkeep = "0s"\n')
    result = run(ONE)
    assert result.exit_code == 1 and "trace.keep" in result.stderr
    assert not (tmp_path / "state").exists()


def test_usage_is_status_2(state):
    """No id, or two."""
    assert run().exit_code == 2 and run(ONE, TWO).exit_code == 2


@pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("REQUIRE_ALL") != "1", reason="only root can become somebody else"
)
def test_root_reads_as_the_services_user(state, reachable):
    """A file that the service itself could not read is not read on its behalf."""
    for path in [state, *state.rglob("*")]:
        os.chown(path, 12345, 12346)
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from requiretls_mta.cli.main import main; main()"
    command = [sys.executable, "-c", code, "trace", ONE, "--config", "mta.toml"]
    assert ONE in subprocess.run(command, check=True, timeout=30, stdout=subprocess.PIPE, text=True).stdout
    for path in (state / "shards" / "0" / "trace").iterdir():
        os.chown(path, 0, 0)
    assert subprocess.run(command, check=False, timeout=30, capture_output=True).returncode == 3
