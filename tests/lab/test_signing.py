"""Signed on the way out: keys as the documentation makes them, over two instances of ours to a mailbox.

The second one's own check says pass by the records in the DNS, and so does dkimpy about what lies in the mailbox.
"""

import itertools
import re
import signal
import smtplib
import subprocess
import time
from pathlib import Path

import dkim
import dns.resolver
import pytest

from tests.checks.signing import in_strings
from tests.lab.dns import Lab
from tests.lab.mta import MTA, free_port
from tests.lab.require import need
from tests.lab.test_process import run
from tests.smtp.dialogue import Talk

A, B = "127.0.0.57", "127.0.0.58"
PAGE = Path(__file__).parent.parent.parent / "docs" / "submission.rst"
UMLAUT = "xn--bcher-kva.test"


def documented_keys(folder):
    """Make keys by the commands of the page; what the commands for the records print."""
    need("openssl")
    commands = re.findall(r"^    \$ (.*)$", PAGE.read_text(), re.MULTILINE)
    script = "\n".join(f"{command}; echo" if "base64" in command else command for command in commands)
    done = subprocess.run(["bash", "-e", "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if line]


def txt(name, record):
    return f"{name}._domainkey TXT " + " ".join(f'"{part.decode()}"' for part in in_strings(record.encode()))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Our A, which signs for here.test and bücher.test, and their B, which checks."""
    need("knotd"), need("unbound")
    folder = tmp_path_factory.mktemp("signing")
    rsa, ed25519 = documented_keys(folder)
    published = [
        txt("mail2026r", f"v=DKIM1; k=rsa; p={rsa}"),
        txt("mail2026e", f"v=DKIM1; k=ed25519; p={ed25519}"),
        '_dmarc TXT "v=DMARC1; p=reject; adkim=s"',
    ]
    port, submission = free_port(A, B), free_port(A)
    with Lab(folder) as lab:
        lab.zone("here.test", published, signed=False)
        lab.zone(UMLAUT, published, signed=False)
        lab.zone("there.test", ["@ MX 10 mx", f"mx A {B}"], signed=False)
        lab.start()
        common = f"""
[dns]
servers = ["{":".join(map(str, lab.resolver_address))}"]
[relay]
port = {port}
"""
        b = MTA(
            folder / "b",
            f"""hostname = "mx.there.test"
[listen.mx]
endpoint = "tcp:{port}:interface={B}"
service = "mx"
[domains]
local = ["there.test"]
[delivery]
maildir = "{folder}/b/mail/{{domain}}/{{local}}"
[access]
relay_from = []
[dmarc]
action = "reject"
{common}""",
            (B, port),
        ).start()
        a = MTA(
            folder / "a",
            f"""hostname = "mx.here.test"
[listen.submission]
endpoint = "tcp:{submission}:interface={A}"
service = "submission"
trusted = true
{common}
{"".join(table(d, s, folder) for d in ("here.test", UMLAUT) for s in ("mail2026r", "mail2026e"))}""",
            (A, submission),
        ).start()
        a.port, a.resolver = submission, lab.resolver_address
        try:
            yield a, b
        finally:
            assert (a.stop(), b.stop()) == (0, 0)
            assert "Traceback" not in a.log.read_text() + b.log.read_text()


def table(domain, selector, folder):
    return f'[[dkim.sign]]\ndomain = "{domain}"\nselector = "{selector}"\nkey = "{folder}/{selector}.pem"\n'


def key_in_dns(address):
    """How dkimpy asks for a key: of the real name servers."""
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = [address[0]], address[1]

    def ask(name, timeout=5):
        (record,) = resolver.resolve(name.decode(), "TXT")
        return b"".join(record.strings)

    return ask


def results(octets):
    """The Authentication-Results of B, unfolded."""
    field = re.search(rb"^Authentication-Results: (.*?)\r?\n(?![ \t])", octets, re.DOTALL | re.MULTILINE).group(1)
    return re.sub(r"header\.b=[^;]+", "header.b=X", re.sub(r"\r?\n\s+", " ", field.decode()))


def as_sent(octets):
    """A mailbox has its lines end with LF."""
    return octets.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


FROM = b"From: Anna <anna@here.test>\r\nTo: x@there.test\r\n"
DATE = b"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\nMessage-ID: <1@here.test>\r\n"
BODIES = {
    "plain": b"Hello\r\n",
    "dots": b".\r\n..\r\n.x\r\n\r\n.\r\n",
    "blanklines": b"a \t b\t\r\n\r\n\r\n\r\n",
    "eightbit": "Grüße\r\n".encode() + b"\xff\r\n",
    "nothing": b"",
    "large": (b"x" * 70 + b"\r\n") * 100_000,
}


@pytest.mark.parametrize("name", BODIES)
def test_what_is_relayed_passes(world, name):
    """DATA; two signatures and DMARC, strictly aligned, at B, and the same to dkimpy in the mailbox."""
    a, b = world
    message = FROM + DATE + f"Subject: {name}\r\n\r\n".encode() + BODIES[name]
    with smtplib.SMTP(A, a.port, timeout=20) as client:
        client.sendmail("anna@here.test", [f"{name}@there.test"], message, ["BODY=8BITMIME"])
    (octets,) = b.mail(f"{name}@there.test")
    good = "dkim=pass header.d=here.test header.s=mail2026{} header.a={}-sha256 header.b=X; "
    expected = good.format("r", "rsa") + good.format("e", "ed25519") + "dmarc=pass header.from=here.test"
    assert results(octets).endswith(expected)
    for number in range(2):
        assert dkim.DKIM(as_sent(octets)).verify(idx=number, dnsfunc=key_in_dns(a.resolver))


def test_octets_that_came_by_bdat(world):
    """In chunks that part a line, its end, and the header; the last line has no end."""
    a, b = world
    message = FROM + DATE + b"Subject: bdat\r\n\r\none\r\n.\r\ntwo"
    talk = Talk(a.port, A)
    talk.hear()
    for command in ("EHLO c.test", "MAIL FROM:<anna@here.test>", "RCPT TO:<bdat@there.test>"):
        assert talk.ask(command).startswith("250")
    at = [0, 5, len(FROM) - 1, message.index(b"\r\n\r\n") + 3, len(message) - 2, len(message)]
    for start, end in itertools.pairwise(at):
        talk.say(b"BDAT %d%s\r\n" % (end - start, b" LAST" if end == len(message) else b""))
        talk.say(message[start:end])
        assert talk.hear().startswith("250")
    talk.close()
    (octets,) = b.mail("bdat@there.test")
    assert results(octets).count("dkim=pass") == 2 and "dmarc=pass" in results(octets)


def test_an_international_domain(world):
    """RFC 8616: U-labels and UTF-8 in From, A-labels in d=; signed as the octets are."""
    a, b = world
    message = "From: Bücher <anna@bücher.test>\r\nSubject: für dich\r\n".encode() + DATE + b"\r\nx\r\n"
    with smtplib.SMTP(A, a.port, timeout=20) as client:
        client.sendmail("anna@here.test", ["idn@there.test"], message, ["SMTPUTF8", "BODY=8BITMIME"])
    (octets,) = b.mail("idn@there.test")
    assert results(octets).count(f"dkim=pass header.d={UMLAUT}") == 2
    assert f" d={UMLAUT};".encode() in octets


def test_whose_author_is_elsewhere_is_not_signed(world):
    """Nor one that pretends to be near."""
    a, b = world
    for number, author in enumerate(("anna@nothere.test", '"anna@here.test" <eve@else.test>')):
        with smtplib.SMTP(A, a.port, timeout=20) as client:
            client.sendmail("s@here.test", [f"not{number}@there.test"], f"From: {author}\r\n\r\nx\r\n".encode())
        (octets,) = b.mail(f"not{number}@there.test")
        assert b"DKIM-Signature" not in octets and "dkim=none" in results(octets)


def test_a_reload_takes_all_keys_or_none(world):
    """A file that is no key keeps the old ones; `config check` names it, and a good one is in force at once."""
    a, b = world
    good = a.file.read_text()
    (a.folder / "bad.pem").write_text("no key")
    try:
        a.file.write_text(good + '[[dkim.sign]]\ndomain = "new.test"\nselector = "s"\nkey = "bad.pem"\n')
        assert a.tool("config", "check", check=False) == ""
        a.process.send_signal(signal.SIGHUP)
        logged(a, f"reload failed, all old values stay: {a.folder}/bad.pem: found no private key that can be read")
        (a.folder / "bad.pem").write_bytes((a.folder.parent / "mail2026e.pem").read_bytes())
        (a.folder / "bad.pem").chmod(0o644)
        a.process.send_signal(signal.SIGHUP)
        logged(a, '"reloaded"')
        logged(a, "bad.pem: others may read or write it (mode 0644)")
        with smtplib.SMTP(A, a.port, timeout=20) as client:
            client.sendmail("s@here.test", ["new@there.test"], b"From: a@new.test\r\n\r\nx\r\n")
        assert b" d=new.test; s=s;" in b.mail("new@there.test")[0]
    finally:
        a.file.write_text(good)
    a.process.send_signal(signal.SIGHUP)


def test_no_start_without_the_key(tmp_path):
    """Status 1 and one line: not a service that sends unsigned."""
    (tmp_path / "bad.toml").write_text('[[dkim.sign]]\ndomain = "x.test"\nselector = "s"\nkey = "bad.toml"\n')
    failed = run(tmp_path, "--config", "bad.toml")
    assert failed.returncode == 1 and "Traceback" not in failed.stdout + failed.stderr
    assert (
        f"requiretls-mta: {tmp_path}/bad.toml: found no private key that can be read; allowed: an RSA" in failed.stdout
    )


def logged(mta, text):
    end = time.monotonic() + 10
    while text not in mta.log.read_text():
        assert time.monotonic() < end, mta.log.read_text()[-2000:]
        time.sleep(0.05)
