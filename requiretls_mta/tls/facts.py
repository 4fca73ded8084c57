"""What a finished handshake tells, as data; judged elsewhere."""

from __future__ import annotations

import attrs

from requiretls_mta.tls.elements import Proof, Proved

EXPIRED = 10
"""X509_V_ERR_CERT_HAS_EXPIRED of OpenSSL."""


@attrs.frozen(kw_only=True)
class ServerTLS:
    """Facts of a session that a client opened to us."""

    version: str
    """Such as `TLSv1.3`."""
    cipher: str
    bits: int
    server_name: str | None = None
    """The name the client asked for (SNI)."""


@attrs.frozen(kw_only=True)
class ClientTLS:
    """Facts of a session that we opened to a host."""

    version: str
    cipher: str
    chain: tuple[bytes, ...]
    """The certificates the host presented, leaf first, DER."""
    chain_errors: tuple[str, ...] = ()
    """Why the chain does not verify to a trusted root; empty: it does. Empty says nothing when `resumed`."""
    expired: bool = False
    """Whether nothing is wrong with the chain but that a certificate in it has expired."""
    name_error: str | None = None
    """Why the leaf does not bear the host's name (RFC 9525; CN-ID does not count); None: it does."""
    resumed: bool = False

    @property
    def pkix(self) -> Proved:
        """Whether PKIX authenticates the host."""
        if self.resumed:
            return Proved(Proof.UNTRUSTED, "a resumed session proves no certificate")
        if self.chain_errors:
            return Proved(Proof.EXPIRED if self.expired else Proof.UNTRUSTED, "; ".join(self.chain_errors))
        return Proved(Proof.WRONG_NAME, self.name_error) if self.name_error else Proved(Proof.PKIX)
