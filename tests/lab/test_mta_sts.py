"""MTA-STS end to end: unsigned zones on real name servers, real HTTPS, and what a process makes of both."""

import json
import signal
import smtplib
import ssl
import subprocess
import time

import pytest

from tests.lab.ca import CA
from tests.lab.dns import Lab
from tests.lab.https import policy, policy_server
from tests.lab.mta import BIN, MTA, Recorder, Report, free_port, user_file
from tests.lab.require import need

A, B, PLAIN = "127.0.0.71", "127.0.0.72", "127.0.0.73"
BODY = "From: Alice <alice@home.test>\r\nTo: bob@there.test\r\nSubject: a secret\r\n\r\nbody text\r\n"
DOMAINS = (
    "good",
    "wild",
    "testing",
    "none",
    "two",
    "unlisted",
    "away",
    "broken",
    "big",
    "webpki",
    "slow",
    "cached",
    "changed",
)


class World:
    """Everything that runs for the tests of this module."""


def zones(lab, address, *, later=False):
    """All unsigned. Later the announcement of one domain is gone, and another has a new MX and a new policy."""

    def announced(version):
        return [f'_mta-sts TXT "v=STSv1; id={version};"', f"mta-sts A {address}"]

    for name in DOMAINS:
        records = [f"@ MX 10 mx.{name}.test.", f"mx A {B}", *announced(1)]
        if name == "two":
            records += ["@ MX 5 first.two.test.", f"first A {PLAIN}"]
        elif name == "wild":  # RFC 8461 8.2: looked after by somebody else
            records[2:] = ["_mta-sts CNAME _mta-sts.good.test.", "mta-sts CNAME mta-sts.good.test."]
        elif later and name == "cached":
            del records[2:]
        elif later and name == "changed":
            records = [f"@ MX 10 new.{name}.test.", f"new A {B}", *announced(2)]
        lab.zone(f"{name}.test", records, signed=False)
    lab.zone("clear.test", ["@ MX 10 mx.clear.test.", f"mx A {PLAIN}", *announced(1)], signed=False)
    lab.zone("home.test", ["@ MX 10 mx.home.test.", f"mx A {A}"])
    lab.start()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    need("knotd"), need("unbound")
    folder = tmp_path_factory.mktemp("mta-sts")
    folder.chmod(0o755)
    world = World()
    world.folder, world.ca = folder, CA(folder / "ca")
    world.port, world.submission = free_port(A, B, PLAIN), free_port(A)
    world.https = https = policy_server(world.ca)
    for name in ("good", "cached", "two"):
        https.serve(f"{name}.test", policy(f"mx.{name}.test", "nowhere.test"))
    https.serve("wild.test", policy("*.wild.test", end="\n"))
    https.serve("testing.test", policy("mx.testing.test", mode="testing"))
    https.serve("none.test", policy("mx.none.test", mode="none"))
    https.serve("unlisted.test", policy("mx.elsewhere.test"))
    https.serve("clear.test", policy("mx.clear.test"))
    https.serve("away.test", status="302 Found", headers=["Location: https://mta-sts.good.test/"])
    https.serve("slow.test", silent=True)
    https.serve("broken.test", policy("mx.broken.test", max_age=-1))
    https.serve("big.test", policy("mx.big.test") + b"x: y\r\n" * 20_000)
    https.serve("webpki.test", policy("mx.webpki.test"), files=world.ca.host("mx.webpki.test"))
    https.serve("changed.test", policy("mx.changed.test"))
    with Lab(folder / "dns") as lab, Lab(folder / "later") as later:
        zones(lab, https.address)
        zones(later, https.address, later=True)
        world.before, world.after = (":".join(map(str, each.resolver_address)) for each in (lab, later))
        there = world.ca.host(*(f"mx.{name}.test" for name in DOMAINS), "new.changed.test")
        world.b = MTA(
            folder / "b",
            f"""hostname = "mx.good.test"
[tls]
certificate = "{there.chain}"
key = "{there.key}"
[listen.mx]
endpoint = "tcp:{world.port}:interface={B}"
service = "mx"
[domains]
local = [{", ".join(f'"{name}.test"' for name in DOMAINS)}]
[delivery]
maildir = "{folder}/b/mail/{{domain}}/{{local}}"
[access]
relay_from = []
[dns]
servers = ["{world.before}"]
""",
            (B, world.port),
        )
        user_file(folder / "users", "alice", "secret")
        world.home = world.ca.host("mx.home.test")
        world.plain = Recorder(PLAIN, world.port)
        world.a = sender(world, world.before)
        try:
            world.b.start()
            world.a.start()
            yield world
        finally:
            world.plain.close()
            https.close()
            for mta in (world.a, world.b):
                mta.stop()


def sender(world, resolver, requiretls=""):
    """Our sending instance, always in the same folder."""
    return MTA(
        world.folder / "a",
        f"""hostname = "mx.home.test"
[tls]
certificate = "{world.home.chain}"
key = "{world.home.key}"
[listen.submission]
endpoint = "tcp:{world.submission}:interface={A}"
service = "submission"
[listen.mx]
endpoint = "tcp:{world.port}:interface={A}"
service = "mx"
[domains]
local = ["home.test"]
[delivery]
maildir = "{world.folder}/a/mail/{{domain}}/{{local}}"
[access]
users = "{world.folder}/users"
[dns]
servers = ["{resolver}"]
[relay]
port = {world.port}
trust = "{world.ca.roots}"
retry = ["1h"]
[requiretls]
{requiretls}
""",
        (A, world.port),
    )


def submit(world, to, *, require=True, header=""):
    """Send as a mail user would; the queue id."""
    with smtplib.SMTP(A, world.submission, timeout=20) as client:
        client.starttls(context=_trusting(world))
        client.login("alice", "secret")
        client.ehlo()
        assert client.mail("alice@home.test", ["REQUIRETLS"] if require else [])[0] == 250
        assert client.rcpt(to)[0] == 250
        code, reply = client.data(header + BODY)
        assert code == 250
        return reply.decode().rpartition(" ")[2]


def _trusting(world):
    context = ssl.create_default_context(cafile=str(world.ca.roots))
    context.check_hostname = False
    return context


def event(mta, name, queue_id, seconds=20):
    """Wait for what becomes of a message."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for found in mta.events(name):
            if found.get("queue_id") == queue_id:
                return found
        time.sleep(0.05)
    raise AssertionError(f"no {name} of {queue_id}: {mta.log.read_text()[-3000:]}")


def report(world, to):
    """Send a tagged message that cannot arrive; its non-delivery report."""
    before = len(world.a.mailbox("alice@home.test"))
    submit(world, to)
    newest = world.a.mail("alice@home.test", before + 1)
    (mine,) = [octets for octets in newest if to.encode() in octets and b"multipart/report" in octets]
    return Report(mine)


@pytest.mark.parametrize("domain", ["good", "wild"])
def test_a_policy_vouches_for_an_unsigned_mx(world, domain):
    """C02: enforce, listed by name or wildcard, PKIX, keyword: a tagged message is delivered, and the log says why.

    The second domain leaves its policy to a provider: aliases are followed, the certificate bears its own name.
    """
    queue_id = submit(world, f"c02@{domain}.test")
    (octets,) = world.b.mail(f"c02@{domain}.test")
    assert octets.count(b"(requiretls)") == 2
    found = event(world.a, "delivered", queue_id)
    assert (found["mx_security"], found["auth"], found["keyword"]) == ("mta-sts", "pkix", True)
    submit(world, f"c02@{domain}.test")
    world.b.mail(f"c02@{domain}.test", 2)
    assert world.https.count(f"{domain}.test") == 1


def test_the_host_that_is_not_listed_hears_nothing(world):
    """C08: MX1 is passed over without a connection, MX2 takes the message."""
    connections = world.plain.connections
    submit(world, "c08@two.test")
    (octets,) = world.b.mail("c08@two.test")
    assert octets.count(b"(requiretls)") == 2
    assert world.plain.connections == connections


@pytest.mark.parametrize("domain", ["testing", "none", "unlisted"])
def test_a_policy_that_does_not_vouch(world, domain):
    """C07: testing and none vouch for nobody, enforce only for those it lists: 5.7.10, nothing delivered."""
    got = report(world, f"bob@{domain}.test")
    assert got.status == "5.7.10"
    assert ": lookup: " in got.diagnostic
    assert world.b.mailbox(f"bob@{domain}.test") == []


@pytest.mark.parametrize(
    ("domain", "result", "why"),
    [
        ("away", "sts-policy-fetch-error", "HTTP status 302"),
        ("broken", "sts-policy-invalid", "max_age"),
        ("big", "sts-policy-fetch-error", "octets"),
        ("webpki", "sts-webpki-invalid", "does not bear the name mta-sts.webpki.test"),
    ],
)
def test_a_policy_that_cannot_be_had(world, domain, result, why):
    """T-CODE: announced, and not to be had: a tagged message waits, an untagged one goes as though there were none."""
    queue_id = submit(world, f"tagged@{domain}.test")
    found = event(world.a, "deferred", queue_id)
    assert found["reply"].startswith("451 4.7.5 ") and why in found["reply"]
    submit(world, f"plain@{domain}.test", require=False)
    world.b.mail(f"plain@{domain}.test")
    assert world.b.mailbox(f"tagged@{domain}.test") == []
    (told,) = [e for e in world.a.events("policy") if e.get("domain") == f"{domain}.test"]
    assert (told["result"], told["cached"]) == (result, False)
    assert world.https.count(f"{domain}.test") == (0 if domain == "webpki" else 1)


@pytest.mark.parametrize("domain", ["unlisted", "clear"])
def test_enforce_holds_untagged_mail_too(world, domain):
    """RFC 8461 5: not to a host that the policy does not list, nor to one without TLS; later may be better."""
    connections = len(world.b.events("connected"))
    octets = world.plain.octets
    queue_id = submit(world, f"plain@{domain}.test", require=False)
    assert "MTA-STS" in event(world.a, "deferred", queue_id)["reply"]
    assert b"alice" not in world.plain.octets[len(octets) :]
    assert len(world.b.events("connected")) == connections


@pytest.mark.parametrize("domain", ["unlisted", "webpki"])
def test_tls_required_no_asks_for_no_policy(world, domain):
    """C41, C43: whoever says that TLS is optional is not kept by a policy, nor by the lack of one."""
    submit(world, f"optional@{domain}.test", require=False, header="TLS-Required: No\r\n")
    world.b.mail(f"optional@{domain}.test")


def explained(world, domain):
    """What `explain` says, with the configuration of our sending instance."""
    command = [BIN / "requiretls-mta", "explain", f"bob@{domain}.test", "--json", "--config", world.a.file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("domain", "status", "security"),
    [
        ("good", "2.0.0", "mta-sts"),
        ("wild", "2.0.0", "mta-sts"),
        ("two", "2.0.0", "mta-sts"),
        ("testing", "5.7.10", "none"),
        ("none", "5.7.10", "none"),
        ("unlisted", "5.7.10", "none"),
        ("broken", "4.7.5", "none"),
        ("webpki", "4.7.5", "none"),
    ],
)
def test_it_is_explained(world, domain, status, security):
    """As the messages above fared."""
    said = explained(world, domain)
    assert (said["status"], said["mx_security"]) == (status, security), said


def test_a_slow_policy_host_holds_up_nobody_else(world):
    """Its own mail waits; that of others is delivered meanwhile."""
    submit(world, "first@slow.test", require=False)
    submit(world, "slow@good.test")
    world.b.mail("slow@good.test", seconds=5)
    assert world.https.count("slow.test") == 1
    assert world.b.mailbox("first@slow.test") == []


def test_a_restart_in_between(world):
    """C51, RFC 8461 3.3: what is kept outlives process, announcement and policy host; a new id is followed at once.

    Last of all, for it changes the world: other name servers and the cached domain's policy host gone.
    """
    for domain in ("cached", "changed"):
        submit(world, f"before@{domain}.test")
        world.b.mail(f"before@{domain}.test")
    assert world.a.stop() == 0, "with a fetch under way"
    assert world.b.mailbox("first@slow.test") == [], "nothing slips out without its policy"
    kept = world.folder / "a" / "state" / "shared" / "mta-sts"
    assert {"cached.test.json", "changed.test.json"} <= {path.name for path in kept.iterdir()}
    world.https.serve("changed.test", policy("new.changed.test"))
    world.https.serve("cached.test", status="404 Gone")
    world.a = sender(world, world.after).start()
    for domain in ("cached", "changed"):
        queue_id = submit(world, f"after@{domain}.test")
        (octets,) = world.b.mail(f"after@{domain}.test")
        assert octets.count(b"(requiretls)") == 2
        assert event(world.a, "delivered", queue_id)["mx_security"] == "mta-sts"
        assert explained(world, domain)["mx_security"] == "mta-sts"
    assert (world.https.count("cached.test"), world.https.count("changed.test")) == (1, 2)


def test_testing_vouches_where_the_operator_says_so(world):
    """`requiretls.mta_sts_testing`, put into force by SIGHUP."""
    config = world.a.file.read_text()
    world.a.file.write_text(config.replace("[requiretls]", "[requiretls]\nmta_sts_testing = true"))
    world.a.process.send_signal(signal.SIGHUP)
    end = time.monotonic() + 10
    while "reloaded" not in world.a.log.read_text() and time.monotonic() < end:
        time.sleep(0.05)
    queue_id = submit(world, "sure@testing.test")
    world.b.mail("sure@testing.test")
    assert event(world.a, "delivered", queue_id)["mx_security"] == "mta-sts"


def test_switched_off(world):
    """`mta_sts.enabled = false`: nobody is asked for a policy, and none vouches."""
    asked = world.https.connections
    world.a.stop()
    world.a = sender(world, world.after)
    world.a.file.write_text(world.a.file.read_text() + "[mta_sts]\nenabled = false\n")
    world.a.start()
    assert report(world, "off@good.test").status == "5.7.10"
    assert world.https.connections == asked
