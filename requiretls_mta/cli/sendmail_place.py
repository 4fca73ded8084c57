"""Where `sendmail` submits: what the environment says, or a listener of the configuration that trusts local users."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from requiretls_mta.cli.sendmail_trouble import CONFIG, Trouble
from requiretls_mta.cli.submission import Place
from requiretls_mta.service.config_errors import Refused
from requiretls_mta.service.endpoints import Endpoint, parse_endpoint, path_of
from requiretls_mta.service.unix_path import TRY_OUT

SUBMIT = "REQUIRETLS_MTA_SUBMIT"
"""`unix:/path` or `HOST:PORT`: then no file is read."""
FILE = "REQUIRETLS_MTA_CONFIG"
DEFAULT = Path("/etc/requiretls-mta/requiretls-mta.toml")


def find_place(given: Path | None, environ: Mapping[str, str], folder: Path, default: Path = DEFAULT) -> Place:
    """The listener; `given` is the configuration that the command line names. Raises `Trouble`."""
    if submit := environ.get(SUBMIT):
        return _said(submit)
    file = given or Path(environ.get(FILE) or default)
    if given is None and FILE not in environ and not file.exists():
        return _try_out(folder)
    return _configured(file)


def _said(text: str) -> Place:
    if text.startswith("unix:/"):
        return Place("localhost", path=Path(text.removeprefix("unix:")))
    host, _, port = text.rpartition(":")
    if not (host and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise Trouble(CONFIG, f"{SUBMIT}={text}: unix:/path or HOST:PORT is needed")
    return Place(host.removeprefix("[").removesuffix("]"), int(port))


def _try_out(folder: Path) -> Place:
    """The embedded default's, where it runs in this folder."""
    path = folder / TRY_OUT
    try:
        owner = path.parent.stat().st_uid
        is_ours = path.exists() or (path.parent / "shards").exists()
    except OSError:
        is_ours = False
    if not is_ours:
        raise Trouble(CONFIG, f"no server is known: {SUBMIT} and {FILE} are not set, {DEFAULT} is missing")
    # Anybody may have put something where we were started, but only these get mail that way.
    if owner not in (0, os.getuid()):
        raise Trouble(CONFIG, f"{path.parent} belongs to another user")
    return Place("localhost", path=path)


def _configured(file: Path) -> Place:
    try:
        with file.open("rb") as opened:
            listeners = tomllib.load(opened).get("listen")
    except OSError as error:
        raise Trouble(CONFIG, f"{file}: {error.strerror}; {SUBMIT}=unix:/path does without it") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Trouble(CONFIG, f"{file}: {error}") from error
    found = sorted(_trusted(listeners, file.absolute().parent), key=lambda endpoint: endpoint.kind != "unix")
    if not found:
        raise Trouble(CONFIG, f"{file}: no trusted submission listener on a UNIX socket or loopback")
    endpoint = found[0]
    if path := path_of(endpoint.description):
        return Place("localhost", path=Path(path))
    return Place(endpoint.interface, endpoint.port or 0)


def _trusted(listeners: Any, folder: Path) -> Iterator[Endpoint]:
    """The endpoints that take mail of local users without a login; only what they need of the file has to be right."""
    for listen in listeners.values() if isinstance(listeners, dict) else ():
        if not isinstance(listen, dict) or listen.get("trusted") is not True or listen.get("service") != "submission":
            continue
        described = listen.get("endpoint")
        for description in described if isinstance(described, list) else [described]:
            try:
                endpoint = parse_endpoint(description, folder)
            except Refused:
                continue
            if endpoint.is_private and not endpoint.proxied:
                yield endpoint
