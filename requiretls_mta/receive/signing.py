"""DKIM signatures for mail that we answer for (RFC 6376, RFC 8463); bodies are read piece by piece, in a thread."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from twisted.internet.defer import Deferred, succeed

from requiretls_mta.checks.dkim import pieces
from requiretls_mta.checks.dkim_canon import BodyKey, hash_body, signed_header
from requiretls_mta.message import header as headers
from requiretls_mta.message.ports import Body
from requiretls_mta.message.stored import Message
from requiretls_mta.receive.signing_keys import Keys, SigningKey, keys_of
from requiretls_mta.receive.signing_rules import (
    MOST_FIELDS,
    Unsigned,
    author_domain,
    is_well_formed,
    names_to_sign,
    with_value,
    write_field,
)

_WHOLE = BodyKey(relaxed=True, length=None)


@attrs.frozen(kw_only=True)
class Signer:
    """Signs; fails only for bugs and bodies that cannot be read."""

    in_thread: Callable[..., Deferred[Any]]
    """Runs a function with these arguments where it keeps nobody waiting."""
    wall: Callable[[], float]

    def sign(self, header: bytes, body: Body, body_start: int, keys: Keys) -> Deferred[bytes | Unsigned]:
        """The DKIM-Signature fields of a message, each with its CRLF; none where its author's domain is not ours.

        `header` as it goes out, fields that are put in front included; the body's first octet is at `body_start`.
        """
        domain = author_domain(header)
        if domain is None:
            return succeed(Unsigned("From is not one field with one mailbox"))
        chosen = keys_of(domain, keys)
        if not chosen:
            return succeed(b"")
        return self.in_thread(sign, chosen, header, body, body_start, int(self.wall()))

    async def signed(self, message: Message, keys: Keys) -> Message:
        """A message of our own with its signatures."""
        signed: Message = await self.in_thread(sign_own, message, keys, int(self.wall()))
        return signed


def sign_own(message: Message, keys: Keys, now: int) -> Message:
    """A message of our own with its signatures, as far as its author's domain is ours. Blocks."""
    header = message.header()
    domain = author_domain(header)
    chosen = keys_of(domain, keys) if domain is not None else ()
    fields = sign(chosen, header, message.body, message.content.header_end + 2, now) if chosen else b""
    return message if isinstance(fields, Unsigned) else attrs.evolve(message, prepend=fields + message.prepend)


def sign(keys: Sequence[SigningKey], header: bytes, body: Body, body_start: int, now: int) -> bytes | Unsigned:
    """One field for each key, in their order. Blocks: reads the body, once for all."""
    fields = list(headers.fields(header))
    if not is_well_formed(header, fields):
        return Unsigned("a line of the header section is no field")
    names = names_to_sign(fields)
    if len(names) > MOST_FIELDS:
        return Unsigned("too many fields that would have to be signed")
    digest = hash_body(pieces(body, body_start), [_WHOLE])[_WHOLE].digest
    signatures = []
    for key in keys:
        field = write_field(key, names, digest, now)
        covered = signed_header(header, fields, names, field + b"\r\n", relaxed=True)
        signatures.append(with_value(field, _value(key, covered)))
    return b"".join(signatures)


def _value(key: SigningKey, covered: bytes) -> bytes:
    if isinstance(key.key, RSAPrivateKey):
        return key.key.sign(covered, PKCS1v15(), SHA256())
    return key.key.sign(hashlib.sha256(covered).digest())  # RFC 8463 3
