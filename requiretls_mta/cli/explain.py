"""`requiretls-mta explain`: what would become of a REQUIRETLS message, without sending one."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import time

import attrs
import click

from requiretls_mta.checks.interfaces import Tools
from requiretls_mta.cli.common import DONE, NO, USAGE, config_options, configuration, fail
from requiretls_mta.cli.explain_json import in_json
from requiretls_mta.cli.owner import become_owner_of
from requiretls_mta.cli.running import run
from requiretls_mta.message.address import Address, AddressError, parse_mailbox
from requiretls_mta.message.envelope import Recipient
from requiretls_mta.receive.recipients import AliasLoopError, complete, expand
from requiretls_mta.receive.settings import Settings as ReceiveSettings
from requiretls_mta.relay.explain import explain as relay_explain
from requiretls_mta.relay.explanation import Explanation
from requiretls_mta.relay.lookup import RouteFinder
from requiretls_mta.relay.settings import RelaySettings
from requiretls_mta.relay.sts import STSPolicies
from requiretls_mta.relay.sts_fetch import PolicyHosts
from requiretls_mta.report.observe import Notes, ledger_path, record
from requiretls_mta.service.config import Config
from requiretls_mta.service.config_types import Domain
from requiretls_mta.service.hostname import machine_name
from requiretls_mta.service.policies import Policies, policies, relay_settings
from requiretls_mta.tls.client import TrustError


@click.command()
@click.argument("address")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option(
    "--timeout", type=click.FloatRange(0.1, 3600), default=120.0, show_default=True, help="Seconds for all of it."
)
@config_options
@click.pass_context
def explain(context: click.Context, *, address: str, as_json: bool, timeout: float) -> None:
    """Show what would become of a REQUIRETLS message for ADDRESS, step by step, at each of its hosts.

    Looks up what there is to be looked up, connects to every MX host as the service would, and says EHLO, STARTTLS,
    EHLO and QUIT. No message is sent, and no address is told to anybody.

    Exit status: 0 deliverable, 1 undeliverable or not now, 2 usage or configuration.
    """
    config = _outside(configuration(context))
    now = policies(config)
    try:
        settings = relay_settings(config)
        mailbox = _mailbox(address, now.receive)
    except (TrustError, OSError) as error:
        fail(USAGE, str(error))
    except (AddressError, AliasLoopError) as error:
        fail(USAGE, f"{address}: {error}")
    from requiretls_mta.cli import explain_text

    notes = Notes(time.time)
    with explain_text.waiting(mailbox):
        told = run(config, lambda tools: _explain(tools, mailbox, now, settings, timeout), notes)
    if as_json:
        click.echo(json.dumps(in_json(told), indent=1))
    else:
        explain_text.print_explanation(told, config.requiretls.lifetime, time.time())
    # Last, for whom the state belongs to need not see the files that printing may import.
    become_owner_of(config.state)
    with contextlib.suppress(OSError, sqlite3.Error):
        record(ledger_path(config.state), notes.take(), time.time())
    sys.exit(DONE if told.reply is None else NO)


def _outside(config: Config) -> Config:
    """The try-out calls itself localhost; towards others the machine's own name is needed (RFC 5321 4.1.4)."""
    if config.file is not None or ("hostname",) in config.given:
        return config
    return attrs.evolve(config, hostname=Domain(machine_name()))


def _mailbox(text: str, settings: ReceiveSettings) -> Address:
    """The mailbox that mail to this address goes to."""
    asked = complete(parse_mailbox(text, utf8=True, bare=text.lower() == "postmaster"), settings)
    targets = [recipient.address for recipient in expand((Recipient(asked),), settings).recipients]
    if [target.key for target in targets] != [asked.key]:
        raise AddressError(f"an alias here; explain what it stands for: {', '.join(map(str, targets))}")
    return asked


async def _explain(
    tools: Tools, mailbox: Address, now: Policies, settings: RelaySettings, timeout: float
) -> Explanation:
    """As the service would be composed, but for the queue and the memory of policies."""
    if now.maildir is not None and now.receive.is_local(mailbox.domain):
        return Explanation(address=str(mailbox), level=settings.levels.of(mailbox.domain), route=None)
    hosts = PolicyHosts(tools.clock, tools.resolver, lambda: settings.context)
    lender = now.config.state / "shared" / "mta-sts"
    sts = STSPolicies(tools.clock, tools.resolver, hosts.fetch, lender=lender)
    finder = RouteFinder(tools.resolver, lambda: now.lookup, policies=sts if now.config.mta_sts.enabled else None)
    return await relay_explain(
        tools.clock, mailbox, finder=finder, settings=settings, events=tools.events, deadline=timeout
    )
