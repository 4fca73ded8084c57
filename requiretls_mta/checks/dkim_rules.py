"""DKIM signatures and keys (RFC 6376, RFC 8301, RFC 8463): what they say, and whether they hold."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from typing import Literal

import attrs
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from requiretls_mta.checks.dkim_canon import BodyHash, BodyKey
from requiretls_mta.checks.spf_record import strings
from requiretls_mta.dns.answer import Answer
from requiretls_mta.message.address import AddressError, ascii_domain, check_domain
from requiretls_mta.message.authres import Property, Result
from requiretls_mta.message.header import Field

Verb = Literal["none", "pass", "fail", "policy", "neutral", "temperror", "permerror"]

MOST_SIGNATURES = 8
LONGEST_SIGNATURE = 16 * 1024
LONGEST_KEY = 8192
RSA_BITS = range(1024, 8193)
"""RFC 8301 3.2; longer ones are nobody's, and cost time."""
_EXPONENTS = range(3, 2**33)
_ALGORITHMS = {"rsa-sha256": "rsa", "ed25519-sha256": "ed25519"}
_TAG = re.compile(r"[ \t\r\n]*([A-Za-z][A-Za-z0-9_]*)[ \t\r\n]*=(.*)\Z", re.DOTALL)
_DIGITS = re.compile(r"[0-9]{1,18}\Z")
_FOLDS = str.maketrans("", "", " \t\r\n")


class Unusable(Exception):
    """A signature or a key is not what the specification says; the message says why."""


@attrs.frozen(kw_only=True)
class Signature:
    """One DKIM-Signature field."""

    field: Field
    algorithm: str
    domain: str
    """A-labels in lower case, as those of `identity`."""
    selector: str
    identity: str
    names: tuple[str, ...]
    """The signed fields, in lower case."""
    relaxed_header: bool
    body: BodyKey
    body_hash: bytes
    value: bytes
    begins: str
    """The first characters of the value as written, which tell signatures of one domain apart (RFC 6008)."""
    expires: int | None

    @property
    def key_name(self) -> str:
        """Where its key is."""
        return f"{self.selector}._domainkey.{self.domain}."


@attrs.frozen
class Finding:
    """What a signature comes to."""

    result: Verb
    reason: str | None = None
    signature: Signature | None = None
    """None: there is none, or nobody can read it."""


Key = RSAPublicKey | Ed25519PublicKey


@attrs.frozen
class KeyRecord:
    """A key as its domain publishes it."""

    key: Key
    is_strict: bool
    """`t=s`: the identity must have the very domain."""


def parse_tags(text: str) -> dict[str, str]:
    """A tag-list (RFC 6376 3.2), its values without blanks at either end."""
    tags: dict[str, str] = {}
    for part in text.removesuffix(";").split(";"):
        match = _TAG.match(part)
        if match is None:
            if part.strip():
                raise Unusable("not a list of tags")
            continue
        if match.group(1) in tags:
            raise Unusable(f"tag {match.group(1)[:20]} stands there twice")
        tags[match.group(1)] = match.group(2).strip()
    return tags


def read_tags(field: Field, needed: str) -> dict[str, str]:
    """The tags of a signature of whatever kind, all of the `needed` ones among them; raises `Unusable`."""
    if len(field.value) > LONGEST_SIGNATURE:
        raise Unusable("signature too long")
    try:
        tags = parse_tags(field.value.decode("utf-8"))
    except UnicodeDecodeError:
        raise Unusable("not UTF-8") from None
    missing = [tag for tag in needed.split() if not tags.get(tag)]
    if missing:
        raise Unusable(f"tag {missing[0]} is missing")
    if tags["a"].lower() not in _ALGORITHMS:  # RFC 8301 3.1: rsa-sha1 is no more
        raise Unusable("algorithm not in use")
    return tags


def parse_signature(field: Field, *, arc: bool = False) -> Signature:
    """Read one, or an ARC-Message-Signature (RFC 8617 4.1.2), whose `i` is no identity; raises `Unusable`."""
    tags = read_tags(field, "a b bh d h s" if arc else "v a b bh d h s")
    if not arc and tags["v"] != "1":
        raise Unusable("unknown version")
    algorithm = tags["a"].lower()
    domain = read_domain(tags["d"])
    identity = read_domain(tags["i"].rpartition("@")[2]) if "i" in tags and not arc else domain
    if identity != domain and not identity.endswith(f".{domain}"):
        raise Unusable("i= is not within d=")
    names = tuple(name.strip().lower() for name in tags["h"].translate(_FOLDS).split(":"))
    if "from" not in names:
        raise Unusable("From is not signed")
    if "dns/txt" not in tags.get("q", "dns/txt").translate(_FOLDS).split(":"):
        raise Unusable("key not in the DNS")
    header, _, body = tags.get("c", "simple/simple").lower().partition("/")
    if header not in ("simple", "relaxed") or body not in ("simple", "relaxed", ""):
        raise Unusable("unknown canonicalization")
    signed, expires = _number(tags, "t"), _number(tags, "x")
    if signed is not None and expires is not None and expires < signed:
        raise Unusable("x= lies before t=")
    return Signature(
        field=field,
        algorithm=algorithm,
        domain=domain,
        selector=read_domain(tags["s"]),
        identity=identity,
        names=names,
        relaxed_header=header == "relaxed",
        body=BodyKey(body == "relaxed", _number(tags, "l")),
        body_hash=read_base64(tags["bh"]),
        value=read_base64(tags["b"]),
        begins=tags["b"].translate(_FOLDS)[:8],
        expires=expires,
    )


def read_domain(text: str) -> str:
    """A domain of a signature as A-labels in lower case; raises `Unusable`."""
    try:
        name = ascii_domain(text)
        check_domain(name)
    except AddressError:
        raise Unusable("not a domain") from None
    if name.startswith("["):
        raise Unusable("not a domain")
    return name


def _number(tags: Mapping[str, str], name: str) -> int | None:
    text = tags.get(name)
    if text is None:
        return None
    if not _DIGITS.match(text):
        raise Unusable(f"{name}= is not a number")
    return int(text)


def read_base64(text: str) -> bytes:
    """The octets of a base64 value, folded or not; raises `Unusable`."""
    try:
        return base64.b64decode(text.translate(_FOLDS), validate=True)
    except (binascii.Error, ValueError):
        raise Unusable("not base64") from None


def parse_key(answer: Answer, algorithm: str) -> KeyRecord:
    """The key for signatures by an algorithm, in the answer to their `key_name`; raises `Unusable`."""
    texts = [text for text in strings(answer.records) if b"p=" in text.translate(None, b" \t")]
    if len(texts) != 1:
        raise Unusable("no key for signature" if not texts else "several keys for signature")
    if len(texts[0]) > LONGEST_KEY or not texts[0].isascii():
        raise Unusable("bad key")
    tags = parse_tags(texts[0].decode("ascii"))
    kind = _ALGORITHMS[algorithm]
    if tags.get("v", "DKIM1") != "DKIM1" or tags.get("k", "rsa").lower() != kind:
        raise Unusable("key of another kind")
    if "sha256" not in tags.get("h", "sha256").translate(_FOLDS).lower().split(":"):
        raise Unusable("key for another hash")
    if not {"*", "email"} & set(tags.get("s", "*").translate(_FOLDS).split(":")):
        raise Unusable("key for another service")
    if not tags.get("p"):
        raise Unusable("key revoked")
    return KeyRecord(_read_key(kind, read_base64(tags["p"])), "s" in tags.get("t", "").translate(_FOLDS).split(":"))


def _read_key(kind: str, data: bytes) -> Key:
    try:
        key = Ed25519PublicKey.from_public_bytes(data) if kind == "ed25519" else load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise Unusable("bad key") from None
    if isinstance(key, RSAPublicKey):
        if key.key_size not in RSA_BITS or key.public_numbers().e not in _EXPONENTS:
            raise Unusable("key too short or too long")
        return key
    if isinstance(key, Ed25519PublicKey):
        return key
    raise Unusable("bad key")


def judge(signature: Signature, key: KeyRecord, signed: bytes, body: BodyHash, now: float) -> Finding:
    """Whether a signature holds; `signed` are the octets of `signed_header`."""
    if key.is_strict and signature.identity != signature.domain:
        return Finding("permerror", "the key is not for subdomains", signature)
    if not body.is_long_enough or body.digest != signature.body_hash:
        return Finding("fail", "body hash did not verify", signature)
    if not holds(key.key, signature.value, signed):
        return Finding("fail", "signature did not verify", signature)
    if signature.expires is not None and signature.expires < now:
        return Finding("policy", "signature expired", signature)
    if not body.is_whole:
        # RFC 6376 8.2: whatever stands behind may be anybody's.
        return Finding("policy", "part of the body is not signed", signature)
    return Finding("pass", None, signature)


def holds(key: Key, value: bytes, signed: bytes) -> bool:
    """Whether a signature is that of these octets."""
    try:
        if isinstance(key, RSAPublicKey):
            key.verify(value, signed, PKCS1v15(), SHA256())
        else:
            key.verify(value, hashlib.sha256(signed).digest())  # RFC 8463 3
    except (InvalidSignature, ValueError):
        return False
    return True


def report(finding: Finding) -> Result:
    """How it is written into Authentication-Results (RFC 8601 2.7.1, RFC 6008)."""
    properties: tuple[Property, ...] = ()
    if (found := finding.signature) is not None:
        values = (("d", found.domain), ("s", found.selector), ("a", found.algorithm), ("b", found.begins))
        properties = tuple(Property("header", name, value) for name, value in values)
    return Result("dkim", finding.result, reason=finding.reason, properties=properties)
