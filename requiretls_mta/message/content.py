"""What a message's octets are like, learned while they stream by: header end, 8-bit octets, line lengths."""

from __future__ import annotations

import attrs

HEADER_KEPT = 64 * 1024
"""Octets of a header section that are kept while it arrives; who needs more of it reads the stored message."""
_CRLF = b"\r\n"
_DOT = b"\r\n."
_EMPTY = b"\r\n\r\n"
_HALF_EMPTY = b"\r\n\r"


@attrs.frozen(kw_only=True)
class Content:
    """Properties of a received message (CRLF line ends, dots unstuffed)."""

    size: int
    """Octets."""
    header_end: int
    """Octets of the header section with its last CRLF; the empty line follows, unless the message ends here.

    0 too of a submitted message that is text from its first octet: there, our own fields end with the empty line.
    """
    eight_bit_header: bool = False
    eight_bit_body: bool = False
    dot_at_line_start: bool = False
    """Whether some line starts with a dot: only then does sending by DATA need stuffing."""


class ContentScanner:
    """Feed chunks, get a `Content` and the header section; keeps `HEADER_KEPT` octets of it."""

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
        self._head = bytearray()
        self._body_start = -1
        self._eight_header = False
        self._eight_body = False
        self._dot = False
        # The last octets seen. As if the message stood behind a CRLF: its first line is a line like any other.
        self._tail = _CRLF
        self.size = 0

    @property
    def header_too_long(self) -> bool:
        """Whether the header section has already outgrown its limit."""
        if self._body_start >= 0:
            return self._body_start > self._limit
        # A CR behind a whole line may be half of the empty line, which is not the header's any more.
        return self.size - (self._tail == _HALF_EMPTY) > self._limit

    @property
    def header(self) -> bytes:
        """The header section with its last CRLF; of a longer one the first `HEADER_KEPT` octets, or the limit's."""
        return bytes(self._head if self._body_start < 0 else self._head[: self._body_start])

    def feed(self, chunk: bytes, *, dots: bool = True) -> None:
        """Take the next octets of the message; `dots`: whether a line in them may start with one."""
        if not chunk:
            return
        # Whatever began in an earlier chunk ends in here.
        edge = self._tail + chunk[:3]
        if dots and not self._dot and (_DOT in edge or _DOT in chunk):
            self._dot = True
        cut = 0 if self._body_start >= 0 else self._feed_header(chunk, edge)
        if not chunk.isascii():
            self._eight_header = self._eight_header or not chunk[:cut].isascii()
            self._eight_body = self._eight_body or not chunk[cut:].isascii()
        self._tail = chunk[-3:] if len(chunk) > 2 else edge[-3:]
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

    def _feed_header(self, chunk: bytes, edge: bytes) -> int:
        """Collect header octets; how many of the chunk are the header's."""
        in_edge = edge.find(_EMPTY)
        at = in_edge - len(self._tail) if in_edge >= 0 else chunk.find(_EMPTY)
        cut = len(chunk)
        if in_edge >= 0 or at >= 0:
            # The header ends behind the first CRLF of the two, which may lie in an earlier chunk.
            self._body_start = self.size + at + 2
            cut = max(at + 2, 0)
        room = min(self._limit, HEADER_KEPT) - len(self._head)
        if room > 0:
            self._head += chunk[: min(cut, room)]
        return cut
