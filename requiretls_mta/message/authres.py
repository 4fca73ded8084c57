"""Authentication-Results (RFC 8601): write a field, read one strictly, find those that claim to be ours.

No library is used for it: the one there is loses `dns.` properties when it reads and lets CR and LF through when it
writes.
"""

from __future__ import annotations

import re
import unicodedata

import attrs

from requiretls_mta.message.address import AddressError, ascii_domain

NAME = "Authentication-Results"
VERSION = 1  # RFC 8601 2.2
MOST_OCTETS = 450
"""Of one value: with every character escaped, its line stays below the 998 octets of RFC 5322 2.1.1."""
READ_LIMIT = 64 * 1024
"""Octets of a field that is read; a longer one is not worth it."""
_LONGEST_WORD = 40
_WIDTH = 78  # RFC 5322 2.1.1: characters wanted at most
_KEYWORD = re.compile(r"[A-Za-z0-9-]*[A-Za-z0-9]")  # RFC 5321 4.1.2
# RFC 2045 5.1, with UTF-8 where RFC 6532 3.2 lets it stand (RFC 8601 2.2); surrogates are octets that were no UTF-8.
_UTF8 = "\u00a0-\ud7ff\ue000-\U0010ffff"
_TOKEN = re.compile(rf"[!#$%&'*+\-.0-9A-Z^_`a-z{{|}}~{_UTF8}]+")
_ADDRESS = re.compile(rf"[!#$%&'*+\-./0-9=?A-Z^_`a-z{{|}}~{_UTF8}]*@[\-.0-9A-Z_a-z{_UTF8}]+")
_QUOTED = re.compile(rf'"((?:[ \t!#-\[\]-~{_UTF8}]|\\[\t -~{_UTF8}])*)"')
_PIECE = re.compile(r" *[^ ]+")
_FIELD = re.compile(rb"^authentication-results[ \t]*:((?:[^\r\n]++|\r(?!\n)|\r?\n[ \t])*)(?:\r\n)?", re.I | re.M)


def _keyword(_: object, attribute: attrs.Attribute[str], text: str) -> None:
    if len(text) > _LONGEST_WORD or not _KEYWORD.fullmatch(text):
        raise ValueError(f"{attribute.name} {text[:50]!r} is not made of at most 40 letters, digits and inner hyphens")


def _ascii(_: object, attribute: attrs.Attribute[str], text: str | None) -> None:
    if text is not None and not text.isascii():
        raise ValueError(f"{attribute.name} {text[:50]!r} has characters outside ASCII")


def _value(_: object, attribute: attrs.Attribute[str], text: str | None) -> None:
    if text is not None and not (text.isprintable() and len(text.encode()) <= MOST_OCTETS):
        raise ValueError(f"{attribute.name} {text[:50]!r} has controls, or more than {MOST_OCTETS} octets")


@attrs.frozen
class Property:
    """One `ptype.name=value`; raises ValueError on what could not be written."""

    ptype: str = attrs.field(validator=_keyword)
    """`smtp`, `header`, `body`, `policy` or `dns`."""
    name: str = attrs.field(validator=_keyword)
    value: str = attrs.field(validator=_value)
    quoted: bool = attrs.field(default=False, eq=False)
    """Whether it is written as a quoted-string though a token would do."""
    in_ascii: str | None = attrs.field(default=None, eq=False, validator=[_value, _ascii])
    """What stands for a value outside ASCII in a message without SMTPUTF8; None: the property is left out there."""


@attrs.frozen
class Result:
    """What one method found: a `resinfo`; raises ValueError on what could not be written."""

    method: str = attrs.field(validator=_keyword)
    result: str = attrs.field(validator=_keyword)
    properties: tuple[Property, ...] = attrs.field(default=(), kw_only=True)
    reason: str | None = attrs.field(default=None, kw_only=True, validator=_value)
    comment: str | None = attrs.field(default=None, kw_only=True, eq=False, validator=_value)
    """Behind the result, in parentheses; readers pass it over. Like `reason`, outside ASCII for SMTPUTF8 only."""


@attrs.frozen
class AuthenticationResults:
    """One field."""

    authserv_id: str = attrs.field(validator=_value)
    results: tuple[Result, ...] = ()
    """Empty: `none`."""


def write(field: AuthenticationResults, *, utf8: bool = False) -> bytes:
    """The whole field with its CRLF, folded where blanks are; without `utf8` (of SMTPUTF8) in ASCII only."""
    name = field.authserv_id if utf8 else ascii_domain(field.authserv_id)
    lines = [f"{NAME}: {_show_value(name)};"]
    if not field.results:
        lines[0] += " none;"
    for result in field.results:
        lines += _fold(_words(result, utf8))
        lines[-1] += ";"
    lines[-1] = lines[-1].removesuffix(";")
    return ("\r\n".join(lines) + "\r\n").encode("utf-8" if utf8 else "ascii")


def show_result(result: Result, *, utf8: bool = False) -> str:
    """One result as it is written, unfolded."""
    return " ".join(_words(result, utf8))


def _words(result: Result, utf8: bool) -> list[str]:
    words = [f"{result.method}={result.result}"]
    if result.comment is not None and (utf8 or result.comment.isascii()):
        words.append("(" + re.sub(r"([()\\])", r"\\\1", result.comment) + ")")
    if result.reason is not None and (utf8 or result.reason.isascii()):
        words.append(f"reason={_show_value(result.reason)}")
    for prop in result.properties:
        value = prop.value if utf8 or prop.value.isascii() else prop.in_ascii
        if value is not None:
            words.append(f"{prop.ptype}.{prop.name}={_show_value(value, quoted=prop.quoted)}")
    return words


def _show_value(value: str, *, quoted: bool = False) -> str:
    if not quoted and _TOKEN.fullmatch(value):
        return value
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def _fold(words: list[str]) -> list[str]:
    """Lines of at most 78 characters where blanks allow it, those between the words before those within them."""
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + 1 + len(word) >= _WIDTH:
            lines.append("")
        for piece in _PIECE.findall(" " + word):
            # A CRLF goes in front of blanks, which stay: unfolding undoes it (RFC 5322 2.2.3).
            if lines[-1] and len(lines[-1]) + len(piece) >= _WIDTH:
                lines.append("")
            lines[-1] += piece
    return lines


# --- reading --------------------------------------------------------------------------------------------------------


def parse(value: bytes) -> AuthenticationResults | None:
    """Read what stands behind the colon; None unless it is, to the letter, a field of version 1."""
    if len(value) > READ_LIMIT:
        return None
    try:
        text = value.decode("utf-8").replace("\r\n", "").replace("\t", " ")
        return _read_field(_Reader(text))
    except (_NotOurGrammar, ValueError):
        return None


def forged(header: bytes, authserv_id: str) -> tuple[tuple[int, int], ...]:
    """The ranges of a header section (CRLF) whose fields must not reach anyone who trusts us (RFC 8601 5).

    Those are all that bear our authserv-id, whatever letter case, quotes, comments, folding or A-labels it is written
    with, those of a version we do not know, and those whose beginning nobody could read for certain.
    """
    if b"authentication-results" not in header.lower():
        return ()
    ours = _key(authserv_id)
    return tuple(match.span() for match in _FIELD.finditer(header) if not _is_foreign(match.group(1), ours))


def _is_foreign(value: bytes, ours: str) -> bool:
    reader = _Reader(value.decode("utf-8", "surrogateescape").replace("\r\n", ""))
    try:
        name, version = _read_head(reader)
    except (_NotOurGrammar, ValueError):
        return False
    return version == VERSION and (reader.at_end or reader.peek() == ";") and _key(name) != ours


def _key(authserv_id: str) -> str:
    """What all ways to write one authserv-id have in common, for readers that are less particular than we are."""
    plain = unicodedata.normalize("NFKC", authserv_id)
    name = "".join(c for c in plain if c.isprintable() and c != " ").rstrip(".")
    try:
        return ascii_domain(name)
    except AddressError:
        return unicodedata.normalize("NFKC", name.casefold())


class _NotOurGrammar(Exception):
    """The text is not what RFC 8601 2.2 says."""


class _Reader:
    """A place in an unfolded text; each method reads one thing there, or raises `_NotOurGrammar`."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at >= len(self._text)

    def peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def cfws(self) -> bool:
        """Blanks and comments, nested ones too; whether there were any."""
        begun, depth, text = self._at, 0, self._text
        while self._at < len(text):
            c = text[self._at]
            if c == "(":
                depth += 1
            elif depth and c == ")":
                depth -= 1
            elif depth and c == "\\":
                self._at += 1
            elif c not in " \t" and (not depth or c < " " or c == "\x7f"):
                break
            self._at += 1
        if depth:
            raise _NotOurGrammar
        return self._at > begun

    def match(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self._text, self._at)
        if found is None:
            return None
        self._at = found.end()
        return found.group()

    def need(self, pattern: re.Pattern[str]) -> str:
        found = self.match(pattern)
        if found is None:
            raise _NotOurGrammar
        return found

    def take(self, char: str) -> bool:
        if self.peek() != char:
            return False
        self._at += 1
        return True

    def value(self) -> str:
        quoted = self.match(_QUOTED)
        return self.need(_TOKEN) if quoted is None else re.sub(r"\\(.)", r"\1", quoted[1:-1])

    def property_value(self) -> str:
        """A value, or `[[local-part] "@"] domain-name`."""
        if self.peek() == '"':
            return self.value()
        return self.match(_ADDRESS) or self.need(_TOKEN)


_DIGITS = re.compile(r"[0-9]{1,9}(?![0-9])")


def _read_head(reader: _Reader) -> tuple[str, int]:
    reader.cfws()
    name = reader.value()
    version = VERSION
    if reader.cfws() and (digits := reader.match(_DIGITS)):
        version = int(digits)
        reader.cfws()
    return name, version


def _read_field(reader: _Reader) -> AuthenticationResults:
    name, version = _read_head(reader)
    if version != VERSION or not reader.take(";"):
        raise _NotOurGrammar
    results: list[Result] = []
    while True:
        reader.cfws()
        method = reader.need(_KEYWORD)
        reader.cfws()
        if not results and method.lower() == "none" and reader.at_end:
            return AuthenticationResults(name)
        results.append(_read_result(reader, method))
        if reader.at_end:
            return AuthenticationResults(name, tuple(results))
        if not reader.take(";"):
            raise _NotOurGrammar


def _read_result(reader: _Reader, method: str) -> Result:
    if reader.take("/"):
        reader.cfws()
        reader.need(_DIGITS)
        reader.cfws()
    _equals(reader)
    result = reader.need(_KEYWORD)
    reason: str | None = None
    properties: list[Property] = []
    while True:
        reader.cfws()
        if reader.at_end or reader.peek() == ";":
            return Result(method, result, properties=tuple(properties), reason=reason)
        word = reader.need(_KEYWORD)
        reader.cfws()
        if reader.take("."):
            reader.cfws()
            name = reader.need(_KEYWORD)
            reader.cfws()
            _equals(reader)
            properties.append(Property(word, name, reader.property_value()))
        elif word.lower() == "reason" and reason is None and not properties:
            _equals(reader)
            reason = reader.value()
        else:
            raise _NotOurGrammar


def _equals(reader: _Reader) -> None:
    if not reader.take("="):
        raise _NotOurGrammar
    reader.cfws()
