"""`requiretls-mta config`, `version` and `completion`."""

import pytest
from click.testing import CliRunner

from requiretls_mta import __version__
from requiretls_mta.cli.main import cli
from requiretls_mta.service.config import load_config
from requiretls_mta.service.embedded import embedded_default
from tests.receive.signatures import ED25519, pem


def run(*arguments):
    return CliRunner().invoke(cli, arguments)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_good_configuration_is_ok(tmp_path):
    """Status 0; keys without effect are named on stderr."""
    (tmp_path / "mta.toml").write_text("workers = 2\n")
    result = run("config", "check", "--config", "mta.toml")
    assert result.exit_code == 0
    assert result.stdout == f"{tmp_path}/mta.toml: ok\n"
    assert result.stderr == "workers: has no effect yet\n"


def test_a_bad_one_is_status_2_with_every_error(tmp_path):
    """All at once, on stderr."""
    (tmp_path / "mta.toml").write_text('[relay]\nprot = 1\nport = "x"\n')
    result = run("config", "check", "--config", "mta.toml", "--set", "state=1")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 3
    assert result.stdout == ""


def test_a_missing_certificate_is_found(tmp_path):
    """Before the service is started."""
    (tmp_path / "mta.toml").write_text('[tls]\ncertificate = "c"\nkey = "k"\n')
    result = run("config", "check", "--config", "mta.toml")
    assert result.exit_code == 2
    assert "tls.certificate" in result.stderr
    assert "tls.key" in result.stderr


def test_what_an_operator_should_know_is_told(tmp_path):
    """It is no error: status 0, and the line on stderr."""
    (tmp_path / "key.pem").write_bytes(pem(ED25519))
    (tmp_path / "key.pem").chmod(0o644)
    (tmp_path / "mta.toml").write_text('[[dkim.sign]]\ndomain = "a.example"\nselector = "s"\nkey = "key.pem"\n')
    result = run("config", "check", "--config", "mta.toml")
    assert result.exit_code == 0
    assert result.stderr == f"{tmp_path}/key.pem: others may read or write it (mode 0644); 0600 is needed\n"


@pytest.mark.parametrize("place", range(3))
def test_the_options_stand_behind_any_word(tmp_path, place):
    """`--config` before, between and behind the words of a command."""
    (tmp_path / "mta.toml").write_text("")
    words = ["config", "check"]
    words[place:place] = ["--config", "mta.toml"]
    assert run(*words).stdout == f"{tmp_path}/mta.toml: ok\n"


def test_what_is_shown_is_a_configuration(tmp_path):
    """It reads back to the same, passwords aside."""
    result = run("config", "show", "--set", 'store.url="postgresql://u:hush@h/d"')
    assert result.exit_code == 0
    assert "hush" not in result.output
    shown = run("config", "show").stdout
    (tmp_path / "shown.toml").write_text(shown)
    assert load_config(tmp_path / "shown.toml") == embedded_default(tmp_path)


def test_version():
    """The package's."""
    assert run("version").output == f"requiretls-mta {__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell):
    """A script that asks the tool itself."""
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_REQUIRETLS_MTA_COMPLETE" in result.output


@pytest.mark.parametrize("words", [["nope"], ["queue", "nope"], ["completion", "tcsh"], ["send"], ["queue", "hold"]])
def test_wrong_usage_is_status_2(words):
    """Click's own errors."""
    assert run(*words).exit_code == 2


def test_every_command_takes_the_configuration():
    """Whoever appends `--config` to all of them is understood by all."""
    for name, command in cli.commands.items():
        for each in getattr(command, "commands", {name: command}).values():
            assert {"config_file", "sets"} <= {option.name for option in each.params}, (name, each.name)


def test_every_command_has_help():
    """One line at least."""
    for name, command in cli.commands.items():
        assert command.help, name
        for sub in getattr(command, "commands", {}).values():
            assert sub.help, sub.name
