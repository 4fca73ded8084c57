"""[delivery] lmtp: a server that answers each recipient differently, and what sender and queue learn of it."""

import json
import smtplib
import socket
import time

import pytest

from tests.lab.mta import MTA, Report, free_port
from tests.threaded import ThreadedServer

ADDRESS = "127.0.0.46"


class Boxes(ThreadedServer):
    """An LMTP server: `full` is full for ever, `busy` is busy while `busy` is set, the others take everything."""

    def __init__(self, listening):
        self.taken, self.busy, self.transactions = [], True, []
        super().__init__(listening=listening)

    def talk(self, connection):
        """One session."""
        lines = connection.makefile("rb")
        connection.sendall(b"220 boxes.test LMTP\r\n")
        to = []
        for line in lines:
            verb = line[:4].upper()
            if verb == b"LHLO":
                connection.sendall(b"250-boxes.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n")
            elif verb == b"MAIL":
                to = []
                connection.sendall(b"250 2.1.0 ok\r\n")
            elif verb == b"RCPT":
                to.append(line[line.index(b"<") + 1 : line.index(b"@")].decode())
                connection.sendall(b"250 2.1.5 ok\r\n")
            elif verb == b"DATA":
                connection.sendall(b"354 go\r\n")
                octets = b"".join(iter(lambda: next(lines), b".\r\n"))
                self.transactions.append(tuple(to))
                for name in to:
                    connection.sendall(self._answer(name, octets))
            elif verb == b"QUIT":
                connection.sendall(b"221 2.0.0 bye\r\n")
                return
            else:
                connection.sendall(b"502 5.5.1 what\r\n")

    def _answer(self, name, octets):
        if name == "full":
            return b"552 5.2.2 mailbox full\r\n"
        if name == "busy" and self.busy:
            return b"450 4.2.1 busy\r\n"
        self.taken.append((name, octets))
        return b"250 2.0.0 taken\r\n"


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_each_recipient_has_an_answer_of_its_own(tmp_path, kind):
    """One is delivered once, one fails with a report about it alone, one comes later; in one transaction at first."""
    port = free_port(ADDRESS)
    if kind == "unix":
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(tmp_path / "lmtp"))
        listening.listen()
        where = f"unix:{tmp_path}/lmtp"
    else:
        listening = socket.create_server((ADDRESS, 0))
        where = f"tcp:{ADDRESS}:{listening.getsockname()[1]}"
    boxes = Boxes(listening)
    mta = MTA(
        tmp_path,
        f"""hostname = "mx.here.test"
[listen.mx]
endpoint = "tcp:{port}:interface={ADDRESS}"
service = "mx"
[domains]
local = ["here.test"]
[delivery]
lmtp = "{where}"
[relay]
retry = ["1s"]
[dns]
servers = ["127.0.0.1:1"]
""",
        (ADDRESS, port),
    )
    mta.start()
    try:
        with smtplib.SMTP(ADDRESS, port, timeout=10) as client:
            to = ["good@here.test", "full@here.test", "busy@here.test"]
            client.sendmail("sender@here.test", to, b"Subject: x\r\n\r\nbody\r\n")
        until(mta, lambda: mta.events("deferred") and any(name == "sender" for name, _ in boxes.taken))
        (row,) = [r for r in json.loads(mta.tool("queue", "list", "--json")) if len(r["recipients"]) == 3]
        assert {r["address"]: r["state"] for r in row["recipients"]} == {
            "good@here.test": "delivered",
            "full@here.test": "failed",
            "busy@here.test": "queued",
        }
        boxes.busy = False
        until(mta, lambda: any(name == "busy" for name, _ in boxes.taken))
        until(mta, lambda: mta.tool("queue", "list", "--json").strip() == "[]")
        assert sorted(name for name, _ in boxes.taken) == ["busy", "good", "sender"]
        first, *further = [set(t) for t in boxes.transactions if t != ("sender",)]
        assert first == {"good", "full", "busy"} and all(t == {"busy"} for t in further)
        (octets,) = [octets for name, octets in boxes.taken if name == "sender"]
        report = Report(octets)
        assert report.status == "5.2.2"
        assert "full@here.test" in report.recipients[0]["Final-Recipient"]
    finally:
        assert mta.stop() == 0
        boxes.close()


def until(mta, condition, seconds=15):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, mta.log.read_text()[-3000:]
        time.sleep(0.05)
