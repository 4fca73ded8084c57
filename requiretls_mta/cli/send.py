"""`requiretls-mta send`: submit one message, with or without a requirement."""

from __future__ import annotations

import getpass
import ipaddress
import smtplib
import ssl
import time
from pathlib import Path
from typing import BinaryIO

import attrs
import click

from requiretls_mta.cli.common import (
    NO,
    UNREACHABLE,
    USAGE,
    config_options,
    configuration,
    fail,
    host_and_port,
    password_of,
    printable,
)
from requiretls_mta.cli.message import prepare
from requiretls_mta.message.address import AddressError, parse_mailbox
from requiretls_mta.message.profile import Profile
from requiretls_mta.service.config import Config

TIMEOUT = 300.0
"""Seconds for each reply (RFC 5321 4.5.3.2)."""


@attrs.frozen(kw_only=True)
class Submission:
    """What is to be submitted, and where."""

    host: str
    port: int
    helo: str
    sender: str
    recipients: tuple[str, ...]
    message: bytes
    require_tls: bool = False
    ca: Path | None = None
    login: tuple[str, str] | None = None
    """User and password."""

    @property
    def is_local(self) -> bool:
        """Whether the connection stays inside this machine, so that nobody can pose as the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class Refusal(Exception):
    """The server did not take the message, or cannot keep what was asked; the text says what and why."""


@click.command()
@click.option("--to", "recipients", multiple=True, required=True, metavar="ADDRESS", help="A recipient; repeatable.")
@click.option("--from", "sender", metavar="ADDRESS", help='The sender; "" is the empty one. Default: you at this host.')
@click.option("--require-tls", is_flag=True, help="MAIL ... REQUIRETLS: protected on every hop, or it comes back.")
@click.option("--tls-optional", is_flag=True, help="TLS-Required: No: deliver whatever TLS can do.")
@click.option("--server", metavar="HOST:PORT", help="Default: the first mx listener of the configuration.")
@click.option("--user", "name", metavar="NAME", help="Log in, with a password asked for or from --password-file.")
@click.option("--password-file", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="FILE")
@click.option("--ca", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="FILE", help="PEM roots.")
@click.argument("file", type=click.File("rb"), default="-")
@config_options
@click.pass_context
def send(
    context: click.Context,
    *,
    recipients: tuple[str, ...],
    sender: str | None,
    require_tls: bool,
    tls_optional: bool,
    server: str | None,
    name: str | None,
    password_file: Path | None,
    ca: Path | None,
    file: BinaryIO,
) -> None:
    """Submit a message from FILE or standard input (status 1: not taken, 3: no server there)."""
    if require_tls and tls_optional:
        fail(USAGE, "--require-tls and --tls-optional exclude each other")
    config = configuration(context)
    host, port = _server(server, config)
    sender = f"{getpass.getuser()}@{config.hostname}" if sender is None else sender
    for address in (*recipients, *([sender] if sender else [])):
        try:
            parse_mailbox(address, utf8=True, bare=True)
        except AddressError as error:
            fail(USAGE, f"{address}: {error}")
    profile = Profile(config.requiretls.profile) if tls_optional else None
    message = prepare(file.read(), sender=sender, recipients=recipients, now=time.time(), tls_optional=profile)
    login = (name, password_of(password_file, "--user")) if name else None
    what = Submission(
        host=host,
        port=port,
        helo=config.hostname,
        sender=sender,
        recipients=recipients,
        message=message,
        require_tls=require_tls,
        ca=ca,
        login=login,
    )
    try:
        click.echo(printable(submit(what)))
    except Refusal as error:
        fail(NO, str(error))
    except smtplib.SMTPResponseException as error:
        fail(NO, _reply(f"{host}:{port}", error.smtp_code, error.smtp_error))
    except (OSError, smtplib.SMTPException) as error:
        fail(UNREACHABLE, f"{host}:{port}: {_reason(error)}")


def submit(what: Submission) -> str:
    """The server's reply to the message; raises `Refusal`, and what sockets and smtplib raise."""
    with smtplib.SMTP(what.host, what.port, local_hostname=what.helo, timeout=TIMEOUT) as session:
        session.ehlo()
        if session.has_extn("starttls"):
            _start_tls(session, what)
        elif what.require_tls or what.login:
            raise Refusal(f"{what.host}:{what.port}: STARTTLS is not offered; nothing was sent")
        if what.require_tls and not session.has_extn("requiretls"):
            raise Refusal(f"{what.host}:{what.port}: REQUIRETLS is not offered inside TLS; nothing was sent")
        if what.login:
            session.login(*what.login)
        return _transaction(session, what)


def _start_tls(session: smtplib.SMTP, what: Submission) -> None:
    verify = what.ca is not None or (not what.is_local and (what.require_tls or what.login is not None))
    context = ssl.create_default_context(cafile=what.ca)
    if not verify:
        # Opportunistic, or towards ourselves: encrypted is better than not.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        session.starttls(context=context)
    except ssl.SSLCertVerificationError as error:
        raise Refusal(f"{what.host}: {error.verify_message}; nothing was sent") from error
    session.ehlo()


def _transaction(session: smtplib.SMTP, what: Submission) -> str:
    utf8 = not (what.sender.isascii() and all(recipient.isascii() for recipient in what.recipients))
    options = ["REQUIRETLS"] if what.require_tls else []
    if session.has_extn("size"):
        options.append(f"SIZE={len(what.message)}")
    if session.has_extn("8bitmime") and not what.message.isascii():
        options.append("BODY=8BITMIME")
    if utf8:
        if not session.has_extn("smtputf8"):
            raise Refusal("SMTPUTF8 is not offered, but an address needs it")
        options.append("SMTPUTF8")
    _expect("MAIL", session.mail(what.sender, options))
    for recipient in what.recipients:
        _expect(f"RCPT {recipient}", session.rcpt(recipient))
    code, text = session.data(what.message)
    _expect("message", (code, text))
    return f"{code} {text.decode('utf-8', 'backslashreplace')}"


def _expect(step: str, answer: tuple[int, bytes]) -> None:
    if answer[0] // 100 != 2:
        raise Refusal(_reply(step, *answer))


def _reply(step: str, code: int, text: bytes | str) -> str:
    shown = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text
    return f"{step}: {code} {shown}"


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _server(text: str | None, config: Config) -> tuple[str, int]:
    if text is None:
        for listen in config.listen.values():
            for endpoint in listen.endpoint:
                if listen.service == "mx" and endpoint.port and not endpoint.proxied:
                    return _reachable(endpoint.interface), endpoint.port
        fail(USAGE, "the configuration has no mx listener on a TCP port; say --server HOST:PORT")
    return host_and_port(text, "--server")


def _reachable(interface: str) -> str:
    if interface in ("", "0.0.0.0"):  # noqa: S104  # all addresses: loopback is one of them
        return "127.0.0.1"
    return "::1" if interface == "::" else interface
