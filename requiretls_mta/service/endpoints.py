"""Endpoint descriptions (`tcp:25:interface=127.0.0.1`): read, checked, and rid of relative paths and `haproxy:`."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

import attrs

from requiretls_mta.service.config_errors import Refused

BACKLOG = 1024
"""Connections that wait to be accepted; whoever finds no room comes again after a second (Twisted's own is 50)."""
_BACKLOG_PLACE = 3
_LOCK_FILE_PLACE = 5
_ALLOWED = 'an endpoint description such as "tcp:25", "tcp:25:interface=127.0.0.1", "unix:/path" or "systemd:..."'
_PART = re.compile(r"((?:[^\\:=]|\\.)*)([:=]|\Z)", re.DOTALL)


@attrs.frozen
class Endpoint:
    """One place to listen at."""

    description: str
    """For `twisted.internet.endpoints.serverFromString`, without `haproxy:`, paths absolute."""
    proxied: bool = False
    """Whether clients come through a proxy that speaks PROXY (`haproxy:` stood in front)."""

    def __str__(self) -> str:
        return f"haproxy:{self.description}" if self.proxied else self.description

    @property
    def listening(self) -> str:
        """The description to listen by: with room for `BACKLOG` connections at once, unless it says how many."""
        arguments, named = split(self.description)
        if self.kind not in ("tcp", "tcp6", "unix") or "backlog" in named or len(arguments) > _BACKLOG_PLACE:
            return self.description
        return f"{self.description}:backlog={BACKLOG}"

    @property
    def kind(self) -> str:
        """`tcp`, `unix`, `systemd`, or the name of a plugin's endpoint."""
        return split(self.description)[0][0]

    @property
    def is_private(self) -> bool:
        """Whether only this machine reaches it: a UNIX socket, or bound to loopback."""
        arguments, named = split(self.description)
        if arguments[0] == "unix":
            return True
        interface = named.get("interface", arguments[2] if len(arguments) > 2 else "")
        try:
            return arguments[0] in ("tcp", "tcp6") and ipaddress.ip_address(interface).is_loopback
        except ValueError:
            return False

    @property
    def port(self) -> int | None:
        """The TCP port, where the description says one."""
        arguments, named = split(self.description)
        text = named.get("port", arguments[1] if len(arguments) > 1 else "")
        return int(text) if arguments[0] in ("tcp", "tcp6") and text.isdecimal() else None

    @property
    def interface(self) -> str:
        """The address it is bound to; empty: all IPv4 addresses."""
        arguments, named = split(self.description)
        return named.get("interface", arguments[2] if len(arguments) > 2 else "")


def split(description: str) -> tuple[list[str], dict[str, str]]:
    """The arguments of a description in order, and those with names, backslashes resolved; raises `ValueError`."""
    arguments: list[str] = []
    named: dict[str, str] = {}
    at, key = 0, None
    while True:
        match = _PART.match(description, at)
        if match is None:
            raise ValueError("a backslash at the end")
        text, at = re.sub(r"\\(.)", r"\1", match.group(1)), match.end()
        if match.group(2) == "=" and key is None:
            key = text
            continue
        if match.group(2) == "=":
            raise ValueError("a second = in one argument")
        if key is None:
            arguments.append(text)
        else:
            named[key] = text
        key = None
        if match.group(2) != ":":
            return arguments, named


def quoted(text: str) -> str:
    """An argument with what means something in a description escaped."""
    return re.sub(r"([\\:=])", r"\\\1", text)


def path_of(description: str) -> str | None:
    """The path of a UNIX socket, in a description that `parse_endpoint` made."""
    arguments, _ = split(description)
    return arguments[1] if arguments[0] == "unix" else None


def at_path(description: str, path: str) -> str:
    """The same UNIX socket by another path, without a lock file unless one was asked for."""
    arguments, named = split(description)
    named = {"lockfile": "0"} | named if len(arguments) < _LOCK_FILE_PLACE else named
    return _unix(path, arguments[2:], named)


def _unix(path: str, further: list[str], named: dict[str, str]) -> str:
    rest = [quoted(a) for a in further] + [f"{name}={quoted(value)}" for name, value in named.items()]
    return ":".join(["unix", quoted(path), *rest])


def parse_endpoint(value: object, folder: Path) -> Endpoint:
    """Check one description; a relative path of a UNIX socket starts at `folder`. Raises `Refused`."""
    if not isinstance(value, str) or not value.isprintable():
        raise Refused(_ALLOWED)
    proxied = value.startswith("haproxy:")
    description = value.removeprefix("haproxy:")
    try:
        arguments, named = split(description)
    except ValueError:
        raise Refused(_ALLOWED) from None
    kind = arguments[0]
    if kind in ("ssl", "tls", "haproxy"):
        raise Refused(_ALLOWED + '; TLS is the service\'s own (service = "submissions")')
    if kind in ("tcp", "tcp6"):
        _check_tcp(arguments, named)
    elif kind == "unix":
        address = named.pop("address", arguments[1] if len(arguments) > 1 else "")
        if not address:
            raise Refused(_ALLOWED)
        description = _unix(str(folder / address), arguments[2:], named)
    elif kind != "systemd" and kind not in _plugin_kinds():
        raise Refused(_ALLOWED)
    return Endpoint(description, proxied)


def _check_tcp(arguments: list[str], named: dict[str, str]) -> None:
    names = ("port", "interface", "backlog")
    if unknown := set(named) - set(names):
        raise Refused("port, interface and backlog behind tcp:", found=f'"{min(unknown)}"')
    if len(arguments) > 4 or named.keys() & set(names[: len(arguments) - 1]):
        raise Refused("port, interface and backlog behind tcp:, each once (colons of IPv6 as \\:)")
    given = dict(zip(names, arguments[1:], strict=False)) | named
    port, interface, backlog = (given.get(name, "") for name in names)
    if not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise Refused('a port from 0 to 65535 behind "tcp:"')
    if "backlog" in given and not (backlog.isascii() and backlog.isdecimal()):
        raise Refused("a number for backlog=", found=f'"{backlog}"')
    try:
        if interface:
            ipaddress.ip_address(interface.partition("%")[0])
    except ValueError:
        raise Refused("an IP address for interface= (colons of IPv6 as \\:)", found=f'"{interface}"') from None


def _plugin_kinds() -> frozenset[str]:
    # Only asked for names that are not ours: looking for plugins reads folders.
    from twisted.internet.interfaces import IStreamServerEndpointStringParser  # noqa: PLC0415
    from twisted.plugin import getPlugins  # noqa: PLC0415

    return frozenset(plugin.prefix for plugin in getPlugins(IStreamServerEndpointStringParser))
