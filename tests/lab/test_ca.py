"""The tests' own certificates are what they claim to be, by OpenSSL's judgement."""

import ssl

import pytest

from tests.lab.ca import CA


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return CA(tmp_path_factory.mktemp("ca"))


def handshake(files, roots, name):
    """None, or OpenSSL's reason against the certificate."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.chain, files.key)
    client = ssl.create_default_context(cafile=roots)
    client.hostname_checks_common_name = False
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    ours = client.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(4):
        for end in (ours, theirs):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
    assert ours.version() == "TLSv1.3"
    return None


def test_good_certificates(ca):
    """By name, wildcard and address; directly and through an intermediate."""
    assert handshake(ca.host("mx.good.test", "*.wild.test", "127.0.0.2"), ca.roots, "mx.good.test") is None
    assert handshake(ca.host("*.wild.test"), ca.roots, "a.wild.test") is None
    assert handshake(ca.host("127.0.0.2"), ca.roots, "127.0.0.2") is None
    assert handshake(ca.intermediate().host("mx.good.test"), ca.roots, "mx.good.test") is None


def test_bad_certificates(ca, tmp_path):
    """Each for its own reason."""
    assert "mismatch" in handshake(ca.host("mx.other.test"), ca.roots, "mx.good.test")
    assert "expired" in handshake(ca.expired("mx.good.test"), ca.roots, "mx.good.test")
    assert "mismatch" in handshake(ca.common_name_only("mx.good.test"), ca.roots, "mx.good.test")
    stranger = CA(tmp_path / "other", "Other CA").host("mx.good.test")
    assert "local issuer" in handshake(stranger, ca.roots, "mx.good.test")


def test_keys_are_private(ca):
    """Mode 0600, as our own servers demand."""
    assert ca.host("mx.good.test").key.stat().st_mode & 0o777 == 0o600
