"""Keys of ours, and signatures of ours as others see them: dkimpy's verdict, and that of our own check."""

import base64

import dkim
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from requiretls_mta.checks.dkim import Job, verify
from requiretls_mta.checks.dkim_rules import parse_signature
from requiretls_mta.message.content import ContentScanner
from requiretls_mta.message.header import fields_named
from requiretls_mta.message.stored import BytesBody
from requiretls_mta.receive.signing_keys import SigningKey
from tests.checks.answers import answer
from tests.checks.signing import in_strings

NOW = 1_700_000_000


def pem(key):
    """As openssl writes it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def record(key):
    """What its domain publishes."""
    public = key.public_key()
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return b"v=DKIM1; k=ed25519; p=" + base64.b64encode(public.public_bytes(Encoding.Raw, PublicFormat.Raw))
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return b"v=DKIM1; k=rsa; p=" + base64.b64encode(der)


RSA, ED25519 = rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()
BOTH = {
    "example.org": (
        SigningKey(domain="example.org", selector="r1", key=RSA),
        SigningKey(domain="example.org", selector="e1", key=ED25519),
    )
}


def records(keys):
    """By name, as dkimpy asks for them."""
    return {
        f"{key.selector}._domainkey.{key.domain}.".encode(): record(key.key) for found in keys.values() for key in found
    }


def verdicts(octets, keys=BOTH):
    """What all signatures of a message come to, to dkimpy and to us: `pass` each, when all is well."""
    published = records(keys)
    scanner = ContentScanner(1 << 24)
    scanner.feed(octets)
    header, body = octets[: scanner.finish().header_end], BytesBody(octets)
    signatures = [parse_signature(field) for field in fields_named(header, b"dkim-signature")]
    found = {s.key_name: answer("TXT", in_strings(published[s.key_name.encode()])) for s in signatures}
    ours = verify(Job(signatures=signatures, keys=found, header=header, body=body), NOW)
    return [finding.result for finding in ours] + [_of_dkimpy(octets, at, published) for at in range(len(signatures))]


def _of_dkimpy(octets, index, published):
    try:
        holds = dkim.DKIM(octets).verify(idx=index, dnsfunc=lambda name, timeout=5: published.get(name))
    except dkim.ValidationError:
        holds = False
    return "pass" if holds else "fail"
