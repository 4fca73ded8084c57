"""`requiretls-mta trace`: what became of a message, from its session to its report."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import click

from requiretls_mta.cli.common import NO, UNREACHABLE, config_options, configuration, fail
from requiretls_mta.cli.owner import become_owner_of
from requiretls_mta.queue.ids import TICK, is_id, tick_of
from requiretls_mta.report.trace_files import trace_folder
from requiretls_mta.report.trace_read import family, ids_of
from requiretls_mta.report.trace_story import stories
from requiretls_mta.service.control_client import ControlClient, NotRunning, ServiceError


@click.command()
@click.argument("message", metavar="ID|MESSAGE-ID")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
@config_options
@click.pass_context
def trace(context: click.Context, message: str, as_json: bool) -> None:
    """Show every event of one message, with its SMTP transcripts, and of all that it gave birth to.

    MESSAGE-ID may lack its angle brackets. Works while the service runs and while it does not.

    Exit status: 0 found, 1 not found (or no longer: see trace.keep), 2 usage or configuration.
    """
    # Imported before root gives itself up: whom the state belongs to need not see our files.
    from requiretls_mta.cli.trace_text import print_stories

    config = configuration(context)
    become_owner_of(config.state)
    _flush(config.state)
    folders = [trace_folder(shard) for shard in sorted((config.state / "shards").glob("*"))]
    try:
        found = _found(folders, message)
    except OSError as error:
        fail(UNREACHABLE, f"{error.filename or config.state}: {error.strerror or error}")
    if not found:
        off = "" if config.trace.keep else '; nothing is traced, for trace.keep is "0s"'
        fail(NO, f"{message}: not in the trace{off}")
    told = stories(found)
    if as_json:
        click.echo(json.dumps({"query": message, "messages": told}, indent=1))
    else:
        print_stories(told)


def _found(folders: Sequence[Path], message: str) -> dict[str, list[dict[str, object]]]:
    queue_id = message.lower()
    if is_id(queue_id):
        return family(folders, [queue_id], tick_of(queue_id) * TICK)
    ids = ids_of(folders, message if message.startswith("<") else f"<{message}>")
    return family(folders, ids, min(tick_of(one) for one in ids) * TICK) if ids else {}


def _flush(state: Path) -> None:
    """A running service may still hold the latest events."""
    with contextlib.suppress(NotRunning, ServiceError), ControlClient(state) as client:
        client.ask("flush")
