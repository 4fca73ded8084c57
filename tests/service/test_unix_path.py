"""UNIX sockets of listeners: long paths, and what a killed process leaves behind."""

import os
import socket

import pytest
from twisted.internet import defer, reactor
from twisted.internet.protocol import Factory, Protocol

from requiretls_mta.service.endpoints import at_path, parse_endpoint, path_of, quoted
from requiretls_mta.service.listeners import BindError, Binding, Listeners
from requiretls_mta.service.unix_path import remove_dead, socket_path


class Sessions:
    def drain(self):
        return defer.succeed(None)

    def cut(self):
        pass


def listeners(folder, text):
    endpoint = parse_endpoint(text, folder).listening
    return Listeners(
        reactor, [Binding(name="x", endpoint=endpoint, factory=Factory.forProtocol(Protocol), sessions=Sessions())]
    )


def close(service):
    """Ports of UNIX sockets close at the reactor's next turn."""
    done = defer.Deferred.fromCoroutine(service.close())
    while not done.called:
        reactor.iterate(0.01)


@pytest.mark.parametrize("name", ["s", "d" * 120 + "/s"])
def test_a_socket_is_listened_on_wherever_it_is(tmp_path, name):
    """With its mode; what nobody listens on any more is replaced."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    with socket_path(path) as short, socket.socket(socket.AF_UNIX) as dead:
        dead.bind(short)
    service = listeners(tmp_path, f"unix:{quoted(name)}:mode=640")
    service.privilegedStartService()
    try:
        assert path.is_socket() and path.stat().st_mode & 0o777 == 0o640
        assert os.listdir(path.parent) == ["s"]  # no lock file
        with pytest.raises(BindError, match="cannot listen on"):
            listeners(tmp_path, f"unix:{quoted(name)}").privilegedStartService()
        assert path.is_socket()
    finally:
        close(service)


def test_only_dead_sockets_are_removed(tmp_path):
    """Not files, and not what somebody listens on."""
    (tmp_path / "file").write_text("mine")
    remove_dead(str(tmp_path / "file"))
    remove_dead(str(tmp_path / "missing"))
    assert (tmp_path / "file").exists()
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(tmp_path / "alive"))
        alive.listen()
        remove_dead(str(tmp_path / "alive"))
    assert (tmp_path / "alive").exists()
    remove_dead(str(tmp_path / "alive"))
    assert not (tmp_path / "alive").exists()


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("unix:/a:mode=660", "unix:/b:lockfile=0:mode=660"),
        (r"unix:/a\:x:660", "unix:/b:660:lockfile=0"),
        ("unix:/a:lockfile=1", "unix:/b:lockfile=1"),
        ("unix:/a:660:50:1", "unix:/b:660:50:1"),
    ],
)
def test_another_path_to_the_same_socket(text, moved):
    """A lock file only where one was asked for."""
    assert at_path(text, "/b") == moved
    assert path_of(text) in ("/a", "/a:x")
    assert path_of("tcp:25") is None
