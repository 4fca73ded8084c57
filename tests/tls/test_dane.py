"""TLSA records of every kind against chains of every kind."""

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.tls.dane import MAX_CHAIN, MAX_RECORDS, Record, authenticate, public_key_info, published
from requiretls_mta.tls.elements import DANE, Proof
from tests.tls.certificates import NAME, make

ROOT = make("root", authority=True)
CA = make("intermediate", issuer=ROOT, authority=True)
LEAF = make(issuer=CA)
CHAIN = [LEAF.der, CA.der, ROOT.der]
STRANGER = make("stranger", authority=True)


def record(usage, selector, matching, signed):
    """The record that vouches for a certificate."""
    data = (
        signed.der
        if selector == 0
        else signed.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    return Record(usage, selector, matching, [bytes, sha256, sha512][matching](data))


def sha256(octets):
    return hashlib.sha256(octets).digest()


def sha512(octets):
    return hashlib.sha512(octets).digest()


def check(*records, chain=CHAIN, names=(NAME,)):
    return authenticate(published("mx.a.test", records), chain, names)


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
def test_the_twelve_that_can_be_used(selector, matching):
    """DANE-EE for the leaf; DANE-TA for the root and for an intermediate CA; each stranger's for nobody."""
    assert check(record(3, selector, matching, LEAF)).proof is Proof.DANE_EE
    for anchor in (CA, ROOT):
        assert check(record(2, selector, matching, anchor)).proof is Proof.DANE_TA
        assert check(record(3, selector, matching, anchor)).proof is Proof.UNTRUSTED
    for usage in (2, 3):
        assert check(record(usage, selector, matching, STRANGER)).proof is Proof.UNTRUSTED
    # RFC 7671 5.2: a trust anchor is above the leaf.
    assert check(record(2, selector, matching, LEAF)).proof is Proof.UNTRUSTED


def test_what_matched_is_told():
    """For the log, and for whoever asks why."""
    assert check(record(3, 1, 1, LEAF)).detail.startswith("TLSA 3 1 1 ")
    assert "no TLSA record matches" in check(record(3, 1, 1, CA)).detail


def test_ee_needs_no_name_and_no_date():
    """C03; RFC 7672 3.1.1: self-signed, expired, another's name, for another purpose."""
    odd = make(names=("other.test",), days=(-30, -20), purpose=ExtendedKeyUsageOID.CLIENT_AUTH)
    assert check(record(3, 1, 1, odd), chain=[odd.der]).auth == "dane-ee"


@pytest.mark.parametrize(
    ("options", "names", "proof"),
    [
        ({}, ("a.test", NAME), Proof.DANE_TA),
        ({"names": ("a.test",)}, (NAME, "a.test"), Proof.DANE_TA),
        ({"names": ("*.a.test",)}, (NAME,), Proof.DANE_TA),
        ({"names": ("b.test",)}, (NAME, "a.test"), Proof.WRONG_NAME),
        ({"names": ("*.test",)}, (NAME,), Proof.WRONG_NAME),
        ({"names": ()}, (NAME,), Proof.WRONG_NAME),
        ({}, (), Proof.WRONG_NAME),
        ({"days": (-3, -2)}, (NAME,), Proof.EXPIRED),
        ({"days": (2, 3)}, (NAME,), Proof.UNTRUSTED),
        ({"purpose": ExtendedKeyUsageOID.CLIENT_AUTH}, (NAME,), Proof.UNTRUSTED),
        ({"digest": hashes.SHA512()}, (NAME,), Proof.DANE_TA),
    ],
)
def test_ta_needs_name_date_and_purpose(options, names, proof):
    """C04; RFC 7672 3.2.2: one of the reference identifiers, and all else that a chain has to be."""
    leaf = make(issuer=CA, **options)
    got = check(record(2, 0, 1, CA), chain=[leaf.der, CA.der], names=names)
    assert got.proof is proof, got


def test_ta_of_chains_that_do_not_hold():
    """Signed by somebody who only bears the anchor's name; past the path length; by a host; with a key too small."""
    impostor = make("intermediate", authority=True)
    assert check(record(2, 0, 1, CA), chain=[make(issuer=impostor).der, CA.der]).proof is Proof.UNTRUSTED
    short = make("short", authority=True, path_length=0)
    between = make("between", issuer=short, authority=True)
    chain = [make(issuer=between).der, between.der, short.der]
    assert check(record(2, 0, 1, short), chain=chain).proof is Proof.UNTRUSTED
    assert check(record(2, 0, 1, between), chain=chain).proof is Proof.DANE_TA
    host = make("host", issuer=ROOT)
    assert check(record(2, 0, 1, ROOT), chain=[make(issuer=host).der, host.der, ROOT.der]).proof is Proof.UNTRUSTED
    small = make(issuer=CA, key=rsa.generate_private_key(65537, 1024))
    assert check(record(2, 0, 1, CA), chain=[small.der, CA.der]).proof is Proof.UNTRUSTED


def test_ta_that_the_host_does_not_present():
    """RFC 7671 5.2.2: only "2 0 0" brings the certificate along."""
    assert check(record(2, 0, 0, CA), chain=[LEAF.der]).proof is Proof.DANE_TA
    assert check(record(2, 0, 0, ROOT), chain=[LEAF.der, CA.der]).proof is Proof.DANE_TA
    assert check(record(2, 0, 0, ROOT), chain=[LEAF.der]).proof is Proof.UNTRUSTED
    for selector, matching in ((0, 1), (1, 0), (1, 1)):
        assert check(record(2, selector, matching, CA), chain=[LEAF.der]).proof is Proof.UNTRUSTED
    # Nor does a record that brings the leaf make it an anchor.
    alone = make("alone")
    assert check(record(2, 0, 0, alone), chain=[alone.der, alone.der]).proof is Proof.UNTRUSTED


def test_one_that_matches_is_enough():
    """Of several, in any order, the stranger's do no harm; a failure that says more is told."""
    good, bad = record(3, 1, 1, LEAF), record(3, 1, 1, STRANGER)
    assert check(bad, good).auth == check(good, bad).auth == "dane-ee"
    assert check(record(2, 0, 1, CA), bad, names=("b.test",)).proof is Proof.WRONG_NAME
    assert check(bad, record(2, 0, 1, ROOT)).auth == "dane-ta"


def test_only_the_strongest_digest_counts():
    """RFC 7671 9: per usage and selector; Full(0) always counts."""
    weak, strong, full = (record(3, 1, matching, LEAF) for matching in (1, 2, 0))
    wrong = record(3, 1, 2, STRANGER)
    assert check(weak, strong).auth == "dane-ee"
    assert check(weak, wrong).auth is None
    assert check(weak, wrong, full).auth == "dane-ee"
    assert check(weak, record(3, 0, 2, STRANGER)).auth == "dane-ee"
    assert check(weak, Record(3, 1, 2, b"short")).auth == "dane-ee"


@pytest.mark.parametrize(
    "bad",
    [
        *(Record(usage, 1, 1, bytes(32)) for usage in (0, 1, 4, 255)),
        Record(3, 2, 1, bytes(32)),
        Record(3, 1, 3, bytes(32)),
        Record(3, 1, 1, bytes(31)),
        Record(3, 1, 1, bytes(64)),
        Record(3, 1, 2, bytes(32)),
        Record(2, 0, 1, b""),
        Record(3, 0, 0, b""),
        Record(2, 0, 0, b"no certificate"),
        Record(2, 1, 0, LEAF.der),
        Record(3, 0, 0, LEAF.der + bytes(9000)),
    ],
    ids=lambda bad: f"{bad!s:.9}",
)
def test_what_cannot_be_used(bad):
    """PKIX usages, unknown numbers, digests of another length, octets that are no certificate or key."""
    assert bad.problem
    alone = published("mx.a.test", [bad])
    assert alone.state is DANE.UNUSABLE and authenticate(alone, CHAIN, [NAME]).auth is None
    assert published("mx.a.test", [bad, record(3, 1, 1, LEAF)]).state is DANE.USABLE
    assert published("mx.a.test", []).state is DANE.NONE


def test_pkix_usages_do_not_authenticate_though_they_match():
    """RFC 7672 3.1.3: "0 0 1" and "1 1 1" of the very certificates."""
    assert check(record(0, 0, 1, CA), record(1, 1, 1, LEAF)).auth is None


def test_there_is_an_end():
    """So many records and certificates, and no more."""
    many = [Record(3, 1, 1, number.to_bytes(32, "big")) for number in range(1000)]
    assert len(published("mx.a.test", many).records) == MAX_RECORDS
    assert check(record(2, 0, 1, ROOT), chain=[LEAF.der, *[STRANGER.der] * MAX_CHAIN, CA.der, ROOT.der]).auth is None


def test_the_key_is_taken_as_it_is_written():
    """Octet for octet what the certificate holds, for each kind of key, and nothing for nonsense."""
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        signed = make(key=key)
        written = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert public_key_info(signed.der) == written
    for octets in (b"", b"\x30", b"\x30\x84\xff\xff\xff\xff", LEAF.der[:100]):
        assert public_key_info(octets) == b""


RECORDS = st.lists(
    st.builds(Record, st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=200))
    | st.builds(Record, st.integers(0, 4), st.integers(0, 2), st.integers(0, 3), st.binary(max_size=200))
    | st.builds(Record, st.integers(2, 3), st.integers(0, 1), st.just(1), st.binary(min_size=32, max_size=32))
    | st.builds(Record, st.integers(2, 3), st.integers(0, 1), st.just(2), st.binary(min_size=64, max_size=64))
    | st.builds(Record, st.just(2), st.just(0), st.just(0), st.sampled_from([STRANGER.der, ROOT.der[:-9]])),
    max_size=60,
)
MANGLED = st.tuples(st.sampled_from(CHAIN), st.integers(0, 2000), st.integers(0, 255)).map(
    lambda made: made[0][: made[1]] + bytes([made[2]]) + made[0][made[1] + 1 :]
)


@given(RECORDS, st.lists(st.binary(max_size=300) | st.sampled_from(CHAIN) | MANGLED, max_size=6))
def test_no_octets_of_anybody_authenticate_or_raise(records, chain):
    """Records of any octets, chains of any octets: nobody is authenticated, and nothing breaks."""
    known = published("mx.a.test", records)
    assert authenticate(known, chain, [NAME]).auth is None
    assert (known.state is DANE.NONE) == (not records)


@given(MANGLED, st.sampled_from([0, 1]), st.sampled_from([0, 1, 2]), st.sampled_from([2, 3]))
def test_a_mangled_certificate_is_another(mangled, selector, matching, usage):
    """One octet changed: what a record of the original still vouches for is the very key or certificate."""
    original = LEAF if usage == 3 else CA
    chain = [mangled, CA.der] if usage == 3 else [LEAF.der, mangled]
    same = mangled == original.der or (selector == 1 and public_key_info(mangled) == public_key_info(original.der))
    got = check(record(usage, selector, matching, original), chain=chain)
    assert got.auth is None or same or (usage, selector, matching) == (2, 0, 0), got
