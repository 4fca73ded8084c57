"""`requiretls-mta explain`: what it makes of an explanation, without a network; the lab runs it as users do."""

import attrs
import pytest
from click.testing import CliRunner
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from requiretls_mta.checks.interfaces import Tools
from requiretls_mta.cli import explain as command
from requiretls_mta.cli.explain_json import in_json
from requiretls_mta.cli.explain_text import print_explanation
from requiretls_mta.cli.main import cli
from requiretls_mta.message.outcome import Cause, Step
from requiretls_mta.message.reply import Reply
from requiretls_mta.relay.explanation import Explanation, Visit, steps
from requiretls_mta.relay.presented import read_chain
from requiretls_mta.relay.route import Host, NoPolicy, Route
from requiretls_mta.tls.elements import MXSecurity
from requiretls_mta.tls.facts import ClientTLS
from requiretls_mta.tls.policy import Level
from tests.relay.fakes import FakeResolver
from tests.tls.certificates import make

EVIL = "\x1b[31m[bold]red\r\n\u202e"


def explanation(**changes):
    """One host that cannot be reached."""
    host = Host(name="mx.a.test", preference=5, mx_security=MXSecurity.DNSSEC)
    route = Route(domain="a.test", hosts=(host,), next_hop="a.test", policy=NoPolicy())
    cause = Cause(host="mx.a.test", step=Step.CONNECT, detail="no", temporary=True, clause="RFC 5321 5.1")
    visit = Visit(
        host=host,
        address="192.0.2.1",
        steps=steps(route, host, None, [cause]),
        cause=cause,
        reply=Reply(451, "4.4.1", "no"),
    )
    told = Explanation(
        address="r@a.test", level=Level.ENFORCE, route=route, visits=(visit,), reply=Reply(451, "4.4.1", "mx: no")
    )
    return attrs.evolve(told, **changes)


def printed(told, capsys, now=0.0):
    print_explanation(told, 14400.0, now)
    return capsys.readouterr().out


def test_a_whole_text(capsys):
    """Every line, as it goes into a pipe."""
    assert (
        printed(explanation(), capsys)
        == """\
A REQUIRETLS message to r@a.test
     policy       enforce
     look-up      1 host; the MX records are signed (DNSSEC)
     MTA-STS      the domain announces no policy

1. mx.a.test at 192.0.2.1, port 25 (preference 5)
  ok lookup       the MX records are signed (DNSSEC)  RFC 8689 4.2.1 (2)
  NO connect      no  RFC 5321 5.1
  -  starttls     not reached
  -  authenticate not reached
  -  requiretls   not reached
     so           4.4.1: not now

Not now: 4.4.1; it would be tried again, for at most 4h (requiretls.lifetime).
  451 4.4.1 mx: no
"""
    )


def test_texts_of_strangers_are_harmless(capsys):
    """Neither controls nor markup, wherever they come from."""
    told = explanation()
    (visit,) = told.visits
    leaf = make(f"evil{EVIL}", names=[f"n{number}.a.test" for number in range(7)])
    visit = attrs.evolve(
        visit,
        steps=tuple(attrs.evolve(step, detail=EVIL) for step in visit.steps),
        certificates=(*read_chain([leaf.der, b"nonsense"]), EVIL),
        tls=ClientTLS(version=EVIL, cipher=EVIL, chain=(leaf.der,)),
    )
    route = attrs.evolve(told.route, policy=NoPolicy(problem=EVIL, temporary=True))
    said = printed(attrs.evolve(told, visits=(visit,), route=route, reply=Reply(550, "5.7.10", EVIL)), capsys)
    assert all(c.isprintable() or c == "\n" for c in said)
    assert said.count(r"\x1b[31m[bold]red") >= 8
    assert "n4.a.test and 2 more" in said and "this certificate cannot be read" in said


@pytest.mark.parametrize(("now", "word"), [(0, "not yet valid"), (4e9, "expired")])
def test_dates_of_certificates(now, word, capsys):
    """Those that do not hold are marked."""
    (visit,) = explanation().visits
    visit = attrs.evolve(visit, certificates=read_chain([make().der]))
    assert f", {word}\n" in printed(explanation(visits=(visit,)), capsys, now)


def test_colour_is_for_terminals(monkeypatch):
    """Those who capture the text get no escapes."""
    monkeypatch.setattr(command, "run", lambda *_: explanation())
    done = CliRunner().invoke(cli, ["explain", "r@a.test"])
    assert done.exit_code == 1 and "\x1b" not in done.output


def test_json_of_a_host_that_was_not_reached():
    """The keys of the contract, and no guess at what was not seen."""
    (host,) = in_json(explanation())["hosts"]
    assert (host["host"], host["preference"], host["address"]) == ("mx.a.test", 5, "192.0.2.1")
    assert (host["auth"], host["tls_version"], host["verdict"], host["status"]) == (None, None, "temporary", "4.4.1")
    assert [(s["step"], s["ok"], s["reached"]) for s in host["steps"]] == [
        ("lookup", True, True),
        ("connect", False, True),
        ("starttls", False, False),
        ("authenticate", False, False),
        ("requiretls", False, False),
    ]


def offline(monkeypatch, *words, resolver=None):
    """The tool, with a name server of the test's own."""

    def run(config, work, events=None):
        seen.append(config)
        tools = Tools(clock=Clock(), resolver=resolver or FakeResolver(), events=events)
        return Deferred.fromCoroutine(work(tools)).result

    seen = []
    monkeypatch.setattr(command, "run", run)
    return CliRunner().invoke(cli, ["explain", *words]), seen


def test_what_stays_here(monkeypatch, tmp_path):
    """The embedded default delivers `localhost` itself; towards others it uses the machine's name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "machine_name", lambda: "here.test")
    done, (config,) = offline(monkeypatch, "Postmaster")
    assert done.exit_code == 0 and "Deliverable: on this machine" in done.output
    assert config.hostname == "here.test" and not any(tmp_path.iterdir())
    _, (config,) = offline(monkeypatch, "you@localhost", "--set", 'hostname="mine.test"')
    assert config.hostname == "mine.test"


def test_a_domain_that_takes_no_mail(monkeypatch, tmp_path):
    """Status 1, and the code of the report."""
    monkeypatch.chdir(tmp_path)
    done, _ = offline(monkeypatch, "r@null.test", resolver=FakeResolver({("null.test", "MX"): ["0 ."]}))
    assert done.exit_code == 1 and "Undeliverable: 5.1.10; " in done.output


def test_internationalized_addresses(monkeypatch, tmp_path):
    """Looked up by their A-labels, shown as they were written."""
    monkeypatch.chdir(tmp_path)
    resolver = FakeResolver({("xn--bcher-kva.test", "MX"): ["0 ."]})
    done, _ = offline(monkeypatch, "jürgen@bücher.test", resolver=resolver)
    assert "A REQUIRETLS message to jürgen@bücher.test" in done.output and "5.1.10" in done.output


@pytest.mark.parametrize("words", [["a b@c"], ["joe"], ["@a.test"], ["r@"], [], ["r@a.test", "--set", "relay.prot=1"]])
def test_usage(words, monkeypatch, tmp_path):
    """Status 2."""
    monkeypatch.chdir(tmp_path)
    done, seen = offline(monkeypatch, *words)
    assert done.exit_code == 2 and not seen
