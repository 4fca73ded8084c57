"""What a message's octets are like, learned while they stream by: header end, 8-bit octets, line lengths."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Content:
    """Properties of a received message (CRLF line ends, dots unstuffed)."""

    size: int
    """Octets."""
    header_end: int
    """Octets of the header section with its last CRLF; the empty line follows, unless the message ends here."""
    eight_bit_header: bool = False
    eight_bit_body: bool = False
    longest_line: int = 0
    """Octets of the longest line without its CRLF."""
    dot_at_line_start: bool = False
    """Whether some line starts with a dot: only then does sending by DATA need stuffing."""


class ContentScanner:
    """Feed chunks, get a `Content` and the header section; keeps the header, up to its limit."""

    __slots__ = (
        "_body_start",
        "_dot",
        "_eight_body",
        "_eight_header",
        "_head",
        "_limit",
        "_tail",
        "size",
    )

    def __init__(self, header_limit: int) -> None:
        self._limit = header_limit
        self._head: bytearray | None = bytearray()
        self._body_start = -1
        self._eight_header = False
        self._eight_body = False
        self._dot = False
        self._tail = b"\r\n"
        self.size = 0

    @property
    def header_too_long(self) -> bool:
        """Whether the header section has already outgrown its limit."""
        return (self._body_start < 0 and self.size > self._limit) or self._body_start > self._limit

    def feed(self, chunk: bytes) -> None:
        """Take the next octets of the message."""
        if not chunk:
            return
        in_body = chunk
        if self._body_start < 0:
            in_body = self._feed_header(chunk)
        if in_body and not self._eight_body and not in_body.isascii():
            self._eight_body = True
        self._watch_dots(chunk)
        self.size += len(chunk)

    def finish(self) -> Content:
        """The properties of the whole message."""
        return Content(
            size=self.size,
            header_end=self._body_start if self._body_start >= 0 else self.size,
            eight_bit_header=self._eight_header,
            eight_bit_body=self._eight_body,
            dot_at_line_start=self._dot,
        )

    @property
    def header(self) -> bytes:
        """The header section with its last CRLF, at most the limit's number of octets."""
        head = self._head if self._head is not None else b""
        end = self._body_start if self._body_start >= 0 else len(head)
        return bytes(head[: min(end, self._limit)])

    def _feed_header(self, chunk: bytes) -> bytes:
        """Collect header octets; return the part of the chunk that is body."""
        assert self._head is not None
        before = self.size
        # A message that starts with CRLF has an empty header section.
        if before < 2 and (bytes(self._head[:2]) + chunk)[:2] == b"\r\n":
            self._body_start = 0
            return chunk
        room = self._limit + 4 - len(self._head)
        overlap = bytes(self._tail[-3:]) if before else b""
        found = (overlap + chunk).find(b"\r\n\r\n")
        if found < 0:
            self._note_header(chunk, room)
            return b""
        header_end = before - len(overlap) + found + 2
        self._body_start = header_end
        cut = header_end - before
        self._note_header(chunk[: max(cut, 0)], room)
        return chunk[max(cut, 0) :]

    def _note_header(self, part: bytes, room: int) -> None:
        assert self._head is not None
        if room > 0:
            self._head += part[:room]
        if not part.isascii():
            self._eight_header = True

    def _watch_dots(self, chunk: bytes) -> None:
        joined = self._tail + chunk
        if not self._dot and b"\r\n." in joined:
            self._dot = True
        self._tail = joined[-3:]
