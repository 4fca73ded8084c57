"""Flat JSON objects and arrays, as they are written for every message: rows of the queue, lines of the log.

The standard encoder spends more on getting ready than on a dozen plain values; what is not plain is left to it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from json.encoder import encode_basestring_ascii
from typing import Any

from requiretls_mta.message.reply import quote

_quoted: Callable[[str], str] = encode_basestring_ascii
_ENCODE = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def write_object(fields: Mapping[str, Any], encode: Callable[[Any], str] = _ENCODE) -> str:
    """An object, ASCII only; `encode` writes the values that are no text, integer or constant."""
    return _form(tuple(fields)) % tuple([_WRITERS.get(type(value), encode)(value) for value in fields.values()])


def write_members(fields: Mapping[str, Any]) -> str:
    """The members of an object, without its braces; at every depth what is None is left out."""
    return write_object({str(name): value for name, value in fields.items() if value is not None}, _encode)[1:-1]


def write_array(values: Iterable[Any], encode: Callable[[Any], str] = _ENCODE) -> str:
    """An array, likewise."""
    return "[" + ",".join([_WRITERS.get(type(value), encode)(value) for value in values]) + "]"


@functools.lru_cache(maxsize=256)
def _form(names: tuple[str, ...]) -> str:
    """An object with these names and a place for each value: few kinds of objects are written, each very often."""
    return "{" + ",".join([_quoted(name).replace("%", "%%") + ":%s" for name in names]) + "}"


_WRITERS: Mapping[type, Callable[[Any], str]] = {
    str: _quoted,
    int: str,
    bool: {True: "true", False: "false"}.__getitem__,
    type(None): {None: "null"}.__getitem__,
}
_leaf = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=lambda value: quote(str(value))).encode


def _encode(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + write_members(value) + "}"
    if isinstance(value, list | tuple):
        return write_array(value, _encode)
    return _leaf(value)
