"""Endpoint descriptions."""

import contextlib
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory

from requiretls_mta.service.config_errors import Refused
from requiretls_mta.service.endpoints import parse_endpoint, quoted, split


@pytest.mark.parametrize(
    ("text", "description", "private", "port"),
    [
        ("tcp:25", "tcp:25", False, 25),
        ("tcp:port=25:interface=127.0.0.1", "tcp:port=25:interface=127.0.0.1", True, 25),
        (r"tcp:25:interface=\:\:1", r"tcp:25:interface=\:\:1", True, 25),
        ("tcp:0:interface=127.9.9.9", "tcp:0:interface=127.9.9.9", True, 0),
        ("unix:/run/s", "unix:/run/s", True, None),
        ("unix:s:mode=660", "unix:/etc/mta/s:mode=660", True, None),
        ("unix:address=s", "unix:/etc/mta/s", True, None),
        ("systemd:domain=INET6:name=smtp", "systemd:domain=INET6:name=smtp", False, None),
    ],
)
@pytest.mark.parametrize("proxied", [False, True])
def test_descriptions(text, description, private, port, proxied):
    """What is listened on, whether others reach it, and paths made absolute."""
    endpoint = parse_endpoint("haproxy:" * proxied + text, Path("/etc/mta"))
    assert (endpoint.description, endpoint.proxied) == (description, proxied)
    assert (endpoint.is_private, endpoint.port) == (private, port)


@pytest.mark.parametrize(
    "bad",
    [
        *("", "25", "tcp:", "tcp:x", "tcp:65536", "unix:", "haproxy:haproxy:tcp:1", "tcp:1\\", 5),
        *("tcp:25:interface=::1", "tcp:25:::1", "tcp:25:127.0.0.1:50:6", "tcp:25:port=26", "tcp:25:backlog=x"),
    ],
)
def test_bad_descriptions(bad):
    """Refused with an example."""
    with pytest.raises(Refused):
        parse_endpoint(bad, Path("/"))


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_quoting_keeps_any_argument(text):
    """What means something in a description is escaped."""
    assert split(f"unix:{quoted(text)}:mode=1") == (["unix", text], {"mode": "1"})


@pytest.mark.parametrize(
    ("text", "listening"),
    [
        ("tcp:25", "tcp:25:backlog=1024"),
        (r"tcp:25:interface=\:\:1", r"tcp:25:interface=\:\:1:backlog=1024"),
        ("tcp:25:127.0.0.1:10", "tcp:25:127.0.0.1:10"),
        ("tcp:25:backlog=5", "tcp:25:backlog=5"),
        ("unix:/run/s:mode=660", "unix:/run/s:mode=660:backlog=1024"),
        ("systemd:domain=INET6:name=smtp", "systemd:domain=INET6:name=smtp"),
    ],
)
def test_room_for_many_at_once(text, listening):
    """A burst of connections is not told to come again in a second; who says how many is obeyed."""
    assert parse_endpoint(text, Path("/etc/mta")).listening == listening


def test_a_burst_before_anybody_accepts():
    """Three hundred clients are connected while the reactor has not even run."""
    endpoint = parse_endpoint("tcp:0:interface=127.0.0.1", Path("/"))
    listening = serverFromString(reactor, endpoint.listening).listen(Factory())
    port = listening.result
    with contextlib.ExitStack() as clients:
        clients.callback(port.connectionLost, None)
        for _ in range(300):
            # What finds no room would be let in a second later.
            clients.enter_context(socket.create_connection(("127.0.0.1", port.getHost().port), timeout=0.9))
