"""The client's end of TLS: one handshake that never refuses, and facts to judge it by afterwards.

A context is made once for a set of roots. Each connection gets a callback that writes the chain's errors down and lets
the handshake finish, so that the same session can serve who must authenticate the host and who need not. Sessions are
never resumed: a resumed one would prove nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from zope.interface import implementer

from requiretls_mta.tls.facts import EXPIRED, ClientTLS
from requiretls_mta.tls.names import as_ip, name_error


class TrustError(Exception):
    """The trusted roots cannot be read; the message names the file."""


def client_context(trust: str) -> SSL.Context:
    """A context for outgoing sessions; `trust` is `system` or the path of a PEM bundle. Raises `TrustError`."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)  # RFC 9325 3.1.1
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    if trust == "system":
        context.set_default_verify_paths()
        return context
    try:
        context.load_verify_locations(trust)
    except (SSL.Error, OSError) as error:
        reason = "no PEM certificates in it" if Path(trust).is_file() else "no such file"
        raise TrustError(f"{trust}: {reason}; a bundle of trusted roots in PEM is needed") from error
    return context


@implementer(IOpenSSLClientConnectionCreator)
class Handshake:
    """One handshake with one host: makes its connection, then tells its facts."""

    def __init__(self, context: SSL.Context, host: str, server_name: str | None = None) -> None:
        """`host` is the name to be borne by the certificate: A-labels, an IP address, or a literal in brackets.

        `server_name` is the name that the host is asked for, where it is another (RFC 7672 8.1: the TLSA base domain).
        """
        self._context = context
        self._host = host
        self._server_name = server_name or host
        self._errors: list[str] = []
        self._only_expired = True
        self._verified = False

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """The connection for Twisted's TLS."""
        connection = SSL.Connection(self._context, None)
        if as_ip(self._server_name) is None:  # RFC 6066 3: no literals in SNI
            connection.set_tlsext_host_name(self._server_name.encode("ascii"))
        connection.set_verify(SSL.VERIFY_PEER, self._note)
        return connection

    def facts(self, connection: SSL.Connection) -> ClientTLS:
        """What the finished handshake showed."""
        chain = connection.get_peer_cert_chain(as_cryptography=True) or []
        errors = list(self._errors)
        # No errors prove something only if somebody looked.
        looked = bool(chain) and self._verified
        if not looked:
            errors.append("the host presented no certificate")
        return ClientTLS(
            version=connection.get_protocol_version_name(),
            cipher=connection.get_cipher_name() or "",
            chain=tuple(certificate.public_bytes(Encoding.DER) for certificate in chain),
            chain_errors=tuple(errors),
            expired=looked and bool(errors) and self._only_expired,
            name_error=name_error(chain[0], self._host) if chain else "no certificate",
        )

    def _note(self, connection: SSL.Connection, certificate: crypto.X509, number: int, depth: int, ok: int) -> bool:
        self._verified = True
        if not ok:
            self._only_expired &= number == EXPIRED
            text = f"{_error_text(number)} (at depth {depth})"
            if text not in self._errors and len(self._errors) < 5:
                self._errors.append(text)
        return True


# The codes of X509_V_ERR_* in OpenSSL's x509_vfy.h that mail operators meet.
_ERRORS = {
    7: "certificate signature failure",
    9: "certificate is not yet valid",
    EXPIRED: "certificate has expired",
    18: "self-signed certificate",
    19: "self-signed certificate in certificate chain",
    20: "unable to get local issuer certificate",
    21: "unable to verify the first certificate",
    22: "certificate chain too long",
    23: "certificate revoked",
    24: "invalid CA certificate",
    26: "unsuitable certificate purpose",
    66: "end-entity key too small",
    68: "CA signature digest algorithm too weak",
}


def _error_text(number: int) -> str:
    return _ERRORS.get(number, f"verification error {number}")
