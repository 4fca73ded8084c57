"""Delivery into Maildirs: one file per recipient, on disk before it is called delivered.

Lines end with LF there, as every Maildir reader expects; but for that, and the `Return-Path` on top (RFC 5321 4.4), the
file holds the message as it would have gone out.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import socket
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from requiretls_mta.message import header
from requiretls_mta.message.address import Address, AddressError, ascii_domain, check_domain, names_mailbox
from requiretls_mta.message.envelope import Recipient
from requiretls_mta.message.outcome import Deferred as Postponed
from requiretls_mta.message.outcome import Delivered, Failed, Outcome, attempt_id
from requiretls_mta.message.reply import BAD_LOCAL_PART, Reply
from requiretls_mta.message.stored import Message

_PLACE = re.compile(r"\{(domain|local|user)\}")
_STORED = Reply(250, "2.0.0", "Delivered to the mailbox")
_BROKE_OFF = Reply(451, "4.3.0", "delivery broke off here; it will be repeated")


class PatternError(ValueError):
    """A path pattern cannot be used; the message says why."""


@attrs.frozen
class MaildirSettings:
    """Where mailboxes are."""

    pattern: str
    """Absolute path with `{domain}`, `{local}` or `{user}` (the same as `{local}`) as whole or part of folder names."""
    hostname: str
    """What this server calls itself wherever it tells who has delivered."""

    def __attrs_post_init__(self) -> None:
        rest = _PLACE.sub("", self.pattern)
        if not self.pattern.startswith("/") or "{" in rest or "}" in rest or ".." in Path(self.pattern).parts:
            raise PatternError(
                f"{self.pattern!r} is no mailbox path; an absolute path with {{domain}} and {{local}} is needed"
            )

    def folder(self, address: Address) -> Path | None:
        """The Maildir of an address, or None when its local part can name none."""
        # NFC: two spellings that nobody can tell apart are one mailbox.
        local = unicodedata.normalize("NFC", address.local.lower())
        if not names_mailbox(local):
            return None
        try:
            check_domain(address.domain)
            domain = ascii_domain(address.domain)
        except AddressError:
            return None
        values = {"domain": domain, "local": local, "user": local}
        return Path(_PLACE.sub(lambda match: values[match.group(1)], self.pattern))


class MaildirTransport:
    """A `Transport` into Maildirs; each message is one job in a pool of threads, for disks are slow."""

    _log = Logger()

    def __init__(
        self, reactor: Any, pool: ThreadPool, settings: Callable[[], MaildirSettings], wall: Callable[[], float]
    ) -> None:
        self._reactor = reactor
        self._pool = pool
        self._settings = settings
        self._wall = wall
        self._numbers = itertools.count()
        # In the names of files: it keeps machines that share a disk apart. Slashes and colons must not be in it.
        self._machine = socket.gethostname().replace("/", "\\057").replace(":", "\\072")

    def deliver(self, message: Message, recipients: Sequence[Recipient]) -> Deferred[list[Outcome]]:
        """Write a file for each recipient."""
        return deferToThreadPool(self._reactor, self._pool, self._deliver, message, list(recipients), self._settings())

    def _deliver(self, message: Message, recipients: list[Recipient], settings: MaildirSettings) -> list[Outcome]:
        attempt = attempt_id()
        return [
            attrs.evolve(self._deliver_one(message, recipient, settings), attempt=attempt) for recipient in recipients
        ]

    def _deliver_one(self, message: Message, recipient: Recipient, settings: MaildirSettings) -> Outcome:
        try:
            folder = settings.folder(recipient.address)
            if folder is None:
                return Failed(recipient=recipient, reply=BAD_LOCAL_PART)
            self._write(message, folder)
        except OSError as error:
            self._log.warn("mailbox {folder}: {error}", folder=str(folder), error=str(error))
            return Postponed(recipient=recipient, reply=_trouble(error), host=settings.hostname)
        except Exception:
            # Whoever got it before must not get it again for this one.
            self._log.failure("delivery of message {queue_id} into a mailbox broke off", queue_id=message.id)
            return Postponed(recipient=recipient, reply=_BROKE_OFF, host=settings.hostname)
        return Delivered(recipient=recipient, reply=_STORED, host=settings.hostname, in_mailbox=True)

    def _write(self, message: Message, folder: Path) -> None:
        _make_maildir(folder)
        name = f"{self._wall():.6f}".replace(".", ".M", 1) + f"P{os.getpid()}Q{next(self._numbers)}.{self._machine}"
        temporary, final = folder / "tmp" / name, folder / "new" / name
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for piece in _octets(message):
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            # link() fails where rename() would overwrite.
            os.link(temporary, final)
            _sync(folder / "new")
        finally:
            # What stays there is no message, and readers of Maildirs sweep it away.
            with contextlib.suppress(OSError):
                temporary.unlink()


def _octets(message: Message) -> Iterator[bytes]:
    sender = message.envelope.sender
    yield f"Return-Path: <{sender if sender else ''}>\n".encode()
    # RFC 5321 4.4: the one that came along is not ours.
    cuts = tuple((f.start, f.end) for f in header.fields_named(message.header(), b"return-path"))
    yield from with_lf(message.pieces(cuts))


def with_lf(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The octets with each CRLF as LF; a CRLF may lie on the border of two pieces."""
    held = b""
    for piece in pieces:
        joined = held + piece
        held = b"\r" if joined.endswith(b"\r") else b""
        yield (joined[:-1] if held else joined).replace(b"\r\n", b"\n")
    if held:
        yield held


def _make_maildir(folder: Path) -> None:
    for part in ("cur", "tmp", "new"):
        _make_folder(folder / part)


def _make_folder(folder: Path) -> None:
    """Create a folder and those above it, each private and on disk."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _trouble(error: OSError) -> Reply:
    if error.errno == errno.EDQUOT:
        return Reply(452, "4.2.2", "the mailbox is full")
    if error.errno == errno.ENOSPC:
        return Reply(452, "4.3.1", "the disk of the mailbox is full")
    return Reply(451, "4.3.0", f"the mailbox cannot be written: {error.strerror}")
