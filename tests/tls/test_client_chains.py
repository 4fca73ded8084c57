"""Certificates that must not authenticate a host though somebody signed them, and sessions that are never resumed."""

import contextlib

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL

from requiretls_mta.tls.client import Handshake, client_context
from tests.tls.certificates import NAME, make


@pytest.fixture(scope="module")
def root():
    """The authority that is trusted."""
    return make("root", authority=True)


@pytest.fixture(scope="module")
def context(root, tmp_path_factory):
    """A client's context that trusts it."""
    bundle = tmp_path_factory.mktemp("trust") / "roots.pem"
    bundle.write_bytes(root.certificate.public_bytes(Encoding.PEM))
    return client_context(str(bundle))


def server_context(host, *above, version=None):
    """A server that shows these and would resume any session."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    # Whatever is shown is to be judged by our side, however weak it is.
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    context.set_session_id(b"tests")
    context.set_session_cache_mode(SSL.SESS_CACHE_SERVER)
    if version is not None:
        context.set_max_proto_version(version)
    context.use_certificate(host.certificate)
    context.use_privatekey(host.key)
    for one in above:
        context.add_extra_chain_cert(one.certificate)
    return context


def shake(context, server, host=NAME):
    """The facts of a whole handshake, in memory."""
    handshake = Handshake(context, host)
    client, peer = handshake.clientConnectionForTLS(None), SSL.Connection(server, None)
    client.set_connect_state()
    peer.set_accept_state()
    for _ in range(10):
        for mine, other in ((client, peer), (peer, client)):
            with contextlib.suppress(SSL.WantReadError):
                mine.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(mine.bio_read(65536))
    return handshake.facts(client)


def test_a_good_one_authenticates(root, context):
    """The measure for all that follow."""
    assert shake(context, server_context(make(issuer=root))).pkix.auth == "pkix"


def test_a_certificate_for_clients_is_none_for_servers(root, context):
    """RFC 5280 4.2.1.12: who may prove to be a client does not prove to be a mail host."""
    facts = shake(context, server_context(make(issuer=root, purpose=ExtendedKeyUsageOID.CLIENT_AUTH)))
    assert facts.name_error is None and "unsuitable certificate purpose" in facts.pkix.detail


def test_a_host_is_no_authority(root, context):
    """Signed with the key of a host that the root did sign (RFC 5280 4.2.1.9)."""
    attacker = make("attacker", issuer=root, names=("attacker.test",))
    facts = shake(context, server_context(make(issuer=attacker), attacker))
    assert facts.name_error is None and facts.chain_errors


def test_nobody_is_his_own_authority(root, context):
    """Self-signed, and signed by somebody who only bears the root's name."""
    for issuer in (None, make("root", authority=True)):
        facts = shake(context, server_context(make(issuer=issuer)))
        assert facts.name_error is None and facts.chain_errors


def test_a_key_that_can_be_broken(root, context):
    """RFC 9325 4.5: RSA of 1,024 bits authenticates nobody."""
    facts = shake(context, server_context(make(issuer=root, key=rsa.generate_private_key(65537, 1024))))
    assert facts.name_error is None and facts.chain_errors


@pytest.mark.parametrize("name", ["*", "*.*.test", "m*.a.test", "mx.*.test", "mx.a.test.evil.test", "a.test"])
def test_names_that_are_almost_right(root, context, name):
    """RFC 9525 6.3: only a whole left-most label is a wildcard."""
    facts = shake(context, server_context(make(issuer=root, names=(name,))))
    assert not facts.chain_errors and facts.name_error is not None


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_c40_no_session_is_resumed(root, context, version):
    """Though the server keeps sessions: each time the certificate is shown and looked at, for the name asked for."""
    server = server_context(make(issuer=root), version=version)
    for _ in range(3):
        # Without a run of the callback in this very handshake there is an error.
        assert shake(context, server).pkix.auth == "pkix"
    assert shake(context, server, "mx.b.test").name_error is not None
