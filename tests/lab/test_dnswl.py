"""A whole instance that asks whitelists: rbldnsd behind unbound, clients announced by PROXY headers, and the tool."""

import json
import subprocess

import pytest

from tests.lab.dns import Lab
from tests.lab.mta import BIN, MTA, free_port
from tests.lab.rbl import RBL
from tests.lab.require import need
from tests.lab.test_proxy import announced

ADDRESS = "127.0.0.49"
GOOD_V4 = [
    "127.0.0.2 :127.0.10.0:",
    "192.0.2.1 :127.0.5.3:fwd.example https://dnswl.test/?d=fwd.example",
    "192.0.2.2 :127.0.5.0:some.example x",
    "192.0.2.38 :127.0.5.1:AUTOPROMOTED.INVALID",
    "192.0.2.66 :127.0.0.255:too many queries",
    '192.0.2.7 :127.0.5.2:say "hi" c:\\x',
]
GOOD_V6 = ["2001:db8::2:1 :127.0.10.1:fwd.example https://dnswl.test/?d=fwd.example"]
KEYED = "4f7ac1a9b2e84d2f.keyed.test"
LISTS = {
    KEYED: (["127.0.0.2 :127.0.10.0:", f"192.0.2.1 :127.0.5.3:a.example asked for $ in {KEYED}"], []),
    "good.test": (GOOD_V4, GOOD_V6),
    "quota.test": (GOOD_V4, []),
    "hi.test": (["0/0 :127.0.10.3:"], ["0/0 :127.0.10.3:"]),
    "dead.test": (["192.0.2.1 :127.0.5.3:"], []),
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with RBL(LISTS) as rbl, Lab(tmp_path_factory.mktemp("dnswl")) as lab:
        for zone in LISTS:
            lab.zone(zone, [], signed=False, elsewhere=rbl.address)
        lab.zone("key.test", [], signed=False)
        lab.start()
        yield lab


@pytest.fixture(scope="module")
def mta(tmp_path_factory, lab):
    folder = tmp_path_factory.mktemp("mta")
    mx, plain, own = free_port(ADDRESS), free_port(ADDRESS), free_port(ADDRESS)
    host, port = lab.resolver_address
    lists = f'[[dnswl]]\nzone = "{KEYED}"\ndisplay_zone = "keyed.test"\n'
    lists += "".join(f'[[dnswl]]\nzone = "{zone}"\n' for zone in ("good.test", "hi.test", "dead.test"))
    instance = MTA(
        folder,
        f"""hostname = "mx.here.test"
authserv_id = "mta.here.test"
[listen.mx]
endpoint = ["haproxy:tcp:{mx}:interface={ADDRESS}", "tcp:{plain}:interface={ADDRESS}"]
service = "mx"
[listen.own]
endpoint = "tcp:{own}:interface={ADDRESS}"
service = "mx"
trusted = true
[domains]
local = ["here.test"]
[delivery]
maildir = "{folder}/mail/{{domain}}/{{local}}"
[access]
relay_from = ["198.51.100.0/24"]
[dns]
servers = ["{host}:{port}"]
[iprev]
enabled = false
[spf]
action = "off"
[dkim]
verify = false
[dmarc]
action = "off"
{lists}accept = ["127.0.[2..15].[0..3]"]
""",
        (ADDRESS, plain),
    )
    instance.file.write_text(instance.file.read_text().replace("[log]\n", '[log]\nlevel = "debug"\n'))
    instance.start()
    instance.mx, instance.plain, instance.own = mx, plain, own
    yield instance
    assert instance.stop() == 0
    log = instance.log.read_text()
    assert "Traceback" not in log and '"zone":"keyed.test"' in log.replace(": ", ":")
    # 83: log, trace, queue, mail: nothing that is written has the key.
    written = [path for path in folder.rglob("*") if path.is_file() and path != instance.file]
    assert len(written) > 10
    assert not [path for path in written if KEYED[:16].encode() in path.read_bytes()]


def swaks(port, to, *options, body="Subject: x\n\nbody\n"):
    return subprocess.run(
        [
            need("swaks"), "--server", f"{ADDRESS}:{port}", "--from", "s@far.test", "--to", to, "--ehlo", "c.test",
            "--data", body, *options,
        ],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def delivered(mta, client, to, **more):
    """The header of what arrives when a client sends to an address, unfolded, field by field."""
    done = swaks(mta.mx, to, *announced(client), **more)
    assert done.returncode == 0, done.stdout + done.stderr
    (octets,) = mta.mail(to)
    header = octets.replace(b"\r\n", b"\n").partition(b"\n\n")[0]
    return header.replace(b"\n ", b" ").replace(b"\n\t", b" ").decode().split("\n")


REST = "".join(f"; dnswl=permerror reason=selftest dns.zone={zone} dns.sec=na" for zone in ("hi.test", "dead.test"))
FWD = 'policy.txt="fwd.example https://dnswl.test/?d=fwd.example"'
GOOD = "dns.zone=good.test dns.sec=na"


@pytest.mark.parametrize(
    ("number", "client", "expected"),
    [
        (1, "2001:db8::2:1", f"dnswl=pass {GOOD} policy.ip=127.0.10.1 {FWD}"),
        (3, "192.0.2.1", f"dnswl=pass {GOOD} policy.ip=127.0.5.3 {FWD}"),
        (4, "192.0.2.9", f"dnswl=none {GOOD}"),
        (46, "192.0.2.38", f'dnswl=pass {GOOD} policy.ip=127.0.5.1 policy.txt="AUTOPROMOTED.INVALID"'),
        (47, "192.0.2.7", f"dnswl=pass {GOOD} policy.ip=127.0.5.2"),
    ],
)
def test_what_a_list_says_is_on_top(mta, number, client, expected):
    """1, 3, 4, 46, 47 against a real list; 18 and 19 beside it: one that lists everybody, and a dead one."""
    is_listed = client == "192.0.2.1"
    keyed = f"dnswl={'pass' if is_listed else 'none'} dns.zone=keyed.test dns.sec=na"
    keyed += " policy.ip=127.0.5.3" * is_listed
    fields = delivered(mta, client, f"case{number}@here.test")
    assert fields[0].startswith("Return-Path:")
    assert fields[1] == f"Authentication-Results: mta.here.test; {keyed}; {expected}{REST}"
    assert fields[2].startswith("Received:")


def test_forged_fields_are_gone(mta):
    """72, 73: of strangers; whoever may only relay is no exception, a trusted listener is."""
    ours, theirs = "Authentication-Results: MTA.here.test; dnswl=pass", "Authentication-Results: other.test; spf=pass"
    body = f"{ours}\n{theirs}\nSubject: x\n\n{ours}\n"
    fields = delivered(mta, "192.0.2.9", "forged@here.test", body=body)
    assert [f for f in fields if f.startswith("Auth")][1:] == [theirs]
    assert swaks(mta.plain, "relayed@here.test", body=body).returncode == 0
    assert mta.mail("relayed@here.test")[0].count(b"MTA.here.test") == 1  # that of the body
    assert swaks(mta.own, "own@here.test", body=body).returncode == 0
    assert mta.mail("own@here.test")[0].count(b"MTA.here.test") == 2


@pytest.mark.parametrize("client", ["10.1.2.3", "127.0.0.9", "fd00::1", "198.51.100.7"])
def test_who_is_not_looked_up(mta, client):
    """71: private clients, and those of relay_from: no field."""
    name = client.replace(":", "-")
    assert not [f for f in delivered(mta, client, f"{name}@here.test") if f.startswith("Auth")]


def test_a_whitelisted_client_may_not_relay(mta):
    """82: R60."""
    done = swaks(mta.mx, "x@elsewhere.test", *announced("192.0.2.1"))
    assert "550 5.7.1 Relaying denied" in done.stdout


def test_one_line_tells_that_a_list_is_bad(mta):
    """At the start, once, and for none but those two."""
    told = [(e["zone"], e["reason"]) for e in mta.events("dnswl") if e["level"] == "critical"]
    assert sorted(told) == [("dead.test", "selftest"), ("hi.test", "selftest")]


def tool(mta, *arguments):
    """Exit status, standard output and error of `requiretls-mta dnswl`."""
    command = [BIN / "requiretls-mta", "dnswl", *arguments, "--config", mta.file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_tool_looks_an_address_up(mta):
    """In all configured lists: what they say, the raw answers, and how it would be reported."""
    status, out, _ = tool(mta, "192.0.2.1", "--json")
    assert status == 0
    found = json.loads(out)
    assert found["address"] == "192.0.2.1"
    keyed, good, hi, dead = found["lists"]
    assert (good["zone"], good["result"], good["codes"], good["sec"]) == ("good.test", "pass", ["127.0.5.3"], "na")
    assert good["report"] == f"dnswl=pass {GOOD} policy.ip=127.0.5.3 {FWD}"
    assert good["answers"]["A"]["records"] == ["127.0.5.3"]
    assert good["answers"]["TXT"]["records"] == ["fwd.example https://dnswl.test/?d=fwd.example"]
    assert (hi["result"], hi["reason"], dead["reason"]) == ("permerror", "selftest", "selftest")
    assert (keyed["zone"], keyed["answers"]["TXT"]["records"]) == ("keyed.test", ["(names the zone)"])
    assert KEYED not in out
    status, out, _ = tool(mta, "::ffff:192.0.2.1")
    assert status == 0
    assert "good.test: pass\n    A    127.0.5.3\n" in out


def test_the_tool_says_no(mta):
    """Status 1: listed nowhere, or in lists that do not count."""
    assert tool(mta, "192.0.2.9", "--zone", "good.test")[:2] == (
        1,
        f"good.test: none\n    A    NXDOMAIN\n    TXT  NXDOMAIN\n    reported as: dnswl=none {GOOD}\n",
    )
    status, out, _ = tool(mta, "192.0.2.66", "--zone", "quota.test")
    assert status == 1
    assert "quota.test: permerror (over-quota)" in out
    assert "ask through one of your own" in out


def test_the_tool_tests_a_list(mta):
    """Status 0 for a good one, configured or not, 1 for one that cannot be believed."""
    status, out, _ = tool(mta, "--check-zone", "--zone", "quota.test", "--json")
    found = json.loads(out)
    assert (status, found["healthy"]) == (0, True)
    assert [(e["name"], e["ok"]) for e in found["entries"][:2]] == [
        ("2.0.0.127.quota.test", True),
        ("1.0.0.127.quota.test", True),
    ]
    status, out, _ = tool(mta, "--check-zone", "--zone", "hi.test")
    assert status == 1
    assert "hi.test: cannot be believed" in out
    assert "NOT 1.0.0.127.hi.test (to be not listed): 127.0.10.3" in out
    status, out, _ = tool(mta, "--check-zone", "--zone", "dead.test", "--json")
    assert (status, json.loads(out)["clients"]["ipv4"]["reason"]) == (1, "selftest")


@pytest.mark.parametrize(
    "words",
    [[], ["x"], ["--check-zone"], ["192.0.2.1", "--check-zone", "--zone", "good.test"], ["192.0.2.1", "--zone", "a b"]],
)
def test_wrong_usage(mta, words):
    """Status 2."""
    assert tool(mta, *words)[0] == 2
