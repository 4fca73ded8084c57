"""Log lines: an event with named fields as one line of JSON or text, whatever the fields hold."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Mapping
from json.encoder import encode_basestring_ascii
from typing import Any

from requiretls_mta.message.flat_json import write_object
from requiretls_mta.message.ports import SECRET
from requiretls_mta.message.reply import quote
from requiretls_mta.message.trace import Timestamps

LEVELS = ("debug", "info", "warn", "error", "critical")

MESSAGES = {
    "connected": "client connected",
    "accepted": "message accepted",
    "rejected": "command or message refused",
    "queued": "message queued",
    "delivered": "recipient delivered",
    "deferred": "delivery deferred",
    "bounced": "delivery failed",
    "expired": "delivery time expired",
    "unsettled": "outcome not stored: attempted again after a restart",
    "discarded": "undeliverable report or reply discarded",
    "reported": "report to the sender queued",
    "replied": "automatic reply to the sender queued",
    "operator": "the operator steers the queue",
    "tls": "TLS established",
    "policy": "policy decision",
    "check": "check without a verdict",
    "dnswl": "whitelist asked",
    "tlsrpt": "TLS report",
}
"""The `message` of an event that brings none; of all others it is the event's name."""

_EVENT_LEVELS = {"bounced": "warn", "expired": "warn", "discarded": "warn", "unsettled": "error"}
_TAKEN = SECRET | {"time", "level", "event", "message"}
"""Names of fields that a line never shows, or has already."""
_PLAIN = re.compile(r"[!#-<>-~]+\Z")

Format = Callable[[float, str, str, str, Mapping[str, Any]], bytes]
"""(Unix seconds, level, event, message, fields) to a line with its line feed."""


def level_of(event: str) -> str:
    """The level of an event that brings none."""
    return _EVENT_LEVELS.get(event, "info")


def plain(value: Any) -> Any:
    """What JSON does not know: enumerations by value, octets escaped, sets sorted, all else by its text."""
    match value:
        case enum.Enum():
            return value.value
        case bytes():
            return quote(value)
        case set() | frozenset():
            return sorted(map(str, value))
        case _:
            return str(value)


_string = encode_basestring_ascii
_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), default=plain, allow_nan=False).encode


def json_lines() -> Format:
    """Lines of JSON, ASCII only; `time`, `level`, `event` and `message` come first."""
    timestamp = Timestamps()

    def line(when: float, level: str, event: str, message: str, fields: Mapping[str, Any]) -> bytes:
        if not _TAKEN.isdisjoint(fields):
            fields = {name: value for name, value in fields.items() if name not in _TAKEN}
        try:
            members = write_object(fields, _encode)
        except (ValueError, TypeError, RecursionError):
            members = write_object({str(name): quote(repr(value)) for name, value in fields.items()})
        head = f'{{"time":"{timestamp(when)}","level":"{level}","event":{_string(event)},"message":{_string(message)}'
        text = f"{head},{members[1:]}" if fields else head + "}"
        # JSON lets DEL through; a terminal would not.
        return (text.replace("\x7f", "\\u007f") if "\x7f" in text else text).encode("ascii") + b"\n"

    return line


def text_lines() -> Format:
    """`TIME level event: message name=value ...`; values in quotes where they need them, None and () left out."""
    timestamp = Timestamps()

    def line(when: float, level: str, event: str, message: str, fields: Mapping[str, Any]) -> bytes:
        words = [f"{timestamp(when)} {level} {_harmless(event)}: {_harmless(message)}"]
        for name, value in fields.items():
            if value is None or value == () or name in SECRET:
                continue
            text = value if type(value) is str else _text(value)
            words.append(f"{name}={text}" if _PLAIN.match(text) else f"{name}={_quoted(text)}")
        return " ".join(words).encode("utf-8", "backslashreplace") + b"\n"

    return line


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, tuple | list):
        return ",".join(map(_text, value))
    return str(plain(value))


def _quoted(text: str) -> str:
    return '"' + _harmless(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _harmless(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
