"""The embedded default: safe to try on any machine."""

import pytest

from requiretls_mta.service.config_errors import ConfigError
from requiretls_mta.service.config_notes import without_effect
from requiretls_mta.service.embedded import USER, embedded_default, ensure_user, welcome
from requiretls_mta.service.endpoints import path_of
from requiretls_mta.service.policies import policies
from requiretls_mta.service.users_file import UsersFile


def test_the_embedded_default_is_the_documented_one(tmp_path):
    """Listeners on loopback, everything under ./var, localhost delivered to Maildirs."""
    config = embedded_default(tmp_path)
    places = {name: (e.interface, e.port) for name, listen in config.listen.items() for e in listen.endpoint}
    assert places.pop("local") == ("", None)
    assert places == {"mx": ("127.0.0.1", 2525), "submission": ("127.0.0.1", 2587)}
    (endpoint,) = config.listen["local"].endpoint
    assert path_of(endpoint.description) == f"{tmp_path}/var/submit.sock"
    assert config.state == tmp_path / "var"
    assert config.domains.local == ("localhost",)
    assert config.delivery.maildir == f"{tmp_path}/var/mail/{{domain}}/{{local}}"
    assert str(config.web.endpoint) == "tcp:8025:interface=127.0.0.1"
    assert config.tls.certificate is None
    assert without_effect(config) == []


def test_it_needs_no_dns(tmp_path):
    """Nothing that a client of the try-out says is looked up."""
    config = embedded_default(tmp_path)
    assert not any(policies(config).checks.values())


def test_it_relays_for_nobody_but_its_user(tmp_path):
    """A try-out sends no mail to the Internet by accident."""
    config = embedded_default(tmp_path)
    assert config.access.relay_from == ()
    assert not any(listen.trusted for listen in config.listen.values())
    assert not policies(config).receive.may_relay(None, via_proxy=False)


def test_it_takes_overrides(tmp_path):
    """`--set` works without a file, and tells all errors."""
    assert embedded_default(tmp_path, ["relay.port=2526"]).relay.port == 2526
    with pytest.raises(ConfigError) as caught:
        embedded_default(tmp_path, ["relay.prot=1", "x", "log.level=5"])
    assert len(caught.value.problems) == 3


def test_the_password_is_told_once(tmp_path):
    """The first start makes the user; the second leaves the file alone."""
    config = embedded_default(tmp_path)
    password = ensure_user(config)
    assert password in welcome(config, password)
    assert list(UsersFile(config.access.users).read()) == [USER]
    assert ensure_user(config) is None
    text = welcome(config, None)
    assert "127.0.0.1:2525" in text
    assert "requiretls-mta send --require-tls" in text
    assert "submit.sock  (mx)" in text


def test_folders_are_there_before_anything_is_bound(tmp_path):
    """Private ones, wherever the users are."""
    ensure_user(embedded_default(tmp_path, [f'access.users="{tmp_path}/else/where"']))
    assert (tmp_path / "var").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "else").stat().st_mode & 0o777 == 0o700
