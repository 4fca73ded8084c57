"""The clock is set while the service runs: what lasts, lasts as long; what is stored or shown follows the clock."""

import datetime
import email.utils
import smtplib
import socket
import time

import pytest

from tests.lab.mta import MTA, free_port

ADDRESS = "127.0.0.74"
DAY = 86400.0
# The process reads its wall clock through this; the machine's own stays as it is.
SITE = """
import pathlib, time
clock, offset = time.time, pathlib.Path(__file__).with_name("offset")
time.time = lambda: clock() + float(offset.read_text())
"""


@pytest.fixture
def mta(tmp_path, monkeypatch):
    """An instance whose clock `set_clock` sets, and a next hop where nobody listens."""
    (tmp_path / "sitecustomize.py").write_text(SITE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    port, nobody = free_port(ADDRESS), free_port(ADDRESS)
    text = f"""hostname = "mx.here.test"
[listen.mx]
endpoint = "tcp:{port}:interface={ADDRESS}"
service = "mx"
timeout = "3s"
[access]
relay_from = ["{ADDRESS}"]
[relay]
retry = ["2s"]
[relay.routes]
"away.test" = "smtp:[{ADDRESS}]:{nobody}"
"""
    instance = MTA(tmp_path / "mta", text, (ADDRESS, port))
    set_clock(tmp_path, 0)
    yield instance.start()
    instance.stop()


def set_clock(folder, offset):
    (folder / "new").write_text(str(offset))
    (folder / "new").rename(folder / "offset")


def send(mta):
    with smtplib.SMTP(*mta.probe, timeout=10, source_address=(ADDRESS, 0)) as client:
        client.sendmail("s@here.test", ["r@away.test"], b"Subject: x\r\n\r\nx\r\n")


def attempts(mta, count, seconds):
    """Wait for that many attempts; how long it took."""
    start = time.monotonic()
    while len(mta.events("deferred")) < count:
        assert time.monotonic() < start + seconds, mta.log.read_text()
        time.sleep(0.05)
    return time.monotonic() - start


@pytest.mark.parametrize("step", [-DAY, -40.0, DAY], ids=["back", "a little back", "forward"])
def test_a_step_of_the_clock(tmp_path, mta, step):
    """No retry waits longer than its pause, no session ends early, and what is shown is the new time."""
    send(mta)
    attempts(mta, 1, 5)
    with socket.create_connection(mta.probe, 5) as silent:
        silent.settimeout(6)
        silent.recv(100)
        start = time.monotonic()
        set_clock(tmp_path, step)
        assert attempts(mta, 3, 9) >= 1
        assert silent.recv(100).startswith(b"421 4.4.2 ")
        assert 2.5 < time.monotonic() - start < 8
    send(mta)
    attempts(mta, 5, 9)
    first, *_, last = mta.events("deferred")
    then, now = (datetime.datetime.fromisoformat(event["time"]).timestamp() for event in (first, last))
    assert abs(now - then - step) < 30
    assert all(event["delay"] >= 0 and min(event["delays"]) >= 0 for event in mta.events("deferred"))
    shown = mta.tool("queue", "show", mta.events("queued")[-1]["queue_id"])
    dated = email.utils.parsedate_to_datetime(shown.partition("; ")[2].splitlines()[0]).timestamp()
    assert abs(dated - now) < 30


def test_a_clock_set_back_while_nobody_ran(tmp_path, mta):
    """After a restart, too, no retry waits longer than its pause."""
    set_clock(tmp_path, DAY)
    send(mta)
    attempts(mta, 1, 5)
    mta.kill()
    set_clock(tmp_path, 0)
    mta.start()
    attempts(mta, 2, 5)
