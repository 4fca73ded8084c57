"""`[relay.auth]`: from the configuration to what outgoing sessions go by."""

import pytest

from requiretls_mta.service.config import load_config
from requiretls_mta.service.config_notes import without_effect
from requiretls_mta.service.policies import relay_settings


def written(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('[relay.auth."SMTP.provider.example"]\nuser = "us"\npassword_file = "secret"\n')
    return load_config(path)


def test_the_password_is_the_first_line_of_its_file(tmp_path):
    """Without the line's end, as octets; it is shown nowhere."""
    (tmp_path / "secret").write_bytes(b"p\xe4ss \r\nnot this\n")
    config = written(tmp_path)
    login = relay_settings(config).logins["smtp.provider.example"]
    assert (login.user, login.password) == ("us", b"p\xe4ss ")
    assert "ss " not in repr(login)
    assert without_effect(config) == []


def test_a_missing_password_file_stops_the_start(tmp_path):
    """As an `OSError`, which start and reload tell of."""
    with pytest.raises(OSError, match="secret"):
        relay_settings(written(tmp_path))
