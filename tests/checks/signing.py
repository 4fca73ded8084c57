"""Signed messages: by dkimpy, an implementation of somebody else's, and keys for them."""

import base64
import hashlib

import dkim
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from requiretls_mta.checks.dkim_canon import canonical_field
from requiretls_mta.message.header import fields

HEADER = b"From: Anna <anna@far.example>\r\nTo: bob@here.example\r\nSubject:  a  test\r\n of folding\r\n"
MESSAGE = HEADER + b"\r\nHello \t\r\n\r\n\r\n"
NAME = "s1._domainkey.far.example."


class RSA:
    """A key with its record."""

    def __init__(self, bits=2048):
        self.key = rsa.generate_private_key(65537, bits)
        self.pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())

    @property
    def record(self):
        der = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return b"v=DKIM1; k=rsa; p=" + base64.b64encode(der)

    def sign(self, message=MESSAGE, *, domain="far.example", selector="s1", canon=("relaxed", "relaxed"), **options):
        names = selector.encode(), domain.encode()
        canonicalize = tuple(c.encode() for c in canon)
        field = dkim.sign(message, *names, self.pem, canonicalize=canonicalize, **options)
        return field + message


KEY = RSA()


def in_strings(record):
    """A record as the strings of TXT data."""
    return tuple(record[i : i + 255] for i in range(0, len(record), 255)) or (b"",)


def ed25519_signed(message):
    """Signed by hand as RFC 8463 has it, relaxed; dkimpy would need another library. Message and record."""
    key = ed25519.Ed25519PrivateKey.generate()
    header, _, body = message.partition(b"\r\n\r\n")
    digest = base64.b64encode(hashlib.sha256(body).digest())
    field = (
        b"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/simple; d=far.example; s=s1; h=from; bh=" + digest + b"; b="
    )
    signed = b""
    for found in fields(header + b"\r\n"):
        if found.name == b"from":
            signed += canonical_field(header[found.start : found.end], relaxed=True)
    signed += canonical_field(field + b"\r\n", relaxed=True).removesuffix(b"\r\n")
    value = base64.b64encode(key.sign(hashlib.sha256(signed).digest()))
    public = base64.b64encode(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
    return field + value + b"\r\n" + message, b"v=DKIM1; k=ed25519; p=" + public
