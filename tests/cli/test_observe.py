"""`requiretls-mta observe`: the table, the JSON, the exit statuses."""

import json
import re

import pytest
from click.testing import CliRunner

from requiretls_mta.cli.main import cli
from requiretls_mta.cli.observe_table import print_table
from requiretls_mta.report.observation import FEATURES, observed
from requiretls_mta.report.observe import known, ledger_path, record
from tests.report.test_observe import GOOD, NOTHING

NOVEMBER, DECEMBER = 1_700_000_000.0, 1_702_000_000.0


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mta.toml").write_text('state = "state"\n')
    (tmp_path / "state" / "shared").mkdir(parents=True)
    return tmp_path / "state"


def note(state, domain, now, mx="mx1.there.test", /, **fields):
    record(ledger_path(state), {(domain, mx): observed(fields, now)}, now)


def run(*words):
    return CliRunner().invoke(cli, ["observe", *words, "--config", "mta.toml"])


def test_the_json(state):
    """Names, values and dates: the newest of each feature, and when it was seen and missed."""
    note(state, "there.test", NOVEMBER, **GOOD)
    note(state, "there.test", DECEMBER, **GOOD | {"keyword": False, "mx_security": "none", "sts_mode": None})
    (row,) = json.loads(run("--json").stdout)
    november, december = "2023-11-14T22:13:20Z", "2023-12-08T01:46:40Z"
    assert row == {
        "domain": "there.test",
        "mx": "mx1.there.test",
        "first_seen": november,
        "last_seen": december,
        "starttls": True,
        "requiretls": False,
        "tls_version": "TLSv1.3",
        "auth": "pkix",
        "dnssec": False,
        "dane": None,
        "mta_sts": "enforce",
        "seen": {
            "starttls": december,
            "requiretls": november,
            "tls_version": december,
            "auth": december,
            "dnssec": november,
            "dane": None,
            "mta_sts": november,
        },
        "missed": dict.fromkeys(FEATURES) | {"requiretls": december, "dnssec": december, "dane": december},
    }


def test_nothing_known_is_null(state):
    """Neither yes nor no."""
    note(state, "there.test", NOVEMBER, **NOTHING)
    (row,) = json.loads(run("--json").stdout)
    assert [row[feature] for feature in FEATURES] == [None] * len(FEATURES)


def test_the_table(state):
    """A line per domain and per host; dates where a feature was not seen at the last meeting, or has gone."""
    note(state, "there.test", NOVEMBER, **GOOD)
    note(state, "there.test", DECEMBER, **GOOD | {"keyword": False, "sts_mode": None, "dane": "unknown"})
    note(state, "there.test", DECEMBER, "mx2.there.test", **NOTHING)
    heading, domain, first, second = (line.rstrip() for line in run().stdout.splitlines())
    assert heading.split() == [
        "domain,", "MX", "hosts", "STARTTLS", "REQUIRETLS", "TLS", "auth", "DNSSEC", "DANE", "MTA-STS", "last", "met",
    ]  # fmt: skip
    assert domain == "there.test"
    assert " ".join(first.split()) == (
        "mx1.there.test yes no (until 2023-11-14) 1.3 pkix yes no enforce (2023-11-14) 2023-12-08"
    )
    assert second.split() == ["mx2.there.test", *"-------", "2023-12-08"]


def test_a_narrow_terminal(state, monkeypatch, capsys):
    """Paragraphs, in which nothing is cut."""
    note(state, "there.test", NOVEMBER, **GOOD)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_table(known(ledger_path(state)), None)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    lines = [line.rstrip() for line in plain.splitlines()]
    assert lines[:2] == ["there.test", "  mx1.there.test, last met 2023-11-14"]
    assert " ".join(" ".join(lines[2:]).split()) == (
        "STARTTLS yes, REQUIRETLS yes, TLS 1.3, auth pkix, DNSSEC yes, DANE no, MTA-STS enforce"
    )


def test_one_domain(state):
    """In whatever form it is written; status 1 when nothing is known of it."""
    note(state, "xn--bcher-kva.test", NOVEMBER, **GOOD)
    note(state, "there.test", NOVEMBER, **GOOD)
    for name in ("bücher.test", "XN--BCHER-KVA.test."):
        result = run("--json", name)
        assert result.exit_code == 0
        assert [row["domain"] for row in json.loads(result.stdout)] == ["xn--bcher-kva.test"]
    result = run("--json", "nobody.test")
    assert (result.exit_code, json.loads(result.stdout)) == (1, [])
    result = run("nobody.test")
    assert (result.exit_code, result.stdout) == (1, "nothing is known of nobody.test\n")


def test_counters_are_the_running_services(state):
    """Status 3 without one; they are not of one domain, and no JSON."""
    result = run("--counters")
    assert result.exit_code == 3 and "no service answers" in result.output
    assert run("--counters", "there.test").exit_code == 2
    assert run("--counters", "--json").exit_code == 2


def test_nothing_yet(tmp_path, monkeypatch):
    """A state folder that does not exist is one in which nothing was observed; it is not created."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mta.toml").write_text('state = "state"\n')
    assert run().stdout == "nothing was observed yet\n"
    assert run("--json").stdout == "[]\n"
    assert run().exit_code == 0
    assert not (tmp_path / "state").exists()


def test_names_from_the_network_are_harmless(state):
    """No escape sequence, and no markup, reaches a terminal."""
    note(state, "[red]there.test", NOVEMBER, "\x1b[31mred", **GOOD)
    out = run().stdout
    assert "\x1b" not in out and "[red]there.test" in out and "\\x1b[31mred" in out


@pytest.mark.parametrize("octets", [b"no database" * 500, b""])
def test_a_broken_file_is_status_3(state, octets):
    """Said in one line; an empty one is a new one."""
    ledger_path(state).write_bytes(octets)
    result = run()
    assert result.exit_code == (3 if octets else 0)
    assert ("observe.db" in result.stderr) is bool(octets)
