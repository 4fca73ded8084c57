"""The console script `requiretls-mta`."""

from __future__ import annotations

import click

from requiretls_mta import __version__
from requiretls_mta.cli.common import config_options
from requiretls_mta.cli.config import config
from requiretls_mta.cli.conformance import conformance
from requiretls_mta.cli.dnswl import dnswl
from requiretls_mta.cli.explain import explain
from requiretls_mta.cli.observe import observe
from requiretls_mta.cli.queue import queue
from requiretls_mta.cli.send import send
from requiretls_mta.cli.trace import trace
from requiretls_mta.cli.users import user

NAME = "requiretls-mta"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@config_options
def cli() -> None:
    """Look after a REQUIRETLS mail transfer agent.

    Exit status: 0 done, 1 the answer is no, 2 usage or configuration, 3 the service cannot be reached.
    """


@cli.command()
@config_options
def version() -> None:
    """Print the version."""
    click.echo(f"{NAME} {__version__}")


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@config_options
def completion(shell: str) -> None:
    """Print the completion script of a shell, for example: eval "$(requiretls-mta completion bash)"."""
    from click.shell_completion import get_completion_class

    maker = get_completion_class(shell)
    assert maker is not None
    click.echo(maker(cli, {}, NAME, "_REQUIRETLS_MTA_COMPLETE").source())


for command in (config, conformance, dnswl, explain, observe, queue, send, trace, user):
    cli.add_command(command)


def main() -> None:
    """Run the tool."""
    cli(prog_name=NAME)
