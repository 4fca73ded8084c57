"""Started as root, run as nobody: what only root may open is opened first, and everything written is nobody's."""

import grp
import os
import pwd
import shutil
import signal
import smtplib
import socket
import ssl
import tempfile
import time
from pathlib import Path

import pytest

from tests.lab.ca import CA
from tests.lab.mta import MTA

ADDRESS = "127.0.0.45"


def low_port():
    """A port that root alone may bind."""
    for port in range(1023, 600, -1):
        with socket.socket() as probe:
            try:
                probe.bind((ADDRESS, port))
            except OSError:
                continue
            return port
    raise RuntimeError("no low port is free")


@pytest.fixture
def folder():
    """Everybody may look into it, which is not so of pytest's own folders."""
    folder = Path(tempfile.mkdtemp(prefix="privileges-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("REQUIRE_ALL") != "1", reason="only root has privileges to drop"
)
def test_uid_and_gid_are_given_up(folder):
    """A port below 1024 and a key of root's are used; no user, group or file of root's is left in the process."""
    nobody, nogroup = pwd.getpwnam("nobody").pw_uid, grp.getgrnam("nogroup").gr_gid
    files = CA(folder / "ca").host("mx.here.test")
    assert files.key.stat().st_uid == 0
    files.key.chmod(0o600)
    for name in ("state", "mail"):
        (folder / name).mkdir(mode=0o700)
        os.chown(folder / name, nobody, nogroup)
    port = low_port()
    mta = MTA(
        folder,
        f"""hostname = "mx.here.test"
[tls]
certificate = "{files.chain}"
key = "{files.key}"
[listen.mx]
endpoint = "tcp:{port}:interface={ADDRESS}"
service = "mx"
[domains]
local = ["here.test"]
[delivery]
maildir = "{folder}/mail/{{domain}}/{{local}}"
[dns]
servers = ["127.0.0.1:1"]
""",
        (ADDRESS, port),
        options=["--uid=nobody", "--gid=nogroup"],
    )
    mta.start()
    try:
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{mta.process.pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        assert status["Uid"].split() == [str(nobody)] * 4
        assert status["Gid"].split() == [str(nogroup)] * 4
        assert "0" not in status["Groups"].split()
        send(port)
        (octets,) = mta.mail("r@here.test")
        assert octets.endswith(b"\nbody\n")
        written = [*(folder / "state").rglob("*"), *(folder / "mail").rglob("*")]
        assert len(written) > 8
        assert {(path.lstat().st_uid, path.lstat().st_gid) for path in written} == {(nobody, nogroup)}

        # The key cannot be read a second time: the reload fails as a whole, and the service goes on.
        mta.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 10
        while "reload failed, all old values stay" not in mta.log.read_text():
            assert time.monotonic() < end, mta.log.read_text()[-2000:]
            time.sleep(0.05)
        assert str(files.key) in mta.log.read_text()
        send(port)
        assert len(mta.mail("r@here.test", 2)) == 2
    finally:
        assert mta.stop() == 0


def send(port):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP(ADDRESS, port, timeout=10) as client:
        client.starttls(context=context)
        client.sendmail("s@x.test", ["r@here.test"], b"Subject: x\r\n\r\nbody\r\n")
