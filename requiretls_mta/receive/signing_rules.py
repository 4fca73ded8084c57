"""What a DKIM signature of ours covers, and how it is written (RFC 6376 3.5, 5.4)."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Sequence

import attrs

from requiretls_mta.checks.dmarc_rules import LONGEST_FROM, addresses
from requiretls_mta.message.address import AddressError, ascii_domain, check_domain
from requiretls_mta.message.header import Field, fields_named
from requiretls_mta.receive.signing_keys import SigningKey

ALWAYS = (
    *("from", "sender", "reply-to", "to", "cc", "subject", "date", "message-id", "in-reply-to", "references"),
    *("mime-version", "content-type", "content-transfer-encoding", "tls-required", "requiretls"),
)
"""Signed once more than they occur, so that none can be added on the way (RFC 6376 8.15)."""
IF_PRESENT = (
    *("list-id", "list-help", "list-unsubscribe", "list-unsubscribe-post", "list-subscribe", "list-post"),
    *("list-owner", "list-archive"),
)
"""The same where there is one already. Without, they are a mailing list's to add (RFC 6376 5.4.1, RFC 8058 4)."""
MOST_FIELDS = 100
"""That are signed; of each of them a message has one."""
_WIDTH = 77
"""Characters of a line (RFC 5322 2.1.1), where no name is longer."""


@attrs.frozen
class Unsigned:
    """A message that is not signed although its domain may be ours."""

    reason: str


def author_domain(header: bytes) -> str | None:
    """The domain of the one mailbox in From, A-labels in lower case; None where it is not exactly one."""
    found = list(fields_named(header, b"from"))
    if len(found) != 1 or len(found[0].value) > LONGEST_FROM:
        return None
    mailboxes = addresses(found[0].value.decode("utf-8", "replace"))
    if len(mailboxes) != 1:
        return None
    try:
        domain = ascii_domain(mailboxes[0].rpartition("@")[2].strip())
        check_domain(domain)
    except AddressError:
        return None
    return domain


def is_well_formed(header: bytes, fields: Iterable[Field]) -> bool:
    """Whether a header section is its fields and nothing else: other readers must find the same ones."""
    end = 0
    for field in fields:
        if field.start != end:
            return False
        end = field.end
    return end == len(header)


def names_to_sign(fields: Iterable[Field]) -> tuple[str, ...]:
    """`h=` for a message with these fields."""
    occurring = Counter(field.name.decode("ascii") for field in fields)
    names = [*ALWAYS, *(name for name in IF_PRESENT if occurring[name])]
    return tuple(name for name in names for _ in range(occurring[name] + 1))


def write_field(key: SigningKey, names: Sequence[str], body_hash: bytes, now: int) -> bytes:
    """A DKIM-Signature without its value, which belongs right behind, and without its last CRLF.

    No `l=`: what it leaves out is anybody's to add (RFC 6376 8.2; RFC 8460 3 forbids it). No `x=`: how long mail waits
    on its way is not ours to know. No `i=`: who within the domain wrote it we do not vouch for.
    """
    first, *rest = [*(f"{name}:" for name in names[:-1]), f"{names[-1]};"]
    return _folded(
        [
            *("DKIM-Signature: v=1;", f" a={key.algorithm};", " c=relaxed/relaxed;"),
            *(f" d={key.domain};", f" s={key.selector};", f" t={now};"),
            *(f" h={first}", *rest),
            *(f" bh={base64.b64encode(body_hash).decode('ascii')};", " b="),
        ]
    )


def with_value(field: bytes, value: bytes) -> bytes:
    """The whole field, with its CRLF."""
    start = len(field) - field.rfind(b"\r\n") - 2
    text = base64.b64encode(value)
    lines = [text[: _WIDTH - start]]
    lines += [text[at : at + _WIDTH - 1] for at in range(_WIDTH - start, len(text), _WIDTH - 1)]
    return field + b"\r\n\t".join(lines) + b"\r\n"


def _folded(parts: Iterable[str]) -> bytes:
    """One behind the other; one that would make its line too long begins another."""
    lines = [""]
    for part in parts:
        if lines[-1] and len(lines[-1]) + len(part) > _WIDTH:
            lines.append("\t" + part.lstrip())
        else:
            lines[-1] += part
    return "\r\n".join(lines).encode("ascii")
