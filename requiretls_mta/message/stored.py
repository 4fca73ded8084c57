"""A message as the queue keeps it and as it goes out: received octets, our trace block in front, forged fields cut."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from requiretls_mta.message.content import Content
from requiretls_mta.message.envelope import Envelope
from requiretls_mta.message.ports import Body

CHUNK = 256 * 1024
"""Octets read at once from a body, on the reactor thread at the most."""


@attrs.frozen
class BytesBody:
    """A body in memory."""

    data: bytes

    @property
    def size(self) -> int:
        """Octets."""
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` octets from `offset` on; fewer only at the end."""
        return self.data[offset : offset + length]


@attrs.frozen(kw_only=True)
class Message:
    """An accepted message. `body` holds the octets as received (CRLF, unstuffed)."""

    id: str
    """Queue id: 16 characters of `0-9a-z` without `i l o u`, sortable by time."""
    envelope: Envelope
    body: Body
    content: Content
    """Properties of `body` alone, without `prepend`."""
    prepend: bytes = b""
    """Our trace fields, each ended by CRLF."""
    cuts: tuple[tuple[int, int], ...] = ()
    """Ranges of header octets left out when sending, in order (whole forged Authentication-Results fields)."""
    received: float = 0.0
    """Unix seconds, UTC."""
    origin: str = "smtp"
    """`smtp`, `report`, `reply`, `list` or `local`."""
    parent: str | None = None
    """Id of the message whose report or expansion this is."""
    listener: str = ""

    @property
    def size(self) -> int:
        """Octets that go out."""
        if not self.cuts:
            return len(self.prepend) + self.body.size
        return len(self.prepend) + sum(end - start for start, end in self._kept(self.cuts))

    def header(self) -> bytes:
        """The header section as received, with its last CRLF."""
        return header_of(self.body, self.content)

    def pieces(self, extra_cuts: tuple[tuple[int, int], ...] = ()) -> Iterator[bytes]:
        """The octets that go out, in pieces of at most `CHUNK`; `extra_cuts` leaves out more of the header."""
        if self.prepend:
            yield self.prepend
        for start, end in self._kept(self.cuts + extra_cuts):
            yield from self._span(start, end)

    def _kept(self, cuts: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, int]]:
        """The ranges of the body between the cuts."""
        at = 0
        for start, end in sorted(cuts):
            if start > at:
                yield at, start
            at = max(at, end)
        if at < self.body.size:
            yield at, self.body.size

    def _span(self, start: int, end: int) -> Iterator[bytes]:
        return _span(self.body, start, end)


def header_of(body: Body, content: Content) -> bytes:
    """The header section of a body, with its last CRLF."""
    return b"".join(_span(body, 0, content.header_end))


def _span(body: Body, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        piece = body.read(start, min(CHUNK, end - start))
        if not piece:
            raise EOFError(f"the body ends at octet {start} of {body.size}")
        yield piece
        start += len(piece)
