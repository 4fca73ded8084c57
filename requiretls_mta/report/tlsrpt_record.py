"""Where a domain wants its reports: the TXT record of RFC 8460 3, read as its grammar has it. Nothing here raises."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from urllib.parse import unquote_to_bytes, urlsplit

import attrs

from requiretls_mta.message.address import Address, AddressError, check_domain, parse_mailbox

MOST_TARGETS = 4
"""Destinations of one domain's reports; the first ones count."""
LONGEST_URI = 2048
_BEGIN = b"v=TLSRPTv1;"
# Later versions may have fields of any form, as long as they are pairs of names and values.
_FIELD = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31})=([ -:<-~]+)\Z")
# RFC 3986; "," ";" and "!" must be encoded.
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[\"-+\--:<-~]+\Z")


@attrs.frozen
class Mail:
    """Reports go to a mailbox."""

    address: Address


@attrs.frozen
class Post:
    """Reports are posted to an HTTPS server."""

    host: str
    """A name in ASCII, lower case; it has to be proved by a certificate."""
    port: int
    uri: str
    """The whole of it, without a fragment."""


Target = Mail | Post


def record_name(domain: str) -> str:
    """The name at which a domain (A-labels) says where it wants reports about itself."""
    return f"_smtp._tls.{domain}"


def parse_records(texts: Sequence[bytes]) -> tuple[Target, ...]:
    """The destinations of the TXT records' one policy; none at all when there is not exactly one, or it is wrong.

    Each text is one record, its strings joined.
    """
    records = [text for text in texts if text.startswith(_BEGIN)]
    if len(records) != 1:
        return ()
    uris: list[str] = []
    fields = records[0].decode("ascii", "replace").strip(" \t").split(";")
    if not fields[-1].strip(" \t"):
        del fields[-1]
    for field in fields[1:]:
        match = _FIELD.match(field.strip(" \t"))
        if match is None:
            return ()
        if match.group(1) == "rua":
            uris += (uri.strip(" \t") for uri in match.group(2).split(","))
    return tuple(dict.fromkeys(_targets(uris)))[:MOST_TARGETS]


def _targets(uris: list[str]) -> Iterator[Target]:
    """What cannot be used is passed over: other schemes, and what is no URI."""
    for uri in uris:
        if len(uri) > LONGEST_URI or not _URI.match(uri):
            continue
        scheme = uri.partition(":")[0].lower()
        target = _mail(uri) if scheme == "mailto" else _post(uri) if scheme == "https" else None
        if target is not None:
            yield target


def _mail(uri: str) -> Mail | None:
    """RFC 6068: one address; header fields are not for others to choose."""
    encoded = uri.partition(":")[2].partition("?")[0].partition("#")[0]
    try:
        address = parse_mailbox(unquote_to_bytes(encoded).decode("ascii"))
    except (AddressError, UnicodeDecodeError):
        return None
    return None if address.is_literal else Mail(address)


def _post(uri: str) -> Post | None:
    try:
        parts = urlsplit(uri)
        port = 443 if parts.port is None else parts.port
        host = (parts.hostname or "").removesuffix(".")
        check_domain(host)
    except (ValueError, AddressError):
        return None
    last = host.rpartition(".")[2]
    # No certificate of a trusted root is about an address, and nobody needs our name and password.
    if not host or last.isdecimal() or host.startswith("[") or "@" in parts.netloc or not port:
        return None
    return Post(host, port, uri.partition("#")[0])
