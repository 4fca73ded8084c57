"""Certificates for tests: good ones, and each kind of bad one. ECDSA keys, for they are made quickly."""

import datetime
import ipaddress
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)


@attrs.frozen(kw_only=True)
class HostFiles:
    """A host's certificate on disk, PEM."""

    chain: Path
    """The host's certificate first, then the intermediates; never the root."""
    key: Path
    certificate: x509.Certificate


class CA:
    """A root, or an intermediate of one. Everything it makes is written below its folder."""

    def __init__(self, folder: Path, name: str = "Lab Root CA", *, issuer: "CA | None" = None) -> None:
        self.folder = folder
        self.name = name
        self.issuer = issuer
        self._made = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        signer, issued_by = (self._key, _name(name)) if issuer is None else (issuer._key, issuer.certificate.subject)
        builder = (
            _builder(_name(name), issued_by, self._key.public_key(), signer.public_key(), valid=(-DAY, 365 * DAY))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
        )
        self.certificate = builder.sign(signer, hashes.SHA256())
        self.roots = folder / f"{_file(name)}.pem"
        """This CA's own certificate; of a root: what a client has to trust."""
        self.roots.write_bytes(_pem(self.certificate))

    def intermediate(self, name: str = "Lab Intermediate CA") -> "CA":
        """A CA below this one; chains of its hosts contain its certificate."""
        return CA(self.folder, name, issuer=self)

    def host(
        self,
        *names: str,
        common_name: str | None = None,
        valid_from: datetime.timedelta = -DAY,
        valid_to: datetime.timedelta = 90 * DAY,
    ) -> HostFiles:
        """A certificate for these DNS names and IP addresses (SAN), valid between two times relative to now.

        Without names it has no SAN at all: with a `common_name`, a CN-only certificate.
        """
        key, valid = ec.generate_private_key(ec.SECP256R1()), (valid_from, valid_to)
        subject = _name(common_name) if common_name is not None else x509.Name([])
        builder = (
            _builder(subject, self.certificate.subject, key.public_key(), self._key.public_key(), valid=valid)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        )
        if names:
            san = x509.SubjectAlternativeName([_general_name(name) for name in names])
            builder = builder.add_extension(san, critical=common_name is None)
        return self._write(builder.sign(self._key, hashes.SHA256()), key, (names or (common_name or "host",))[0])

    def expired(self, *names: str) -> HostFiles:
        """A certificate that ended yesterday."""
        return self.host(*names, valid_from=-30 * DAY, valid_to=-DAY)

    def common_name_only(self, name: str) -> HostFiles:
        """A certificate whose name stands in the subject only: it counts for nothing (RFC 9525)."""
        return self.host(common_name=name)

    def _write(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, name: str) -> HostFiles:
        self._made += 1
        stem = self.folder / f"{_file(self.name)}-{self._made}-{_file(name)}"
        chain = _pem(certificate)
        above: CA | None = self
        while above is not None and above.issuer is not None:
            chain += _pem(above.certificate)
            above = above.issuer
        files = HostFiles(chain=Path(f"{stem}.pem"), key=Path(f"{stem}.key"), certificate=certificate)
        files.chain.write_bytes(chain)
        files.key.touch(mode=0o600)
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files


def _builder(subject, issuer, public_key, issuer_key, *, valid) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + valid[0])
        .not_valid_after(now + valid[1])
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


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


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _file(name: str) -> str:
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in name.lower()).strip(".") or "host"
