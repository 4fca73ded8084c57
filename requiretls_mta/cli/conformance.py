"""`requiretls-mta conformance`: whether a server, ours or not, keeps RFC 8689 as far as a client can see."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import sys
from pathlib import Path

import click

from requiretls_mta.cli.common import DONE, NO, UNREACHABLE, USAGE, config_options, fail, host_and_port, password_of
from requiretls_mta.message.address import AddressError, ascii_domain, check_domain, parse_mailbox
from requiretls_mta.service.hostname import machine_name

_file = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command()
@click.argument("server", metavar="HOST:PORT")
@click.option("--json", "json_wanted", is_flag=True, help="Machine-readable output.")
@click.option("--lmtp", is_flag=True, help="The server speaks LMTP.")
@click.option("--implicit-tls", "implicit", is_flag=True, help="TLS from the first octet, as on port 465.")
@click.option("--from", "sender", metavar="ADDRESS", help='MAIL FROM; "" is the empty one. Default: postmaster here.')
@click.option("--to", "recipient", metavar="ADDRESS", default="postmaster", show_default=True, help="RCPT TO.")
@click.option("--deliver", metavar="ADDRESS", help="Send one message there. Without this, none is sent.")
@click.option("--trust", metavar="FILE", type=_file, help="Trusted roots in PEM. Default: the system's.")
@click.option("--name", metavar="NAME", help="The name that the certificate should bear. Default: HOST.")
@click.option("--login", "user", metavar="USER", help="Log in, with a password asked for or from --password-file.")
@click.option("--password-file", type=_file, metavar="FILE")
@click.option("--timeout", type=click.FloatRange(0.1, 600), default=30.0, show_default=True, help="Seconds per reply.")
@config_options
def conformance(
    *,
    server: str,
    json_wanted: bool,
    lmtp: bool,
    implicit: bool,
    sender: str | None,
    recipient: str,
    deliver: str | None,
    trust: Path | None,
    name: str | None,
    user: str | None,
    password_file: Path | None,
    timeout: float,
) -> None:
    """Check an SMTP server against RFC 8689: what it offers, takes and refuses, and whether TLS can be cheated.

    No message is sent unless --deliver says to whom: it goes as far as RCPT, and takes leave. Each check has its
    clause and a verdict: pass, fail, warning, or not tested with the reason.

    Exit status: 0 conformant (nothing failed, REQUIRETLS was offered and taken), 1 not, or not to be seen,
    2 usage, 3 nobody answers at HOST:PORT.
    """
    from rich.console import Console
    from rich.progress import track

    from requiretls_mta.cli.conformance_checks import CHECKS
    from requiretls_mta.cli.conformance_run import Run, Target, Unreachable
    from requiretls_mta.cli.conformance_text import Report, as_json, print_report
    from requiretls_mta.tls.client import TrustError, client_context

    host, port = host_and_port(server, "server")
    for address in filter(None, (sender, recipient, deliver)):
        try:
            parse_mailbox(address, bare=True)
        except AddressError as error:
            fail(USAGE, f"{address}: {error}")
    try:
        context = client_context("system" if trust is None else str(trust))
    except TrustError as error:
        fail(USAGE, str(error))
    target = Target(
        host=_name(host),
        port=port,
        helo=machine_name(),
        sender=f"postmaster@{machine_name()}" if sender is None else sender,
        recipient=recipient,
        deliver=deliver,
        context=context,
        name=_name(name or host),
        lmtp=lmtp,
        implicit=implicit,
        login=(user, password_of(password_file, "--login")) if user else None,
        timeout=timeout,
    )
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    findings = track(
        Run(target).checks(CHECKS),
        "Checking",
        total=len(CHECKS),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    try:
        results = tuple(zip(CHECKS, findings, strict=True))
    except Unreachable as error:
        fail(UNREACHABLE, str(error))
    report = Report(server=server, time=now, results=results, deliver=deliver)
    if json_wanted:
        click.echo(json.dumps(as_json(report), indent=1))
    else:
        print_report(report)
    sys.exit(DONE if report.conformant else NO)


def _name(name: str) -> str:
    """A host name as A-labels, or an IP address."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(name))
    try:
        check_domain(name)
        return ascii_domain(name)
    except AddressError as error:
        fail(USAGE, f"{name}: {error}")
