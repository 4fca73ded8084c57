"""`requiretls-mta explain` as an operator runs it: real name servers, real TLS, real HTTPS, and no service."""

import contextlib
import json
import os
import pty
import re
import subprocess
from types import SimpleNamespace

import pytest

from requiretls_mta.report.observe import known, ledger_path
from tests.lab.ca import CA
from tests.lab.dns import Lab
from tests.lab.https import policy, policy_server
from tests.lab.mta import BIN, free_port
from tests.lab.test_secure_paths import ee
from tests.smtp.fake_mx import GOOD, FakeMX

ODD, KNOWN, CLEAR, WORDLESS, NOBODY = (f"127.0.0.{number}" for number in range(91, 96))
"""Hosts: with a certificate of nobody's that a TLSA record names; below the trusted root; without STARTTLS; without the
keyword; and one at which nobody answers."""
STEPS = ["lookup", "connect", "starttls", "authenticate", "requiretls"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain")
    roots, nobody = CA(folder / "ca"), CA(folder / "other", "Nobody's Root")
    odd, good = nobody.expired("x.test"), roots.host("*.pkix.test", "*.plain.test", "*.sts.test", "*.walk.test")
    port = free_port(ODD, KNOWN, CLEAR, WORDLESS, NOBODY)
    https = policy_server(roots)
    https.serve("sts.test", policy("mx.sts.test"))
    https.serve("away.test", status="404 Not Found")
    with Lab(folder) as lab:
        lab.zone("ee.test", ["@ MX 10 mx", f"mx A {ODD}", f"_{port}._tcp.mx TLSA {ee(odd)}"])
        lab.zone("pkix.test", ["@ MX 10 mx", f"mx A {KNOWN}"])
        lab.zone("plain.test", ["@ MX 10 mx", f"mx A {KNOWN}"], signed=False)
        lab.zone("bad.test", ["@ MX 10 mx", f"mx A {KNOWN}"], bogus=True)
        lab.zone("null.test", ["@ MX 0 ."])
        walk = ["@ MX 10 clear", "@ MX 20 wordless", "@ MX 30 nobody", "less MX 10 wordless", "none MX 10 clear"]
        hosts = [f"clear A {CLEAR}", f"wordless A {WORDLESS}", f"nobody A {NOBODY}"]
        lab.zone("walk.test", [*walk, *hosts])
        for name in ("sts", "away"):
            announced = ['_mta-sts TXT "v=STSv1; id=1;"', f"mta-sts A {https.address}"]
            lab.zone(f"{name}.test", ["@ MX 10 mx", f"mx A {KNOWN}", *announced], signed=False)
        lab.start()
        config = folder / "mta.toml"
        (folder / "state" / "shared").mkdir(parents=True)
        config.write_text(f"""hostname = "here.test"
state = "{folder}/state"
[domains]
local = ["home.test"]
[delivery]
maildir = "{folder}/mail/{{domain}}/{{local}}"
[aliases]
"sales@home.test" = ["anna@home.test", "bob@pkix.test"]
[dns]
servers = ["{":".join(map(str, lab.resolver_address))}"]
[relay]
port = {port}
trust = "{roots.roots}"
[requiretls.policy]
"none.walk.test" = "opportunistic"
""")
        servers = [
            FakeMX(ODD, port, files=odd),
            FakeMX(KNOWN, port, files=good),
            FakeMX(CLEAR, port, clear=GOOD),
            FakeMX(WORDLESS, port, files=good, inside=GOOD),
        ]
        yield SimpleNamespace(folder=folder, config=config, servers=servers, port=port, record=ee(odd))
        for server in [*servers, https]:
            server.close()


def tool(world, *words):
    command = [BIN / "requiretls-mta", "explain", *words, "--config", world.config]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def explain(world, to, *words):
    done = tool(world, to, "--json", *words)
    assert done.stderr == "", done.stderr
    said = json.loads(done.stdout)
    assert done.returncode == (0 if said["verdict"] == "deliverable" else 1)
    return said


EXPECTED = {
    # verdict, status, mx_security; of the first host: the step that fails first, auth, TLS version
    "ee.test": ("deliverable", "2.0.0", "dnssec", None, "dane-ee", "TLSv1.3"),
    "pkix.test": ("deliverable", "2.0.0", "dnssec", None, "pkix", "TLSv1.3"),
    "plain.test": ("undeliverable", "5.7.10", "none", "lookup", "pkix", "TLSv1.3"),
    "none.walk.test": ("deliverable", "2.0.0", "dnssec", "starttls", None, None),
    "less.walk.test": ("undeliverable", "5.7.30", "dnssec", "requiretls", "pkix", "TLSv1.3"),
    "walk.test": ("temporary", "4.4.1", "dnssec", "starttls", None, None),
    "sts.test": ("deliverable", "2.0.0", "mta-sts", None, "pkix", "TLSv1.3"),
    "away.test": ("temporary", "4.7.5", "none", "lookup", None, "TLSv1.3"),
    "bad.test": ("temporary", "4.7.5", "none"),
    "null.test": ("undeliverable", "5.1.10", "dnssec"),
    "nowhere.test": ("undeliverable", "5.1.2", "dnssec"),
}


@pytest.mark.parametrize("domain", EXPECTED)
def test_each_way(world, domain):
    """Every key of the documented object, and what they say."""
    said = explain(world, f"r@{domain}")
    assert said["address"] == f"r@{domain}"
    assert said["policy"] == ("opportunistic" if domain.startswith("none.") else "enforce")
    for host in said["hosts"]:
        assert {"host", "preference", "address", "steps", "auth", "tls_version", "verdict"} <= set(host)
        assert [step["step"] for step in host["steps"]] == STEPS
        assert all(isinstance(s["ok"], bool) and s["detail"] and s["clause"] for s in host["steps"])
    told = [said["verdict"], said["status"], said["mx_security"]]
    for host in said["hosts"][:1]:
        failing = next((step["step"] for step in host["steps"] if not step["ok"]), None)
        told += [failing, host["auth"], host["tls_version"]]
    assert tuple(told) == EXPECTED[domain], said


def test_the_whole_walk(world):
    """Three hosts in the order of preference; what each lacks, and what was waived."""
    said = explain(world, "r@walk.test")
    assert [(h["preference"], h["address"], h["verdict"]) for h in said["hosts"]] == [
        (10, CLEAR, "undeliverable"),
        (20, WORDLESS, "undeliverable"),
        (30, NOBODY, "temporary"),
    ]
    assert [h["reply"].split()[1] for h in said["hosts"]] == ["5.7.10", "5.7.30", "4.4.1"]
    assert explain(world, "r@none.walk.test")["hosts"][0]["waived"]["clause"] == "RFC 8689 4.2.1 (4)"


def test_certificates_and_records(world):
    """What was presented, and the record that names it."""
    host = explain(world, "r@ee.test")["hosts"][0]
    (leaf,) = host["certificates"]
    assert leaf["names"] == ["x.test"] and leaf["issuer"] == "CN=Nobody's Root"
    assert host["tlsa"]["state"] == "usable"
    assert host["tlsa"]["records"] == [{"record": world.record, "matches": True, "detail": ""}]
    assert leaf["spki_sha256"] == world.record[6:]
    sts = explain(world, "r@sts.test")["mta_sts"]
    assert (sts["mode"], sts["mx"], sts["problem"]) == ("enforce", ["mx.sts.test"], None)
    assert "404" in explain(world, "r@away.test")["mta_sts"]["problem"]


def test_mail_that_stays_here(world):
    """RFC 8689 4.4: nothing to prove, nobody to ask; an alias stands for others."""
    said = explain(world, "anna@home.test")
    assert (said["verdict"], said["local"], said["hosts"], said["mx_security"]) == (
        "deliverable",
        True,
        [],
        "not-applicable",
    )
    done = tool(world, "sales@home.test")
    assert done.returncode == 2 and "anna@home.test, bob@pkix.test" in done.stderr


def test_what_a_person_reads(world):
    """P06: plain and complete in a pipe: the steps, the certificate, the record, the code."""
    done = tool(world, "r@ee.test")
    assert done.returncode == 0 and "\x1b" not in done.stdout
    assert f"1. mx.ee.test at {ODD}, port {world.port} (preference 10)" in done.stdout
    assert f"TLSA         matches: {world.record}\n" in done.stdout
    assert "Deliverable: mx.ee.test would get it (TLSv1.3, dane-ee)." in done.stdout
    assert not any(line.endswith(" ") for line in done.stdout.splitlines())
    done = tool(world, "r@less.walk.test")
    assert done.returncode == 1
    assert "NO requiretls   the host does not offer REQUIRETLS inside TLS  RFC 8689 4.2.1 (5)" in done.stdout
    assert "Undeliverable: 5.7.30" in done.stdout


def test_on_a_terminal(world):
    """Coloured, and within its width, whatever has to be wrapped."""
    leader, follower = pty.openpty()
    command = [BIN / "requiretls-mta", "explain", "r@less.walk.test", "--config", world.config]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "60"}
    with subprocess.Popen(command, stdout=follower, stderr=subprocess.DEVNULL, env=environment):
        os.close(follower)
        octets = b""
        with contextlib.suppress(OSError):  # how the end of a terminal shows
            while piece := os.read(leader, 4096):
                octets += piece
    os.close(leader)
    text = octets.decode()
    assert "\x1b[1;31mNO" in text and "\x1b[32mok" in text
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in text.splitlines()) <= 60
    assert "RFC 8689 4.2.1 (5)" in text


def test_usage_and_configuration(world, tmp_path):
    """Status 2, with the reason; never 3."""
    for words in (["no address"], ["r@pkix.test", "--set", "relay.trust=/nowhere.pem"], ["r@pkix.test", "--timeout=0"]):
        done = tool(world, *words)
        assert done.returncode == 2 and done.stderr and not done.stdout, done


def test_what_was_met_is_observed(world):
    """For `observe`, where there is a state folder; and servers have heard no more than they need to."""
    explain(world, "r@pkix.test")
    (row,) = known(ledger_path(world.folder / "state"), "pkix.test")
    assert row[1] == "mx.pkix.test" and row[2].sighting("requiretls").current == "yes"
    done = tool(world, "r@pkix.test", "--set", f"state={world.folder}/nowhere")
    assert done.returncode == 0 and done.stderr == "" and not (world.folder / "nowhere").exists()
    for server in world.servers:
        assert set(server.verbs) <= {"EHLO", "STARTTLS", "QUIT"}
        assert server.verbs.count("QUIT") == server.connections
        assert server.tls.replace(b"EHLO here.test\r\n", b"").replace(b"QUIT\r\n", b"") == b""
        for line in server.clear.splitlines():
            assert line in (b"EHLO here.test", b"STARTTLS", b"QUIT")
