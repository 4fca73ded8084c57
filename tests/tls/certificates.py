"""Certificates in memory, signed by whom one likes, with whatever may be wrong about them."""

import datetime

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NAME = "mx.a.test"
DAY = datetime.timedelta(days=1)


@attrs.frozen
class Signed:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


def make(
    subject="host",
    *,
    issuer=None,
    key=None,
    names=(NAME,),
    purpose=ExtendedKeyUsageOID.SERVER_AUTH,
    authority=False,
    path_length=None,
    days=(-1, 1),
    digest=None,
):
    """One signed by `issuer`, whoever that is; by itself without one."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.certificate.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + days[0] * DAY)
        .not_valid_after(now + days[1] * DAY)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=path_length), critical=True)
    )
    if not authority:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), critical=False
        ).add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return Signed(builder.sign(issuer.key if issuer else key, digest or hashes.SHA256()), key)
