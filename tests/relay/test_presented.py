"""What a host presented, in words: each record by itself, and no octets that could not be told."""

import hashlib

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.relay.presented import MAX_NAMES, Certificate, check_records, read_chain
from requiretls_mta.tls.dane import MAX_CHAIN, Record, published
from requiretls_mta.tls.facts import ClientTLS
from tests.tls.certificates import NAME, make

ROOT = make("root", authority=True)
LEAF = make(issuer=ROOT)
TLS = ClientTLS(version="TLSv1.3", cipher="x", chain=(LEAF.der, ROOT.der))


def digest(signed):
    key = signed.certificate.public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def test_certificates():
    """What an operator compares: names, dates, and the digest that a TLSA record holds."""
    leaf, root = read_chain(TLS.chain)
    assert (leaf.subject, leaf.issuer, leaf.names) == ("CN=host", "CN=root", (NAME,))
    assert leaf.not_before < leaf.not_after
    assert leaf.spki_sha256 == digest(LEAF).hex() and leaf.sha256 == hashlib.sha256(LEAF.der).hexdigest()
    assert root.names == ()


def test_bounds():
    """Chains without end, names without end."""
    assert len(read_chain([LEAF.der] * 100)) == MAX_CHAIN
    (many,) = read_chain([make(names=[f"n{number}.test" for number in range(300)]).der])
    assert len(many.names) == MAX_NAMES


def test_each_record_by_itself():
    """One that matches does not hide what is wrong with the others."""
    good, anchor, wrong = (
        Record(3, 1, 1, digest(LEAF)),
        Record(2, 1, 1, digest(ROOT)),
        Record(3, 1, 1, bytes(32)),
    )
    stronger, unusable = Record(3, 0, 2, bytes(64)), Record(1, 1, 1, digest(LEAF))
    weaker = Record(3, 0, 1, hashlib.sha256(LEAF.der).digest())
    tlsa = published(NAME, [good, anchor, wrong, stronger, weaker, unusable])
    found = {checked.record: (checked.matches, checked.detail) for checked in check_records(tlsa, TLS, (NAME,))}
    assert len(found) == 6
    assert found[str(good)] == found[str(anchor)] == (True, "")
    assert found[str(wrong)] == (False, "no TLSA record matches what the host presented")
    assert found[str(weaker)] == (False, "not counted beside one with a stronger digest (RFC 7671 9)")
    assert found[str(unusable)][1].startswith("unusable: usage 1 ")
    misnamed = {checked.record: checked.detail for checked in check_records(tlsa, TLS, ("other.test",))}
    assert "does not bear the name other.test" in misnamed[str(anchor)] and misnamed[str(good)] == ""
    assert not any(checked.matches for checked in check_records(tlsa, None, (NAME,)))


@given(st.binary(max_size=300) | st.tuples(st.integers(0, len(LEAF.der) - 1), st.integers(0, 255)))
def test_whatever_was_presented(damage):
    """A certificate with any octet changed, or no certificate at all: told, and harmless to show."""
    if isinstance(damage, tuple):
        at, octet = damage
        damage = LEAF.der[:at] + bytes([octet]) + LEAF.der[at + 1 :]
    (found,) = read_chain([damage])
    texts = [found.subject, found.issuer, *found.names] if isinstance(found, Certificate) else [found]
    assert all(text.isprintable() for text in texts)
