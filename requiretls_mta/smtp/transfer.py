"""Message data on the wire: reading DATA and BDAT, writing DATA (RFC 5321 4.5.2, RFC 3030 2).

Only CRLF ends a line. A bare CR or LF is noticed, never taken for a line end and never passed on: whoever reads it
otherwise than we do could be made to see commands in a message.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import IncrementalNewlineDecoder

_CRLF = b"\r\n"
_DOT = b"\r\n."
_END = b"\r\n.\r\n"


class LineEnds:
    """Watches octets for a CR or LF that stands alone."""

    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        # It only looks, and by one pass in C tells each kind of line end from the others, also over chunks' borders.
        self._decoder = IncrementalNewlineDecoder(None, translate=False)

    @property
    def bare(self) -> bool:
        """Whether one was seen."""
        return self._decoder.newlines not in (None, "\r\n")

    def feed(self, data: bytes) -> None:
        """The next octets."""
        self._decoder.decode(data.decode("latin-1"))

    def finish(self) -> None:
        """No more octets: a CR at the end stands alone."""
        self._decoder.decode("", final=True)


class DataReader:
    """Reads what follows DATA, in chunks of any size, up to the line with the single dot."""

    __slots__ = ("_ends", "_held", "_skip", "dots")

    def __init__(self) -> None:
        # As if a CRLF came before: the data begins at the start of a line.
        self._held = _CRLF
        self._skip = len(_CRLF)
        self._ends = LineEnds()
        self.dots = False
        """Whether some line of what was last read may start with a dot."""

    @property
    def bare(self) -> bool:
        """Whether a CR or LF stood alone in what was read."""
        return self._ends.bare

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
        self._ends.feed(octets)
        return octets, rest


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
