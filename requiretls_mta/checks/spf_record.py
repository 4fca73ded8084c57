"""SPF records (RFC 7208 4.6, 5, 6, 7): their grammar, and the expansion of macros.

Whoever owns a domain writes the record, so every pattern here takes time in proportion to the record's length.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Literal
from urllib.parse import quote

import attrs

Verb = Literal["pass", "fail", "softfail", "neutral", "none", "temperror", "permerror"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LONGEST_RECORD = 8192
"""Octets; RFC 7208 3.4 wants all of them in 512."""
LONGEST_NAME = 253
_QUALIFIERS: Mapping[str, Verb] = {"+": "pass", "-": "fail", "~": "softfail", "?": "neutral"}
_VERSION = re.compile(rb"v=spf1(?: |\Z)", re.IGNORECASE)
_MODIFIER = re.compile(r"([A-Za-z][A-Za-z0-9._-]*)=(.*)\Z")
_MECHANISM = re.compile(r"([+?~-]?)([A-Za-z0-9._-]+)(.*)\Z")
_CIDR = re.compile(r"((?:/(?:0|[1-9][0-9]{0,2}))?)((?://(?:0|[1-9][0-9]{0,2}))?)\Z")
_DOMAIN_CIDR = re.compile(r"(?:/[0-9]+)?(?://[0-9]+)?\Z")
_MACRO = re.compile(r"%(?:\{([slodiphcrtv])([0-9]{0,3})(r?)([-.+,/_=]*)\}|([%_-]))", re.IGNORECASE)
_LITERALS = re.compile(r"[!-$&-~]*")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")
_LITERAL_MACROS = {"%": "%", "_": " ", "-": "%20"}
_ONLY_IN_EXPLANATIONS = frozenset("crt")


class SyntaxFault(Exception):
    """The record is none (RFC 7208 4.6): a permerror; the message says why."""


class NeverMatches(Exception):
    """A macro stands for a local part outside ASCII: its term matches nothing (RFC 8616 4)."""


@attrs.frozen(kw_only=True)
class Mechanism:
    """One directive."""

    result: Verb
    """That of its qualifier."""
    kind: str
    """`all`, `include`, `a`, `mx`, `ptr`, `ip4`, `ip6` or `exists`."""
    target: Template | None = None
    """None: the current domain."""
    network: Network | None = None
    prefixes: tuple[int, int] = (32, 128)
    """Lengths for IPv4 and IPv6."""


@attrs.frozen(kw_only=True)
class Record:
    """One record."""

    mechanisms: tuple[Mechanism, ...]
    redirect: Template | None = None
    explanation: Template | None = None


# --- macros -----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Macro:
    """One macro: `%{d2r}` and its like."""

    letter: str
    """In lower case."""
    parts: int | None
    """How many, counted from the right; None: all."""
    is_reversed: bool
    delimiters: str
    escapes: bool
    """Whether the value is URL-escaped (an upper-case letter)."""

    def expand(self, value: str) -> str:
        """The text that stands for it."""
        delimiters = self.delimiters or "."
        parts = re.split("[" + re.escape(delimiters) + "]", value)
        if self.is_reversed:
            parts.reverse()
        text = ".".join(parts if self.parts is None else parts[-self.parts :])
        return quote(text, safe="~") if self.escapes else text


@attrs.frozen
class Template:
    """A macro-string, taken apart."""

    pieces: tuple[str | Macro, ...]

    @property
    def letters(self) -> frozenset[str]:
        """The macros that it uses."""
        return frozenset(piece.letter for piece in self.pieces if isinstance(piece, Macro))

    def expand(self, values: Mapping[str, str]) -> str:
        """The text, with a value for each of `letters`."""
        return "".join(piece if isinstance(piece, str) else piece.expand(values[piece.letter]) for piece in self.pieces)

    def expand_name(self, values: Mapping[str, str]) -> str:
        """The domain name; one that is too long loses labels on its left (RFC 7208 7.3)."""
        name = self.expand(values).removesuffix(".")
        while len(name) > LONGEST_NAME and "." in name:
            # All labels at once that have to go: one by one would take long.
            name = name[len(name) - LONGEST_NAME - 1 :].partition(".")[2]
        return name


def parse_macros(text: str, *, explains: bool = False) -> Template:
    """Read a macro-string; in explanations (`explains`) blanks may stand, and all macros. Raises `SyntaxFault`."""
    pieces: list[str | Macro] = []
    at = 0
    while at < len(text):
        if text[at] == "%":
            match = _MACRO.match(text, at)
            if match is None:
                raise SyntaxFault(f"{text[at : at + 20]!r} is no macro")
            pieces.append(_read_macro(match, explains=explains))
        else:
            match = _LITERALS.match(text, at)
            assert match is not None
            if match.end() == at and not (explains and text[at] == " "):
                raise SyntaxFault(f"{text[at]!r} may not stand in a domain")
            pieces.append(match.group() or " ")
        at = max(match.end(), at + 1)
    return Template(tuple(pieces))


def _read_macro(match: re.Match[str], *, explains: bool) -> str | Macro:
    letter, digits, reverse, delimiters, literal = match.groups()
    if literal is not None:
        return _LITERAL_MACROS[literal]
    if letter.lower() in _ONLY_IN_EXPLANATIONS and not explains:
        raise SyntaxFault(f"macro {letter} is for explanations only")
    if digits and int(digits) == 0:
        raise SyntaxFault("a macro that keeps no part")
    parts = int(digits) if digits else None
    return Macro(letter.lower(), parts, bool(reverse), delimiters, letter.isupper())


def _parse_domain(text: str) -> Template:
    """A domain-spec: a macro-string that ends in a macro, or in a label that could be a top-level domain's."""
    template = parse_macros(text)
    if not text.endswith("}") and not re.search(r"%[%_-]\Z", text):
        _, dot, last = text.removesuffix(".").rpartition(".")
        if not dot or not _LABEL.match(last) or last.isdigit():
            raise SyntaxFault(f"{text[:80]!r} is no domain")
    return template


# --- records ----------------------------------------------------------------------------------------------------------


def is_record(text: bytes) -> bool:
    """Whether a TXT record says that it is one of SPF's (RFC 7208 4.5)."""
    return _VERSION.match(text) is not None


def parse_record(octets: bytes) -> Record:
    """Read a record that `is_record`; raises `SyntaxFault`, whatever is wrong and wherever (RFC 7208 4.6)."""
    if len(octets) > LONGEST_RECORD:
        raise SyntaxFault(f"the record has more than {LONGEST_RECORD} octets")
    if not octets.isascii():
        raise SyntaxFault("the record has octets outside ASCII")
    mechanisms: list[Mechanism] = []
    modifiers: dict[str, Template] = {}
    for term in filter(None, octets.decode("ascii").split(" ")[1:]):
        modifier = _MODIFIER.match(term)
        if modifier is None:
            mechanisms.append(_parse_mechanism(term))
            continue
        name = modifier.group(1).lower()
        if name not in ("redirect", "exp"):
            parse_macros(modifier.group(2), explains=True)
        elif name in modifiers:
            raise SyntaxFault(f"{name}= stands there twice")
        else:
            modifiers[name] = _parse_domain(modifier.group(2))
    return Record(mechanisms=tuple(mechanisms), redirect=modifiers.get("redirect"), explanation=modifiers.get("exp"))


def _parse_mechanism(term: str) -> Mechanism:
    match = _MECHANISM.match(term)
    if match is None:
        raise SyntaxFault(f"{term[:80]!r} is no term")
    result, kind, rest = _QUALIFIERS[match.group(1) or "+"], match.group(2).lower(), match.group(3)
    if kind == "all" and not rest:
        return Mechanism(result=result, kind=kind)
    if kind in ("include", "exists") and rest.startswith(":"):
        return Mechanism(result=result, kind=kind, target=_parse_domain(rest[1:]))
    if kind == "ptr" and (not rest or rest.startswith(":")):
        return Mechanism(result=result, kind=kind, target=_parse_domain(rest[1:]) if rest else None)
    if kind in ("a", "mx"):
        cidr = _DOMAIN_CIDR.search(rest, max(0, len(rest) - 12))
        at = cidr.start() if cidr else len(rest)
        domain = rest[:at]
        if not domain or domain.startswith(":"):
            target = _parse_domain(domain[1:]) if domain else None
            return Mechanism(result=result, kind=kind, target=target, prefixes=_prefixes(rest[at:]))
    if kind in ("ip4", "ip6") and rest.startswith(":"):
        return Mechanism(result=result, kind=kind, network=_network(kind, rest[1:]))
    raise SyntaxFault(f"{term[:80]!r} is no mechanism")


def _prefixes(text: str) -> tuple[int, int]:
    match = _CIDR.match(text)
    if match is None:
        raise SyntaxFault(f"{text!r} is no length of a prefix")
    v4, v6 = (int(part.lstrip("/")) if part else most for part, most in zip(match.groups(), (32, 128), strict=True))
    if v4 > 32 or v6 > 128:
        raise SyntaxFault(f"{text!r} is longer than an address")
    return v4, v6


def _network(kind: str, text: str) -> Network:
    address, slash, length = text.partition("/")
    if slash and not re.fullmatch(r"0|[1-9][0-9]{0,2}", length):
        raise SyntaxFault(f"{length[:80]!r} is no length of a prefix")
    try:
        if "%" in address:
            raise ValueError
        if kind == "ip4":
            return ipaddress.IPv4Network((address, int(length) if slash else 32), strict=False)
        return ipaddress.IPv6Network((address, int(length) if slash else 128), strict=False)
    except ValueError:
        raise SyntaxFault(f"{text[:80]!r} is no network of {kind}") from None


def strings(records: tuple[object, ...]) -> Iterator[bytes]:
    """TXT records, the strings of each joined (RFC 7208 3.3)."""
    for record in records:
        yield b"".join(getattr(record, "strings", ()))
