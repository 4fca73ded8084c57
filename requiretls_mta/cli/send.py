"""`requiretls-mta send`: submit one message, with or without a requirement."""

from __future__ import annotations

import getpass
import smtplib
import time
from pathlib import Path
from typing import BinaryIO

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
from requiretls_mta.cli.submission import Place, Refusal, Submission, secure, session_at, stuffed, transact
from requiretls_mta.message.address import AddressError, parse_mailbox
from requiretls_mta.message.profile import Profile
from requiretls_mta.service.config import Config


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
    place = Place(*_server(server, config))
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
        sender=sender,
        recipients=recipients,
        pieces=(stuffed(message),),
        size=len(message),
        eight_bit=not message.isascii(),
        require_tls=require_tls,
    )
    try:
        click.echo(printable(_submit(place, what, helo=config.hostname, ca=ca, login=login)))
    except Refusal as error:
        fail(NO, str(error))
    except smtplib.SMTPResponseException as error:
        fail(NO, _reply(str(place), error.smtp_code, error.smtp_error))
    except (OSError, smtplib.SMTPException) as error:
        fail(UNREACHABLE, f"{place}: {_reason(error)}")


def _submit(place: Place, what: Submission, *, helo: str, ca: Path | None, login: tuple[str, str] | None) -> str:
    """The server's reply to the message; raises `Refusal`, and what sockets and smtplib raise."""
    with session_at(place, helo) as session:
        secure(session, place, needed=what.require_tls or login is not None, ca=ca)
        if login is not None:
            session.login(*login)
        return transact(session, place, what)


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
