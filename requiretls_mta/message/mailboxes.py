"""The mailboxes in an address field of a header: the lists of RFC 5322 3.4, with the UTF-8 of RFC 6532 3.2.

Read strictly, for what can be read in two ways somebody reads in the other one. Of the obsolete syntax only dots in
names are known, which many write.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.header import Header

from requiretls_mta.message.address import Address, AddressError, parse_mailbox

LONGEST = 16 * 1024
"""Octets of a field that is read."""
_UTF8 = r"\u00a0-\ud7ff\ue000-\U0010ffff"
_ATOM = rf"[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~\-{_UTF8}]+"
_TOKEN = re.compile(
    rf'(?P<word>{_ATOM}(?:\.{_ATOM})*|"[\t !#-\[\]-~{_UTF8}]*(?:\\[\t -~{_UTF8}][\t !#-\[\]-~{_UTF8}]*)*")'
    r"|(?P<literal>\[[!-Z^-~]*\])|(?P<special>[<>@,:;.])"
)
_COMMENT = re.compile(rf"[()]|[\t !-'*-\[\]-~{_UTF8}]++|\\[\t -~{_UTF8}]")
_ASCII_PHRASE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_Token = tuple[str, str]
"""Kind (`word`, `literal`, or the special itself) and text; kind and text are empty at the end."""


def mailboxes(value: bytes) -> list[Address]:
    """All mailboxes of an unfolded field, those in groups too (RFC 6854); raises `AddressError`, which says why."""
    if len(value) > LONGEST:
        raise AddressError(f"more than {LONGEST} octets")
    try:
        tokens = _tokens(value.decode("utf-8"))
    except UnicodeDecodeError:
        raise AddressError("octets that are not UTF-8") from None
    return list(_Reader(tokens).address_list())


def write_mailbox(name: str, address: str) -> str:
    """An address with a name in front, unless that is empty; `name` is one line of whatever characters."""
    if not name:
        return address
    if not name.isascii():
        name = Header(name, "utf-8", header_name="From").encode(linesep="\r\n")
    elif not _ASCII_PHRASE.fullmatch(name):
        name = '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'
    return f"{name} <{address}>"


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        if text[at] in " \t":
            at += 1
        elif text[at] == "(":
            at = _behind_comment(text, at)
        elif found := _TOKEN.match(text, at):
            kind = found.lastgroup or ""
            yield (found.group() if kind == "special" else kind), found.group()
            at = found.end()
        else:
            raise AddressError("a character that stands in no address")
    yield "", ""


def _behind_comment(text: str, at: int) -> int:
    """The place behind a comment, in which there may be others."""
    depth = 0
    while found := _COMMENT.match(text, at):
        depth += {"(": 1, ")": -1}.get(found.group(), 0)
        at = found.end()
        if not depth:
            return at
    raise AddressError("a comment without an end")


class _Reader:
    """A place among the tokens; each method reads one thing there."""

    def __init__(self, tokens: Iterator[_Token]) -> None:
        self._tokens = tokens
        self._kind, self._text = next(tokens)

    def _next(self) -> str:
        text = self._text
        self._kind, self._text = next(self._tokens)
        return text

    def _need(self, special: str) -> None:
        if self._kind != special:
            raise AddressError(f'"{self._text}" where "{special}" should be' if self._kind else f'no "{special}"')
        self._next()

    def address_list(self, until: str = "") -> Iterator[Address]:
        """At least one address; up to the end, or up to the `;` of a group."""
        yield from self._address(in_group=until == ";")
        while self._kind != until:
            self._need(",")
            yield from self._address(in_group=until == ";")

    def _address(self, *, in_group: bool) -> Iterator[Address]:
        words: list[str] = []
        while self._kind == "word" or (words and self._kind == "."):
            words.append(self._next())
        if self._kind == "<":
            self._next()
            local = self._next() if self._kind == "word" else ""
            yield self._behind_local(local)
            self._need(">")
        elif self._kind == ":" and words and not in_group:
            self._next()
            if self._kind != ";":
                yield from self.address_list(until=";")
            self._need(";")
        else:
            yield self._behind_local(words[0] if len(words) == 1 else "")

    def _behind_local(self, local: str) -> Address:
        if not local:
            raise AddressError("something that is no address")
        self._need("@")
        if self._kind not in ("word", "literal"):
            raise AddressError("an address without a domain")
        # RFC 2047 5: an encoded word must not stand in an address, but there are readers who decode it there.
        if "=?" in local:
            raise AddressError("an encoded word in an address")
        return parse_mailbox(f"{local}@{self._next()}", utf8=True)
