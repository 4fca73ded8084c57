"""Tells twistd of `requiretls-mta`; it imports nothing of ours until the service is asked for."""

from twisted.application.service import ServiceMaker

requiretls_mta = ServiceMaker(
    "requiretls-mta",
    "requiretls_mta.service.tap",
    "A mail transfer agent that keeps the promise of REQUIRETLS (RFC 8689)",
    "requiretls-mta",
)
