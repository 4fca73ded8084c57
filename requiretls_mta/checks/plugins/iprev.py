"""The client's name."""

from requiretls_mta.checks.iprev import IPRevPlugin

iprev = IPRevPlugin()
