"""What is wrong with a configuration, told all at once."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from requiretls_mta.message.reply import quote

Path_ = tuple[str | int, ...]
"""The way to a key: table names and indices of arrays."""


class Refused(ValueError):
    """One value is not allowed; `allowed` says what is. The key is known to whoever reads the table."""

    def __init__(self, allowed: str, found: str | None = None) -> None:
        super().__init__(allowed)
        self.allowed = allowed
        self.found = found


@attrs.frozen
class Problem:
    """One error: in which file, at which key, what was found, and what is allowed there."""

    file: str
    key: str
    found: str
    allowed: str

    def __str__(self) -> str:
        where = f"{self.file}: {self.key}" if self.key else self.file
        return f"{where}: found {self.found}; allowed: {self.allowed}"


class ConfigError(Exception):
    """The configuration cannot be used; the text lists every error, one a line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def dotted(path: Path_) -> str:
    """A key as it is written in TOML, with array indices: `relay.routes."a.example"`, `dnswl[0].zone`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + bare_or_quoted(part)
    return text


def bare_or_quoted(name: str) -> str:
    """A TOML key, in quotes where it needs them."""
    if name and all(c.isascii() and (c.isalnum() or c in "-_") for c in name):
        return name
    return '"' + quote(name).replace("\\", "\\\\").replace('"', '\\"') + '"'


def shown(value: object) -> str:
    """A found value for a person: its kind in words, and short."""
    match value:
        case dict():
            return "a table"
        case list():
            return f"a list of {len(value)}"
        case bool():
            return str(value).lower()
        case str():
            text = quote(value)
            return f'"{text[:80]}..."' if len(text) > 80 else f'"{text}"'
        case int() | float():
            return f"the number {value}"
        case _:
            return f"{quote(str(value))}"
