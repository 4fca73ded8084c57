"""Our own addresses and ports, by which an MX record that leads back to us is known (RFC 5321 5.1)."""

import socket

import pytest

from requiretls_mta.service.config import load_config
from requiretls_mta.service.own_addresses import OwnAddresses, is_here
from requiretls_mta.service.policies import policies


def own_addresses(tmp_path, *endpoints):
    listeners = "".join(f'[listen.l{n}]\nservice = "mx"\nendpoint = "{text}"\n' for n, text in enumerate(endpoints))
    (tmp_path / "mta.toml").write_text(listeners)
    return policies(load_config(tmp_path / "mta.toml", ["hostname=mx.test"])).lookup.own_addresses


def test_loopback_is_here_and_documentation_is_not():
    """Nobody has addresses of RFC 5737 and 3849."""
    assert is_here("127.0.0.1") and is_here("127.3.2.1") and is_here("::1")
    assert not is_here("192.0.2.1") and not is_here("2001:db8::1")


def test_an_address_of_an_interface_is_here():
    """The one that this machine talks to others from."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no route")
        assert is_here(probe.getsockname()[0])


def test_a_listener_on_an_address_owns_it(tmp_path):
    """With its port, and nothing else."""
    ours = own_addresses(tmp_path, "tcp:25:interface=192.0.2.7", "tcp6:26:interface=2001\\\\:db8\\\\:\\\\:7", "unix:/x")
    assert ("192.0.2.7", 25) in ours and ("2001:db8::7", 26) in ours
    assert ("192.0.2.7", 26) not in ours and ("127.0.0.1", 25) not in ours


@pytest.mark.parametrize("endpoint", ["tcp:25", "tcp:25:interface=0.0.0.0", "tcp6:25:interface=\\\\:\\\\:"])
def test_a_listener_on_all_addresses_owns_each(tmp_path, endpoint):
    """Whatever this machine is called by; not the others'."""
    ours = own_addresses(tmp_path, endpoint)
    assert ("127.0.0.9", 25) in ours and ("127.0.0.9", 26) not in ours and ("192.0.2.1", 25) not in ours


def test_without_listeners_nobody_need_be_looked_up():
    """An empty one is false."""
    assert not OwnAddresses(frozenset(), frozenset())
