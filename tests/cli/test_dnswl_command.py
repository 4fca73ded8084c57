"""`requiretls-mta dnswl`: what it says of lists, without the reactor; the lab runs it as users do."""

import json

from click.testing import CliRunner
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from requiretls_mta.checks.dnswl_rules import ListSettings, client_of, query_name, selftest_names
from requiretls_mta.checks.interfaces import Tools
from requiretls_mta.cli import dnswl as command
from requiretls_mta.cli.main import cli
from tests.checks.answers import answer, failure
from tests.checks.fakes import FakeResolver, RecordedEvents

ZONE = "list.dnswl.example"
NAMES = selftest_names(ZONE)


def invoke(monkeypatch, resolver, *words):
    """The tool with a resolver that answers at once."""
    tools = Tools(clock=Clock(), resolver=resolver, events=RecordedEvents())
    monkeypatch.setattr(command, "run", lambda config, work: Deferred.fromCoroutine(work(tools)).result)
    return CliRunner().invoke(cli, ["dnswl", *words])


def good():
    resolver = FakeResolver()
    resolver.on(NAMES.listed, "A", answer("A", "127.0.0.2"))
    return resolver


def test_a_good_list(monkeypatch):
    """Whether the resolver validates is told too."""
    resolver = good()
    resolver.on(".", "SOA", answer("SOA", "a. b. 1 1 1 1 1", secure=True))
    done = invoke(monkeypatch, resolver, "--check-zone", "--zone", ZONE.upper() + ".")
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"{ZONE}: good\n    ok  2.0.0.127.{ZONE} (to be listed): 127.0.0.2\n")
    assert "the resolver validates: yes" in done.output


def test_a_list_that_cannot_be_tested(monkeypatch):
    """It may be good: nobody knows."""
    resolver = good()
    resolver.on(NAMES.unlisted, "A", failure("SERVFAIL"))
    done = invoke(monkeypatch, resolver, "--check-zone", "--zone", ZONE)
    assert done.exit_code == 1
    assert done.output.startswith(f"{ZONE}: cannot be tested now\n")


def test_a_list_without_test_entries(monkeypatch):
    """It has to answer, that is all."""
    karma = "hostkarma.junkemailfilter.com"
    resolver = FakeResolver()
    resolver.on(selftest_names(karma).unlisted, "A", answer("A", "127.0.0.1"))
    done = invoke(monkeypatch, resolver, "--check-zone", "--zone", karma)
    assert done.exit_code == 0
    assert f"ok  1.0.0.127.{karma} (to be answered): 127.0.0.1" in done.output


def test_texts_of_lists_are_harmless(monkeypatch):
    """Escaped for the terminal; what may not be reported is still shown here."""
    resolver, name = good(), query_name(client_of("192.0.2.1"), ZONE)
    resolver.on(name, "A", answer("A", "127.0.0.2"))
    resolver.on(name, "TXT", answer("TXT", b"a.example \x1b[31m\r\nx"))
    done = invoke(monkeypatch, resolver, "192.0.2.1", "--zone", ZONE)
    assert done.exit_code == 0
    assert r"a.example \x1b[31m\r\nx" in done.output
    assert "policy.txt" not in done.output


def test_the_zone_with_a_key_is_not_shown(monkeypatch, tmp_path):
    """Asked under either name, it goes by the name that is shown."""
    keyed = f"abc123key.{ZONE}"
    (tmp_path / "mta.toml").write_text(f'[[dnswl]]\nzone = "{keyed}"\ndisplay_zone = "{ZONE}"\n')
    resolver = FakeResolver()
    resolver.on(selftest_names(keyed).listed, "A", answer("A", "127.0.0.2"))
    for zone in (ZONE, keyed):
        done = invoke(
            monkeypatch, resolver, "--check-zone", "--zone", zone, "--json", "--config", str(tmp_path / "mta.toml")
        )
        assert json.loads(done.output)["healthy"] is True
        assert "abc123key" not in done.output
    assert ListSettings(zone=keyed, display_zone=ZONE).is_mirror


def test_a_text_that_names_the_zone_is_not_shown(monkeypatch, tmp_path):
    """Some lists repeat in it what they were asked."""
    keyed = f"abc123key.{ZONE}"
    (tmp_path / "mta.toml").write_text(f'[[dnswl]]\nzone = "{keyed}"\ndisplay_zone = "{ZONE}"\n')
    resolver, name = FakeResolver(), query_name(client_of("192.0.2.1"), keyed)
    resolver.on(selftest_names(keyed).listed, "A", answer("A", "127.0.0.2"))
    resolver.on(name, "A", answer("A", "127.0.0.2"))
    resolver.on(name, "TXT", answer("TXT", b"a.example " + name.upper().encode()))
    for form in ([], ["--json"]):
        done = invoke(monkeypatch, resolver, "192.0.2.1", *form, "--config", str(tmp_path / "mta.toml"))
        assert done.exit_code == 0, done.output
        assert "abc123key" not in done.output.lower() and "(names the zone)" in done.output
