"""What a DKIM signature covers (RFC 6376 3.4, 3.7): canonicalization of fields, and of a body piece by piece.

For who verifies and for who signs. Not dkimpy: it holds several copies of a whole message, and its patterns take time
in proportion to the square of a run of blanks, in a thread too without letting anybody else run. Here a body is read
once for all signatures.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

import attrs

from requiretls_mta.message.header import Field

_BLANKS = re.compile(rb"[ \t]+")
_PIECE = b"\r\n" * 8192


def canonical_field(raw: bytes, *, relaxed: bool) -> bytes:
    """One field with its CRLF."""
    if not relaxed:
        return raw
    name, _, value = raw.partition(b":")
    value = _BLANKS.sub(b" ", value.replace(b"\r\n", b"")).strip(b" ")
    return name.strip(b" \t").lower() + b":" + value + b"\r\n"


def without_signature(raw: bytes) -> bytes:
    """A DKIM-Signature field with nothing behind its `b=` (RFC 6376 3.5)."""
    name, colon, value = raw.partition(b":")
    tags = value.split(b";")
    for index, tag in enumerate(tags):
        key, equals, _ = tag.partition(b"=")
        if equals and key.strip(b" \t\r\n") == b"b":
            tags[index] = key + equals
    return name + colon + b";".join(tags)


def signed_header(header: bytes, fields: Iterable[Field], names: Iterable[str], own: bytes, *, relaxed: bool) -> bytes:
    """The octets of the header section that a signature covers: its fields, the lowest of a name first, then `own`."""
    by_name: dict[str, list[Field]] = {}
    for field in fields:
        by_name.setdefault(field.name.decode("ascii", "replace"), []).append(field)
    covered = []
    for name in names:
        if left := by_name.get(name):
            field = left.pop()
            covered.append(canonical_field(header[field.start : field.end], relaxed=relaxed))
    itself = canonical_field(without_signature(own), relaxed=relaxed)
    return b"".join(covered) + itself.removesuffix(b"\r\n")


@attrs.frozen
class BodyKey:
    """A way in which a body is hashed."""

    relaxed: bool
    length: int | None
    """Octets of the canonical body that are signed; None: all."""


@attrs.frozen
class BodyHash:
    """What came of it."""

    digest: bytes
    is_whole: bool
    """Whether all of the body was covered."""
    is_long_enough: bool


class _Hasher:
    """SHA-256 of the first octets."""

    def __init__(self, length: int | None) -> None:
        self._hash = hashlib.sha256()
        self._left = length
        self._is_whole = True

    def take(self, data: bytes) -> None:
        if self._left is None:
            self._hash.update(data)
            return
        if len(data) > self._left:
            data, self._is_whole = data[: self._left], False
        self._left -= len(data)
        self._hash.update(data)

    def result(self) -> BodyHash:
        return BodyHash(self._hash.digest(), self._is_whole, not self._left)


class _Lines:
    """Holds empty lines back until something follows them."""

    def __init__(self, sinks: list[_Hasher], *, relaxed: bool) -> None:
        self._sinks = sinks
        self._relaxed = relaxed
        self._held = b""
        self._breaks = 0
        self._any = False

    def feed(self, chunk: bytes) -> None:
        data = self._held + chunk
        if self._relaxed:
            data = _BLANKS.sub(b" ", data).replace(b" \r\n", b"\r\n")
            # A blank may be the first of many, or the last of its line; a CR half of a line's end.
            kept = data.rstrip(b" ") if data.endswith(b" ") else data.removesuffix(b"\r").removesuffix(b" ")
        else:
            kept = data.removesuffix(b"\r")
        self._held = data[len(kept) :]
        text = kept.rstrip(b"\r\n")
        if text:
            self._flush()
            self._emit(text)
            self._any = True
        self._breaks += (len(kept) - len(text)) // 2

    def finish(self) -> None:
        if not self._relaxed and self._held:
            self._flush()
            self._emit(self._held)
        # RFC 6376 3.4.3, 3.4.4: an empty body is a CRLF to `simple`, and nothing to `relaxed`.
        if self._any or not self._relaxed:
            self._emit(b"\r\n")

    def _flush(self) -> None:
        breaks, self._breaks = self._breaks, 0
        while breaks:
            self._emit(_PIECE[: 2 * breaks])
            breaks -= min(breaks, len(_PIECE) // 2)

    def _emit(self, data: bytes) -> None:
        for sink in self._sinks:
            sink.take(data)


def hash_body(pieces: Iterable[bytes], keys: Iterable[BodyKey]) -> dict[BodyKey, BodyHash]:
    """Read a body (CRLF line ends) once, and hash it in all these ways."""
    hashers = {key: _Hasher(key.length) for key in keys}
    canons = []
    for relaxed in (False, True):
        sinks = [hasher for key, hasher in hashers.items() if key.relaxed == relaxed]
        if sinks:
            canons.append(_Lines(sinks, relaxed=relaxed))
    for piece in pieces:
        for canon in canons:
            canon.feed(piece)
    for canon in canons:
        canon.finish()
    return {key: hasher.result() for key, hasher in hashers.items()}
