"""The options of twistd: the configuration read, or all its errors told."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from twisted.python.reflect import namedAny
from twisted.python.usage import UsageError

from requiretls_mta.service.options import Options


def parsed(*arguments, parent=None):
    options = Options()
    options.parent = parent
    options.parseOptions(list(arguments))
    return options


def test_without_a_file_the_embedded_default_is_read(tmp_path, monkeypatch):
    """And `--set` changes it."""
    monkeypatch.chdir(tmp_path)
    options = parsed("--set", "relay.port=2526", "--set", "log.level=debug")
    assert options.is_embedded
    assert options.config.state == tmp_path / "var"
    assert options.config.relay.port == 2526
    assert options.log.debugs


def test_a_file_is_read_again_from_where_it_was(tmp_path, monkeypatch):
    """A relative path means the folder at start, whatever the current one is at reload."""
    (tmp_path / "mta.toml").write_text("[relay]\nport = 26\n")
    monkeypatch.chdir(tmp_path)
    options = parsed("--config", "mta.toml", "--set", "hostname=mx.example.org")
    assert (options.config.relay.port, options.config.hostname) == (26, "mx.example.org")
    (tmp_path / "mta.toml").write_text("[relay]\nport = 27\n")
    monkeypatch.chdir("/")
    assert (options.read().relay.port, options.read().hostname) == (27, "mx.example.org")
    assert not options.is_embedded


def test_an_invalid_configuration_ends_the_start_with_every_error(tmp_path, capsys):
    """Status 1, the list on stderr, no traceback."""
    (tmp_path / "mta.toml").write_text('[relay]\nprot = 26\nport = "x"\n')
    with pytest.raises(SystemExit) as caught:
        parsed("--config", str(tmp_path / "mta.toml"), "--set", "state=1")
    assert caught.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all("found" in line and "allowed" in line for line in lines)


def test_an_unknown_option_is_a_usage_error():
    """Told by twistd with its usage."""
    with pytest.raises(UsageError):
        parsed("--confg", "x")


def test_twistds_log_is_ours(tmp_path, monkeypatch):
    """On standard output with -n, else in its file."""
    monkeypatch.chdir(tmp_path)
    stdout = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stdout))
    parent = {"nodaemon": True, "logfile": None, "logger": None, "syslog": False}
    options = parsed("--set", "log.format=json", parent=parent)
    namedAny(parent["logger"])()
    options.log.emit("accepted")
    assert json.loads(stdout.getvalue())["event"] == "accepted"

    parent = {"nodaemon": False, "logfile": "mta.log", "logger": None, "syslog": False}
    options = parsed(parent=parent)
    namedAny(parent["logger"])()
    options.log.emit("accepted")
    assert "accepted" in (tmp_path / "mta.log").read_text()


def test_a_logger_of_the_operators_stays():
    """`--logger` and `--syslog` are twistd's."""
    for parent in ({"logger": "theirs"}, {"logger": None, "syslog": True}):
        before = dict(parent)
        parsed(parent=parent)
        assert parent == before


def test_twistd_itself_ends_with_status_1_and_no_traceback(tmp_path):
    """The whole way through twistd: the list on stderr, nothing else."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    code = "from twisted.scripts.twistd import run; run()"
    command = [sys.executable, "-c", code, "-n", "--pidfile=", "requiretls-mta"]
    done = subprocess.run(
        [*command, "--set", "relay.prot=1", "--set", "log.level=loud"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2
    assert "Traceback" not in done.stderr + done.stdout
    assert not list(tmp_path.iterdir())
