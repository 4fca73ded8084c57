"""The message on standard input: line ends made right, its header read, its body kept in a file while it comes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, BinaryIO

import attrs

from requiretls_mta.cli.message import FIRST_FIELD
from requiretls_mta.cli.sendmail_addresses import ListError, mailboxes
from requiretls_mta.cli.sendmail_trouble import DATA, Trouble
from requiretls_mta.cli.submission import stuffed

_PIECE = 64 * 1024
BLIND = (b"bcc", b"resent-bcc")
"""The fields that name those of whom nobody else is to know (RFC 5322 3.6.3)."""


@attrs.define
class Draft:
    """A message as it came."""

    body: IO[bytes]
    """With dots doubled."""
    fields: list[bytes] = attrs.field(factory=list)
    """Each with the CRLF of its last line."""
    body_size: int = 0
    """Octets, dots not doubled."""
    eight_bit: bool = False

    @property
    def names(self) -> list[bytes]:
        """The names of the fields, in lower case."""
        return [_name(field) for field in self.fields]

    @property
    def is_resent(self) -> bool:
        """Whether it is a message that its receiver sends on (RFC 5322 3.6.6)."""
        return any(name.startswith(b"resent-") for name in self.names)

    def recipients(self) -> list[str]:
        """Those in the header: of To, Cc and Bcc; if there are Resent- ones, of these alone. Raises `Trouble`."""
        resent = [field for field in self.fields if _name(field) in (b"resent-to", b"resent-cc", b"resent-bcc")]
        found: list[str] = []
        for field in resent or [field for field in self.fields if _name(field) in (b"to", b"cc", b"bcc")]:
            name, _, value = field.decode("utf-8", "surrogateescape").partition(":")
            try:
                found += mailboxes(value)
            except ListError as error:
                raise Trouble(DATA, f"{name.strip()}: {error}") from error
        return found

    def drop(self, *names: bytes) -> None:
        """Without the fields of these names."""
        self.fields = [field for field in self.fields if _name(field) not in names]

    @property
    def size(self) -> int:
        """Octets in all."""
        return sum(map(len, self.fields)) + len(b"\r\n") + self.body_size

    def pieces(self) -> Iterator[bytes]:
        """The octets for DATA."""
        yield stuffed(b"".join(self.fields)) + b"\r\n"
        self.body.seek(0)
        while piece := self.body.read(_PIECE):
            yield piece


def read_message(stream: BinaryIO, body: IO[bytes], *, ignore_dots: bool, limit: int | None) -> Draft:
    """The message up to the end, or to a lone dot, its body in that file; at most `limit` octets.

    Text without a header section becomes a body. What a mailbox format puts before the first field is left out.
    Raises `Trouble` or `OSError`.
    """
    draft, in_header, size = Draft(body), True, 0
    for number, (text, begins, ends) in enumerate(_lines(stream)):
        if begins and text == b"." and not ignore_dots:
            break
        if number == 0 and text[:6].removeprefix(b">").startswith(b"From "):
            continue
        line = text + b"\r\n" * ends
        size += len(line)
        if limit is not None and size > limit:
            raise Trouble(DATA, f"the message has more than the {limit} octets that the server takes")
        draft.eight_bit = draft.eight_bit or not line.isascii()
        if in_header and begins:
            if line == b"\r\n":
                in_header = False
                continue
            if FIRST_FIELD.match(line):
                draft.fields.append(b"")
            elif not (draft.fields and line[:1] in (b" ", b"\t")):
                in_header = False
        if in_header:
            draft.fields[-1] += line
        else:
            draft.body.write(b"." * (begins and line.startswith(b".")) + line)
            draft.body_size += len(line)
    return draft


def _lines(stream: BinaryIO) -> Iterator[tuple[bytes, bool, bool]]:
    """Lines without their ends, long ones in pieces: text, whether it begins a line, whether it ends one."""
    number, begins = 1, True
    while piece := stream.readline(_PIECE):
        if piece.endswith(b"\r"):
            piece += stream.readline(1)
        ends = piece.endswith(b"\n")
        text = piece.removesuffix(b"\r\n") if piece.endswith(b"\r\n") else piece.removesuffix(b"\n")
        if b"\r" in text:
            raise Trouble(DATA, f"line {number} of the message has a CR that is no line end")
        yield text, begins, ends
        begins = ends
        number += ends
    if not begins:
        yield b"", False, True


def _name(field: bytes) -> bytes:
    return field.partition(b":")[0].rstrip(b" \t").lower()
