"""Whether a certificate bears a name (RFC 9525): DNS names and IP addresses in the SAN, and nothing else."""

from __future__ import annotations

import ipaddress

from cryptography import x509
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address

from requiretls_mta.message.address import AddressError, check_domain, literal_address
from requiretls_mta.message.reply import quote


def name_error(leaf: x509.Certificate, name: str) -> str | None:
    """Why the certificate does not bear a name (A-labels, an IP address, a literal in brackets); None: it does."""
    address = as_ip(name)
    try:
        if address is not None:
            verify_certificate_ip_address(leaf, address)
        else:
            verify_certificate_hostname(leaf, name)
    except (VerificationError, CertificateError):
        return f"the certificate does not bear the name {name} ({_names(leaf)})"
    except Exception as error:
        # The octets are the peer's: extensions twice, of no form, in encodings of no name.
        return f"the names in the certificate cannot be read: {quote(str(error))}"
    return None


def as_ip(name: str) -> str | None:
    """The IP address that a host is named by, in brackets or bare."""
    if name.startswith("["):
        return str(literal_address(name))
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return None


def is_host_name(name: str) -> bool:
    """Whether this is a host's name: A-labels, and no address."""
    try:
        check_domain(name)
    except AddressError:
        return False
    return as_ip(name) is None and name.isascii()


def _names(leaf: x509.Certificate) -> str:
    try:
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "it has no subject alternative name"
    names = [str(name.value) for name in alternative if isinstance(name, x509.DNSName | x509.IPAddress)]
    return quote("it bears " + ", ".join(names[:5])) if names else "it bears no DNS name"
