"""TOML from tables: what `config show` prints and `load_config` reads back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from requiretls_mta.service.config_errors import Path_, bare_or_quoted


def write_toml(tables: dict[str, Any]) -> str:
    """The document of tables, arrays, texts, integers and booleans."""
    return "\n".join(_lines(tables, ())).strip() + "\n"


def _lines(table: dict[str, Any], path: Path_) -> Iterator[str]:
    for name, value in table.items():
        if not _is_table(value) and not _is_tables(value):
            yield f"{bare_or_quoted(name)} = {_value(value)}"
    for name, value in table.items():
        here = (*path, name)
        if _is_table(value):
            # A table that holds only tables needs no line of its own; an empty one says nothing.
            if any(not _is_table(v) and not _is_tables(v) for v in value.values()):
                yield from ("", f"[{_name(here)}]")
            yield from _lines(value, here)
        elif _is_tables(value):
            for element in value:
                yield from ("", f"[[{_name(here)}]]")
                yield from _lines(element, here)


def _name(path: Path_) -> str:
    return ".".join(bare_or_quoted(str(part)) for part in path)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(element, dict) for element in value)


def _value(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            # A JSON string is a TOML basic string, but for DEL, and for surrogate pairs, which are not written so.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list():
            return "[" + ", ".join(map(_value, value)) + "]"
        case _:
            return str(value)
