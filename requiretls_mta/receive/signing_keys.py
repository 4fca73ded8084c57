"""The keys that we sign with: what their files must hold, and which of them are a message's (RFC 6376, 8301, 8463)."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import attrs
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

RSA_BITS = range(1024, 4097)
"""RFC 8301 3.2: no fewer may be used for signing; more nobody needs to be able to verify."""
_RSA_ADVISED = 2048
ALLOWED = f"an RSA ({RSA_BITS[0]} to {RSA_BITS[-1]} bits) or Ed25519 private key as PEM, without a password"
_LONGEST = 64 * 1024
_BY_OTHERS = stat.S_IWGRP | stat.S_IRWXO


class SigningKeyError(Exception):
    """The file cannot be used to sign with; the text names it, and says what is allowed."""

    def __init__(self, path: Path, found: str) -> None:
        super().__init__(f"{path}: found {found}; allowed: {ALLOWED}")
        self.found = found


@attrs.frozen(kw_only=True)
class SigningKey:
    """One `[[dkim.sign]]` table with its key."""

    domain: str
    """`d=`; A-labels in lower case, as the selector."""
    selector: str
    key: RSAPrivateKey | Ed25519PrivateKey = attrs.field(repr=False)
    cautions: tuple[str, ...] = ()
    """What an operator should know of it."""

    @property
    def algorithm(self) -> str:
        """`a=`."""
        return "rsa-sha256" if isinstance(self.key, RSAPrivateKey) else "ed25519-sha256"


Keys = Mapping[str, tuple[SigningKey, ...]]
"""By their domain; with several a message gets as many signatures (RFC 8463 3)."""


def read_key(domain: str, selector: str, path: Path) -> SigningKey:
    """The key in a file; raises `SigningKeyError` or `OSError`."""
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        octets = file.read(_LONGEST + 1)
    try:
        key = load_pem_private_key(octets[:_LONGEST], None)
    except TypeError:
        raise SigningKeyError(path, "a key with a password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise SigningKeyError(path, "no private key that can be read") from None
    cautions = []
    if isinstance(key, RSAPrivateKey):
        if key.key_size not in RSA_BITS:
            raise SigningKeyError(path, f"an RSA key of {key.key_size} bits")
        if key.key_size < _RSA_ADVISED:
            cautions.append(f"{path}: {key.key_size} bits are few, {_RSA_ADVISED} should be used (RFC 8301 3.2)")
    elif not isinstance(key, Ed25519PrivateKey):
        raise SigningKeyError(path, "a key of another kind")
    if mode & _BY_OTHERS:
        cautions.append(f"{path}: others may read or write it (mode {stat.S_IMODE(mode):04o}); 0600 is needed")
    return SigningKey(domain=domain, selector=selector, key=key, cautions=tuple(cautions))


def keys_of(domain: str, keys: Keys) -> tuple[SigningKey, ...]:
    """Those of a domain (A-labels in lower case), or of its closest parent that has any."""
    while domain and domain not in keys:
        domain = domain.partition(".")[2]
    return keys.get(domain, ())
