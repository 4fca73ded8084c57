"""`requiretls-mta user`: who may log in."""

from __future__ import annotations

import os
import sys

import click

from requiretls_mta.cli.common import NO, USAGE, config_options, configuration, fail
from requiretls_mta.cli.owner import become_owner_of, owner_of
from requiretls_mta.service.users_file import UsersError, UsersFile


@click.group()
@config_options
def user() -> None:
    """Add, remove or list the users of AUTH."""


@user.command()
@click.argument("name")
@config_options
@click.pass_context
def add(context: click.Context, name: str) -> None:
    """Add a user, or change a password: asked for twice on a terminal, else one line of standard input."""
    users = _users(context)
    try:
        if sys.stdin.isatty():
            password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
        else:
            line = sys.stdin.buffer.readline().removesuffix(b"\n").removesuffix(b"\r")
            password = line.decode("utf-8", "surrogateescape")
        new = users.add(name, password)
    except UsersError as error:
        fail(USAGE, str(error))
    click.echo(f"{name}: {'added' if new else 'password changed'}")


@user.command()
@click.argument("name")
@config_options
@click.pass_context
def remove(context: click.Context, name: str) -> None:
    """Remove a user (status 1: there is none)."""
    try:
        if not _users(context).remove(name):
            fail(NO, f"{name}: no such user")
    except UsersError as error:
        fail(USAGE, str(error))
    click.echo(f"{name}: removed")


@user.command("list")
@config_options
@click.pass_context
def list_users(context: click.Context) -> None:
    """List the users, one a line."""
    try:
        for name in _users(context).read():
            click.echo(name)
    except UsersError as error:
        fail(USAGE, str(error))


def _users(context: click.Context) -> UsersFile:
    config = configuration(context)
    path = config.access.users
    # In a folder of the service's own, root writes as the service does; in one of root's (such as /etc), root gives
    # the file to the service, which reads it after it has dropped its privileges.
    become_owner_of(path.parent)
    return UsersFile(path, owner=owner_of(config.state) if os.geteuid() == 0 else None)
