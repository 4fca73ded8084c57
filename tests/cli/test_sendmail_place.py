"""Where `requiretls-mta-sendmail` submits."""

import os
from pathlib import Path

import pytest

from requiretls_mta.cli.sendmail_place import find_place
from requiretls_mta.cli.sendmail_trouble import Trouble
from requiretls_mta.cli.submission import Place

LISTENERS = """
this_key = "is nobody's business here"
[listen.mx]
endpoint = "tcp:25"
service = "mx"
[listen.open]
endpoint = ["tcp:587:interface=127.0.0.1", "unix:submit.sock:mode=666"]
service = "submission"
trusted = true
[listen.submission]
endpoint = "unix:/other"
service = "submission"
"""


def find(tmp_path, environ=None, given=None):
    return find_place(given, environ or {}, tmp_path, default=tmp_path / "default.toml")


@pytest.fixture
def file(tmp_path):
    (tmp_path / "mta.toml").write_text(LISTENERS)
    return tmp_path / "mta.toml"


def test_the_environment_wins_over_any_file(tmp_path, file):
    """For users who can read none."""
    environ = {"REQUIRETLS_MTA_SUBMIT": "unix:/run/s", "REQUIRETLS_MTA_CONFIG": "/nowhere"}
    assert find(tmp_path, environ, file) == Place("localhost", path=Path("/run/s"))
    assert find(tmp_path, {"REQUIRETLS_MTA_SUBMIT": "127.0.0.1:587"}) == Place("127.0.0.1", 587)
    assert find(tmp_path, {"REQUIRETLS_MTA_SUBMIT": "[::1]:587"}) == Place("::1", 587)


def test_a_socket_is_preferred_and_lies_beside_its_file(tmp_path, file):
    """By -C, the environment, or the default place; keys that do not matter are not looked at."""
    found = Place("localhost", path=tmp_path / "submit.sock")
    assert find(tmp_path, given=file) == found
    assert find(tmp_path, {"REQUIRETLS_MTA_CONFIG": str(file)}) == found
    file.rename(tmp_path / "default.toml")
    assert find(tmp_path) == found


def test_loopback_is_the_second_choice(tmp_path, file):
    """Trusted, for submission, and not reached from elsewhere."""
    file.write_text(LISTENERS.replace(', "unix:submit.sock:mode=666"', ', "tcp:588"'))
    assert find(tmp_path, given=file) == Place("127.0.0.1", 587)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "listen = 5",
        "[listen.x]\nendpoint = 5\nservice = 'submission'\ntrusted = true",
        "not toml",
        "\xff",
        LISTENERS.replace("trusted = true", ""),
        LISTENERS.replace("tcp:587:interface=127.0.0.1", "unix").replace("unix:submit", "haproxy:unix:submit"),
    ],
)
def test_a_configuration_without_such_a_listener_is_status_78(tmp_path, text):
    """So is one that cannot be read."""
    (tmp_path / "mta.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(Trouble) as caught:
        find(tmp_path, given=tmp_path / "mta.toml")
    assert caught.value.status == 78


@pytest.mark.parametrize(
    "environ",
    [{}, {"REQUIRETLS_MTA_CONFIG": "/nowhere/x.toml"}, {"REQUIRETLS_MTA_SUBMIT": "x"},
     {"REQUIRETLS_MTA_SUBMIT": "h:0"}, {"REQUIRETLS_MTA_SUBMIT": "unix:relative"}],
)  # fmt: skip
def test_no_server_known_is_status_78(tmp_path, environ):
    """It says what to set."""
    with pytest.raises(Trouble, match="REQUIRETLS_MTA_SUBMIT") as caught:
        find(tmp_path, environ)
    assert caught.value.status == 78


def test_in_the_folder_of_a_try_out_it_is_the_try_out(tmp_path):
    """Whether it runs or not; and its folder must be the caller's own, or root's."""
    (tmp_path / "var").mkdir()
    with pytest.raises(Trouble, match="no server is known"):  # as in /
        find(tmp_path)
    (tmp_path / "var" / "shards").mkdir()
    assert find(tmp_path) == Place("localhost", path=tmp_path / "var" / "submit.sock")
    assert Place("localhost", path=Path("/x")).is_local
    if os.getuid() == 0:
        os.chown(tmp_path / "var", 1, 1)
        with pytest.raises(Trouble, match="another user"):
            find(tmp_path)
