"""kill -9 under load, fifty times: what got its 250 arrives whole, and a failure is reported exactly once."""

import email
import hashlib
import random
import re
import smtplib
import threading
import time

from tests.lab.mta import MTA, Recorder, free_port

ROUNDS = 50
A, B, REFUSING = "127.0.0.21", "127.0.0.22", "127.0.0.23"


class Refusing(Recorder):
    """A server that knows no recipient."""

    def talk(self, connection):
        connection.sendall(b"220 refusing.test ESMTP\r\n")
        for line in connection.makefile("rb"):
            verb = line[:4].upper()
            if verb == b"RCPT":
                connection.sendall(b"550 5.1.1 no such user\r\n")
            elif verb == b"DATA":
                connection.sendall(b"554 5.5.1 no valid recipients\r\n")
            elif verb == b"QUIT":
                connection.sendall(b"221 bye\r\n")
                return
            else:
                connection.sendall(b"250-refusing.test\r\n250 PIPELINING\r\n" if verb == b"EHLO" else b"250 ok\r\n")


TO = ["r@here.test", "r@far.test", "r@refuse.test", "both@here.test", "list@here.test"]
"""The alias is for the first two; of the list's members one is far and one is refused."""


class Sender(threading.Thread):
    """Sends one message after the other, whatever becomes of the server, and notes which got their 250."""

    def __init__(self, name, port, stop):
        super().__init__(daemon=True)
        self.label, self.port, self.stop = name, port, stop
        self.taken = {to: {} for to in TO}
        """By recipient: keys of messages, and their queue ids."""

    def run(self):
        number = 0
        while not self.stop.is_set():
            try:
                with smtplib.SMTP(A, self.port, timeout=10) as client:
                    client.ehlo("client.test")
                    while not self.stop.is_set():
                        number += 1
                        self.send(client, f"{self.label}-{number}", number)
            except (OSError, smtplib.SMTPException):
                time.sleep(0.02)

    def send(self, client, key, number):
        to = TO[number % len(TO)]
        body = f"{key}\r\n" + "x" * random.Random(key).choice([10, 1000, 70_000, 200_000]) + "\r\n"
        digest = hashlib.sha256(body.encode()).hexdigest()
        message = f"Subject: {key}\r\nX-Digest: {digest}\r\n\r\n{body}"
        client.mail("s@here.test")
        client.rcpt(to)
        code, text = client.data(message)
        if code != 250:
            raise smtplib.SMTPException(text)
        self.taken[to][key] = re.search(rb"queued as (\w+)", text).group(1).decode()


def whole(octets):
    """The key of a message that is whole; asserts that it is."""
    message = email.message_from_bytes(octets)
    body = message.get_payload().replace("\n", "\r\n")
    assert hashlib.sha256(body.encode()).hexdigest() == message["X-Digest"], message["Subject"]
    return message["Subject"]


def test_fifty_kills_under_load(tmp_path):
    """Every 250 is kept, by alias and list too: in a mailbox here, behind a hop, or as one report; nothing is torn."""
    (tmp_path / "members").write_text("r@far.test\nr@refuse.test\n")
    port = free_port(A, B, REFUSING)
    refusing = Refusing(REFUSING, port)
    common = '[dns]\nservers = ["127.0.0.1:1"]\n'
    b = MTA(
        tmp_path / "b",
        f"""hostname = "b.test"
[listen.mx]
endpoint = "tcp:{port}:interface={B}"
service = "mx"
[domains]
local = ["far.test"]
[delivery]
maildir = "{tmp_path}/b/mail/{{domain}}/{{local}}"
{common}""",
        (B, port),
    )
    a = MTA(
        tmp_path / "a",
        f"""hostname = "a.test"
[listen.mx]
endpoint = "tcp:{port}:interface={A}"
service = "mx"
[domains]
local = ["here.test"]
[delivery]
maildir = "{tmp_path}/a/mail/{{domain}}/{{local}}"
[aliases]
"both@here.test" = ["r@here.test", "r@far.test"]
[[list]]
address = "list@here.test"
owner = "s@here.test"
members_file = "{tmp_path}/members"
[relay]
retry = ["1s"]
[relay.routes]
"far.test" = "smtp:[{B}]:{port}"
"refuse.test" = "smtp:[{REFUSING}]:{port}"
{common}""",
        (A, port),
    )
    stop = threading.Event()
    senders = [Sender(f"s{n}", port, stop) for n in range(4)]
    b.start()
    try:
        for sender in senders:
            sender.start()
        for number in range(ROUNDS):
            a.start()
            time.sleep(random.Random(number).uniform(0.02, 0.5))
            a.kill()
        stop.set()
        for sender in senders:
            sender.join(30)
        a.start()
        drain(a)
        drain(b)
        assert a.stop() == 0
    finally:
        stop.set()
        a.stop()
        b.stop()
        refusing.close()
    taken = {to: {key: i for sender in senders for key, i in sender.taken[to].items()} for to in TO}
    here, far, refused, both, listed = taken.values()
    assert min(map(len, taken.values())) > ROUNDS / 3
    assert {*here, *both} <= {whole(path.read_bytes()) for path in a.mailbox("r@here.test")}
    assert {*far, *both, *listed} <= {whole(path.read_bytes()) for path in b.mailbox("r@far.test")}
    # A report that was delivered again after a kill is the same report.
    reports = {}
    for path in a.mailbox("s@here.test"):
        octets = path.read_bytes()
        about = re.search(rb"^X-requiretls-mta-Queue-ID: (\w+)$", octets, re.MULTILINE).group(1).decode()
        reports.setdefault(about, set()).add(email.message_from_bytes(octets)["Message-ID"])
    assert {*refused.values(), *listed.values()} <= set(reports)
    assert all(len(ids) == 1 for ids in reports.values())


def drain(mta, seconds=60):
    """Wait until the queue is empty."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if mta.tool("queue", "list", "--json").strip() == "[]":
            return
        time.sleep(0.3)
    raise AssertionError(f"the queue does not empty: {mta.tool('queue', 'list')}")


def test_the_helper_sees_a_torn_message():
    """The check itself can fail."""
    good = b"Subject: k\nX-Digest: " + hashlib.sha256(b"k\r\nx\r\n").hexdigest().encode() + b"\n\nk\nx\n"
    assert whole(good) == "k"
    try:
        whole(good[:-2])
    except AssertionError:
        return
    raise AssertionError("a torn message passed")
