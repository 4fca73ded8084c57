"""`requiretls-mta-sendmail` and the real service: as cron, applications and people call it."""

import email
import email.policy
import json
import os
import pwd
import socket
import subprocess
import time

import pytest

from tests.lab.mta import BIN, MTA, ROOT, Recorder, free_port
from tests.lab.require import need

ADDRESS, ELSEWHERE = "127.0.0.71", "127.0.0.72"
SENDMAIL = BIN / "requiretls-mta-sendmail"
ME = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture(scope="module")
def mta(tmp_path_factory):
    """An instance with a socket that everybody on the machine may use; `far.test` is a host without TLS."""
    folder = tmp_path_factory.mktemp("sendmail")
    port = free_port(ADDRESS, ELSEWHERE)
    (folder / "known").write_text("ann@here.test\nbob@here.test\neve@here.test\n")
    instance = MTA(
        folder,
        f"""hostname = "here.test"
[listen.mx]
endpoint = "tcp:{port}:interface={ADDRESS}"
service = "mx"
[listen.local]
endpoint = "unix:submit.sock:mode=666"
service = "submission"
trusted = true
[domains]
local = ["here.test"]
[delivery]
maildir = "{folder}/mail/{{domain}}/{{local}}"
recipients = "known"
[limits]
message_size = "64K"
[dns]
servers = ["127.0.0.1:1"]
[relay.routes]
"far.test" = "smtp:[{ELSEWHERE}]:{port}"
""",
        (ADDRESS, port),
    )
    instance.far = Recorder(ELSEWHERE, port, (b"DSN",))
    instance.start()
    yield instance
    assert instance.stop() == 0
    instance.far.close()
    assert "Traceback" not in instance.log.read_text()


@pytest.fixture(autouse=True)
def _empty(mta):
    for name in ("ann", "bob", "eve"):
        for file in mta.mailbox(f"{name}@here.test"):
            file.unlink()


def sendmail(mta, *words, stdin=b"Subject: x\n\nhello\n", status=0, **environ):
    done = subprocess.run(
        [SENDMAIL, *words],
        input=stdin,
        env={"PATH": os.environ["PATH"], "REQUIRETLS_MTA_CONFIG": str(mta.file), **environ},
        cwd="/",
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stderr.decode()


def arrived(mta, address):
    (octets,) = mta.mail(address)
    return email.message_from_bytes(octets, policy=email.policy.default)


def test_cron(mta):
    """With its own options; the address without a domain is of this host."""
    message = (
        b"From: root (Cron Daemon)\nTo: ann\nSubject: Cron <root@here> true\nAuto-Submitted: auto-generated\n\nout\n.\n"
    )
    sendmail(mta, "-FCronDaemon", "-i", "-odi", "-oem", "-oi", "-t", "-f", "root", stdin=message)
    mail = arrived(mta, "ann@here.test")
    assert mail["Return-Path"] == "<root@here.test>"
    assert mail["Message-ID"] and mail["Date"]
    assert mail.get_content() == "out\n.\n"


def test_the_sender_is_who_the_kernel_says(mta):
    """Login name, full name, and in Received the number of the user who connected."""
    sendmail(mta, "ann@here.test")
    mail = arrived(mta, "ann@here.test")
    assert mail["Return-Path"] == f"<{ME}@here.test>"
    assert f"{ME}@here.test" in mail["From"]
    assert f"(unix uid {os.getuid()})" in mail["Received"]


def test_blind_copies_stay_blind(mta):
    """Bcc reaches whom it names, and nobody sees it; arguments are added."""
    sendmail(mta, "-t", "eve@here.test", stdin=b"To: Ann <ann@here.test>\nBcc: bob@here.test\nSubject: s\n\nx\n")
    for name in ("ann", "bob", "eve"):
        mail = arrived(mta, f"{name}@here.test")
        assert mail["To"] == "Ann <ann@here.test>"
        assert "bob" not in mail.as_string().replace("/bob/", "")


def test_a_tagged_message_keeps_its_promise(mta):
    """Inside TLS over the socket, into the mailbox tagged; to a host without TLS it does not go."""
    sendmail(mta, "-O", "requiretls=yes", "ann@here.test")
    received = " ".join(arrived(mta, "ann@here.test")["Received"].split())
    assert "with ESMTPS" in received and "(requiretls)" in received
    sendmail(mta, "-f", "bob", "-O", "requiretls=yes", "x@far.test", stdin=b"Subject: secret\n\nsecret\n")
    report = arrived(mta, "bob@here.test")
    assert "5.7.10" in report.as_string()
    assert b"secret" not in mta.far.octets


def test_tls_optional_and_dsn_go_along(mta):
    """The field, and the parameters of RFC 3461, at the next host."""
    sendmail(mta, "-f", "ann", "-O", "requiretls=no", "-N", "failure,delay", "-R", "hdrs", "-V", "a=1", "y@far.test")
    end = time.monotonic() + 10
    while b"TLS-Required: No" not in mta.far.octets and time.monotonic() < end:
        time.sleep(0.05)
    assert b"TLS-Required: No\r\n" in mta.far.octets
    assert b"RET=HDRS" in mta.far.octets and b"ENVID=a+3D1" in mta.far.octets
    assert b"NOTIFY=FAILURE,DELAY" in mta.far.octets or b"NOTIFY=DELAY,FAILURE" in mta.far.octets


@pytest.mark.parametrize(
    ("words", "stdin", "status", "says"),
    [
        (["nobody@here.test"], b"x\n", 67, "550 5.1.1"),
        (["ann@here.test", "nobody@here.test"], b"x\n", 67, "550 5.1.1"),
        (["ann@here.test"], b"x" * 70_000, 65, "65536 octets"),
    ],
)
def test_what_is_refused_goes_to_nobody(mta, words, stdin, status, says):
    """All or nothing, so that a caller may try again."""
    assert says in sendmail(mta, *words, stdin=stdin, status=status)
    assert not mta.mailbox("ann@here.test")


def test_nodemailer(mta):
    """Its sendmail transport, with Bcc and 8-bit text."""
    need("node")
    message = {
        "from": "Ännchen <ann@here.test>",
        "to": "Bob <bob@here.test>",
        "bcc": "eve@here.test",
        "subject": "Grüße",
        "text": ".\nä\n",
    }
    done = subprocess.run(
        ["node", ROOT / "tests" / "lab" / "sendmail.cjs", json.dumps({"path": str(SENDMAIL), "message": message})],
        env={**os.environ, "REQUIRETLS_MTA_SUBMIT": f"unix:{mta.folder}/submit.sock"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in ("bob", "eve"):
        mail = arrived(mta, f"{name}@here.test")
        assert mail["Subject"] == "Grüße"
        assert mail.get_content().startswith(".\nä")
        assert mail["Return-Path"] == "<ann@here.test>"
        assert "eve@" not in mail.as_string().replace("eve@here.test/", "") or name == "eve"


def test_the_queue_is_listed(mta):
    """-bp, for who may read the server's files."""
    done = subprocess.run([SENDMAIL, "-bp", "-C", mta.file], capture_output=True, timeout=30, check=True)
    assert done.stdout
    assert subprocess.run([SENDMAIL, "-q", "-C", mta.file], capture_output=True, timeout=30, check=True)


def test_who_cannot_read_the_configuration_names_the_socket(mta):
    """Status 78 says how."""
    assert "REQUIRETLS_MTA_SUBMIT" in sendmail(mta, "ann@here.test", status=78, REQUIRETLS_MTA_CONFIG="/nowhere")
    sendmail(
        mta, "ann@here.test", REQUIRETLS_MTA_CONFIG="/nowhere", REQUIRETLS_MTA_SUBMIT=f"unix:{mta.folder}/submit.sock"
    )
    mta.mail("ann@here.test")


@pytest.fixture
def try_out(tmp_path):
    """The embedded default in a folder with a long name, on other ports than its own."""
    folder = tmp_path / ("deep" * 30)
    folder.mkdir()
    sets = [f'listen.{name}.endpoint="tcp:0:interface=127.0.0.1"' for name in ("mx", "submission")] + [
        'web.endpoint=""'
    ]
    words = [word for text in sets for word in ("--set", text)]

    def start():
        return subprocess.Popen(
            [BIN / "twistd", "-n", "--pidfile=", "requiretls-mta", *words],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    yield folder, start


def try_sendmail(folder, *words, stdin=b"Subject: x\n\nx\n"):
    return subprocess.run(
        [SENDMAIL, *words], cwd=folder, env={"PATH": os.environ["PATH"]}, input=stdin, capture_output=True, timeout=30,
        check=False,
    )  # fmt: skip


def until_it_is_taken(folder):
    end = time.monotonic() + 20
    while (done := try_sendmail(folder, "you@localhost")).returncode:
        assert done.returncode in (75, 78) and time.monotonic() < end, done.stderr
        time.sleep(0.1)


def test_the_try_out_takes_local_mail_and_sends_none_away(try_out):
    """At once in its folder; what is for elsewhere is refused; after a crash the socket is in nobody's way."""
    folder, start = try_out
    service = start()
    try:
        until_it_is_taken(folder)
        assert (folder / "var").stat().st_mode & 0o777 == 0o700
        assert (folder / "var" / "submit.sock").stat().st_mode & 0o777 == 0o600
        done = try_sendmail(folder, "somebody@example.org")
        assert done.returncode == 77 and b"Relaying denied" in done.stderr
        service.kill()
        service.wait(10)
        assert try_sendmail(folder, "you@localhost").returncode == 75
        service = start()
        until_it_is_taken(folder)
    finally:
        service.terminate()
        service.wait(10)
    assert try_sendmail(folder, "you@localhost").returncode == 75
    assert len(list((folder / "var/mail/localhost/you/new").iterdir())) == 2


def test_two_cannot_have_one_socket(tmp_path, mta):
    """The second says so, and the first keeps it."""
    second = MTA(
        tmp_path,
        f'[listen.local]\nendpoint = "unix:{mta.folder}/submit.sock"\nservice = "submission"\n',
        (ADDRESS, 1),
    )
    second.start(wait=False)
    assert second.process.wait(20) == 1
    assert "listen.local: cannot listen on" in second.log.read_text()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{mta.folder}/submit.sock")
        assert client.recv(3) == b"220"
