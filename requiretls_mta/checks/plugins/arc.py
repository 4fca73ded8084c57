"""ARC."""

from requiretls_mta.checks.arc import ARCPlugin

arc = ARCPlugin()
