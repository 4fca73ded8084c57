"""Submitting one message by smtplib: over TCP or a UNIX socket, in TLS where it is to be had, whole or in pieces."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import smtplib
import socket
import ssl
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

from requiretls_mta.message.reply import Reply, parse_reply
from requiretls_mta.service.unix_path import socket_path

TIMEOUT = 300.0
"""Seconds for each reply (RFC 5321 4.5.3.2)."""
_DOT = re.compile(rb"^\.", re.MULTILINE)


class Refusal(Exception):
    """The server did not take the message, or cannot keep what was asked; the text says what and why."""

    def __init__(self, text: str, command: str = "", reply: Reply | None = None) -> None:
        super().__init__(text)
        self.command = command
        """`MAIL`, `RCPT`, `DATA` or `message` if it is the server's own word."""
        self.reply = reply


@attrs.frozen
class Place:
    """Where a server listens."""

    host: str
    port: int = 0
    path: Path | None = None
    """Of a UNIX socket; then `host` is `localhost`."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.path is None else f"unix:{self.path}"

    @property
    def is_local(self) -> bool:
        """Whether the connection stays inside this machine, so that nobody can pose as the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def connect(self, helo: str) -> smtplib.SMTP:
        """A session that has had its greeting; raises what sockets and smtplib raise."""
        if self.path is None:
            return smtplib.SMTP(self.host, self.port, local_hostname=helo, timeout=TIMEOUT)
        return _UnixSMTP(self.path, helo)


class _UnixSMTP(smtplib.SMTP):
    """Over a UNIX socket; to TLS its server is `localhost`."""

    def __init__(self, path: Path, helo: str) -> None:
        self._path = path
        super().__init__("localhost", local_hostname=helo, timeout=TIMEOUT)

    def connect(self, host: str = "localhost", port: int = 0, source_address: object = None) -> tuple[int, bytes]:
        """Called by the constructor."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.file = None
        try:
            with socket_path(self._path) as path:
                self.sock.connect(path)
        except OSError:
            self.close()
            raise
        return self.getreply()


@attrs.frozen(kw_only=True)
class Submission:
    """What is to be submitted."""

    sender: str
    recipients: tuple[str, ...]
    pieces: Iterable[bytes]
    """The message, lines ended by CRLF and dots at their beginnings doubled."""
    size: int
    """Octets of the message, dots not doubled."""
    eight_bit: bool
    require_tls: bool = False
    notify: str = ""
    """RFC 3461 4.1 to 4.4, in the words of the parameters."""
    ret: str = ""
    envid: str = ""

    @property
    def utf8(self) -> bool:
        """Whether an address needs SMTPUTF8."""
        return not (self.sender.isascii() and all(recipient.isascii() for recipient in self.recipients))


@contextlib.contextmanager
def session_at(place: Place, helo: str) -> Iterator[smtplib.SMTP]:
    """A session that has had its greeting. How it ends does not matter any more: what was taken is taken."""
    session = place.connect(helo)
    try:
        yield session
        with contextlib.suppress(OSError):
            session.quit()
    finally:
        session.close()


def stuffed(message: bytes) -> bytes:
    """A whole message as DATA wants its lines (RFC 5321 4.5.2)."""
    return _DOT.sub(b"..", message)


def hello(session: smtplib.SMTP) -> None:
    """EHLO; raises `smtplib.SMTPHeloError`."""
    code, text = session.ehlo()
    if code != 250:
        raise smtplib.SMTPHeloError(code, text)


def secure(session: smtplib.SMTP, place: Place, *, needed: bool, ca: Path | None = None) -> None:
    """EHLO, and STARTTLS where offered; `needed` raises `Refusal` where it is not.

    The server must prove who it is where TLS is needed, but not to whoever is on the same machine.
    """
    hello(session)
    if not session.has_extn("starttls"):
        if needed:
            raise Refusal(f"{place}: STARTTLS is not offered; nothing was sent")
        return
    if ca is not None or (needed and not place.is_local):
        context = ssl.create_default_context(cafile=ca)
    else:
        # Opportunistic, or towards ourselves: encrypted is better than not.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        session.starttls(context=context)
    except ssl.SSLCertVerificationError as error:
        raise Refusal(f"{place.host}: {error.verify_message}; nothing was sent") from error
    hello(session)


def transact(session: smtplib.SMTP, place: Place, what: Submission) -> str:
    """The transaction; the server's reply to the message. Raises `Refusal`: then nobody gets it."""
    if what.require_tls and not session.has_extn("requiretls"):
        raise Refusal(f"{place}: REQUIRETLS is not offered inside TLS; nothing was sent")
    if (what.notify or what.ret or what.envid) and not session.has_extn("dsn"):
        raise Refusal(f"{place}: DSN is not offered; nothing was sent")
    if what.utf8:
        session.command_encoding = "utf-8"
    # Not smtplib's mail and rcpt: they take addresses apart in a way of their own.
    _expect("MAIL", "MAIL", session.docmd("MAIL", " ".join([f"FROM:<{what.sender}>", *_parameters(session, what)])))
    notify = f" NOTIFY={what.notify}" if what.notify else ""
    for recipient in what.recipients:
        _expect("RCPT", f"RCPT {recipient}", session.docmd("RCPT", f"TO:<{recipient}>{notify}"))
    answer = session.docmd("DATA")
    if answer[0] != 354:
        raise _refusal("DATA", "DATA", *answer)
    for piece in what.pieces:
        session.send(piece)
    session.send(b".\r\n")
    code, text = session.getreply()
    _expect("message", "message", (code, text))
    return f"{code} {text.decode('utf-8', 'backslashreplace')}"


def _parameters(session: smtplib.SMTP, what: Submission) -> list[str]:
    parameters = ["REQUIRETLS"] if what.require_tls else []
    if session.has_extn("size"):
        parameters.append(f"SIZE={what.size}")
    if session.has_extn("8bitmime") and what.eight_bit:
        parameters.append("BODY=8BITMIME")
    if what.utf8:
        if not session.has_extn("smtputf8"):
            raise Refusal("SMTPUTF8 is not offered, but an address needs it")
        parameters.append("SMTPUTF8")
    if what.ret:
        parameters.append(f"RET={what.ret}")
    if what.envid:
        parameters.append(f"ENVID={what.envid}")
    return parameters


def _expect(command: str, step: str, answer: tuple[int, bytes]) -> None:
    if answer[0] // 100 != 2:
        raise _refusal(command, step, *answer)


def _refusal(command: str, step: str, code: int, text: bytes) -> Refusal:
    shown = text.decode("utf-8", "backslashreplace")
    return Refusal(f"{step}: {code} {shown}", command, parse_reply(code, text.split(b"\n")))
