"""Real handshakes with real certificates: the facts that are to be judged."""

import shutil
import socket
import ssl
import tempfile
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from requiretls_mta.smtp.client import ClientSession
from requiretls_mta.tls.client import Handshake, TrustError, client_context
from tests.lab.ca import CA


def test_roots_that_cannot_be_read_are_named(tmp_path):
    """No such file, or no certificates in it."""
    with pytest.raises(TrustError, match="no such file"):
        client_context(str(tmp_path / "none"))
    (tmp_path / "empty").write_text("")
    with pytest.raises(TrustError, match="no PEM certificates"):
        client_context(str(tmp_path / "empty"))
    assert client_context("system")


class Shown:
    """A finished handshake that showed these certificates."""

    def __init__(self, *chain):
        self._chain = list(chain)

    def get_peer_cert_chain(self, *, as_cryptography):
        return self._chain

    def get_protocol_version_name(self):
        return "TLSv1.3"

    def get_cipher_name(self):
        return "TLS_AES_128_GCM_SHA256"


def test_nobody_looked_is_no_yes():
    """No certificate, or no run of the callback, never means verified."""
    handshake = Handshake(client_context("system"), "mx.a.test")
    assert handshake.facts(Shown()).pkix.auth is None
    with tempfile.TemporaryDirectory() as folder:
        good = CA(Path(folder)).host("mx.a.test").certificate
    assert handshake.facts(Shown(good)).name_error is None
    assert handshake.facts(Shown(good)).pkix.auth is None


def test_an_extension_twice_is_no_name():
    """What OpenSSL lets through and our reader refuses authenticates nobody, and breaks nothing."""
    with tempfile.TemporaryDirectory() as folder:
        octets = CA(Path(folder)).host("mx.a.test").certificate.public_bytes(Encoding.DER)
    key_identifier, alternative_name = b"\x06\x03\x55\x1d\x0e", b"\x06\x03\x55\x1d\x11"
    assert octets.count(key_identifier) == octets.count(alternative_name) == 1
    twice = x509.load_der_x509_certificate(octets.replace(key_identifier, alternative_name))
    facts = Handshake(client_context("system"), "mx.a.test").facts(Shown(twice))
    assert "cannot be read" in (facts.name_error or "")


class Facts(TestCase):
    """One handshake per case."""

    timeout = 20

    @inlineCallbacks
    def facts(self, files, host):
        listening = socket.create_server(("127.0.0.1", 0))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.chain, files.key)

        def serve():
            connection, _ = listening.accept()
            with context.wrap_socket(connection, server_side=True) as secure:
                secure.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        endpoint = TCP4ClientEndpoint(reactor, *listening.getsockname())
        session = yield endpoint.connect(Factory.forProtocol(lambda: ClientSession(reactor)))
        facts = yield session.start_tls(Handshake(self.context, host), 5)
        session.transport.loseConnection()
        while session.is_open:
            yield deferLater(reactor, 0.01, lambda: None)
        thread.join(5)
        listening.close()
        return facts

    @inlineCallbacks
    def test_each_kind_of_certificate(self):
        """Chain and name told apart; CN does not count, a wildcard stands for one label, literals need iPAddress."""
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        ca, other = CA(folder / "ca"), CA(folder / "other", "Other Root")
        self.context = client_context(str(ca.roots))
        good = yield self.facts(ca.host("mx.a.test"), "mx.a.test")
        assert good.pkix.auth == "pkix" and good.version == "TLSv1.3" and len(good.chain) == 1
        through = yield self.facts(ca.intermediate().host("mx.a.test"), "mx.a.test")
        assert through.pkix.auth == "pkix" and len(through.chain) == 2
        for files, host, error in (
            (ca.host("other.test"), "mx.a.test", "does not bear the name mx.a.test (it bears other.test)"),
            (ca.expired("mx.a.test"), "mx.a.test", "certificate has expired"),
            (other.host("mx.a.test"), "mx.a.test", "unable to get local issuer certificate"),
            (ca.common_name_only("mx.a.test"), "mx.a.test", "it has no subject alternative name"),
            (ca.host("*.test"), "mx.a.test", "does not bear"),
            (ca.host("*.a.test"), "mx.a.test", None),
            (ca.host("127.0.0.1"), "[127.0.0.1]", None),
            (ca.host("mx.a.test"), "127.0.0.1", "does not bear"),
        ):
            facts = yield self.facts(files, host)
            if error is None:
                assert facts.pkix.auth == "pkix", (host, facts)
            else:
                assert error in facts.pkix.detail, (host, facts.pkix)
