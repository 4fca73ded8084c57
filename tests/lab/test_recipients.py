"""Recipients known at RCPT, by an operator's configuration: a file that is read again, and a server that is asked."""

import signal
import smtplib
import time

import pytest

from tests.lab.mta import MTA, Report, free_port
from tests.lab.test_auto_replies import with_plugin
from tests.lab.test_plugin import example
from tests.smtp.fake_mx import FakeMX

ADDRESS = "127.0.0.95"
NOBODY = b"5.1.1 No such recipient here"


def instance(folder, delivery, aliases=""):
    port = free_port(ADDRESS)
    return MTA(
        folder,
        f"""hostname = "mx.here.test"
[listen.mx]
endpoint = "tcp:{port}:interface={ADDRESS}"
service = "mx"
[domains]
local = ["here.test"]
[delivery]
{delivery}
[aliases]
"sales@here.test" = "ann@here.test"
{aliases}
[dns]
servers = ["127.0.0.1:1"]
""",
        (ADDRESS, port),
    )


def asked(mta, *names):
    """The replies to RCPT, in one transaction."""
    with smtplib.SMTP(*mta.probe, timeout=20) as client:
        client.ehlo("client.test")
        client.mail("s@far.test")
        return [client.rcpt(f"{name}@here.test") for name in names]


def test_a_file_is_read_at_the_start_and_at_sighup(tmp_path):
    """And what is wrong in it stops the start with its line."""
    mta = instance(tmp_path, f'maildir = "{tmp_path}/mail/{{domain}}/{{local}}"\nrecipients = "known"')
    (tmp_path / "known").write_text("ann\n")
    with pytest.raises(RuntimeError, match="known, line 1: found"):
        mta.start()
    assert mta.process.wait(10) == 1
    (tmp_path / "known").write_text("ann@here.test\n")
    mta.start()
    try:
        replies = asked(mta, "ANN", "bob", "sales", "postmaster", "ann+requiretls")
        assert [code for code, _ in replies] == [250, 550, 250, 250, 250]
        assert replies[1] == (550, NOBODY)
        (tmp_path / "known").write_text("bob@here.test\n")
        mta.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 10
        while asked(mta, "bob")[0][0] != 250:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert asked(mta, "ann") == [(550, NOBODY)]
    finally:
        assert mta.stop() == 0


def test_the_lmtp_server_is_asked(tmp_path):
    """Its answers are kept; without it, 451, but for those whom it need not be asked about."""
    server = FakeMX(ADDRESS, lmtp=True, clear=("PIPELINING",), replies={"RCPT": ["250 ok", "550 5.1.1 unknown"]})
    mta = instance(tmp_path, f'lmtp = "tcp:{ADDRESS}:{server.port}"\nrecipients = "callout"').start()
    try:
        for _ in range(2):
            assert [code for code, _ in asked(mta, "ann", "bob")] == [250, 550]
        assert server.connections == 2
        server.close()
        assert [code for code, _ in asked(mta, "ann", "bob", "carl", "sales", "postmaster")] == [
            250,
            550,
            451,
            250,
            250,
        ]
    finally:
        server.close()
        assert mta.stop() == 0


def test_details_and_a_catch_all(tmp_path):
    """`ann+news` is ann's, and what is nobody's is the catch-all's, under the names that were written to."""
    delivery = f'maildir = "{tmp_path}/mail/{{domain}}/{{local}}"\nrecipient_delimiter = "+"\nrecipients = "known"'
    mta = instance(tmp_path, delivery, '"@here.test" = "bob@here.test"')
    (tmp_path / "known").write_text("ann@here.test\nbob@here.test\n")
    mta.start()
    try:
        with smtplib.SMTP(*mta.probe, timeout=20) as client:
            client.sendmail("s@far.test", ["ann+news@here.test", "Carl@here.test"], b"Subject: x\r\n\r\nhi\r\n")
        boxes = [tmp_path / "mail" / "here.test" / name / "new" for name in ("ann", "bob")]
        end = time.monotonic() + 20
        while not all(box.is_dir() and list(box.iterdir()) for box in boxes):
            assert time.monotonic() < end
            time.sleep(0.05)
        assert sorted(path.name for path in (tmp_path / "mail" / "here.test").iterdir()) == ["ann", "bob"]
    finally:
        assert mta.stop() == 0


def test_a_plugin_is_asked(tmp_path):
    """The one in docs/rules.rst, at RCPT and for whom an alias leads to; in doubt nobody is turned away for good."""
    known = f'maildir = "{tmp_path}/mail/{{domain}}/{{local}}"\nrecipients = "plugin"\nrecipient_delimiter = "+"'
    mta = instance(tmp_path, known, '"astray@here.test" = "typo@here.test"').start()
    try:
        assert [code for code, _ in asked(mta, "ann", "sales", "postmaster")] == [451, 250, 250]
        assert "no plugin is installed" in mta.log.read_text()
        assert mta.stop() == 0
        python = with_plugin(tmp_path / "plugin", "directory", example("rules.rst"))
        mta.twistd = (python, "-c", "from twisted.scripts.twistd import run; run()")
        mta.start()
        names = ("ANN", "bob+x", "carl", "sales", "astray", "postmaster")
        assert [code for code, _ in asked(mta, *names)] == [250, 250, 550, 250, 250, 250]
        with smtplib.SMTP(*mta.probe, timeout=20) as client:
            client.sendmail("bob@here.test", ["ann+x@here.test", "astray@here.test"], b"Subject: x\r\n\r\nhi\r\n")
        (octets,) = mta.mail("bob@here.test")
        assert Report(octets).status == "5.1.1"
        assert sorted(path.name for path in (tmp_path / "mail" / "here.test").iterdir()) == ["ann", "bob"]
    finally:
        mta.stop()


def test_nobody_gets_a_mailbox_by_being_written_to(tmp_path):
    """A forged sender who is asked to be told, and an alias that leads astray: 5.1.1, as RCPT would have said."""
    delivery = f'maildir = "{tmp_path}/mail/{{domain}}/{{local}}"\nrecipients = "known"'
    aliases = '"astray@here.test" = "typo@here.test"\n"self@here.test" = ["self@here.test", "ann@here.test"]'
    mta = instance(tmp_path, delivery, aliases)
    (tmp_path / "known").write_text("ann@here.test\nbob@here.test\n")
    mta.start()
    try:
        with smtplib.SMTP(*mta.probe, timeout=20) as client:
            for sender, to in (
                ("forged@here.test", "ann@here.test"),
                ("bob@here.test", "astray@here.test"),
                ("bob@here.test", "self@here.test"),
                ("bob@here.test", "postmaster@here.test"),
            ):
                client.sendmail(sender, to, b"Subject: x\r\n\r\nhi\r\n", rcpt_options=["NOTIFY=SUCCESS,FAILURE"])
        told = [Report(octets) for octets in mta.mail("bob@here.test", 3)]
        assert sorted(block["Action"] for got in told for block in got.recipients) == [
            "delivered",
            "expanded",
            "failed",
        ]
        (failed,) = [got for got in told if got.recipients[0]["Action"] == "failed"]
        assert failed.status == "5.1.1" and "typo@here.test" in failed.recipients[0]["Final-Recipient"]
        (discarded,) = until(lambda: mta.events("discarded"))
        assert discarded["reason"] == "a report that cannot be delivered ends there"
        assert len(mta.mail("ann@here.test", 2)) == 2
        boxes = sorted(path.name for path in (tmp_path / "mail" / "here.test").iterdir())
        assert boxes == ["ann", "bob", "postmaster", "self"]
    finally:
        assert mta.stop() == 0


def until(found, seconds=20):
    """Wait for something."""
    end = time.monotonic() + seconds
    while not (got := found()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return got
