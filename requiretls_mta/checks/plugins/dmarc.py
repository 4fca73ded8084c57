"""DMARC."""

from requiretls_mta.checks.dmarc import DMARCPlugin

dmarc = DMARCPlugin()
