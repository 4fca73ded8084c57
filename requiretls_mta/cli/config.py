"""`requiretls-mta config`: whether the configuration is right, and what it comes to."""

from __future__ import annotations

import click

from requiretls_mta.cli.common import USAGE, config_options, configuration, fail
from requiretls_mta.service.config import NO_FILE, as_toml_tables
from requiretls_mta.service.config_notes import cautions, unreadable_files, without_effect, without_secrets
from requiretls_mta.service.config_write import write_toml
from requiretls_mta.service.policies import policies, with_files


@click.group()
@config_options
def config() -> None:
    """Check or show the configuration."""


@config.command()
@config_options
@click.pass_context
def check(context: click.Context) -> None:
    """Tell every error at once (status 2), or that there is none."""
    found = configuration(context)
    if problems := unreadable_files(found):
        fail(USAGE, "\n".join(map(str, problems)))
    for key in without_effect(found):
        click.echo(f"{key}: has no effect yet", err=True)
    for caution in cautions(with_files(policies(found))):
        click.echo(caution, err=True)
    click.echo(f"{found.file or NO_FILE}: ok")


@config.command()
@config_options
@click.pass_context
def show(context: click.Context) -> None:
    """Print the whole configuration in force, defaults included, as TOML; without passwords and keys of whitelists."""
    click.echo(write_toml(as_toml_tables(without_secrets(configuration(context)))), nl=False)
