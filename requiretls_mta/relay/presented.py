"""What a host presented, in words: its certificates, and the TLSA records that vouch for them or do not."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence

import attrs
from cryptography import x509

from requiretls_mta.message.reply import quote
from requiretls_mta.tls.dane import MAX_CHAIN, TLSA, authenticate, public_key_info
from requiretls_mta.tls.facts import ClientTLS

MAX_NAMES = 100
"""Names of one certificate that are told."""


@attrs.frozen(kw_only=True)
class Certificate:
    """What stands in a certificate that a host presented; texts are escaped."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    """DNS names and IP addresses of the SAN, at most `MAX_NAMES`."""
    not_before: datetime.datetime
    not_after: datetime.datetime
    sha256: str
    """Of the certificate."""
    spki_sha256: str
    """Of its public key: what a TLSA record `3 1 1` or `2 1 1` holds."""


@attrs.frozen(kw_only=True)
class Checked:
    """One TLSA record of a host, held against its certificates."""

    record: str
    """As in a zone file."""
    matches: bool
    detail: str
    """Why it does not match, or does not count; escaped."""


def check_records(tlsa: TLSA, tls: ClientTLS | None, names: Sequence[str]) -> tuple[Checked, ...]:
    """Each record by itself."""
    found = []
    for record in tlsa.records:
        if record.problem:
            matches, detail = False, f"unusable: {record.problem}"
        elif record not in tlsa.usable:
            matches, detail = False, "not counted beside one with a stronger digest (RFC 7671 9)"
        elif tls is None:
            matches, detail = False, "there is no certificate to hold it against"
        else:
            proved = authenticate(attrs.evolve(tlsa, usable=(record,)), tls.chain, names)
            matches, detail = proved.auth is not None, "" if proved.auth else proved.detail
        found.append(Checked(record=quote(str(record)), matches=matches, detail=detail))
    return tuple(found)


def read_chain(chain: Sequence[bytes]) -> tuple[Certificate | str, ...]:
    """What stands in certificates (DER)."""
    return tuple(map(_read, chain[:MAX_CHAIN]))


def _read(octets: bytes) -> Certificate | str:
    try:
        certificate = x509.load_der_x509_certificate(octets)
        return Certificate(
            subject=quote(certificate.subject.rfc4514_string()),
            issuer=quote(certificate.issuer.rfc4514_string()),
            names=_names(certificate),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            sha256=hashlib.sha256(octets).hexdigest(),
            spki_sha256=hashlib.sha256(public_key_info(octets)).hexdigest(),
        )
    except Exception as error:  # the octets are the host's
        return f"this certificate cannot be read: {quote(str(error))}"


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    names = [quote(str(name.value)) for name in found if isinstance(name, x509.DNSName | x509.IPAddress)]
    return tuple(names[:MAX_NAMES])
