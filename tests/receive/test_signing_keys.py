"""Files with keys: which are taken, what is said of those that are not, and of those that should not stay."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from requiretls_mta.receive.signing_keys import SigningKeyError, read_key
from tests.checks.signing import RSA as TRADITIONAL
from tests.receive.signatures import ED25519, RSA, pem


@pytest.fixture
def written(tmp_path):
    def write(octets, mode=0o600):
        path = tmp_path / "key.pem"
        path.write_bytes(octets)
        path.chmod(mode)
        return path

    return write


@pytest.mark.parametrize(
    ("octets", "algorithm"),
    [
        (pem(RSA), "rsa-sha256"),
        (pem(ED25519), "ed25519-sha256"),
        (TRADITIONAL(4096).pem, "rsa-sha256"),
    ],
)
def test_the_file_decides(written, octets, algorithm):
    """Its kind of key is the algorithm; nothing to be said of a good one, and it is shown nowhere."""
    key = read_key("example.org", "s1", written(octets))
    assert (key.domain, key.selector, key.algorithm, key.cautions) == ("example.org", "s1", algorithm, ())
    assert "key=" not in repr(key)


LOCKED = ED25519.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))


@pytest.mark.parametrize(
    ("octets", "found"),
    [
        (b"", "no private key that can be read"),
        (b"secret", "no private key that can be read"),
        (pem(RSA)[:300], "no private key that can be read"),
        (b" " * 70_000 + pem(RSA), "no private key that can be read"),
        (LOCKED, "a key with a password"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "a key of another kind"),
        (pem(rsa.generate_private_key(65537, 4160)), "an RSA key of 4160 bits"),
    ],
)
def test_what_cannot_sign(written, octets, found):
    """The text names the file and what is allowed; nothing of its content."""
    path = written(octets)
    with pytest.raises(SigningKeyError) as caught:
        read_key("example.org", "s1", path)
    assert str(caught.value) == (
        f"{path}: found {found}; allowed: an RSA (1024 to 4096 bits) or Ed25519 private key as PEM, without a password"
    )


def test_a_missing_file(tmp_path):
    """Like any file of the configuration."""
    with pytest.raises(OSError, match=r"nothing\.pem"):
        read_key("example.org", "s1", tmp_path / "nothing.pem")


def test_short_keys_are_told(written):
    """RFC 8301 3.2: at least 1024 bits, and should be 2048."""
    path = written(pem(rsa.generate_private_key(65537, 1024)))
    (told,) = read_key("example.org", "s1", path).cautions
    assert told == f"{path}: 1024 bits are few, 2048 should be used (RFC 8301 3.2)"


@pytest.mark.parametrize(("mode", "is_told"), [(0o600, False), (0o640, False), (0o660, True), (0o644, True)])
def test_open_files_are_told(written, mode, is_told):
    """A group may read it; the rest of the world need not."""
    assert bool(read_key("example.org", "s1", written(pem(ED25519), mode)).cautions) == is_told
