"""SIGTERM while a delivery waits for its last word: it is waited for, for a time, and the message is not sent twice."""

import json
import signal
import smtplib
import threading
import time

import pytest

from tests.lab.mta import MTA, Recorder, free_port

A, NEXT = "127.0.0.43", "127.0.0.44"


class Slow(Recorder):
    """Takes a message, but says so only when `say` is set; `dots` counts messages that came whole."""

    def __init__(self, address, port):
        self.dots, self.seen, self.say = 0, threading.Event(), threading.Event()
        super().__init__(address, port)

    def talk(self, connection):
        connection.sendall(b"220 slow.test ESMTP\r\n")
        data = False
        for line in connection.makefile("rb"):
            if data:
                data = line != b".\r\n"
                if not data:
                    self.dots += 1
                    self.seen.set()
                    self.say.wait(30)
                    connection.sendall(b"250 2.0.0 taken\r\n")
            elif line.upper().startswith(b"DATA"):
                data = True
                connection.sendall(b"354 go\r\n")
            else:
                connection.sendall(b"250 ok\r\n")


@pytest.fixture
def world(tmp_path):
    """An instance that relays everything to a slow server, with one message behind its final dot there."""
    port = free_port(A, NEXT)
    slow = Slow(NEXT, port)
    mta = MTA(
        tmp_path,
        f"""hostname = "a.test"
[listen.mx]
endpoint = "tcp:{port}:interface={A}"
service = "mx"
[domains]
relay = ["next.test"]
[relay]
retry = ["1s"]
[relay.routes]
"next.test" = "smtp:[{NEXT}]:{port}"
[dns]
servers = ["127.0.0.1:1"]
""",
        (A, port),
    )
    mta.start()
    try:
        with smtplib.SMTP(A, port, timeout=10) as client:
            client.sendmail("s@x.test", ["r@next.test"], b"Subject: x\r\n\r\nbody\r\n")
        assert slow.seen.wait(10)
        yield mta, slow
    finally:
        slow.say.set()
        mta.stop()
        slow.close()


def test_the_answer_to_the_final_dot_is_waited_for(world):
    """It comes two seconds after SIGTERM: delivered, and after a restart not sent again."""
    mta, slow = world
    mta.process.send_signal(signal.SIGTERM)
    time.sleep(2)
    assert mta.process.poll() is None
    slow.say.set()
    assert mta.process.wait(8) == 0
    assert len(mta.events("delivered")) == 1
    mta.start()
    assert json.loads(mta.tool("queue", "list", "--json")) == []
    time.sleep(1.5)  # longer than the pause before another attempt
    assert slow.dots == 1


def test_an_answer_that_does_not_come_keeps_nobody(world):
    """Status 0 within 8 seconds; the message stays in the queue and goes out after the restart."""
    mta, slow = world
    began = time.monotonic()
    mta.process.send_signal(signal.SIGTERM)
    assert mta.process.wait(10) == 0
    assert time.monotonic() - began < 8
    (row,) = json.loads(mta.tool("queue", "list", "--json"))
    assert row["recipients"][0]["state"] == "queued"
    assert "traceback" not in mta.log.read_text().lower()
    slow.say.set()
    mta.start()
    end = time.monotonic() + 10
    while not mta.events("delivered"):
        assert time.monotonic() < end, mta.log.read_text()[-2000:]
        time.sleep(0.05)
    assert slow.dots == 2


def test_sigterm_again(world):
    """Whoever says it twice gets the same orderly end, and no traceback."""
    mta, slow = world
    mta.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    mta.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    slow.say.set()
    assert mta.process.wait(8) == 0
    assert len(mta.events("delivered")) == 1
    assert "traceback" not in mta.log.read_text().lower()
