"""The configuration: read from TOML, checked as a whole, frozen."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from requiretls_mta.service.config_convert import converter
from requiretls_mta.service.config_errors import ConfigError, Path_, Problem, dotted
from requiretls_mta.service.config_read import (
    Override,
    given_keys,
    merge,
    parse_override,
    read_toml,
    structure,
)
from requiretls_mta.service.config_rules import conflicts
from requiretls_mta.service.config_sections import (
    DANE,
    DKIM,
    DMARC,
    DNS,
    DNSWL,
    MTASTS,
    SPF,
    TLS,
    TLSRPT,
    Access,
    Aliases,
    Delivery,
    Domains,
    IPRev,
    Limits,
    List,
    Listen,
    Log,
    Relay,
    RequireTLS,
    Store,
    Trace,
    Web,
)
from requiretls_mta.service.config_types import Domain, File
from requiretls_mta.service.hostname import machine_name

__all__ = ["NO_FILE", "Config", "ConfigError", "as_toml_tables", "build_config", "load_config"]

NO_FILE = "the built-in defaults"
"""What stands for the file's name when there is none."""
SET = "--set"
"""What stands for it where an override is at fault."""


@attrs.frozen(kw_only=True)
class Config:
    """All keys; durations in seconds, sizes in octets, paths absolute, domains as A-labels in lower case."""

    hostname: Domain = attrs.field(factory=lambda: Domain(machine_name()))
    authserv_id: Domain = attrs.field(default=attrs.Factory(lambda self: self.hostname, takes_self=True))
    state: File = File(Path("/var/lib/requiretls-mta"))
    workers: int = 1
    """0: one per CPU core."""
    tls: TLS = TLS()
    listen: Mapping[str, Listen] = attrs.field(factory=dict)
    domains: Domains = Domains()
    delivery: Delivery = Delivery()
    aliases: Aliases = attrs.field(factory=dict)
    lists: tuple[List, ...] = ()
    access: Access = Access()
    limits: Limits = Limits()
    dns: DNS = DNS()
    relay: Relay = attrs.field(factory=Relay)
    requiretls: RequireTLS = attrs.field(factory=RequireTLS)
    dane: DANE = DANE()
    mta_sts: MTASTS = MTASTS()
    tlsrpt: TLSRPT = TLSRPT()
    dnswl: tuple[DNSWL, ...] = ()
    iprev: IPRev = IPRev()
    spf: SPF = SPF()
    dkim: DKIM = DKIM()
    dmarc: DMARC = DMARC()
    store: Store = Store()
    web: Web = Web()
    log: Log = Log()
    trace: Trace = Trace()
    file: Path | None = attrs.field(default=None, eq=False, metadata={"derived": True})
    """Where it was read."""
    given: tuple[Path_, ...] = attrs.field(default=(), eq=False, metadata={"derived": True})
    """The keys that file and overrides set, in their order; all others have their default."""


def load_config(path: str | os.PathLike[str] | None = None, overrides: Iterable[str] = ()) -> Config:
    """Read a file (None: defaults only), apply `KEY=VALUE` overrides; raises `ConfigError` with every error there is.

    Relative paths start at the file's folder, without a file at the current one.
    """
    # The folder's own name, for what lies in it must not lead through "..".
    file = Path(path).parent.resolve() / Path(path).name if path is not None else None
    raw: dict[str, Any] = {}
    problems: list[Problem] = []
    sets: list[Override] = []
    try:
        raw = read_toml(file) if file is not None else {}
    except ConfigError as error:
        problems += error.problems
    for text in overrides:
        try:
            sets.append(parse_override(text))
        except ConfigError as error:  # all are told at once
            problems += error.problems
    return build_config(raw, folder=file.parent if file else Path.cwd(), file=file, sets=sets, problems=problems)


def build_config(
    raw: dict[str, Any],
    *,
    folder: Path,
    file: Path | None = None,
    sets: Iterable[Override] = (),
    problems: Iterable[Problem] = (),
) -> Config:
    """The checked configuration of a TOML document; raises `ConfigError`, telling earlier `problems` along."""
    problems = list(problems)
    unread = bool(problems)
    origins = _origins(raw, str(file) if file else NO_FILE)
    for override in sets:
        merge(raw, override)
        origins = {key: origin for key, origin in origins.items() if not _within(key, override.path)}
        # A table that only this override brought is its own, too.
        origins = dict.fromkeys(_prefixes(override.path), SET) | origins
    config, wrong = structure(raw, Config, folder)
    for where, found, allowed in wrong:
        problems.append(Problem(_origin(where, origins, file), dotted(where), found, allowed))
    # Without the whole file, keys that seem to lack their partner may well have it.
    if config is not None and not unread:
        faulty = [where for where, _, _ in wrong]
        problems += (
            Problem(_origin(c.about[0], origins, file), dotted(c.about[0]), c.found, c.allowed)
            for c in conflicts(config)
            if not any(_related(about, bad) for about in c.about for bad in faulty)
        )
    if problems or config is None:
        raise ConfigError(problems)
    store = attrs.evolve(config.store, node=config.store.node or config.hostname)
    return attrs.evolve(config, store=store, file=file, given=tuple(given_keys(raw)))


def as_toml_tables(config: Config) -> dict[str, Any]:
    """The configuration as TOML tables that read back to an equal one; keys without a value are left out."""
    tables = converter(Path()).unstructure(config)
    return {name: value for name, value in _without_none(tables).items() if value not in ({}, [])}


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _without_none(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_without_none(inner) for inner in value]
    return value


def _origins(raw: dict[str, Any], source: str) -> dict[Path_, str]:
    return {prefix: source for key in given_keys(raw) for prefix in _prefixes(key)}


def _origin(where: Path_, origins: dict[Path_, str], file: Path | None) -> str:
    """Whence a key, or what it lies in, came."""
    for prefix in reversed(_prefixes(where)):
        if prefix in origins:
            return origins[prefix]
    return str(file) if file else NO_FILE


def _prefixes(path: Path_) -> list[Path_]:
    return [path[:length] for length in range(1, len(path) + 1)]


def _within(key: Path_, path: Path_) -> bool:
    return key[: len(path)] == path


def _related(one: Path_, other: Path_) -> bool:
    """Whether one key is the other or lies in it; of one array all are related, for their numbers may have moved."""
    if any(isinstance(part, int) for part in other):
        other = other[: next(i for i, part in enumerate(other) if isinstance(part, int))]
    length = min(len(one), len(other))
    return one[:length] == other[:length]
