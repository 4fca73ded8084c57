"""Maildirs on a real disk: what a delivered file holds, where it is, and what troubles come to."""

import errno
import mailbox
import os
import queue
import socket
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.python.threadpool import ThreadPool

from requiretls_mta.delivery.maildir import MaildirSettings, MaildirTransport, PatternError, with_lf
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
    settings = MaildirSettings(f"{tmp_path}/{{domain}}/{{local}}", "mx.here.test")
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
    assert all(outcome.in_mailbox for outcome in got)
    for local in "ab":
        (file,) = (tmp_path / "ex.test" / local / "new").iterdir()
        assert file.read_bytes() == (b"Return-Path: <s@x.test>\nReceived: from a\n\tby b\nSubject: x\n\nbody\n")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.parent.stat().st_mode) == 0o700
        assert list((tmp_path / "ex.test" / local / "tmp").iterdir()) == []
        assert (tmp_path / "ex.test" / local / "cur").is_dir()
        assert ":" not in file.name


def test_the_server_is_told_by_its_name_the_file_by_the_machines(tmp_path, monkeypatch):
    """In all outcomes, good or not, what the operator called the server; the file is named as Maildirs want it."""
    monkeypatch.setattr(socket, "gethostname", lambda: "machine/1:2")
    (got,) = deliver(tmp_path, message(), "a@ex.test")
    assert got.host == "mx.here.test"
    (file,) = (tmp_path / "ex.test/a/new").iterdir()
    assert file.name.endswith(".machine\\0571\\0722")
    (tmp_path / "ex.test/b").touch()
    (got,) = deliver(tmp_path, message(), "b@ex.test")
    assert isinstance(got, Deferred) and got.host == "mx.here.test"


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
    settings = MaildirSettings(f"{tmp_path}/{{domain}}/{{local}}", "mx.here.test")
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

    (got,) = deliver(tmp_path, message(body=Short()), "a@ex.test")
    assert isinstance(got, Deferred) and got.reply.enhanced == "4.3.0"
    assert list((tmp_path / "ex.test/a/new").iterdir()) == list((tmp_path / "ex.test/a/tmp").iterdir()) == []


def test_who_was_delivered_stays_so_whatever_breaks_for_the_next(tmp_path, monkeypatch):
    """A bug that one recipient brings about fills nobody else's mailbox, attempt by attempt."""

    def folder(self, address):
        if address.local == "b":
            raise ZeroDivisionError
        return tmp_path / address.local

    monkeypatch.setattr(MaildirSettings, "folder", folder)
    got = deliver(tmp_path, message(), "a@ex.test", "b@ex.test", "c@ex.test")
    assert [type(outcome) for outcome in got] == [Delivered, Deferred, Delivered]
    assert got[1].reply.enhanced == "4.3.0"


def test_what_cannot_be_swept_up_is_delivered_all_the_same(tmp_path, monkeypatch):
    """Once the file is in new/ nothing may make it be delivered again."""

    def refuse(path, missing_ok=False):
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(Path, "unlink", refuse)
    (got,) = deliver(tmp_path, message(), "a@ex.test")
    assert isinstance(got, Delivered)


def test_a_mailbox_that_lost_a_folder_gets_it_again(tmp_path):
    """Somebody tidied up: `new` is there and `tmp` is not."""
    (tmp_path / "ex.test/a/new").mkdir(parents=True)
    (got,) = deliver(tmp_path, message(), "a@ex.test")
    assert isinstance(got, Delivered)


@pytest.mark.parametrize(
    ("address", "folder"),
    [
        (Address("A", "Ex.Test"), "ex.test/a"),
        (Address("a b", "ex.test"), "ex.test/a b"),
        (Address("a+b", "bücher.test"), "xn--bcher-kva.test/a+b"),
        (Address("Mu\u0308ller", "ex.test"), "ex.test/m\u00fcller"),
        (Address("a", "[IPv6:2001:DB8::1]"), "[ipv6:2001:db8::1]/a"),
        (Address("a..", "ex.test"), "ex.test/a.."),
        (Address("a", ".."), None),
        (Address("a", ".ex.test"), None),
        (Address("a", "ex/../test"), None),
        (Address("a", ""), None),
        (Address("a", "ex\0.test"), None),
        (Address("..", "ex.test"), None),
        (Address("a", "[../x]"), None),
    ],
)
def test_where_a_mailbox_is(address, folder):
    """Lower case, A-labels, NFC; and whatever an address came to hold, never above the root."""
    got = MaildirSettings("/mail/{domain}/{local}", "mx.here.test").folder(address)
    assert got == (Path("/mail") / folder if folder else None)
    got = MaildirSettings("/mail/x-{user}/{domain}.d", "mx.here.test").folder(Address("B", "ex.test"))
    assert got == Path("/mail/x-b/ex.test.d")


def test_a_reader_of_maildirs_finds_the_messages(tmp_path):
    """Python's mailbox module reads what many deliveries of the same microsecond have left."""
    settings = MaildirSettings(f"{tmp_path}/{{domain}}/{{local}}", "mx.here.test")
    transport = MaildirTransport(reactor, ThreadPool(0, 1), lambda: settings, lambda: 1_700_000_000.5)
    recipient = Recipient(Address("a", "ex.test"))
    for number in range(20):
        transport._deliver(message(b"Subject: %d\r\n\r\nbody\r\n" % number), [recipient], settings)
    found = mailbox.Maildir(tmp_path / "ex.test/a", create=False)
    assert sorted(int(m["Subject"]) for m in found) == list(range(20))
    assert all(m["Return-Path"] == "<>" and m.get_payload() == "body\n" for m in found)


def test_disks_are_waited_for_in_the_pool_not_in_the_reactor(tmp_path):
    """The caller has its Deferred before anything is written, and one outcome per recipient, in their order."""
    pool = ThreadPool(1, 1)
    pool.start()
    try:
        calls = queue.SimpleQueue()

        class Turn:
            callFromThread = staticmethod(lambda call, *arguments: calls.put((call, arguments)))

        settings = MaildirSettings(f"{tmp_path}/{{domain}}/{{local}}", "mx.here.test")
        transport = MaildirTransport(Turn, pool, lambda: settings, lambda: 1_700_000_000.0)
        threads = set()
        transport._write = lambda *arguments: threads.add(threading.get_ident())
        recipients = [Recipient(Address(local, "ex.test")) for local in ("a", "/", "b")]
        results = []
        transport.deliver(message(), recipients).addCallback(results.append)
        assert results == []
        call, arguments = calls.get(timeout=10)
        call(*arguments)
        assert [type(outcome) for outcome in results[0]] == [Delivered, Failed, Delivered]
        assert [outcome.recipient for outcome in results[0]] == recipients
        assert threads and threading.get_ident() not in threads
    finally:
        pool.stop()


@given(
    st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"x", b"", b"\r\n\r\n", b"Return-Path: y\r\n"]), max_size=12),
    st.data(),
)
def test_line_ends_wherever_the_pieces_end(parts, data):
    """CRLF becomes LF, and no other octet is touched, however the body is cut into pieces."""
    octets = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=5)))
    pieces = [octets[a:b] for a, b in zip([0, *cuts], [*cuts, len(octets)], strict=True)]
    assert b"".join(with_lf(pieces)) == octets.replace(b"\r\n", b"\n")


@pytest.mark.parametrize("pattern", ["relative/{local}", "/x/{name}", "/x/{local", "/x/../{local}"])
def test_a_bad_pattern_is_refused(pattern):
    """The error names it."""
    with pytest.raises(PatternError, match="no mailbox path"):
        MaildirSettings(pattern, "mx.here.test")
