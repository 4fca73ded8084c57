"""What the server presents, seen by real clients over loopback: names, versions, reload, the private certificate."""

import datetime
import os
import shutil
import socket
import ssl
import stat
import tempfile
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase

from requiretls_mta.tls.server import CertificateError, Named, ServerContexts, load, private_files
from tests.lab.ca import CA
from tests.smtp.dialogue import in_thread

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Greeter(Protocol):
    def connectionMade(self):
        self.transport.write(b"hello")


class Handshakes(TestCase):
    """A listener with our contexts, and clients of Python's ssl in a thread."""

    timeout = 30

    @inlineCallbacks
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.ca = CA(self.folder)
        self.contexts = ServerContexts()
        factory = TLSMemoryBIOFactory(self.contexts, False, Factory.forProtocol(Greeter))
        self.port = yield TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        self.addCleanup(self.port.stopListening)

    def load(self, *names, minimum="1.2", named=()):
        files = self.ca.host(*names)
        return load(certificate=files.chain, key=files.key, minimum=minimum, named=named)

    def connect(self, name="mx.test", *, roots=None, sni=True, **settings):
        """The names of the certificate that a client is shown, and the TLS version."""

        def run():
            context = ssl.create_default_context(cafile=str(roots or self.ca.roots))
            context.check_hostname = sni
            for key, value in settings.items():
                setattr(context, key, value)
            with (
                socket.create_connection(("127.0.0.1", self.port.getHost().port), 10) as plain,
                context.wrap_socket(plain, server_hostname=name if sni else None) as tls,
            ):
                assert tls.recv(5) == b"hello"
                return [value for _, value in tls.getpeercert()["subjectAltName"]], tls.version()

        return in_thread(reactor, run)

    def hello(self, context, session=None):
        """One handshake, resuming a session if there is one; the session, and whether it was resumed."""
        with (
            socket.create_connection(("127.0.0.1", self.port.getHost().port), 10) as plain,
            context.wrap_socket(plain, server_hostname="mx.test", session=session) as tls,
        ):
            assert tls.recv(5) == b"hello"
            return tls.session, tls.session_reused

    @inlineCallbacks
    def test_a_client_is_shown_the_certificate_with_its_chain(self):
        """A client that knows only the root is content, for the intermediate comes along."""
        files = self.ca.intermediate().host("mx.test")
        self.contexts.loaded = load(certificate=files.chain, key=files.key)
        names, version = yield self.connect()
        assert (names, version) == (["mx.test"], "TLSv1.3")

    @inlineCallbacks
    def test_names_choose_their_certificate(self):
        """SNI in any case; an unknown name, or none, gets the default."""
        one, other = self.ca.host("mx.one.test", "mx.two.test"), self.ca.host("mx.three.test")
        named = [
            Named(names=frozenset({"mx.one.test", "mx.two.test"}), certificate=one.chain, key=one.key),
            Named(names=frozenset({"mx.three.test"}), certificate=other.chain, key=other.key),
        ]
        self.contexts.loaded = self.load("mx.test", "unknown.test", named=named)
        for name, shown in (
            ("mx.test", "mx.test"),
            ("MX.Two.Test", "mx.one.test"),
            ("mx.three.test", "mx.three.test"),
            ("unknown.test", "mx.test"),
        ):
            names, _ = yield self.connect(name)
            assert names[0] == shown
        names, _ = yield self.connect(sni=False)
        assert names[0] == "mx.test"

    @inlineCallbacks
    def test_the_minimum_version_holds_for_every_name(self):
        """With 1.3 asked for, a client of 1.2 gets no session, whichever certificate it names; with 1.2 it does."""
        named_files = self.ca.host("mx.one.test")
        named = [Named(names=frozenset({"mx.one.test"}), certificate=named_files.chain, key=named_files.key)]
        old = {"maximum_version": ssl.TLSVersion.TLSv1_2}
        self.contexts.loaded = self.load("mx.test", named=named)
        for name in ("mx.test", "mx.one.test"):
            _, version = yield self.connect(name, **old)
            assert version == "TLSv1.2"
        self.contexts.loaded = self.load("mx.test", minimum="1.3", named=named)
        for name in ("mx.test", "mx.one.test"):
            yield self.assertFailure(self.connect(name, **old), ssl.SSLError)

    @inlineCallbacks
    def test_sessions_are_not_resumed(self):
        """No tickets and no cache: each session is a handshake of its own."""
        self.contexts.loaded = self.load("mx.test")
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = ssl.create_default_context(cafile=str(self.ca.roots))
            context.maximum_version = version
            session, _ = yield in_thread(reactor, self.hello, context)
            _, reused = yield in_thread(reactor, self.hello, context, session)
            assert not reused

    @inlineCallbacks
    def test_what_is_swapped_holds_for_the_next_session_and_a_bad_file_swaps_nothing(self):
        """The reload: new handshakes have the new certificate; a failure leaves the old in force."""
        self.contexts.loaded = self.load("mx.test", "old.test")
        names, _ = yield self.connect()
        assert "old.test" in names
        bad = self.folder / "bad.pem"
        bad.write_text("nothing")
        with pytest.raises(CertificateError):
            self.contexts.loaded = load(certificate=bad, key=bad)
        names, _ = yield self.connect()
        assert "old.test" in names
        self.contexts.loaded = self.load("mx.test", "new.test")
        names, _ = yield self.connect()
        assert "new.test" in names

    @inlineCallbacks
    def test_the_private_certificate_satisfies_a_strict_client(self):
        """Whoever trusts ca.pem is content, even by all rules of RFC 5280."""
        chain, key = private_files(self.folder / "tls", "mx.test", NOW)
        self.contexts.loaded = load(certificate=chain, key=key)
        strict = ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_TRUSTED_FIRST
        names, _ = yield self.connect(roots=chain.parent / "ca.pem", verify_flags=strict)
        assert names == ["mx.test"]

    def test_before_anything_is_loaded_nobody_gets_a_session(self):
        """A listener accepts nothing before; if it did, this would say so."""
        with pytest.raises(CertificateError, match="no certificate"):
            self.contexts.serverConnectionForTLS(None)


@pytest.fixture
def ca(tmp_path):
    return CA(tmp_path / "ca")


def test_files_that_do_not_fit_are_named_with_the_reason(ca, tmp_path):
    """Missing, empty, not PEM, key of another certificate, no key: each is a CertificateError with the file's name."""
    good, other = ca.host("mx.test"), ca.host("mx.test")
    missing, empty, text = tmp_path / "missing.pem", tmp_path / "empty.pem", tmp_path / "text.pem"
    empty.touch()
    text.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for bad in (missing, empty, text, good.key, tmp_path):
        with pytest.raises(CertificateError, match=bad.name):
            load(certificate=bad, key=good.key)
    for bad in (missing, empty, text, other.key, good.chain, tmp_path):
        with pytest.raises(CertificateError, match=bad.name):
            load(certificate=good.chain, key=bad)
    with pytest.raises(CertificateError, match="No such file"):
        load(certificate=missing, key=good.key)
    with pytest.raises(CertificateError, match=other.key.name):
        named = [Named(names=frozenset({"x.test"}), certificate=good.chain, key=other.key)]
        load(certificate=good.chain, key=good.key, named=named)


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_a_password(ca, tmp_path):
    """OpenSSL would stop the start of the service and ask the terminal."""
    files = ca.host("mx.test")
    secret = serialization.load_pem_private_key(files.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    start = time.monotonic()
    with pytest.raises(CertificateError, match=r"locked\.key"):
        load(certificate=files.chain, key=locked)
    assert time.monotonic() - start < 5


def test_certificates_that_are_over_are_used_and_warned_of(ca):
    """A server with an old certificate still takes mail; its keeper is told, with the file and the date."""
    good, over, soon = ca.host("a.test"), ca.expired("b.test"), ca.host("c.test", valid_to=3 * DAY)
    named = [
        Named(names=frozenset({"b.test"}), certificate=over.chain, key=over.key),
        Named(names=frozenset({"c.test"}), certificate=soon.chain, key=soon.key),
    ]
    loaded = load(certificate=good.chain, key=good.key, named=named)
    first, second = loaded.warnings(NOW)
    assert str(over.chain) in first and " ended at " in first
    assert str(soon.chain) in second and " ends at " in second


def test_rsa_keys_serve_as_well(tmp_path):
    """Most certificates in use are RSA."""
    secret = rsa.generate_private_key(65537, 2048)
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(secret.public_key())
        .serial_number(1).not_valid_before(NOW - DAY).not_valid_after(NOW + 90 * DAY)
        .sign(secret, hashes.SHA256())
    )  # fmt: skip
    both = tmp_path / "both.pem"
    pem = serialization.Encoding.PEM
    both.write_bytes(
        certificate.public_bytes(pem)
        + secret.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    )
    assert load(certificate=both, key=both).warnings(NOW) == []


class TestPrivateFiles:
    """The certificate that a server without a configured one makes for itself."""

    def test_it_is_made_once_and_private(self, tmp_path):
        """0700 and 0600 whatever the umask, ECDSA P-256, the hostname as SAN; the next start finds it again."""
        old = os.umask(0)
        try:
            chain, key = private_files(tmp_path / "tls", "mx.test", NOW)
        finally:
            os.umask(old)
        assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700
        assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "tls").iterdir()} == {0o600}
        assert sorted(file.name for file in (tmp_path / "tls").iterdir()) == ["ca.pem", "certificate.pem", "key.pem"]
        certificate = x509.load_pem_x509_certificate(chain.read_bytes())
        assert certificate.public_key().curve.name == "secp256r1"
        before = chain.read_bytes(), key.read_bytes()
        assert private_files(tmp_path / "tls", "mx.test", NOW + 700 * DAY) == (chain, key)
        assert (chain.read_bytes(), key.read_bytes()) == before

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda chain, key: ("mx.test", NOW + 800 * DAY),
            lambda chain, key: ("other.test", NOW),
            lambda chain, key: ("mx.test", NOW - 30 * DAY),
            lambda chain, key: chain.unlink(),
            lambda chain, key: key.unlink(),
            lambda chain, key: key.write_bytes(b""),
            lambda chain, key: chain.write_bytes(chain.read_bytes()[:100]),
            lambda chain, key: shutil.copy(private_files(key.parent.parent / "x", "mx.test", NOW)[1], key),
        ],
        ids=["ends soon", "renamed", "clock", "no certificate", "no key", "empty key", "torn", "key of another"],
    )
    def test_it_is_made_anew_when_it_is_of_no_use(self, tmp_path, spoil):
        """Near its end, for another hostname, or left half-written by a crash: what comes out can be loaded."""
        chain, key = private_files(tmp_path / "tls", "mx.test", NOW)
        before = chain.read_bytes()
        asked = spoil(chain, key)
        hostname, now = asked if isinstance(asked, tuple) and len(asked) == 2 else ("mx.test", NOW)
        assert private_files(tmp_path / "tls", hostname, now) == (chain, key)
        assert chain.read_bytes() != before
        assert load(certificate=chain, key=key).warnings(now) == []
        names = x509.load_pem_x509_certificate(chain.read_bytes()).extensions
        assert names.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName) == [
            hostname
        ]
