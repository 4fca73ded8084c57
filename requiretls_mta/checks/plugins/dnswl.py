"""DNS whitelists, the first of the checks."""

from requiretls_mta.checks.dnswl import DNSWLPlugin

dnswl = DNSWLPlugin()
