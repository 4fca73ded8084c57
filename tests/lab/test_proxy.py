"""`haproxy:` endpoints of a whole instance: headers from swaks, by hand, and from HAProxy itself."""

import contextlib
import socket
import subprocess
import time

import pytest

from tests.lab.mta import MTA, free_port, user_file
from tests.lab.require import need
from tests.smtp.dialogue import Talk
from tests.smtp.headers import v1, v2

ADDRESS = "127.0.0.48"


class Ports:
    """Of the instance, and of HAProxy in front of it."""

    def __init__(self):
        names = ("plain", "mx", "submissions", "fenced", "front1", "front2", "front_submissions")
        taken = set()
        for name in names:
            while (port := free_port(ADDRESS)) in taken:
                pass
            taken.add(port)
            setattr(self, name, port)


@pytest.fixture(scope="module")
def ports():
    return Ports()


@pytest.fixture(scope="module")
def mta(tmp_path_factory, ports):
    folder = tmp_path_factory.mktemp("proxy")
    user_file(folder / "users", "ann", "secret")
    instance = MTA(
        folder,
        f"""hostname = "mx.here.test"
[listen.mx]
endpoint = [
    "haproxy:tcp:{ports.mx}:interface={ADDRESS}", "haproxy:unix:{folder}/sock", "tcp:{ports.plain}:interface={ADDRESS}"
]
service = "mx"
[listen.submissions]
endpoint = "haproxy:tcp:{ports.submissions}:interface={ADDRESS}"
service = "submissions"
[listen.fenced]
endpoint = "haproxy:tcp:{ports.fenced}:interface={ADDRESS}"
service = "mx"
proxies = ["192.0.2.7"]
[domains]
local = ["here.test"]
[delivery]
maildir = "{folder}/mail/{{domain}}/{{local}}"
[dns]
servers = ["127.0.0.1:1"]
[access]
relay_from = ["127.0.0.0/8", "::1", "192.0.2.0/24"]
users = "{folder}/users"
""",
        (ADDRESS, ports.plain),
    ).start()
    yield instance
    assert instance.stop() == 0
    assert "Traceback" not in instance.log.read_text()


def swaks(port, to, *options, body="Subject: x\n\nbody\n"):
    """Send a message; what was said."""
    done = subprocess.run(
        [
            need("swaks"), "--server", f"{ADDRESS}:{port}", "--from", "s@far.test", "--to", to, "--ehlo", "c.test",
            "--data", body, *options,
        ],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def announced(source, version=1):
    """The options that have swaks write a header."""
    family = {(1, False): "TCP4", (1, True): "TCP6", (2, False): "AF_INET", (2, True): "AF_INET6"}
    options = {
        "version": version,
        "family": family[version, ":" in source],
        "source": source,
        "source-port": 40000,
        "dest": source,
        "dest-port": 25,
    }
    return [text for name, value in options.items() for text in (f"--proxy-{name}", str(value))]


def accepted(mta, to):
    """The one message for `to`: its octets and the event of its acceptance."""
    (octets,) = mta.mail(to)
    (event,) = [event for event in mta.events("accepted") if event["queue_id"].encode() in octets]
    return octets, event


@pytest.mark.parametrize(
    ("source", "version", "shown"),
    [
        ("203.0.113.9", 1, "[203.0.113.9]"),
        ("203.0.113.9", 2, "[203.0.113.9]"),
        ("2001:db8::9", 1, "[IPv6:2001:db8::9]"),
        ("::ffff:203.0.113.9", 1, "[203.0.113.9]"),
    ],
)
def test_swaks_says_for_whom_it_connects(mta, ports, source, version, shown):
    """Received field and log name the claimed client."""
    to = f"swaks{len(mta.events('accepted'))}@here.test"
    swaks(ports.mx, to, *announced(source, version))
    octets, event = accepted(mta, to)
    assert f"Received: from c.test ({shown})".encode() in octets
    assert event["client"] == shown.strip("[]").removeprefix("IPv6:")


def test_swaks_submits_in_tls_behind_the_header(mta, ports):
    """submissions: the header, the handshake, the login; the session is inside TLS."""
    login = ["--tls-on-connect", "--auth", "PLAIN", "--auth-user", "ann", "--auth-password", "secret"]
    swaks(ports.submissions, "tls@here.test", *login, *announced("203.0.113.9"))
    octets, event = accepted(mta, "tls@here.test")
    assert b"from c.test ([203.0.113.9])" in octets and b"with ESMTPSA (TLSv1.3" in octets
    assert event["client"] == "203.0.113.9" and event["user"] == "ann"


def recipient(client, to):
    """The reply to RCPT."""
    assert client.hear().startswith("220")
    client.ask("EHLO c.test")
    client.ask("MAIL FROM:<s@far.test>")
    return client.ask(f"RCPT TO:<{to}>")


@pytest.mark.parametrize(
    ("header", "may_relay"),
    [
        (b"", True),  # without a proxy, at the endpoint that has none
        (v1("192.0.2.9"), True),
        (v2("::ffff:192.0.2.9"), True),
        (v1("203.0.113.9"), False),
        (v1("127.0.0.1"), False),
        (v2("127.0.0.48"), False),
        (v1("::ffff:127.0.0.1"), False),
        (v2("::1"), False),
        (b"PROXY UNKNOWN\r\n", False),
        (v2(), False),
        (v2(command=0x20), False),
        (v2("192.0.2.9", command=0x20), False),
        (v2(block=bytes(216), family=0x31), False),
    ],
)
def test_who_may_relay(mta, ports, header, may_relay):
    """`relay_from` is for claimed addresses; never for loopback ones, nor for the proxy's own connection."""
    for to, code in (("x@elsewhere.test", "250 2.1.5" if may_relay else "550 5.7.1"), ("x@here.test", "250 2.1.5")):
        client = Talk(ports.mx if header else ports.plain, ADDRESS)
        client.say(header)
        assert recipient(client, to).startswith(code)
        client.close()


def test_a_unix_socket(mta):
    """A proxy on this machine, and a client that is claimed there."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(mta.folder / "sock"))
        connection.sendall(v1("203.0.113.10") + b"QUIT\r\n")
        assert connection.recv(1000).startswith(b"220")
    assert "203.0.113.10" in [event["client"] for event in mta.events("connected")]


@pytest.mark.parametrize("header", [b"", v1("192.0.2.9")])
def test_others_than_the_proxies(mta, ports, header):
    """Closed at once, header or not."""
    client = Talk(ports.fenced, ADDRESS)
    began = time.monotonic()
    with contextlib.suppress(ConnectionError):
        client.say(header)
    assert client.rest() == b""
    assert time.monotonic() - began < 4
    while "it is not one of the listener's proxies" not in mta.log.read_text():  # the log may come behind
        assert time.monotonic() - began < 8
        time.sleep(0.05)


def test_without_a_header_there_is_no_session(mta, ports):
    """Five seconds of silence, or commands at once: the end without a greeting."""
    silent, hasty, tls = Talk(ports.mx, ADDRESS), Talk(ports.mx, ADDRESS), Talk(ports.submissions, ADDRESS)
    before = len(mta.events("connected"))
    began = time.monotonic()
    hasty.say("EHLO c.test\r\n")
    tls.say(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    assert hasty.rest() == tls.rest() == b""
    assert time.monotonic() - began < 4
    assert silent.rest() == b""
    assert 4 < time.monotonic() - began < 8
    assert len(mta.events("connected")) == before


@pytest.fixture
def haproxy(tmp_path, mta, ports):
    """HAProxy in front, which itself believes headers; returns a function that asks for its servers' health."""
    program = need("haproxy")
    file, control = tmp_path / "haproxy.cfg", tmp_path / "control"
    fronts = [
        ("front1", "send-proxy", ports.mx, "option smtpchk EHLO checker.test"),
        ("front2", "send-proxy-v2 proxy-v2-options crc32c,unique-id", ports.mx, "option smtpchk EHLO checker.test"),
        ("front_submissions", "send-proxy-v2 check-ssl verify none", ports.submissions, "option smtpchk EHLO c.test"),
    ]
    listens = "".join(
        f"listen {name}\n bind {ADDRESS}:{getattr(ports, name)} accept-proxy\n {check}\n"
        f" server mta {ADDRESS}:{port} check inter 200ms {options}\n"
        for name, options, port, check in fronts
    )
    file.write_text(
        f"global\n maxconn 50\n stats socket {control}\n"
        f"defaults\n mode tcp\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n{listens}"
    )

    def health():
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(control))
            connection.sendall(b"show stat\n")
            lines = connection.makefile().read().splitlines()
        keys = lines[0].removeprefix("# ").split(",")
        rows = [dict(zip(keys, line.split(","), strict=False)) for line in lines[1:] if line]
        return {row["pxname"]: row["check_status"].lstrip("* ") for row in rows if row["svname"] == "mta"}

    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([program, "-db", "-f", file], stdout=log, stderr=log)
    try:
        end = time.monotonic() + 10
        while time.monotonic() < end and process.poll() is None and not control.exists():
            time.sleep(0.05)
        assert control.exists(), (tmp_path / "log").read_text()
        yield health
    finally:
        process.terminate()
        process.wait(10)


def test_haproxy_itself(mta, ports, haproxy):
    """Both versions, checksum and TLVs; a submission in TLS through it; and its checks of our health pass."""
    swaks(ports.front1, "h1@here.test", "--tls", *announced("203.0.113.11"))
    swaks(ports.front2, "h2@here.test", *announced("2001:db8::11"))
    login = ["--tls-on-connect", "--auth", "PLAIN", "--auth-user", "ann", "--auth-password", "secret"]
    swaks(ports.front_submissions, "h3@here.test", *login, *announced("203.0.113.12"))
    found = {to: accepted(mta, f"{to}@here.test")[1]["client"] for to in ("h1", "h2", "h3")}
    assert found == {"h1": "203.0.113.11", "h2": "2001:db8::11", "h3": "203.0.113.12"}
    end = time.monotonic() + 10
    while set(haproxy().values()) != {"L7OK"}:
        assert time.monotonic() < end, haproxy()
        time.sleep(0.1)


def test_a_waiting_connection_does_not_keep_the_service(tmp_path, ports):
    """SIGTERM ends at once what has not said who it is."""
    port, plain = free_port(ADDRESS), free_port(ADDRESS)
    endpoints = f'["haproxy:tcp:{port}:interface={ADDRESS}", "tcp:{plain}:interface={ADDRESS}"]'
    mta = MTA(
        tmp_path,
        f'hostname = "mx.here.test"\n[dns]\nservers = ["127.0.0.1:1"]\n'
        f'[listen.mx]\nendpoint = {endpoints}\nservice = "mx"\n',
        (ADDRESS, plain),
    ).start()
    waiting = Talk(port, ADDRESS)
    waiting.say(b"PROXY ")
    began = time.monotonic()
    assert mta.stop() == 0
    assert waiting.rest() == b""
    assert time.monotonic() - began < 4
