"""What all commands share: the configuration's options, exit statuses, harmless output."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from requiretls_mta.service.config import Config, load_config
from requiretls_mta.service.config_errors import ConfigError
from requiretls_mta.service.embedded import embedded_default

DONE, NO, USAGE, UNREACHABLE = range(4)
"""Exit statuses: done; the answer is no; usage or configuration; the service cannot be reached."""

Command = TypeVar("Command", bound=Callable[..., Any])


def config_options(command: Command) -> Command:
    """`--config FILE` and `--set KEY=VALUE`, as of the service; behind any word of the command."""
    command = click.option(
        "--set",
        "sets",
        multiple=True,
        metavar="KEY=VALUE",
        expose_value=False,
        callback=_remember_sets,
        help="Override one key of the configuration.",
    )(command)
    return click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        expose_value=False,
        callback=_remember_file,
        help="The service's configuration; without it, that of the embedded default in this folder.",
    )(command)


def _remember_file(context: click.Context, _: click.Parameter, file: Path | None) -> None:
    if file is not None:
        context.find_root().ensure_object(dict)["file"] = file


def _remember_sets(context: click.Context, _: click.Parameter, sets: tuple[str, ...]) -> None:
    if sets:
        context.find_root().ensure_object(dict).setdefault("sets", []).extend(sets)


def configuration(context: click.Context) -> Config:
    """The configuration that the options name; ends the program with status 2 and every error on stderr."""
    given: dict[str, Any] = context.find_root().ensure_object(dict)
    sets = given.get("sets", [])
    try:
        if "file" in given:
            return load_config(given["file"], sets)
        return embedded_default(Path.cwd(), sets)
    except ConfigError as error:
        fail(USAGE, str(error))


def host_and_port(text: str, what: str) -> tuple[str, int]:
    """HOST:PORT taken apart, a host in brackets without them; `what` it is for stands in the error (status 2)."""
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        fail(USAGE, f"{what} {text}: HOST:PORT is needed")
    return host.removeprefix("[").removesuffix("]"), int(port)


def password_of(file: Path | None, option: str) -> str:
    """The password in a file, or asked for on a terminal; `option` is the one that wants it."""
    if file is not None:
        return file.read_text(encoding="utf-8").removesuffix("\n")
    if not sys.stdin.isatty():
        fail(USAGE, f"{option} needs --password-file where no terminal can be asked")
    return str(click.prompt("Password", hide_input=True))


def fail(status: int, message: str) -> NoReturn:
    """End the program with a message on stderr."""
    click.echo(printable(message), err=True)
    sys.exit(status)


def printable(text: str) -> str:
    """Text for a terminal: line breaks stay, every other control is escaped, for it may come from the network."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
