"""DKIM."""

from requiretls_mta.checks.dkim import DKIMPlugin

dkim = DKIMPlugin()
