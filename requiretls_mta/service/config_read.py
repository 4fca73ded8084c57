"""From TOML and `--set` to a `Config`: every error found before the first is told."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
from cattrs.errors import AttributeValidationNote, BaseValidationError, ForbiddenExtraKeysError, IterableValidationNote

from requiretls_mta.service.config_convert import converter, suggestion
from requiretls_mta.service.config_errors import ConfigError, Path_, Problem, Refused, shown

T = TypeVar("T")

FILE_LIMIT = 16 * 1024 * 1024
"""Octets of a configuration file."""


@attrs.frozen
class Override:
    """One `--set`."""

    path: tuple[str, ...]
    value: Any


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a file; raises `ConfigError`."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT + 1)
        if len(data) > FILE_LIMIT:
            raise ConfigError([Problem(str(path), "", "a file of more than 16 MiB", "a TOML file")])
        return tomllib.loads(data.decode("utf-8"))
    except OSError as error:
        raise ConfigError([Problem(str(path), "", error.strerror or str(error), "a readable TOML file")]) from None
    except UnicodeDecodeError:
        raise ConfigError([Problem(str(path), "", "octets that are not UTF-8", "a TOML file in UTF-8")]) from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError([Problem(str(path), "", f"bad TOML: {error}", "a TOML file")]) from None


def parse_override(text: str) -> Override:
    """Read `KEY=VALUE`: a dotted key and a TOML value; a word that is no TOML value stands for itself as a text."""
    # A quoted part of the key may hold "=", so the key ends at the first one where it is whole.
    at = text.find("=")
    while at >= 0:
        path = _key(text[:at])
        if path is not None:
            return Override(path, _value(text[at + 1 :].strip()))
        at = text.find("=", at + 1)
    raise ConfigError([Problem("--set", "", shown(text), 'KEY=VALUE such as relay.port=2525 or log.level="debug"')])


def _key(text: str) -> tuple[str, ...] | None:
    try:
        table: Any = tomllib.loads(f"{text} = 0") if "\n" not in text else {}
    except tomllib.TOMLDecodeError:
        return None
    path = []
    while isinstance(table, dict):
        if len(table) != 1:
            return None
        ((name, table),) = table.items()
        path.append(name)
    return tuple(path)


def _value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
        if len(table) == 1:
            return table["value"]
    except tomllib.TOMLDecodeError:
        pass
    return text


def merge(raw: dict[str, Any], override: Override) -> None:
    """Put an override into the tables, in place of what is there."""
    *tables, name = override.path
    for part in tables:
        inner = raw.get(part)
        raw[part] = raw = dict(inner) if isinstance(inner, dict) else {}
    raw[name] = override.value


def structure(raw: dict[str, Any], kind: type[T], folder: Path) -> tuple[T | None, list[tuple[Path_, str, str]]]:
    """The tree of a TOML document, and what is wrong as (path, found, allowed).

    With errors, the tree is that of the document without the keys at fault, so that the rest can be checked too;
    None when even that has none.
    """
    made = converter(folder)
    wrong: list[tuple[Path_, str, str]] = []
    for _ in range(4):
        try:
            return made.structure(raw, kind), wrong
        except BaseValidationError as error:
            found = list(_wrong(error, raw, kind, ()))
        # What is missing is only news in the first round; later it is our own pruning.
        wrong = wrong or found
        raw = _without(raw, [path for path, _, _ in found])
    return None, wrong


def _wrong(error: BaseException, raw: Any, root: type, path: Path_) -> Iterator[tuple[Path_, str, str]]:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            path = (*path, "list" if note.name == "lists" else note.name)
        elif isinstance(note, IterableValidationNote):
            path = (*path, note.index)
    match error:
        case BaseValidationError():
            for inner in error.exceptions:
                yield from _wrong(inner, raw, root, path)
        case ForbiddenExtraKeysError():
            for name in sorted(error.extra_fields):
                yield (*path, name), "an unknown key", suggestion(root, path, name)
        case KeyError():
            yield path, "nothing", "a value; the key is needed here"
        case Refused():
            yield path, error.found or shown(_at(raw, path)), error.allowed
        case _:
            raise error


def _at(raw: Any, path: Path_) -> Any:
    for part in path:
        raw = raw[part]
    return raw


def _without(raw: Any, paths: Sequence[Path_]) -> Any:
    """A copy of the tables without these keys; a key that is missing takes its whole table away."""
    if isinstance(raw, dict):
        gone = {path[0] for path in paths if len(path) == 1}
        inside = {name: _below(paths, name) for name in raw}
        return {
            name: _without(value, inside[name])
            for name, value in raw.items()
            if name not in gone and not _lacks(value, inside[name])
        }
    if isinstance(raw, list):
        inner = [_below(paths, index) for index in range(len(raw))]
        return [
            _without(value, mine)
            for value, mine in zip(raw, inner, strict=True)
            if () not in mine and not _lacks(value, mine)
        ]
    return raw


def _below(paths: Sequence[Path_], name: str | int) -> list[Path_]:
    return [path[1:] for path in paths if path and path[0] == name]


def _lacks(value: Any, paths: Sequence[Path_]) -> bool:
    return isinstance(value, dict) and any(len(p) == 1 and p[0] not in value for p in paths)


def given_keys(raw: dict[str, Any], path: Path_ = ()) -> Iterator[Path_]:
    """The keys that a document sets; an array is one key."""
    for name, value in raw.items():
        if isinstance(value, dict) and value:
            yield from given_keys(value, (*path, name))
        else:
            yield (*path, name)
