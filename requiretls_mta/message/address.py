"""Mailboxes of the SMTP envelope (RFC 5321 4.1.2, RFC 6531 3.3): parse, compare, write.

An `Address` holds the *meaning* of a mailbox: the local part without its quotes, the domain as it was written. Whoever
compares uses `key`, whoever writes uses `str()`, which quotes again where the grammar asks for it.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import unicodedata

import attrs
import idna

_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"
# RFC 6531 3.3 takes all of UTF-8. The C1 controls are of no use in a name, and surrogates are no UTF-8.
_UTF8 = r"\u00a0-\ud7ff\ue000-\U0010ffff"
_DOT_STRING = re.compile(rf"[{_ATEXT}{_UTF8}]+(?:\.[{_ATEXT}{_UTF8}]+)*\Z")
_QUOTED = re.compile(rf'"((?:[ !#-\[\]-~{_UTF8}]|\\[ -~])*)"\Z')
# Underscores are no letters of RFC 5321's sub-domain, but of many a host's name; Postfix takes them as well.
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\Z")

LOCAL_LIMIT = 64
"""Octets of a local part (RFC 5321 4.5.3.1.1)."""
DOMAIN_LIMIT = 255
"""Octets of a domain (RFC 5321 4.5.3.1.2)."""


class AddressError(ValueError):
    """The text is not a mailbox; the message says what was found and what is allowed."""


class AddressNeedsUTF8(AddressError):
    """The mailbox holds characters outside ASCII, but SMTPUTF8 was not asked for (RFC 6531 3.5)."""


@attrs.frozen
class Address:
    """One mailbox."""

    local: str
    """The local part, without quotes and escapes."""
    domain: str
    """The domain as written, an address literal in brackets, or empty (only ever of a bare `postmaster`)."""

    text: str = attrs.field(init=False, eq=False, repr=False)
    """As it is written in commands and fields."""

    @text.default
    def _(self) -> str:
        local = self.local if _DOT_STRING.match(self.local) else _quote(self.local)
        return f"{local}@{self.domain}" if self.domain else local

    def __str__(self) -> str:
        return self.text

    @property
    def is_ascii(self) -> bool:
        """Whether every character is ASCII."""
        return self.local.isascii() and self.domain.isascii()

    @property
    def is_literal(self) -> bool:
        """Whether the domain is an address literal."""
        return self.domain.startswith("[")

    @property
    def key(self) -> str:
        """What is compared: local part without case and in NFC, domain as A-labels in lower case."""
        local = self.local.lower() if self.local.isascii() else _folded(self.local)
        return f"{local}@{ascii_domain(self.domain)}"


def parse_mailbox(text: str, *, utf8: bool = False, bare: bool = False) -> Address:
    """Read `local@domain`.

    `utf8` allows characters outside ASCII, `bare` a local part without domain (`postmaster`, RFC 5321 4.1.1.3).
    Raises `AddressError`, or its subclass `AddressNeedsUTF8`.
    """
    if not utf8 and not text.isascii():
        raise AddressNeedsUTF8("the address has characters outside ASCII; SMTPUTF8 is needed")
    # A quoted local part may hold an @, a domain may not.
    local_text, at, domain = text.rpartition("@")
    if not at:
        if not bare:
            raise AddressError("the address has no domain; local@domain is needed")
        local_text, domain = text, ""
    else:
        check_domain(domain)
    return Address(_read_local(local_text), domain)


@functools.lru_cache(maxsize=4096)  # of a fixed number of octets each: the same domains come again and again
def check_domain(domain: str) -> None:
    """Raise `AddressError` unless `domain` is a host name (A- or U-labels) or an address literal."""
    if domain.startswith("["):
        literal_address(domain)
        return
    ascii_form = ascii_domain(domain)
    if len(ascii_form) > DOMAIN_LIMIT or not all(_LABEL.match(label) for label in ascii_form.split(".")):
        raise AddressError("the domain is not a host name of letters, digits and hyphens between dots")


def ascii_domain(domain: str) -> str:
    """The domain as A-labels in lower case (RFC 5890); raises `AddressError` when it has none."""
    if domain.isascii():
        return domain.lower()
    if len(domain) > DOMAIN_LIMIT:
        raise AddressError(f"the domain has more than {DOMAIN_LIMIT} characters")
    try:
        return idna.encode(domain, uts46=True).decode("ascii").lower()
    except (idna.IDNAError, UnicodeError) as error:
        raise AddressError("the internationalized domain has no valid A-label form") from error


def literal_address(domain: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IP address in an address literal (RFC 5321 4.1.3); raises `AddressError`."""
    if not (domain.startswith("[") and domain.endswith("]")):
        raise AddressError("an address literal is an IP address in brackets")
    inside = domain[1:-1]
    try:
        if inside[:5].lower() == "ipv6:":
            if "%" in inside:
                raise ValueError
            return ipaddress.IPv6Address(inside[5:])
        return ipaddress.IPv4Address(inside)
    except ValueError:
        raise AddressError("an address literal is [192.0.2.1] or [IPv6:2001:db8::1]") from None


def names_mailbox(local: str) -> bool:
    """Whether a local part can name a mailbox here: nothing that could be taken for a path, nothing unprintable."""
    if not local or len(local.encode("utf-8", "surrogatepass")) > LOCAL_LIMIT or local.startswith("."):
        return False
    return "/" not in local and all(c.isprintable() for c in local)


def _read_local(text: str) -> str:
    if _DOT_STRING.match(text):
        local = text
    elif quoted := _QUOTED.match(text):
        local = re.sub(r"\\(.)", r"\1", quoted.group(1))
    else:
        raise AddressError("the local part is neither atoms between dots nor a quoted string")
    if not local or len(local.encode("utf-8", "surrogatepass")) > LOCAL_LIMIT:
        raise AddressError(f"the local part must have 1 to {LOCAL_LIMIT} octets")
    return local


def _folded(local: str) -> str:
    """Canonical caseless matching (Unicode 3.13, D145), written in NFC as RFC 6532 3.1 wants it."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", local).casefold())


def _quote(local: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", local) + '"'
