"""`requiretls-mta queue`: what waits, and what is to become of it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from requiretls_mta.cli.common import NO, UNREACHABLE, USAGE, config_options, configuration, fail, printable
from requiretls_mta.cli.owner import become_owner_of
from requiretls_mta.cli.queue_access import Queue, QueueUnreachable, ReadPolicies, open_queue
from requiretls_mta.message.addresses_file import AddressesError
from requiretls_mta.queue.schema import SchemaError
from requiretls_mta.queue.store import StoreFull
from requiretls_mta.service.config import Config
from requiretls_mta.service.control_client import ServiceError
from requiretls_mta.service.policies import Policies, policies, with_files

_as_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
_ids = click.argument("ids", nargs=-1, required=True, metavar="ID...")


@click.group()
@config_options
def queue() -> None:
    """See and steer the queue; works while the service runs and while it does not."""


@queue.command("list")
@_as_json
@config_options
@click.pass_context
def list_queue(context: click.Context, as_json: bool) -> None:
    """List all queued messages."""
    # Imported before root gives itself up: whom the state belongs to need not see our files.
    from requiretls_mta.cli.queue_table import print_table

    with _queue(context) as opened:
        (_print_json if as_json else print_table)(opened.rows())


@queue.command()
@click.argument("message_id", metavar="ID")
@_as_json
@config_options
@click.pass_context
def show(context: click.Context, message_id: str, as_json: bool) -> None:
    """Show one message: envelope, recipients, header section (status 1: there is none)."""
    with _queue(context) as opened:
        found = opened.show(message_id.lower())
    if found is None:
        fail(NO, f"{message_id}: no such message")
    click.echo(json.dumps(found) if as_json else printable(_described(found)))


@queue.command()
@click.argument("ids", nargs=-1, metavar="[ID...]")
@click.option("--all", "every", is_flag=True, help="All messages.")
@_as_json
@config_options
@click.pass_context
def retry(context: click.Context, ids: tuple[str, ...], every: bool, as_json: bool) -> None:
    """Attempt messages now (held ones stay held)."""
    if every == bool(ids):
        raise click.UsageError("say ID... or --all")
    if not every:
        _each(context, ids, "retried", lambda opened, message_id: opened.retry(message_id) > 0, as_json=as_json)
        return
    with _queue(context) as opened:
        count = opened.retry(None)
    click.echo(json.dumps({"retried": count}) if as_json else f"{count} retried")


@queue.command()
@_ids
@_as_json
@config_options
@click.pass_context
def hold(context: click.Context, ids: tuple[str, ...], as_json: bool) -> None:
    """Hold messages back: no attempts until they are released."""
    _each(context, ids, "held", lambda opened, message_id: opened.hold(message_id, True), as_json=as_json)


@queue.command()
@_ids
@_as_json
@config_options
@click.pass_context
def release(context: click.Context, ids: tuple[str, ...], as_json: bool) -> None:
    """Release held messages; they are attempted now."""
    _each(context, ids, "released", lambda opened, message_id: opened.hold(message_id, False), as_json=as_json)


@queue.command()
@_ids
@_as_json
@config_options
@click.pass_context
def remove(context: click.Context, ids: tuple[str, ...], as_json: bool) -> None:
    """Delete messages without a report to anybody; not while one is being attempted."""
    _each(context, ids, "removed", lambda opened, message_id: opened.remove(message_id), as_json=as_json)


@queue.command()
@_ids
@_as_json
@config_options
@click.pass_context
def bounce(context: click.Context, ids: tuple[str, ...], as_json: bool) -> None:
    """Give messages up, held ones too: their senders get the report that says so; not while one is being attempted."""
    read = _read(configuration(context))
    _each(context, ids, "bounced", lambda opened, message_id: opened.bounce(message_id), as_json=as_json, read=read)


def _read(config: Config) -> ReadPolicies:
    """The policies, read before root gives itself up; what is wrong with them is told when they are needed."""
    try:
        found = with_files(policies(config))
    except (OSError, AddressesError) as error:
        trouble = error  # its own name ends with this block

        def fails() -> Policies:
            raise trouble

        return fails
    return lambda: found


@contextlib.contextmanager
def _queue(context: click.Context, read: ReadPolicies | None = None) -> Iterator[Queue]:
    config = configuration(context)
    become_owner_of(config.state)
    try:
        with open_queue(config, read=read) as opened:
            yield opened
    except AddressesError as error:
        fail(USAGE, str(error))
    except (QueueUnreachable, ServiceError, SchemaError, StoreFull, OSError, sqlite3.Error) as error:
        fail(UNREACHABLE, str(error))


def _each(
    context: click.Context,
    ids: Sequence[str],
    done: str,
    work: Callable[[Queue, str], bool],
    *,
    as_json: bool,
    read: ReadPolicies | None = None,
) -> None:
    """Status 1 when one of them was not there; the others are done all the same."""
    with _queue(context, read) as opened:
        results = [(message_id, work(opened, message_id.lower())) for message_id in ids]
        there = {message_id for message_id, found in results if not found and opened.show(message_id.lower())}
    if as_json:
        click.echo(json.dumps([{"id": message_id, done: found} for message_id, found in results]))
    for message_id, found in results:
        if not as_json or not found:
            text = done if found else "no such message"
            if message_id in there:
                text = f"it cannot be {done} while it is being attempted; try again in a moment"
            click.echo(printable(f"{message_id}: {text}"), err=not found)
    if not all(found for _, found in results):
        sys.exit(NO)


def _print_json(rows: Iterator[dict[str, Any]]) -> None:
    """An array, one message a line, written while it is read."""
    click.echo("[", nl=False)
    for number, row in enumerate(rows):
        click.echo((",\n " if number else "") + json.dumps(row), nl=False)
    click.echo("]")


def _described(found: dict[str, Any]) -> str:
    lines = [
        f"id:          {found['id']}",
        f"sender:      {found['sender'] or '<>'}",
        f"received:    {found['received']}",
        f"size:        {found['size']}",
        f"requiretls:  {found['requiretls'] or '-'}",
        f"held:        {'yes' if found['held'] else 'no'}",
        f"origin:      {found['origin']}" + (f" of {found['parent']}" if found["parent"] else ""),
        f"listener:    {found['listener'] or '-'}",
    ]
    lines += map(_recipient, found["recipients"])
    return "\n".join([*lines, "", found["header"].rstrip("\n")])


def _recipient(recipient: dict[str, Any]) -> str:
    text = f"recipient:   {recipient['address']}: {recipient['state']}, {recipient['attempts']} attempts"
    if recipient["next_attempt"]:
        text += f", next {recipient['next_attempt']}"
    return text + (f", last reply: {recipient['last_reply']}" if recipient["last_reply"] else "")
