"""Message data on the wire: reading DATA and BDAT, writing DATA (RFC 5321 4.5.2, RFC 3030 2).

Only CRLF ends a line. A bare CR or LF is noticed, never taken for a line end and never passed on: whoever reads it
otherwise than we do could be made to see commands in a message.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_CRLF = b"\r\n"
_DOT = b"\r\n."
_END = b"\r\n.\r\n"
_BUT_LINE_ENDS = bytes(octet for octet in range(256) if octet not in b"\r\n")


class DataReader:
    """Reads what follows DATA, in chunks of any size, up to the line with the single dot."""

    __slots__ = ("_held", "_skip", "bare", "dots")

    def __init__(self) -> None:
        # As if a CRLF came before: the data begins at the start of a line.
        self._held = _CRLF
        self._skip = len(_CRLF)
        self.bare = False
        """Whether a CR or LF stood alone."""
        self.dots = False
        """Whether some line of what was last read may start with a dot."""

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """(octets of the message, dots unstuffed; what follows the end, or None before it)."""
        data = self._held + data
        dot = data.find(_DOT)
        end = data.find(_END, dot) if dot >= 0 else -1
        rest: bytes | None = None
        if end >= 0:
            stop, rest, self._held = end + 2, data[end + len(_END) :], b""
        else:
            # Keep back what may be the beginning of the end.
            stop = len(data) - next((n for n in (4, 3, 2, 1) if data.endswith(_END[:n])), 0)
            self._held = data[stop:]
        # Not the one that ends the data, nor one that is held back.
        self.dots = 0 <= dot <= stop - len(_DOT)
        octets = data[:stop].replace(_DOT, _CRLF)[self._skip :] if self.dots else data[self._skip : stop]
        if stop:
            self._skip = 0
        self.bare = self.bare or _is_bare(octets)
        return octets, rest


class LineEnds:
    """Watches octets that arrive uncoded (BDAT) for a CR or LF that stands alone."""

    __slots__ = ("_last", "bare")

    def __init__(self) -> None:
        self._last = b""
        self.bare = False

    def feed(self, data: bytes) -> None:
        """The next octets."""
        if self.bare or not data:
            return
        joined = self._last + data
        self._last = b"\r" if joined.endswith(b"\r") else b""
        if self._last:
            joined = joined[:-1]
        self.bare = _is_bare(joined)

    def finish(self) -> None:
        """No more octets."""
        self.bare = self.bare or bool(self._last)


def _is_bare(data: bytes) -> bool:
    """Whether there are more CRs and LFs than those of the pairs; to drop all else is quicker than to count each."""
    return len(data.translate(None, _BUT_LINE_ENDS)) != 2 * data.count(_CRLF)


def stuff(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """A message as DATA sends it: dots doubled at line starts, whatever the pieces' borders, and the end behind it."""
    tail = _CRLF
    for piece in pieces:
        if not piece:
            continue
        joined = tail + piece
        yield joined.replace(b"\r\n.", b"\r\n..")[len(tail) :]
        tail = joined[-2:]
    yield b".\r\n" if tail == _CRLF else b"\r\n.\r\n"
