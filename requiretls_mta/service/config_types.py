"""The kinds of values in the configuration: how each is read from TOML, and written again."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NewType, TypeVar
from urllib.parse import urlsplit

from requiretls_mta.checks.dnswl_rules import parse_pattern as parse_codes
from requiretls_mta.dns.settings import parse_server
from requiretls_mta.message.address import Address, AddressError, ascii_domain, check_domain, parse_mailbox
from requiretls_mta.receive.rates import Rate
from requiretls_mta.relay.static_routes import parse_route
from requiretls_mta.service.config_errors import Refused, shown
from requiretls_mta.service.endpoints import Endpoint, parse_endpoint

T = TypeVar("T")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

Duration = NewType("Duration", float)
"""Seconds; written `30s`, `5m`, `4h`, `5d`, or several of these together."""
DurationOrNone = NewType("DurationOrNone", float)
"""Likewise; `0s` switches off what would last so long."""
Size = NewType("Size", int)
"""Octets; written as an integer or `50M`, `512K`."""
Port = NewType("Port", int)
Count = NewType("Count", int)
"""An integer from 1 on."""
Domain = NewType("Domain", str)
"""A host or domain name as A-labels in lower case."""
ListZone = NewType("ListZone", Domain)
"""A `Domain` that may hold a key, and is not shown where it is wrong."""
DomainPattern = NewType("DomainPattern", str)
"""A `Domain`, one behind a dot (its subdomains), or `*`."""
AddressKey = NewType("AddressKey", str)
"""`Address.key` of a mailbox, or `@` and a domain as A-labels in lower case."""
Addresses = NewType("Addresses", tuple[Address, ...])
"""One address or a list of them."""
Endpoints = NewType("Endpoints", tuple[Endpoint, ...])
"""One endpoint description or a list of them."""
Maildir = NewType("Maildir", str)
Lmtp = NewType("Lmtp", str)
StoreURL = NewType("StoreURL", str)
File = NewType("File", Path)
"""An absolute path; a relative one starts at the configuration's folder."""
FileOrWord = NewType("FileOrWord", str)
"""An absolute path, or one of the words that its key allows instead."""
NextHop = NewType("NextHop", str)
"""`smtp:`, `smtps:` or `lmtp:` with a host or domain, or `lmtp:unix:/path`."""
AnswerPattern = NewType("AnswerPattern", str)
"""DNSWL answers: an address, one with `[a..b]` ranges, or a bit mask behind `&`."""
NameServer = NewType("NameServer", tuple[str, int])
"""A DNS server's address and port."""
Contact = NewType("Contact", str)
"""`mailto:` and an ASCII mailbox, its domain as A-labels in lower case."""
SenderPattern = NewType("SenderPattern", str)
"""An address in which `*`, `?` and `{user}` may stand."""
RateText = NewType("RateText", str)
"""A number and a duration, `500/1h`; empty for no limit."""
SourceIPv4 = NewType("SourceIPv4", str)
SourceIPv6 = NewType("SourceIPv6", str)

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,8})h)?(?:(\d{1,9})m)?(?:(\d{1,10}(?:\.\d{1,3})?)s)?\Z", re.ASCII)
_SIZE = re.compile(r"(\d{1,15})([KMG]?)\Z", re.ASCII)
_FACTORS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}|[{}]")


def parse_duration(value: object) -> Duration:
    """Seconds of a text such as `30s`, `1h30m` or `5d`; longest unit first. Raises `Refused`."""
    allowed = 'a duration such as "30s", "5m", "4h", "5d" or "1h30m", above zero'
    if not isinstance(value, str) or not value or not (match := _DURATION.match(value)):
        raise Refused(allowed)
    seconds = sum(float(n) * f for n, f in zip(match.groups(), _UNITS.values(), strict=True) if n is not None)
    if seconds <= 0:
        raise Refused(allowed)
    return Duration(seconds)


def parse_duration_or_none(value: object) -> DurationOrNone:
    """`parse_duration`, and `0s`. Raises `Refused`."""
    if value == "0s":
        return DurationOrNone(0.0)
    try:
        return DurationOrNone(parse_duration(value))
    except Refused:
        raise Refused('a duration such as "12h" or "7d", or "0s" to switch it off') from None


def write_duration(seconds: float) -> str:
    """The text that `parse_duration` reads back to the same seconds (to a millisecond)."""
    thousandths = round(seconds * 1000)
    text = ""
    for unit, factor in _UNITS.items():
        if unit == "s":
            break
        count, thousandths = divmod(thousandths, factor * 1000)
        text += f"{count}{unit}" if count else ""
    if thousandths or not text:
        text += f"{thousandths / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    return text


def parse_size(value: object) -> Size:
    """Octets of an integer or of a text such as `50M` or `1K`. Raises `Refused`."""
    octets = 0
    if isinstance(value, int) and not isinstance(value, bool):
        octets = value
    elif isinstance(value, str) and (match := _SIZE.match(value)):
        octets = int(match.group(1)) * _FACTORS[match.group(2)]
    if octets < 1:
        raise Refused('a size: octets as an integer, or a text such as "512K" or "50M", above zero')
    return Size(octets)


def write_size(octets: int) -> str | int:
    """The shortest exact form of a size."""
    for suffix in "GMK":
        if octets % _FACTORS[suffix] == 0:
            return f"{octets // _FACTORS[suffix]}{suffix}"
    return octets


def parse_integer(value: object, low: int, high: int | None = None) -> int:
    """An integer within limits. Raises `Refused`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        raise Refused(f"an integer from {low} to {high}" if high is not None else f"an integer from {low} on")
    return value


def parse_text(value: object) -> str:
    """A text without controls. Raises `Refused`."""
    if not isinstance(value, str) or not all(c.isprintable() for c in value):
        raise Refused("a text without control characters")
    return value


def parse_bool(value: object) -> bool:
    """A boolean. Raises `Refused`."""
    if not isinstance(value, bool):
        raise Refused("true or false")
    return value


def parse_domain(value: object) -> Domain:
    """A host or domain name, in its compared form. Raises `Refused`."""
    try:
        text = parse_text(value)
        check_domain(text)
        return Domain(ascii_domain(text))
    except (AddressError, Refused):
        raise Refused("a host or domain name of letters, digits and hyphens between dots") from None


def parse_list_zone(value: object) -> ListZone:
    """A domain name, in its compared form. Raises `Refused`, never showing what was found."""
    try:
        return ListZone(parse_domain(value))
    except Refused as error:
        raise Refused(error.allowed, found="something else (not shown: it may hold a key)") from None


def parse_pattern(value: object) -> DomainPattern:
    """A domain, `.domain` for its subdomains, or `*`. Raises `Refused`."""
    if value == "*":
        return DomainPattern("*")
    try:
        dot = "." if isinstance(value, str) and value.startswith(".") else ""
        return DomainPattern(dot + parse_domain(value[1:] if dot and isinstance(value, str) else value))
    except Refused:
        raise Refused('a domain, ".domain" for its subdomains, or "*"') from None


def parse_address(value: object) -> Address:
    """A mailbox. Raises `Refused`."""
    try:
        return parse_mailbox(parse_text(value), utf8=True)
    except (AddressError, Refused):
        raise Refused("an address local@domain") from None


def parse_contact(value: object) -> Contact:
    """A mailbox that ASCII can write, with or without `mailto:` (RFC 8460 4.4). Raises `Refused`."""
    allowed = "mailto: and an address local@domain in ASCII"
    try:
        address = parse_mailbox(parse_text(value).removeprefix("mailto:"), utf8=True)
        domain = ascii_domain(address.domain)
    except (AddressError, Refused):
        raise Refused(allowed) from None
    if not address.local.isascii() or address.is_literal:
        raise Refused(allowed)
    return Contact(f"mailto:{Address(address.local, domain)}")


def parse_address_key(value: object) -> AddressKey:
    """The compared form of a mailbox, or of all others in a domain. Raises `Refused`."""
    if isinstance(value, str) and value.startswith("@"):
        return AddressKey(f"@{parse_domain(value[1:])}")
    return AddressKey(parse_address(value).key)


def parse_addresses(value: object) -> Addresses:
    """One mailbox, or a list of at least one. Raises `Refused`."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise Refused("an address local@domain, or a list of at least one")
    return Addresses(tuple(_each(values, parse_address)))


def _each(values: list[Any], read: Callable[[object], T]) -> Iterator[T]:
    for value in values:
        try:
            yield read(value)
        except Refused as error:
            raise Refused(error.allowed, error.found or shown(value)) from None


def parse_network(value: object) -> Network:
    """An IP address or network. Raises `Refused`."""
    try:
        if not isinstance(value, str) or "%" in value:
            raise ValueError
        return ipaddress.ip_network(value)
    except ValueError:
        raise Refused("an IP address, or a network such as 192.0.2.0/24 with no host bits set") from None


def parse_ip(value: object, version: int) -> str:
    """An address of that IP version, or the empty text. Raises `Refused`."""
    try:
        if value == "":
            return ""
        if not isinstance(value, str) or "%" in value:
            raise ValueError
        address = ipaddress.ip_address(value)
        if address.version != version:
            raise ValueError
    except ValueError:
        raise Refused(f'an IPv{version} address, or "" for whichever the system chooses') from None
    return str(address)


def parse_name_server(value: object) -> NameServer:
    """`address`, `address:port` or `[address]:port`. Raises `Refused`."""
    try:
        return NameServer(parse_server(parse_text(value)))
    except ValueError:
        raise Refused('an IP address with or without port: "127.0.0.1:53", "[::1]:53"') from None


def parse_file(value: object, folder: Path) -> File:
    """A path, made absolute. Raises `Refused`."""
    text = parse_text(value)
    if not text:
        raise Refused("the path of a file")
    return File(folder / text)


def parse_file_or(value: object, folder: Path, words: tuple[str, ...]) -> FileOrWord:
    """One of the words, or a path made absolute. Raises `Refused`."""
    text = value if isinstance(value, str) else ""
    if text in words:
        return FileOrWord(text)
    if not text or not all(c.isprintable() for c in text):
        raise Refused(" or ".join(f'"{word}"' for word in words) + " or the path of a file")
    return FileOrWord(str(folder / text))


def parse_sender_pattern(value: object) -> SenderPattern:
    """A pattern that can match an address. Raises `Refused`."""
    text = parse_text(value)
    rest = text.replace("{user}", "")
    if "{" in rest or "}" in rest or ("@" not in text and rest == text and "*" not in text):
        raise Refused("an address local@domain, in which *, ? and {user} may stand")
    return SenderPattern(text)


def parse_rate(value: object) -> RateText:
    """A number in a time, or the empty text. Raises `Refused`."""
    text = value if isinstance(value, str) else "?"
    try:
        if text:
            read_rate(text)
    except Refused:
        raise Refused('a number in a time, such as "500/1h", or "" for no limit') from None
    return RateText(text)


def read_rate(text: str) -> Rate:
    """What `parse_rate` let pass, but for the empty text. Raises `Refused`."""
    number, _, duration = text.partition("/")
    if not re.fullmatch(r"[1-9][0-9]{0,8}", number):
        raise Refused("a number")
    return Rate(int(number), parse_duration(duration), text)


def parse_maildir(value: object, folder: Path) -> Maildir:
    """A path with the placeholders `{domain}`, `{local}` and `{user}`. Raises `Refused`."""
    text = parse_text(value)
    if not text or any(m.group(1) not in ("domain", "local", "user") for m in _PLACEHOLDER.finditer(text)):
        raise Refused("a path in which {domain}, {local} and {user} may stand")
    if ".." in Path(text).parts:
        raise Refused("a path without ..")
    return Maildir(str(folder / text))


def parse_lmtp(value: object, folder: Path) -> Lmtp:
    """`unix:/path` or `tcp:host:port`. Raises `Refused`."""
    text = parse_text(value)
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest:
        return Lmtp(f"unix:{folder / rest}")
    if kind == "tcp" and _is_host_port(rest):
        return Lmtp(text)
    raise Refused('"unix:/path/of/socket" or "tcp:host:port"')


def parse_next_hop(value: object, folder: Path) -> NextHop:
    """A static route's next hop. Raises `Refused`."""
    text = parse_text(value)
    scheme, _, rest = text.partition(":")
    if scheme == "lmtp" and rest.startswith("unix:") and len(rest) > 5:
        return NextHop(f"lmtp:unix:{folder / rest[5:]}")
    try:
        host = parse_route(text).host
        if ":" in host:
            ipaddress.ip_address(host)
        return NextHop(text)
    except ValueError:
        pass
    raise Refused('"smtp:", "smtps:" or "lmtp:", then a domain, or [host] for no MX lookup, then ":port" if need be')


def _is_host_port(text: str) -> bool:
    match = re.fullmatch(r"(\[[^\[\]]+\]|[^:\[\]]+):(\d{1,5})", text, re.ASCII)
    if not match or not 0 < int(match.group(2)) < 65536:
        return False
    host = match.group(1)
    inside = host[1:-1] if host.startswith("[") else host
    try:
        ipaddress.ip_address(inside)
    except ValueError:
        try:
            parse_domain(inside)
        except Refused:
            return False
    return True


def parse_listen(value: object, folder: Path) -> Endpoints:
    """One endpoint description or a list of them. Raises `Refused`."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise Refused("an endpoint description or a list of at least one")
    return Endpoints(tuple(_each(values, lambda text: parse_endpoint(text, folder))))


def parse_answers(value: object) -> AnswerPattern:
    """A pattern of DNSWL answers. Raises `Refused`."""
    try:
        return AnswerPattern(parse_codes(parse_text(value)).text)
    except ValueError:
        raise Refused(
            'an IPv4 address, in which "[a..b]" may stand for a range, or a bit mask such as "&0.0.0.4"'
        ) from None


def parse_store_url(value: object) -> StoreURL:
    """The URL of a shared store, or the empty text. Raises `Refused`, never showing what was found."""
    try:
        url = urlsplit(parse_text(value))
        good = value == "" or url.scheme in ("postgresql", "postgres")
    except ValueError:
        good = False
    if not good:
        raise Refused('"" for the embedded store, or "postgresql://..."', found="something else")
    return StoreURL(str(value))
