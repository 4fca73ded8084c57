"""The console script `requiretls-mta-sendmail`: what `sendmail` is to cron, PHP, git and mutt.

It hands its message to the server over SMTP, where local users are trusted; all of it, or nothing with a status of
<sysexits.h>. It is started for every message of a script: what it does not need, it does not import.
"""

from __future__ import annotations

import os
import pwd
import signal
import smtplib
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from requiretls_mta.cli.message import added_fields, message_id, optional
from requiretls_mta.cli.sendmail_message import BLIND, Draft, read_message
from requiretls_mta.cli.sendmail_options import Options, parse_options
from requiretls_mta.cli.sendmail_place import find_place
from requiretls_mta.cli.sendmail_trouble import (
    CONFIG,
    DATA,
    NO_PERMISSION,
    TEMPORARY,
    UNAVAILABLE,
    USAGE,
    Trouble,
    of_refusal,
)
from requiretls_mta.cli.submission import Place, Refusal, Submission, hello, secure, session_at, transact
from requiretls_mta.message.address import AddressError, parse_mailbox
from requiretls_mta.message.mailboxes import write_mailbox
from requiretls_mta.message.profile import Profile
from requiretls_mta.message.reply import quote
from requiretls_mta.message.trace import date_time

NAME = "requiretls-mta-sendmail"
_HELO = "localhost"
_IN_MEMORY = 1024 * 1024
"""Octets of a body that need no file."""


def main() -> None:
    """Run the command."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        submit(sys.argv[1:], os.environ)
    except Trouble as trouble:
        print(f"{NAME}: {quote(str(trouble))}", file=sys.stderr)
        sys.exit(trouble.status)


def submit(words: Sequence[str], environ: Mapping[str, str]) -> None:
    """Do what the command line says; raises `Trouble`."""
    options = parse_options(words)
    if options.mode != "m":
        _queue(options)
        return
    if not options.recipients and not options.extract:
        raise Trouble(USAGE, "recipients must be named as arguments, or by -t in the header")
    place = find_place(options.config, environ, Path.cwd())
    server = _meet(place)
    try:
        with open(0, "rb", closefd=False) as stream, tempfile.SpooledTemporaryFile(_IN_MEMORY) as body:
            draft = read_message(stream, body, ignore_dots=options.ignore_dots, limit=server.size)
            what = _submission(options, draft, server.name, environ)
            _send(place, what)
    except OSError as error:
        raise Trouble(TEMPORARY, f"the message cannot be read or kept: {error.strerror}") from error


@attrs.frozen
class _Server:
    """What a server says of itself."""

    name: str
    """Of its host: the domain of addresses that have none."""
    size: int | None
    """Octets that a message may have; None: it does not say."""


def _meet(place: Place) -> _Server:
    """Asked before the message is read, which may take hours: the writer of a long one hears of trouble early."""
    try:
        with session_at(place, _HELO) as session:
            hello(session)
            name = (session.ehlo_resp or b"").partition(b"\n")[0].partition(b" ")[0].decode("ascii", "replace")
            size = session.esmtp_features.get("size", "")
    except (OSError, smtplib.SMTPException) as error:
        raise _unreachable(place, error) from error
    return _Server(name, int(size) if size.isascii() and size.isdecimal() and int(size) > 0 else None)


def _send(place: Place, what: Submission) -> None:
    try:
        with session_at(place, _HELO) as session:
            secure(session, place, needed=what.require_tls)
            transact(session, place, what)
    except Refusal as refusal:
        raise of_refusal(refusal) from refusal
    except (OSError, smtplib.SMTPException) as error:
        raise _unreachable(place, error) from error


def _unreachable(place: Place, error: Exception) -> Trouble:
    if isinstance(error, smtplib.SMTPResponseException):
        text = error.smtp_error if isinstance(error.smtp_error, str) else error.smtp_error.decode("utf-8", "replace")
        status = TEMPORARY if error.smtp_code // 100 == 4 else UNAVAILABLE
        return Trouble(status, f"{place}: {error.smtp_code} {text}")
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return Trouble(NO_PERMISSION if isinstance(error, PermissionError) else TEMPORARY, f"{place}: {reason}")


def _submission(options: Options, draft: Draft, domain: str, environ: Mapping[str, str]) -> Submission:
    """The message with what it lacks, and its envelope."""
    sender = _login() if options.sender is None else options.sender
    if sender:
        sender = _completed(sender, domain, USAGE)
    named = [_completed(address, domain, USAGE) for address in options.recipients]
    if options.extract:
        named += [_completed(address, domain, DATA) for address in draft.recipients()]
    if not named:
        raise Trouble(USAGE, "no recipient is named, neither as an argument nor in the header")
    draft.drop(*BLIND)
    again = "Resent-" if draft.is_resent else ""
    wanted = {
        f"{again}From": write_mailbox(options.name or _full_name(environ), sender or f"MAILER-DAEMON@{domain}"),
        f"{again}Date": date_time(time.time()),
        f"{again}Message-ID": message_id(domain),
    }
    if options.require_tls is False:
        draft.drop(b"tls-required")
        wanted |= optional(Profile.RFC8689)
    added = added_fields(wanted, draft.names)
    draft.fields.insert(0, added)
    return Submission(
        sender=sender,
        recipients=tuple(dict.fromkeys(named)),
        pieces=draft.pieces(),
        size=draft.size,
        eight_bit=draft.eight_bit or not added.isascii(),
        require_tls=options.require_tls is True,
        notify=options.notify,
        ret=options.ret,
        envid=options.envid,
    )


def _completed(text: str, domain: str, status: int) -> str:
    """The address; one without a domain is the server's."""
    try:
        address = parse_mailbox(text, utf8=True, bare=True)
        return str(address if address.domain else attrs.evolve(address, domain=domain))
    except AddressError as error:
        raise Trouble(status, f"{text}: {error}") from error


def _login() -> str:
    """Who calls: the real user, whatever the environment says."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        raise Trouble(USAGE, f"user {os.getuid()} has no name here; say who sends with -f") from None


def _full_name(environ: Mapping[str, str]) -> str:
    """Of the caller, from the environment or the password file; empty where there is none that can be written."""
    name = environ.get("NAME", "")
    if not name:
        try:
            entry = pwd.getpwuid(os.getuid())
        except KeyError:
            return ""
        name = entry.pw_gecos.partition(",")[0].replace("&", entry.pw_name.capitalize())
    return name if name.isprintable() else ""


def _queue(options: Options) -> None:
    """The queue is the tool's: it lists, and attempts, with the rights of who may read the server's files."""
    from requiretls_mta.cli.main import cli

    words = ["queue", "list"] if options.mode == "p" else ["queue", "retry", options.queue_id or "--all"]
    words += ["--config", str(options.config)] if options.config else []
    try:
        cli(words, prog_name=NAME)
    except SystemExit as end:
        if end.code:
            raise Trouble(CONFIG if end.code == 2 else UNAVAILABLE, "the queue cannot be had") from end
