"""The text of a whitelist's entry, if it may be shown (RFC 8904 3, 5.3): whole and unaltered, or not at all."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import attrs
import dns.rdata
import idna
from dns.rdtypes.ANY.TXT import TXT

from requiretls_mta.message.address import AddressError, check_domain

MOST_OCTETS = 255
# Controls, formats (bidi among them), surrogates, private, unassigned, line and paragraph separators.
_HARMFUL = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"
_TOGETHER = (
    frozenset({"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"}),
    frozenset({"CJK", "HANGUL"}),
    frozenset({"CJK", "BOPOMOFO"}),
)
"""Scripts that one word is written in."""


@attrs.frozen
class Text:
    """What policy.txt says."""

    value: str
    in_ascii: str | None
    """The same with the domain in front as A-labels, for messages without SMTPUTF8; None: it cannot be shown there."""
    domain: str | None
    """The domain in front as A-labels, if it names anybody (RFC 8904 3: nothing below `.invalid` does)."""


def reportable(records: Sequence[dns.rdata.Rdata], *, needs_domain: bool, limit: int = MOST_OCTETS) -> Text | None:
    """The text of TXT records; None unless it is harmless and, with `needs_domain`, begins with a domain.

    It is never shortened: the beginning of one domain is another domain.
    """
    # The strings of one record belong together (RFC 7208 3.3). Records have no order, and gluing them together would
    # make new domains.
    octets = b" ".join(sorted(b"".join(record.strings) for record in records if isinstance(record, TXT)))
    if not octets or len(octets) > limit:
        return None
    try:
        text = octets.decode("utf-8").replace("\t", " ")
    except UnicodeDecodeError:
        return None
    word = text.partition(" ")[0]
    domain = _domain(word)
    if (needs_domain and domain is None) or not _is_harmless(text, word if domain else ""):
        return None
    rest = text[len(word) :]
    if text.isascii():
        in_ascii: str | None = text
    else:
        in_ascii = domain + rest if domain and rest.isascii() else None
    named = domain is not None and not domain.lower().endswith(".invalid")
    return Text(text, in_ascii, domain if named else None)


def _domain(word: str) -> str | None:
    """The A-labels of a domain name of at least two labels."""
    try:
        if not word.isascii():
            word = idna.encode(word).decode("ascii")  # strictly: what needs mapping is no U-label
        name = word.removesuffix(".")
        check_domain(name)
    except (AddressError, UnicodeError):  # idna's errors are UnicodeErrors
        return None
    return name if not name.startswith("[") and "." in name and not name.rpartition(".")[2].isdigit() else None


def _is_harmless(text: str, word: str) -> bool:
    if not unicodedata.is_normalized("NFC", text):  # RFC 5198
        return False
    # A joiner counts only where IDNA has found it to belong.
    for place, char in enumerate(text):
        joins = char in _JOINERS and place < len(word)
        if (unicodedata.category(char) in _HARMFUL and not joins) or (char != " " and char.isspace()):
            return False
    return _is_single_script(text)


def _is_single_script(text: str) -> bool:
    """Whether no word mixes scripts, as those that imitate others do."""
    scripts: set[str] = set()
    for char in text:
        kind = unicodedata.category(char)[0]
        if kind == "L":
            scripts.add(unicodedata.name(char, "?").partition(" ")[0])
            if len(scripts) > 1 and not any(scripts <= together for together in _TOGETHER):
                return False
        elif kind not in "MN" and char not in "-_":
            scripts.clear()
    return True
