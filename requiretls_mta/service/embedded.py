"""The embedded default: what `make run` starts without any configuration file, for a first try on one machine."""

from __future__ import annotations

import secrets
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from requiretls_mta.service.config import Config, build_config
from requiretls_mta.service.config_errors import ConfigError, Problem
from requiretls_mta.service.config_read import Override, parse_override
from requiretls_mta.service.endpoints import Endpoint, path_of, quoted
from requiretls_mta.service.unix_path import TRY_OUT
from requiretls_mta.service.users_file import UsersFile

USER = "demo"
"""The user who may relay."""


def embedded_default(folder: Path, overrides: Iterable[str] = ()) -> Config:
    """The configuration of a try-out in `folder`: all state under `var` there, all listeners on loopback.

    Mail for `localhost` is taken from anyone on loopback; nothing is relayed but for `USER`, whose password
    `ensure_user` makes. Raises `ConfigError` for overrides that are not allowed.
    """
    var = folder.absolute() / "var"
    raw: dict[str, Any] = {
        "hostname": "localhost",
        "state": str(var),
        "listen": {
            "mx": {"endpoint": "tcp:2525:interface=127.0.0.1", "service": "mx"},
            "submission": {"endpoint": "tcp:2587:interface=127.0.0.1", "service": "submission"},
            # For requiretls-mta-sendmail. Not trusted, for whoever is trusted may relay.
            "local": {"endpoint": f"unix:{quoted(str(folder.absolute() / TRY_OUT))}:mode=600", "service": "mx"},
        },
        "domains": {"local": ["localhost"]},
        "delivery": {"maildir": str(var / "mail" / "{domain}" / "{local}")},
        # A try-out must not send mail to the Internet by accident.
        "access": {"relay_from": [], "users": str(var / "users")},
        # Nor wait for a DNS that is not there.
        "spf": {"action": "off"},
        "dkim": {"verify": False},
        "dmarc": {"action": "off"},
        "iprev": {"enabled": False},
    }
    sets: list[Override] = []
    problems: list[Problem] = []
    for text in overrides:
        try:
            sets.append(parse_override(text))
        except ConfigError as error:
            problems += error.problems
    config = build_config(raw, folder=folder.absolute(), sets=sets, problems=problems)
    return attrs.evolve(config, given=tuple(override.path for override in sets))


def ensure_user(config: Config) -> str | None:
    """Make `USER` with a random password if there is no users file yet; the password to print once, else None.

    Makes the folders, too, which have to be there before anything is bound.
    """
    for path in _sockets(config):
        _make_folder(Path(path).parent)
    users = UsersFile(config.access.users)
    if users.path.exists():
        return None
    _make_folder(users.path.parent)
    password = secrets.token_urlsafe(12)
    users.add(USER, password)
    return password


def welcome(config: Config, password: str | None) -> str:
    """What listens where and what to type next, a few lines; without the line of an old password."""
    lines = ["requiretls-mta runs on its embedded default, for a try-out on this machine:"]
    lines += [
        f"  {name:<11} {_place(endpoint)}  ({listen.service})"
        for name, listen in config.listen.items()
        for endpoint in listen.endpoint
    ]
    lines.append(f"  mailboxes   {config.delivery.maildir}")
    if password is not None:
        lines.append(f"  login       user {USER}, password {password}  (shown this once)")
    else:
        lines.append(f"  login       the users in {config.access.users}")
    lines += [
        "Next:",
        f"  echo hello | {_tool()} send --require-tls --from me@localhost --to you@localhost",
        f"  echo hello | {_tool('requiretls-mta-sendmail')} -O requiretls=yes you@localhost",
        f"  {_tool()} queue list",
    ]
    return "\n".join(lines)


def _place(endpoint: Endpoint) -> str:
    path = path_of(endpoint.description)
    return f"unix:{_from_here(Path(path))}" if path else f"{endpoint.interface or '*'}:{endpoint.port}"


def _sockets(config: Config) -> list[str]:
    endpoints = [endpoint for listen in config.listen.values() for endpoint in listen.endpoint]
    return [path for endpoint in endpoints if (path := path_of(endpoint.description))]


def _make_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _tool(name: str = "requiretls-mta") -> str:
    """How the tool is called from here: by name where the PATH has it, else by the way to it."""
    script = Path(sys.executable).with_name(name)
    if shutil.which(script.name) is not None or not script.exists():
        return script.name
    return str(_from_here(script))


def _from_here(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
