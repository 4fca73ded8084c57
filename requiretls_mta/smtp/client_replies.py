"""Reading a server's replies (RFC 5321 4.2), strictly: what does not parse is no reply at all."""

from __future__ import annotations

import re

import attrs

from requiretls_mta.message.reply import Reply, parse_reply

LINE_LIMIT = 2048
"""Octets of a reply line; four times what RFC 5321 4.5.3.1.5 allows, for EHLO keywords of the talkative."""
LINES_LIMIT = 200
_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?\Z", re.DOTALL)


class ReplySyntaxError(Exception):
    """The server said something that is no SMTP reply."""


@attrs.frozen
class Heard:
    """A reply as it came."""

    reply: Reply
    """Its text is cut and escaped, fit to be shown."""
    lines: tuple[bytes, ...]
    """The texts of all its lines, whole."""


class ReplyReader:
    """Octets in, replies out, whatever the borders of the chunks."""

    def __init__(self) -> None:
        self._buffer = b""
        self._code = b""
        self._lines: list[bytes] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be completed."""
        return not self._buffer and not self._lines

    def feed(self, data: bytes) -> list[Heard]:
        """The replies that the octets complete; raises `ReplySyntaxError`."""
        lines = (self._buffer + data).split(b"\n")
        self._buffer = lines.pop()
        if len(self._buffer) > LINE_LIMIT:
            raise ReplySyntaxError("a reply line is too long")
        found = []
        for line in lines:
            heard = self._line(line.removesuffix(b"\r"))
            if heard is not None:
                found.append(heard)
        return found

    def _line(self, line: bytes) -> Heard | None:
        match = _LINE.match(line)
        if not match or len(line) > LINE_LIMIT:
            raise ReplySyntaxError("a line that is no reply")
        code, separator, text = match.groups()
        if self._lines and code != self._code:
            raise ReplySyntaxError("a reply with two codes")
        self._code = code
        self._lines.append(text or b"")
        if separator == b"-":
            if len(self._lines) >= LINES_LIMIT:
                raise ReplySyntaxError("a reply of too many lines")
            return None
        lines, self._lines = self._lines, []
        return Heard(parse_reply(int(code), lines), tuple(lines))
