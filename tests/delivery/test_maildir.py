"""Maildirs on a real disk: what a delivered file holds, where it is, and what troubles come to."""

import errno
import os
import stat

import pytest
from twisted.internet import reactor
from twisted.python.threadpool import ThreadPool

from requiretls_mta.delivery.maildir import MaildirSettings, MaildirTransport, PatternError
from requiretls_mta.message.address import Address
from requiretls_mta.message.content import ContentScanner
from requiretls_mta.message.envelope import Envelope, Recipient
from requiretls_mta.message.outcome import Deferred, Delivered, Failed
from requiretls_mta.message.stored import BytesBody, Message


def message(data=b"Subject: x\r\n\r\nbody\r\n", sender=None, body=None):
    scanner = ContentScanner(1 << 20)
    scanner.feed(data)
    return Message(
        id="0" * 16,
        envelope=Envelope(sender=sender),
        body=body or BytesBody(data),
        content=scanner.finish(),
        prepend=b"Received: from a\r\n\tby b\r\n",
    )


def deliver(tmp_path, message, *addresses):
    settings = MaildirSettings(f"{tmp_path}/{{domain}}/{{local}}")
    transport = MaildirTransport(reactor, ThreadPool(0, 1), lambda: settings, lambda: 1_700_000_000.123456)
    recipients = [Recipient(Address(*a.split("@"))) for a in addresses]
    return transport._deliver(message, recipients, settings)


def test_each_recipient_gets_a_file_of_its_own(tmp_path):
    """Return-Path on top, then our trace and the message, with LF; private, and nothing left in tmp."""
    old = os.umask(0)
    try:
        got = deliver(tmp_path, message(sender=Address("s", "x.test")), "A@Ex.test", "b@ex.test")
    finally:
        os.umask(old)
    assert [type(o) for o in got] == [Delivered, Delivered]
    for local in "ab":
        (file,) = (tmp_path / "ex.test" / local / "new").iterdir()
        assert file.read_bytes() == (b"Return-Path: <s@x.test>\nReceived: from a\n\tby b\nSubject: x\n\nbody\n")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.parent.stat().st_mode) == 0o700
        assert list((tmp_path / "ex.test" / local / "tmp").iterdir()) == []
        assert (tmp_path / "ex.test" / local / "cur").is_dir()
        assert ":" not in file.name


def test_a_return_path_that_came_along_is_left_out(tmp_path):
    """Folded, and in any case; the empty reverse path shows as <>."""
    data = b"RETURN-Path: <forged@\r\n x.test>\r\nSubject: x\r\nreturn-path: <y>\r\n\r\nReturn-Path: body\r\n"
    deliver(tmp_path, message(data), "a@ex.test")
    (file,) = (tmp_path / "ex.test/a/new").iterdir()
    assert file.read_bytes() == (b"Return-Path: <>\nReceived: from a\n\tby b\nSubject: x\n\nReturn-Path: body\n")


def test_line_ends_across_pieces(tmp_path):
    """A CRLF split between two pieces of a large body is still one line end."""
    data = b"\r\n" + b"x" * (256 * 1024 - 3) + b"\r\nend\r\n"
    deliver(tmp_path, message(data), "a@ex.test")
    (file,) = (tmp_path / "ex.test/a/new").iterdir()
    assert b"\r" not in file.read_bytes()
    assert file.read_bytes().endswith(b"x\nend\n")


@pytest.mark.parametrize("local", ["", ".hidden", "a/b", "../x", "a\x00b", "a\nb", "x" * 65])
def test_a_local_part_never_leaves_the_root(tmp_path, local):
    """553 5.1.3, and nothing is created."""
    settings = MaildirSettings(f"{tmp_path}/{{domain}}/{{local}}")
    transport = MaildirTransport(reactor, ThreadPool(0, 1), lambda: settings, lambda: 0.0)
    (got,) = transport._deliver(message(), [Recipient(Address(local, "ex.test"))], settings)
    assert isinstance(got, Failed)
    assert (got.reply.code, got.reply.enhanced) == (553, "5.1.3")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "enhanced"), [(errno.EDQUOT, "4.2.2"), (errno.ENOSPC, "4.3.1"), (errno.EACCES, "4.3.0")]
)
def test_troubles_are_temporary_and_leave_nothing(tmp_path, monkeypatch, number, enhanced):
    """Full or forbidden today may be well tomorrow; the half-written file goes."""

    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    (tmp_path / "ex.test/a/tmp").mkdir(parents=True)
    (tmp_path / "ex.test/a/new").mkdir()
    (got,) = deliver(tmp_path, message(), "a@ex.test")
    assert isinstance(got, Deferred)
    assert got.reply.enhanced == enhanced
    assert list((tmp_path / "ex.test/a/tmp").iterdir()) == list((tmp_path / "ex.test/a/new").iterdir()) == []


def test_a_body_that_is_gone_is_an_error_not_a_short_message(tmp_path):
    """A truncated body must not be delivered as if it were whole."""

    class Short:
        size = 100

        def read(self, offset, length):
            return b""

    with pytest.raises(EOFError):
        deliver(tmp_path, message(body=Short()), "a@ex.test")
    assert list((tmp_path / "ex.test/a/new").iterdir()) == []


@pytest.mark.parametrize("pattern", ["relative/{local}", "/x/{name}", "/x/{local", "/x/../{local}"])
def test_a_bad_pattern_is_refused(pattern):
    """The error names it."""
    with pytest.raises(PatternError, match="no mailbox path"):
        MaildirSettings(pattern)
