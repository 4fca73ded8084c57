"""Submission to a whole instance: nodemailer, swaks and smtplib as users, on both ports, with rights and limits."""

import base64
import email
import email.policy
import email.utils
import json
import os
import signal
import smtplib
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest

from tests.lab.ca import CA
from tests.lab.mta import MTA, free_port, user_file
from tests.lab.require import need
from tests.message.test_authres import PERL

ADDRESS = "127.0.0.56"
NAME = "mx.here.test"
SENDERS = """
[access.senders]
"anna" = ["anna@here.test", "*@shop.test"]
"*" = ["{user}@here.test"]
"""


class Site:
    """What the instances of this module have in common."""

    def __init__(self, folder):
        self.folder = folder
        self.ca = CA(folder / "ca")
        self.files = self.ca.host(NAME)
        self.context = ssl.create_default_context(cafile=str(self.ca.roots))
        for user in ("anna", "bob", "Jürgen"):
            user_file(folder / "users", user, "secret")

    def start(self, folder, extra=""):
        """One instance."""
        ports = []
        while len(set(ports)) < 3:
            ports.append(free_port(ADDRESS))
        mx, submission, submissions = sorted(set(ports))
        mta = MTA(folder, self.config(folder, mx, submission, submissions, extra), (ADDRESS, mx)).start()
        mta.mx, mta.submission, mta.submissions = mx, submission, submissions
        mta.site = self
        return mta

    def config(self, folder, mx, submission, submissions, extra):
        return f"""hostname = "{NAME}"
[tls]
certificate = "{self.files.chain}"
key = "{self.files.key}"
[listen.mx]
endpoint = "tcp:{mx}:interface={ADDRESS}"
service = "mx"
[listen.submission]
endpoint = "tcp:{submission}:interface={ADDRESS}"
service = "submission"
[listen.submissions]
endpoint = "tcp:{submissions}:interface={ADDRESS}"
service = "submissions"
[listen.local]
endpoint = "unix:{folder}/sock"
service = "submission"
trusted = true
[domains]
local = ["here.test"]
[delivery]
maildir = "{folder}/mail/{{domain}}/{{local}}"
[dns]
servers = ["127.0.0.1:1"]
[iprev]
enabled = false
[spf]
action = "off"
[dkim]
verify = false
[dmarc]
action = "off"
[access]
relay_from = []
users = "{self.folder}/users"
{extra}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return Site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def mta(tmp_path_factory, site):
    instance = site.start(tmp_path_factory.mktemp("submission"), SENDERS)
    yield instance
    assert instance.stop() == 0
    assert "Traceback" not in instance.log.read_text()


def message_for(mta, to, count=1):
    """The newest message in a mailbox, parsed, and its octets."""
    octets = mta.mail(to, count)[-1]
    return email.message_from_bytes(octets, policy=email.policy.default), octets


def nodemailer(mta, to, *, secure, user="anna", sender="anna@here.test", **message):
    need("node")
    if not os.environ.get("NODE_PATH"):
        why = "NODE_PATH names no folder with nodemailer (npm install nodemailer)"
        pytest.fail(why) if os.environ.get("REQUIRE_ALL") == "1" else pytest.skip(why)
    options = {
        "host": ADDRESS, "port": mta.submissions if secure else mta.submission, "secure": secure, "user": user,
        "password": "secret", "ca": str(mta.site.ca.roots), "name": NAME, "from": sender, "to": to,
        "message": {"to": to, "subject": "grüße", "text": "body", **message},
    }  # fmt: skip
    script = Path(__file__).with_name("send.cjs")
    return subprocess.run(
        ["node", script, json.dumps(options)], capture_output=True, text=True, timeout=30, check=False
    )


def swaks(mta, to, *options, user="anna", sender="anna@here.test", mechanism="PLAIN", data="Subject: x\n\nbody\n"):
    return subprocess.run(
        [
            need("swaks"), "--server", f"{ADDRESS}:{mta.submission}", "--tls", "--tls-verify", "--tls-ca-path",
            mta.site.ca.roots, "--auth", mechanism, "--auth-user", user, "--auth-password", "secret", "--from", sender,
            "--to", to, "--ehlo", "c.test", "--data", data, *options,
        ],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def smtp(mta, user="anna"):
    """smtplib, logged in inside implicit TLS."""
    client = smtplib.SMTP_SSL(ADDRESS, mta.submissions, timeout=10, context=_unnamed(mta.site.context))
    if user:
        client.login(user, "secret")
    return client


def _unnamed(context):
    """The same roots for a client that connects to an address instead of a name."""
    context.check_hostname = False
    return context


def auth_results(octets):
    """What Mail::AuthenticationResults reads in the one field."""
    perl = need("perl")
    if subprocess.run([perl, "-MMail::AuthenticationResults", "-e", "1"], check=False, capture_output=True).returncode:
        need("libmail-authenticationresults-perl")
    (field,) = email.message_from_bytes(octets).get_all("Authentication-Results")
    done = subprocess.run([perl, "-e", PERL], input=field.encode(), capture_output=True, check=True, timeout=30)
    read = json.loads(done.stdout)
    (result,) = read["children"]
    found = {child["key"]: child["value"] for child in result["children"] if child["type"] == "subentry"}
    comments = [child["value"] for child in result["children"] if child["type"] == "comment"]
    return read["authserv_id"]["value"], result["key"], result["value"], found, comments


@pytest.mark.parametrize("secure", [True, False])
def test_nodemailer_submits(mta, secure):
    """By implicit TLS (RFC 8314 3.3) and by STARTTLS; what it wrote stays, and the login is told on top."""
    to = f"node-{secure}@here.test".lower()
    done = nodemailer(mta, to, secure=secure, **{"from": "Anna <anna@here.test>", "messageId": "<own@here.test>"})
    assert done.returncode == 0, done.stderr
    message, octets = message_for(mta, to)
    assert octets.startswith(b"Return-Path: <anna@here.test>\nAuthentication-Results: ")
    assert b"with ESMTPSA " in octets
    assert message.get_all("Message-ID") == ["<own@here.test>"] and len(message.get_all("Date")) == 1
    assert message["Subject"] == "grüße" and message.get_content() == "body\n"
    assert auth_results(octets) == (NAME, "auth", "pass", {"smtp.auth": "anna"}, ["plain"])


def test_swaks_submits_without_date_and_message_id(mta):
    """RFC 6409 8.2, 8.3: both are added below Received; by LOGIN, which the field tells."""
    done = swaks(mta, "swaks@here.test", mechanism="LOGIN")
    assert done.returncode == 0, done.stdout + done.stderr
    queue_id = done.stdout.rpartition("queued as ")[2].split()[0]
    message, octets = message_for(mta, "swaks@here.test")
    assert message["Message-ID"] == f"<{queue_id}@{NAME}>"
    assert abs(email.utils.parsedate_to_datetime(message["Date"]).timestamp() - time.time()) < 60
    names = [name for name, _ in message.items()]
    assert names == ["Return-Path", "Authentication-Results", "Received", "Date", "Message-ID", "Subject"]
    assert auth_results(octets)[3:] == ({"smtp.auth": "anna"}, ["login"])


def test_text_arrives_as_text(mta):
    """`echo hello`, with octets of eight bits, by smtplib."""
    text = "grüße\r\nFrom: boss@here.test\r\n".encode()
    with smtp(mta) as client:
        client.sendmail("anna@here.test", ["text@here.test"], text, mail_options=["BODY=8BITMIME"])
    message, octets = message_for(mta, "text@here.test")
    assert message["From"] is None and not message.defects
    assert octets.endswith(b"\n\n" + text.replace(b"\r\n", b"\n"))


def test_mail_of_strangers_stays_as_it_came(mta):
    """Nothing is added to it, and nothing asked of its header."""
    with smtplib.SMTP(ADDRESS, mta.mx, timeout=10) as client:
        client.sendmail("s@far.test", ["mx@here.test"], "To: a\r\nTo: b\r\n\r\nbody\r\n")
    names = [name for name, _ in message_for(mta, "mx@here.test")[0].items()]
    assert names == ["Return-Path", "Received", "To", "To"]


@pytest.mark.parametrize(
    ("sender", "author", "said"),
    [
        ("boss@here.test", "anna@here.test", "550 5.7.1 anna may not send as boss@here.test, which is in MAIL"),
        ("anna@here.test", "boss@here.test", "550 5.7.1 anna may not send as boss@here.test, which is in From"),
        ("anna@here.test", ["Anna <x@shop.test>", "y@shop.test"], None),
    ],
)
def test_whom_nodemailer_may_send_as(mta, sender, author, said):
    """RFC 6409 6.1, 6.3: refused with a text that says why, or taken."""
    done = nodemailer(mta, "rights@here.test", secure=True, sender=sender, **{"from": author})
    assert (done.returncode != 0) == (said is not None)
    if said:
        assert done.stderr.strip() == said


@pytest.mark.parametrize(
    ("user", "header", "said"),
    [
        ("bob", "From: bob@here.test\n", None),
        ("bob", "From: anna@here.test\n", "bob may not send as anna@here.test, which is in From"),
        ("bob", "From: anna@here.test <bob@here.test>\n", "From cannot be read"),
        ("bob", "From: bob@here.test\nSender: anna@here.test\n", "which is in Sender"),
        ("bob", "From: bob@here.test\nFrom: anna@here.test\n", "2 From fields; one is allowed"),
        ("anna", "Subject: x\nno field\nFrom: boss@here.test\n", "line 2 is no field"),
    ],
)
def test_whom_swaks_may_send_as(mta, user, header, said):
    """The header's own tricks, by STARTTLS."""
    done = swaks(mta, "rights@here.test", user=user, sender=f"{user}@here.test", data=f"{header}\nbody\n")
    if said is None:
        assert done.returncode == 0, done.stdout
    else:
        assert done.returncode == 26 and said in done.stdout  # 26: not taken at the end of the data


def test_a_user_outside_ascii(mta):
    """The field stays ASCII where the message does."""
    with smtp(mta, user=None) as client:
        client.ehlo("c.test")
        response = base64.b64encode("\0Jürgen\0secret".encode()).decode()
        assert client.docmd("AUTH PLAIN", response)[0] == 235
        client.sendmail("", ["utf8@here.test"], "Subject: x\r\n\r\n")
    assert b'smtp.auth="J\\\\xfcrgen"' in message_for(mta, "utf8@here.test")[1]


def test_who_stands_beside_us_is_not_judged(mta):
    """A UNIX socket that is trusted: no rights, no auth=pass; but Date and Message-ID are added."""
    with socket.socket(socket.AF_UNIX) as line, line.makefile("rw", newline="\r\n") as talk:
        line.connect(f"{mta.folder}/sock")
        line.settimeout(10)
        commands = ["EHLO x", "MAIL FROM:<boss@here.test>", "RCPT TO:<local@here.test>", "DATA"]
        for command in [*commands, "From: boss@here.test\n\nbody\n."]:
            while talk.readline()[3] == "-":
                pass
            talk.write(f"{command}\n")
            talk.flush()
        assert talk.readline().startswith("250 2.0.0 Ok: queued as ")
    names = [name for name, _ in message_for(mta, "local@here.test")[0].items()]
    assert names == ["Return-Path", "Received", "Date", "Message-ID", "From"]


def test_implicit_tls_says_nothing_in_the_clear(mta):
    """RFC 8314 3.3: TLS begins at once; inside there is AUTH, no STARTTLS, and no mail without a login."""
    with socket.create_connection((ADDRESS, mta.submissions), 5) as clear:
        clear.settimeout(0.3)
        with pytest.raises(TimeoutError):
            clear.recv(1)
        clear.settimeout(5)
        clear.sendall(b"EHLO c.test\r\nMAIL FROM:<anna@here.test>\r\n")
        assert b"220" not in clear.recv(1000)
    with smtp(mta, user=None) as client:
        client.ehlo("c.test")
        assert client.esmtp_features["auth"].split() == ["PLAIN", "LOGIN"]
        assert not client.has_extn("starttls") and client.has_extn("requiretls")
        assert client.mail("anna@here.test") == (530, b"5.7.0 Authentication required")
    with smtplib.SMTP(ADDRESS, mta.submission, timeout=10) as client:
        client.ehlo("c.test")
        assert client.has_extn("starttls") and not client.has_extn("auth")
        assert client.docmd("AUTH PLAIN", "AGFubmEAc2VjcmV0")[0] == 502
        assert client.mail("anna@here.test") == (530, b"5.7.0 Authentication required")


def reload(mta, old, new):
    """Another configuration, by SIGHUP."""
    before = mta.log.read_text().count("reloaded")
    text = mta.file.read_text()
    assert old in text
    mta.file.write_text(text.replace(old, new))
    mta.process.send_signal(signal.SIGHUP)
    end = time.monotonic() + 10
    while mta.log.read_text().count("reloaded") == before:
        assert time.monotonic() < end, mta.log.read_text()[-2000:]
        time.sleep(0.05)
    assert "needs a restart" not in mta.log.read_text()


def test_rights_and_limits_are_reloaded(tmp_path, site):
    """SIGHUP puts both into force; a user is counted over all sessions, a stranger by address, and each hears why."""
    limits = '[limits]\nmessages_per_user = ""'
    mta = site.start(tmp_path, limits)
    try:
        assert swaks(mta, "a@here.test", sender="boss@here.test").returncode == 0
        reload(mta, limits, f'{SENDERS}\n[limits]\nmessages_per_user = "2/1h"\nmessages_per_client = "3/1h"')
        assert "anna may not send as boss@here.test" in swaks(mta, "a@here.test", sender="boss@here.test").stdout
        assert swaks(mta, "a@here.test").returncode == 0
        assert nodemailer(mta, "a@here.test", secure=True, **{"from": "anna@here.test"}).returncode == 0
        user = "450 4.7.1 Too many messages from this user, try again later; the limit is 2/1h"
        assert user in swaks(mta, "a@here.test").stdout
        client = b"4.7.1 Too many messages from this client, try again later; the limit is 3/1h"
        with smtplib.SMTP(ADDRESS, mta.mx, timeout=10, source_address=("127.0.0.57", 0)) as stranger:
            stranger.ehlo("c.test")
            assert [stranger.docmd("MAIL", "FROM:<s@far.test>")[0] == stranger.rset()[0] for _ in range(3)] == [
                True
            ] * 3
            for _ in range(3):
                assert stranger.docmd("MAIL", "FROM:<s@far.test>") == (450, client)
        told = [event for event in mta.events("rejected") if event["reply"].encode() == b"450 " + client]
        assert len(told) == 1, "over and over is told once"
        with smtplib.SMTP(ADDRESS, mta.mx, timeout=10, source_address=("127.0.0.58", 0)) as another:
            another.sendmail("s@far.test", ["a@here.test"], "Subject: x\r\n\r\n")
        reload(mta, 'messages_per_user = "2/1h"\nmessages_per_client = "3/1h"', 'recipients_per_user = "2/1h"')
        with smtp(mta, "bob") as client:
            taken = client.sendmail("bob@here.test", [f"{n}@here.test" for n in "xyz"], "Subject: x\r\n\r\n")
        assert list(taken.values()) == [
            (450, b"4.7.1 Too many recipients from this user, try again later; the limit is 2/1h")
        ]
    finally:
        assert mta.stop() == 0
    assert "Traceback" not in mta.log.read_text()
