"""Which servers are asked, and whose AD is believed."""

import pytest

from requiretls_mta.dns import resolvconf
from requiretls_mta.dns.settings import Settings, parse_server, show_server


@pytest.mark.parametrize(
    ("text", "servers", "trust_ad"),
    [
        ("", ["127.0.0.1"], False),
        ("nameserver 192.0.2.1\nnameserver 2001:db8::1\n", ["192.0.2.1", "2001:db8::1"], False),
        ("nameserver fe80::1%eth0", ["fe80::1%eth0"], False),
        ("# nameserver 192.0.2.1\n;nameserver 192.0.2.2\n", ["127.0.0.1"], False),
        ("nameserver ns.example\nnameserver\nnonsense\n", ["127.0.0.1"], False),
        ("options edns0 trust-ad\nnameserver 192.0.2.1", ["192.0.2.1"], True),
        ("nameserver 192.0.2.1\noptions trust-ad\noptions rotate", ["192.0.2.1"], True),
        (
            "nameserver 1.1.1.1\nnameserver 2.2.2.2\nnameserver 3.3.3.3\nnameserver 4.4.4.4",
            ["1.1.1.1", "2.2.2.2", "3.3.3.3"],
            False,
        ),
    ],
)
def test_resolv_conf(text, servers, trust_ad):
    """As the C library reads it."""
    found = resolvconf.parse(text)
    assert [address for address, _ in found.servers] == servers
    assert found.trust_ad is trust_ad


def test_without_resolv_conf(tmp_path):
    """The server of this machine, if any."""
    assert resolvconf.read(tmp_path / "none").servers == (("127.0.0.1", 53),)


@pytest.mark.parametrize(
    ("mode", "addresses", "vouched", "believed"),
    [
        ("auto", ["127.0.0.1"], False, True),
        ("auto", ["127.0.0.1", "::1", "127.9.9.9"], False, True),
        ("auto", ["::ffff:127.0.0.1"], False, True),
        ("auto", ["127.0.0.1", "192.0.2.1"], False, False),
        ("auto", ["192.0.2.1"], False, False),
        ("auto", ["192.0.2.1"], True, True),
        ("auto", ["fe80::1%eth0"], False, False),
        ("auto", ["127.0.0.53"], False, False),
        ("auto", ["127.0.0.54"], True, False),
        ("auto", ["::ffff:127.0.0.53"], True, False),
        ("auto", [], False, False),
        ("yes", ["192.0.2.1"], False, True),
        ("yes", ["127.0.0.53"], False, True),
        ("no", ["127.0.0.1"], True, False),
    ],
)
def test_whose_ad_is_believed(mode, addresses, vouched, believed):
    """Loopback, or vouched for by the administrator; the stub of systemd-resolved only when told so."""
    assert resolvconf.believe_ad(mode, [(a, 53) for a in addresses], vouched=vouched) is believed


def test_trust_ad_of_resolv_conf_is_for_its_own_servers(tmp_path):
    """Servers named in our configuration were not meant by it."""
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\noptions trust-ad\n")
    assert resolvconf.settings(resolv_conf=path).trust_ad
    chosen = resolvconf.settings(["192.0.2.9:5353"], resolv_conf=path)
    assert (chosen.servers, chosen.trust_ad) == ((("192.0.2.9", 5353),), False)


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("192.0.2.1", ("192.0.2.1", 53)),
        ("192.0.2.1:5353", ("192.0.2.1", 5353)),
        ("2001:db8::1", ("2001:db8::1", 53)),
        ("[2001:db8::1]", ("2001:db8::1", 53)),
        ("[2001:db8::1]:5353", ("2001:db8::1", 5353)),
    ],
)
def test_servers_are_read(text, server):
    """Address, or address and port."""
    assert parse_server(text) == server
    assert parse_server(show_server(server)) == server


@pytest.mark.parametrize(
    "text", ["", "ns.example", "192.0.2.1:0", "192.0.2.1:x", "192.0.2.1:65536", "[::1", "[::1]53", "1.2.3.4:"]
)
def test_bad_servers_are_refused(text):
    """With what is wrong about them."""
    with pytest.raises(ValueError, match="is not"):
        parse_server(text)


def test_random_case_is_for_servers_elsewhere():
    """Nobody forges replies on loopback."""
    assert not Settings().mixes_case(("127.0.0.1", 53))
    assert Settings().mixes_case(("192.0.2.1", 53))
    assert Settings(mix_case=True).mixes_case(("127.0.0.1", 53))
