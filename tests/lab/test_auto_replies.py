"""B13: automatic replies of somebody else's plugin, the one in docs/auto-replies.rst, installed as a package."""

import contextlib
import email
import email.policy
import smtplib
import sqlite3
import ssl
import time

import pytest

from tests.lab.ca import CA
from tests.lab.mta import MTA, ROOT, Recorder, free_port
from tests.lab.test_plugin import example
from tests.test_packaging import environment, run

A, B, PLAIN = "127.0.0.73", "127.0.0.74", "127.0.0.75"
PROJECT = """
[project]
name = "mta-vacation"
version = "1"
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[tool.setuptools]
packages = ["requiretls_mta.receive.plugins"]
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An environment with our dependencies and this checkout on its path, in which the package was installed."""
    return with_plugin(tmp_path_factory.mktemp("responder"), "vacation", example("auto-replies.rst"))


def with_plugin(folder, name, code):
    """An interpreter to which a package with this module for reception was installed."""
    plugins = folder / "project" / "requiretls_mta" / "receive" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / f"{name}.py").write_text(code)
    (folder / "project" / "pyproject.toml").write_text(PROJECT)
    found, _ = environment(folder, ROOT)
    run(found, "-m", "pip", "install", "--quiet", "--no-deps", folder / "project", cwd=folder)
    return found


class World:
    """A, whose ann is away; B, to whose people she replies; and a host without TLS."""

    def __init__(self, folder, python):
        self.port = free_port(A, B, PLAIN)
        self.ca = CA(folder / "ca")
        self.a, self.b = self._mta(folder, "a", A), self._mta(folder, "b", B)
        self.a.twistd = (python, "-c", "from twisted.scripts.twistd import run; run()")
        self.plain = Recorder(PLAIN, self.port)

    def _mta(self, folder, name, address):
        files = self.ca.host(f"{name}.test", address)
        return MTA(
            folder / name,
            f"""hostname = "{name}.test"
[tls]
certificate = "{files.chain}"
key = "{files.key}"
[listen.mx]
endpoint = "tcp:{self.port}:interface={address}"
service = "mx"
[domains]
local = ["{name}.test"]
[delivery]
maildir = "{folder}/{name}/mail/{{domain}}/{{local}}"
[aliases]
"desk@a.test" = ["ann@a.test"]
[dns]
servers = ["127.0.0.1:1"]
[relay]
trust = "{self.ca.roots}"
[relay.routes]
"b.test" = "smtp:[{B}]:{self.port}"
"plain.test" = "smtp:[{PLAIN}]:{self.port}"
""",
            (address, self.port),
        )

    def send(self, sender, to="ann@a.test", *, tagged=False, fields=""):
        """A letter, as a client of A's."""
        context = ssl.create_default_context(cafile=self.ca.roots)
        context.check_hostname = False
        with smtplib.SMTP(A, self.port, local_hostname="c.test", timeout=20) as client:
            client.ehlo()
            client.starttls(context=context)
            client.ehlo()
            text = (
                f"From: {sender}\r\nTo: {to}\r\nSubject: the secret plan\r\nMessage-ID: <1@c.test>\r\n{fields}\r\nx\r\n"
            )
            client.sendmail(sender, [to], text.encode(), ["REQUIRETLS"] if tagged else [])


@pytest.fixture
def world(tmp_path, python):
    made = World(tmp_path, python)
    try:
        made.a.start()
        made.b.start()
        yield made
    finally:
        assert made.a.stop() == 0
        made.b.stop()
        made.plain.close()
    assert "Traceback" not in made.a.log.read_text()


def read(octets):
    return email.message_from_bytes(octets, policy=email.policy.default)


def until(condition, seconds=15):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_a_reply_goes_out_by_the_rules(world):
    """As RFC 3834 wants it, from the address that was written to, and once; a restart does not forget."""
    world.send("bob@b.test", "desk@a.test")
    reply = read(world.b.mail("bob@b.test")[0])
    assert reply["Return-Path"] == "<>"
    assert reply["From"] == "Ann <desk@a.test>" and reply["To"] == "bob@b.test"
    assert reply["Subject"] == "Auto: the secret plan"
    assert reply["Auto-Submitted"] == "auto-replied"
    assert reply["In-Reply-To"] == reply["References"] == "<1@c.test>"
    assert reply.get_content().startswith("I am away until May.")
    world.send("bob@b.test", "desk@a.test")
    world.a.mail("ann@a.test", 2)
    assert world.a.stop() == 0
    world.a.start()
    world.send("bob@b.test", "desk@a.test")
    world.send("eve@b.test", fields="List-Id: <x.y>\r\n")
    world.send("mailer-daemon@b.test")
    world.a.mail("ann@a.test", 5)
    world.send("zoe@b.test")
    world.b.mail("zoe@b.test")
    assert len(world.a.events("replied")) == 2
    assert len(world.b.mailbox("bob@b.test")) == 1 and not world.b.mailbox("eve@b.test")


def test_a_kill_does_not_double_a_reply(world):
    """No reply leaves before it is on disk to whom it goes: here another holds that file when the process is killed."""
    world.send("eve@b.test")
    world.b.mail("eve@b.test")
    with contextlib.closing(sqlite3.connect(world.a.folder / "state" / "shared" / "answered.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        world.send("bob@b.test")
        world.a.mail("ann@a.test", 2)
        time.sleep(1)
        world.a.kill()
    assert not world.b.mailbox("bob@b.test")
    world.a.start()
    world.b.mail("bob@b.test")
    world.send("bob@b.test")
    world.send("zoe@b.test")
    world.b.mail("zoe@b.test")
    assert len(world.b.mailbox("bob@b.test")) == 1


def test_a_reply_keeps_the_promise_b13(world):
    """RFC 8689 6: tagged from A to B, its subject not quoted; it does not go where there is no TLS."""
    world.send("bob@b.test", tagged=True)
    reply = read(world.b.mail("bob@b.test")[0])
    assert "(requiretls)" in reply["Received"]
    assert reply["Subject"] == "Auto: your message"
    world.send("eve@plain.test", tagged=True)
    until(lambda: world.a.events("discarded"))
    assert world.a.events("discarded")[0]["reason"].startswith("an automatic reply")
    (bounced,) = world.a.events("bounced")
    assert bounced["recipient"] == "eve@plain.test" and "5.7.10" in bounced["reply"]
    assert b"away" not in world.plain.octets
    world.send("eve@plain.test", "ann@a.test", fields="TLS-Required: No\r\n")
    world.a.mail("ann@a.test", 3)
    world.send("zoe@plain.test", "ann@a.test", fields="TLS-Required: No\r\n")
    until(lambda: b"away" in world.plain.octets)
    assert b"TLS-Required: No\r\n" in world.plain.octets
    assert b"eve@" not in world.plain.octets
