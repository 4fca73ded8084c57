"""DANE for SMTP: what TLSA records say, and whether a host's certificates are what they vouch for.

RFC 7672 with RFC 7671 and RFC 6698: usages DANE-EE(3) and DANE-TA(2), selectors Cert(0) and SPKI(1), matching Full(0),
SHA2-256(1) and SHA2-512(2). Whatever else a record holds makes it unusable, and no record of any octets raises. The
records are believed as they are: who hands them in has made sure that DNSSEC vouches for them.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto

from requiretls_mta.message.reply import quote
from requiretls_mta.tls.elements import DANE, Proof, Proved
from requiretls_mta.tls.facts import EXPIRED
from requiretls_mta.tls.names import name_error

MAX_RECORDS = 50
"""Records of one host that are looked at."""
MAX_DATA = 8192
"""Octets of one record; a certificate has one or two thousand."""
MAX_CHAIN = 16
"""Certificates of a host that are looked at."""
MAX_ANCHORS = 8
"""Trust anchors to which a chain is tried; each try may verify the whole of it."""

TA, EE = 2, 3
CERTIFICATE, PUBLIC_KEY = 0, 1
FULL, SHA256, SHA512 = 0, 1, 2
_LENGTHS = {SHA256: 32, SHA512: 64}


@attrs.frozen
class Record:
    """One TLSA record (RFC 6698 2.1)."""

    usage: int
    selector: int
    matching: int
    data: bytes

    @classmethod
    def read(cls, rdata: bytes) -> Record:
        """The record of these octets, whatever they are; what is too short for one is unusable."""
        if len(rdata) < 3:
            return cls(255, 255, 255, rdata)
        return cls(rdata[0], rdata[1], rdata[2], rdata[3:])

    def __str__(self) -> str:
        return f"{self.usage} {self.selector} {self.matching} {self.data.hex()}"

    @property
    def problem(self) -> str:
        """Why it cannot be used; empty: it can."""
        if self.usage not in (TA, EE):
            # RFC 7672 3.1.3: PKIX-TA(0) and PKIX-EE(1) are of no use in SMTP.
            return f"usage {self.usage} is not of DANE-TA(2) and DANE-EE(3)"
        if self.selector not in (CERTIFICATE, PUBLIC_KEY):
            return f"selector {self.selector} is unknown"
        if self.matching not in (FULL, SHA256, SHA512):
            return f"matching type {self.matching} is unknown"
        if self.matching != FULL:
            right = len(self.data) == _LENGTHS[self.matching]
            return "" if right else f"a digest of {len(self.data)} octets"
        if len(self.data) > MAX_DATA:
            return f"{len(self.data)} octets"
        load: Any = x509.load_der_x509_certificate if self.selector == CERTIFICATE else load_der_public_key
        try:
            load(self.data)
        except Exception as error:  # no closed set of exceptions is promised for hostile octets
            return f"no certificate or key: {quote(str(error))}"
        return ""


@attrs.frozen(kw_only=True)
class TLSA:
    """What is known of the TLSA records of one host and port."""

    base: str = ""
    """The TLSA base domain (A-labels, lower case): what the certificate is to bear, and the name to ask for."""
    records: tuple[Record, ...] = ()
    """As they were published, at most `MAX_RECORDS`."""
    usable: tuple[Record, ...] = ()
    """Those that count (RFC 7671 9)."""
    problem: str = ""
    """Why they could not be looked up; escaped."""

    @property
    def state(self) -> DANE:
        """What it comes to (RFC 7672 2.2)."""
        if self.problem:
            return DANE.UNKNOWN
        if not self.records:
            return DANE.NONE
        return DANE.USABLE if self.usable else DANE.UNUSABLE


NO_RECORDS = TLSA()
"""Of hosts to which DANE does not apply."""


def published(base: str, records: Iterable[Record]) -> TLSA:
    """What a secure RRset of TLSA records comes to."""
    taken = tuple(sorted(set(records), key=str))[:MAX_RECORDS]
    sound = [record for record in taken if not record.problem]
    # RFC 7671 9: for each usage and selector Full(0), and of the digests only the strongest.
    strongest = {(r.usage, r.selector): r.matching for r in sorted(sound, key=lambda r: r.matching)}
    usable = [r for r in sound if r.matching in (FULL, strongest[r.usage, r.selector])]
    return TLSA(base=base, records=taken, usable=tuple(usable))


def authenticate(tlsa: TLSA, chain: Sequence[bytes], names: Iterable[str]) -> Proved:
    """Whether the usable records authenticate a host that presented this chain (DER, leaf first).

    `names` are the reference identifiers of RFC 7672 3.2.2; DANE-EE needs none, and no dates (RFC 7672 3.1.1).
    """
    leaf, *above = chain[:MAX_CHAIN] or [b""]
    if not leaf:
        return Proved(Proof.UNTRUSTED, "the host presented no certificate")
    for record in tlsa.usable:
        if record.usage == EE and _matches(record, leaf):
            return Proved(Proof.DANE_EE, _describe(record))
    anchors: dict[bytes, Record] = {}
    for record in tlsa.usable:
        if record.usage == TA:
            # A leaf is not its own trust anchor: that is what DANE-EE is for.
            anchors.update((octets, record) for octets in above if octets != leaf and _matches(record, octets))
            if (record.selector, record.matching) == (CERTIFICATE, FULL) and record.data != leaf:
                anchors[record.data] = record  # RFC 7671 5.2.2: the host need not present it
    failures = []
    for anchor, record in itertools.islice(anchors.items(), MAX_ANCHORS):
        failure = _fails(anchor, leaf, above, names)
        if failure is None:
            return Proved(Proof.DANE_TA, _describe(record))
        failures.append(failure)
    # That a chain leads to the anchor says more than that another does not.
    telling = [failure for failure in failures if failure.proof is not Proof.UNTRUSTED]
    return next(iter(telling + failures), Proved(Proof.UNTRUSTED, "no TLSA record matches what the host presented"))


def _matches(record: Record, certificate: bytes) -> bool:
    selected = certificate if record.selector == CERTIFICATE else public_key_info(certificate)
    if not selected:
        return False
    if record.matching == SHA256:
        return hashlib.sha256(selected).digest() == record.data
    if record.matching == SHA512:
        return hashlib.sha512(selected).digest() == record.data
    return selected == record.data


def _fails(anchor: bytes, leaf: bytes, above: Sequence[bytes], names: Iterable[str]) -> Proved | None:
    """Why the chain does not lead from the leaf to the anchor, or not under one of these names; None: it does."""
    try:
        store = crypto.X509Store()
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)  # the anchor may be an intermediate CA
        store.add_cert(_load(anchor))
        try:
            context = crypto.X509StoreContext(store, _load(leaf), [_load(octets) for octets in above])
            verified = [certificate.to_cryptography() for certificate in context.get_verified_chain()]
        except crypto.X509StoreContextError as error:
            proof = Proof.EXPIRED if error.errors[0] == EXPIRED else Proof.UNTRUSTED
            return Proved(proof, f"{error.errors[2]} (at depth {error.errors[1]})")
        problem = next(filter(None, map(_unfit, verified[:-1])), None)
        if problem:
            return Proved(Proof.UNTRUSTED, problem)
        errors = [name_error(verified[0], name) for name in names]
        return None if None in errors else Proved(Proof.WRONG_NAME, "; ".join(filter(None, errors[:1])))
    except Exception as error:  # the octets are the host's
        return Proved(Proof.UNTRUSTED, f"the certificates cannot be read: {quote(str(error))}")


def _unfit(certificate: x509.Certificate) -> str | None:
    """What the handshake's own check of a chain would complain about, and a bare check of signatures does not."""
    if isinstance(certificate.signature_hash_algorithm, hashes.MD5 | hashes.SHA1):
        return "a signature in the chain uses a weak digest"
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < 2048:
        return "a key in the chain is too small"
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return None
    return None if ExtendedKeyUsageOID.SERVER_AUTH in usages else "unsuitable certificate purpose"


def _load(octets: bytes) -> crypto.X509:
    return crypto.load_certificate(crypto.FILETYPE_ASN1, octets)


def _describe(record: Record) -> str:
    return f"TLSA {record.usage} {record.selector} {record.matching} {record.data[:8].hex()}..."


def public_key_info(certificate: bytes) -> bytes:
    """The SubjectPublicKeyInfo of a certificate, octet for octet (RFC 5280 4.1); empty where there is none.

    To read the key and write it again would not do: RSA-PSS keys, for one, do not come back as they were.
    """
    try:
        # The strict reader first, so that nothing is found here that whoever uses the key would find elsewhere.
        octets = x509.load_der_x509_certificate(certificate).tbs_certificate_bytes
        at, _ = _content(octets, 0)
        if octets[at] == 0xA0:  # version
            _, at = _content(octets, at)
        for _ in ("serialNumber", "signature", "issuer", "validity", "subject"):
            _, at = _content(octets, at)
        _, end = _content(octets, at)
    except Exception:  # no closed set of exceptions is promised for hostile octets
        return b""
    return octets[at:end]


def _content(octets: bytes, at: int) -> tuple[int, int]:
    """Where the content of a DER element begins, and where it ends."""
    length, begin = octets[at + 1], at + 2
    if length & 0x80:
        width = length & 0x7F
        length, begin = int.from_bytes(octets[begin : begin + width], "big"), begin + width
    return begin, begin + length
