"""xtext, the encoding of ENVID and ORCPT values (RFC 3461 4), and unitext, that of the latter in UTF-8 (RFC 6533 3)."""

from __future__ import annotations

import re

_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*\Z")
_HEXCHAR = re.compile(r"\+([0-9A-F]{2})")


def is_xtext(text: str) -> bool:
    """Whether `text` is valid xtext: printable ASCII but `+` and `=`, or `+XX` in upper-case hex."""
    return _XTEXT.match(text) is not None


def decode(text: str) -> str:
    """The text that xtext stands for; the caller has checked `is_xtext`."""
    return _HEXCHAR.sub(lambda match: chr(int(match.group(1), 16)), text)


def encode(text: str) -> str:
    """ASCII `text` as xtext."""
    return "".join(c if "!" <= c <= "~" and c not in "+=" else f"+{ord(c):02X}" for c in text)


def embed(text: str, specials: str = "\\+=") -> str:
    """`text` in the ASCII form of unitext: what is not graphic ASCII, and `specials`, by hexadecimal number."""
    return "".join(c if "!" <= c <= "~" and c not in specials else f"\\x{{{ord(c):X}}}" for c in text)
