"""The machine's name, from the system's files alone."""

import pytest

from requiretls_mta.service.hostname import machine_name


@pytest.mark.parametrize(
    ("name", "hosts", "full"),
    [
        ("mx.example.org", "", "mx.example.org"),
        ("mx", "127.0.1.1 mx.example.org mx # here", "mx.example.org"),
        ("mx", "127.0.1.1 mx\n10.0.0.1 other.example.org other", "mx"),
        ("MX", "", "mx"),
        ("bad name", "", "localhost"),
        ("", "", "localhost"),
    ],
)
def test_names(tmp_path, name, hosts, full):
    """The full name stands in the hosts file, if anywhere."""
    (tmp_path / "hosts").write_text(hosts)
    assert machine_name(name, tmp_path / "hosts") == full


def test_no_hosts_file(tmp_path):
    """The short name will do."""
    assert machine_name("mx", tmp_path / "none") == "mx"
