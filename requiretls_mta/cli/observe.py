"""`requiretls-mta observe`: who supports what, as far as mail has shown it."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import click

from requiretls_mta.cli.common import NO, UNREACHABLE, USAGE, config_options, configuration, fail
from requiretls_mta.cli.owner import become_owner_of
from requiretls_mta.message.address import AddressError, ascii_domain
from requiretls_mta.report.observation import FEATURES, YES, Host, Sighting
from requiretls_mta.report.observe import known, ledger_path
from requiretls_mta.service.control_client import ControlClient, NotRunning, ServiceError

_FLAGS = ("starttls", "requiretls", "dnssec")
"""Features that are there or not, and nothing further."""


@click.command()
@click.argument("domain", required=False)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
@click.option("--counters", is_flag=True, help="What became of promises since the service began, as Prometheus text.")
@config_options
@click.pass_context
def observe(context: click.Context, domain: str | None, as_json: bool, counters: bool) -> None:
    """Show who supports what: per recipient domain and MX host, dated, as learned from mail and `explain`.

    Works while the service runs and while it does not, but for --counters. Status 1: nothing is known of DOMAIN.
    """
    # Imported before root gives itself up: whom the state belongs to need not see our files.
    from requiretls_mta.cli import observe_table

    state = configuration(context).state
    become_owner_of(state)
    if counters:
        if domain or as_json:
            fail(USAGE, "--counters stands alone: it counts for all domains, as text")
        click.echo(_counters(state), nl=False)
        return
    try:
        found = known(ledger_path(state), ascii_domain(domain.rstrip(".")) if domain else None)
    except AddressError as error:
        fail(USAGE, f"{domain}: {error}")
    except (OSError, sqlite3.Error, ValueError, TypeError) as error:
        fail(UNREACHABLE, f"{ledger_path(state)}: {error}")
    if as_json:
        click.echo(json.dumps([_as_json(*row) for row in found], indent=1))
    else:
        observe_table.print_table(found, domain)
    if domain and not found:
        sys.exit(NO)


def _counters(state: Path) -> str:
    try:
        with ControlClient(state) as service:
            return str(service.ask("counters"))
    except (NotRunning, ServiceError) as error:
        fail(UNREACHABLE, str(error))


def _as_json(domain: str, mx: str, host: Host) -> dict[str, Any]:
    """The newest that is known, null for what is not; and when each was seen, or known to be missing."""
    return {
        "domain": domain,
        "mx": mx,
        "first_seen": _date_time(host.first),
        "last_seen": _date_time(host.last),
        **{feature: _value(feature, host.sighting(feature)) for feature in FEATURES},
        "seen": {feature: _date_time(host.sighting(feature).seen) for feature in FEATURES},
        "missed": {feature: _date_time(host.sighting(feature).missed) for feature in FEATURES},
    }


def _value(feature: str, sighting: Sighting) -> bool | str | None:
    if feature not in _FLAGS:
        return sighting.current
    return None if sighting == Sighting() else sighting.current == YES


def _date_time(when: float | None) -> str | None:
    return None if when is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
