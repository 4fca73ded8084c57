"""What this server presents: certificates per name, reloaded without dropping a session; a private one without any."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from zope.interface import implementer

from requiretls_mta.tls.half_close import ServerConnection

_MINIMUM = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
_LIFE = datetime.timedelta(days=825)
_RENEW = datetime.timedelta(days=30)
_UNREADABLE_KEY = (OSError, ValueError, TypeError, UnsupportedAlgorithm)
"""What reading a key raises; TypeError is for one with a password."""
_SOON = datetime.timedelta(days=14)


class CertificateError(Exception):
    """A certificate or key cannot be used; the message names the file and the reason."""


@attrs.frozen(kw_only=True)
class Named:
    """A certificate for some names of ours (SNI)."""

    names: frozenset[str]
    """A-labels in lower case."""
    certificate: Path
    key: Path


@attrs.frozen
class Loaded:
    """Certificates and keys that were read and found fit."""

    default: SSL.Context
    by_name: Mapping[str, SSL.Context]
    ends: tuple[tuple[Path, datetime.datetime], ...] = ()
    """Each certificate file with the end of its validity, UTC."""

    def warnings(self, now: datetime.datetime) -> list[str]:
        """What a person should know: certificates that are over, or will be soon."""
        return [
            f"{path}: the certificate {'ended' if end <= now else 'ends'} at {end:%Y-%m-%d %H:%M} UTC"
            for path, end in self.ends
            if end - now < _SOON
        ]


def load(*, certificate: Path, key: Path, minimum: str = "1.2", named: Sequence[Named] = ()) -> Loaded:
    """Read all files; raises `CertificateError`. A certificate that has ended is taken: see `Loaded.warnings`."""
    default = _context(certificate, key, minimum)
    by_name = {}
    ends = {certificate: _end(certificate)}
    for entry in named:
        context = _context(entry.certificate, entry.key, minimum)
        by_name.update(dict.fromkeys(entry.names, context))
        ends[entry.certificate] = _end(entry.certificate)

    def choose(connection: SSL.Connection) -> None:
        name = (connection.get_servername() or b"").decode("ascii", "replace").lower()
        if name in by_name:
            connection.set_context(by_name[name])

    if by_name:
        default.set_tlsext_servername_callback(choose)
    return Loaded(default, by_name, tuple(ends.items()))


@implementer(IOpenSSLServerConnectionCreator)
class ServerContexts:
    """Makes the server side of handshakes from what is loaded at the time; swap `loaded` and new sessions have it."""

    def __init__(self, loaded: Loaded | None = None) -> None:
        self.loaded = loaded

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """The server's end of a new TLS session."""
        if self.loaded is None:
            raise CertificateError("no certificate is loaded yet")
        return ServerConnection(self.loaded.default, tlsProtocol)


def private_files(folder: Path, hostname: str, now: datetime.datetime) -> tuple[Path, Path]:
    """Certificate and key of a private CA under `folder`, made when there are none, or when they end within 30 days."""
    chain, key = folder / "certificate.pem", folder / "key.pem"
    if not _is_good_for(chain, key, hostname, now):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(folder, chain, key, hostname, now)
    return chain, key


def _context(certificate: Path, key: Path, minimum: str) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(_MINIMUM[minimum])
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE | SSL.OP_NO_TICKET)
    context.set_options(SSL.OP_NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    # RELEASE_BUFFERS: an idle session costs about 34 KiB less.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    try:
        context.use_certificate_chain_file(str(certificate))
    except (SSL.Error, OSError) as error:
        raise CertificateError(
            f"{certificate}: {_why(certificate, error)}; a PEM certificate chain is needed"
        ) from error
    try:
        # Not by OpenSSL's own reader: it would ask the terminal for the password of an encrypted key, and wait.
        context.use_privatekey(_private_key(key))
        context.check_privatekey()
    except (SSL.Error, *_UNREADABLE_KEY) as error:
        raise CertificateError(
            f"{key}: {_why(key, error)}; the PEM key of {certificate} is needed, without a password"
        ) from error
    return context


def _private_key(path: Path) -> Any:
    return serialization.load_pem_private_key(path.read_bytes(), None)


def _end(certificate: Path) -> datetime.datetime:
    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        raise CertificateError(f"{certificate}: {error}; a PEM certificate chain is needed") from error


def _why(path: Path, error: Exception) -> str:
    try:
        path.open("rb").close()
    except OSError as unreadable:
        return unreadable.strerror or str(unreadable)
    reasons = error.args[0] if error.args else ""
    return "; ".join(part[2] for part in reasons) if isinstance(reasons, list) else str(error)


def _is_good_for(chain: Path, key: Path, hostname: str, now: datetime.datetime) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(chain.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        secret = _private_key(key)
    except (*_UNREADABLE_KEY, x509.ExtensionNotFound):
        return False
    # A crash between the writing of the two leaves a pair that does not match.
    return (
        hostname in names.get_values_for_type(x509.DNSName)
        and secret.public_key() == certificate.public_key()
        and certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - _RENEW
    )


def _write(folder: Path, chain: Path, key: Path, hostname: str, now: datetime.datetime) -> None:
    ca_key, host_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = _name(f"requiretls-mta private CA of {hostname}")
    ca = (
        _builder(ca_name, ca_name, ca_key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    host = (
        _builder(_name(hostname), ca_name, host_key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(hostname)]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = host_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _replace(key, secret)
    _replace(folder / "ca.pem", ca.public_bytes(pem))
    _replace(chain, host.public_bytes(pem) + ca.public_bytes(pem))


def _builder(subject: x509.Name, issuer: x509.Name, public: Any, now: datetime.datetime) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + _LIFE)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _replace(path: Path, data: bytes) -> None:
    """Write beside and rename, readable by the owner only."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        os.fsync(file.fileno())
    new.rename(path)
