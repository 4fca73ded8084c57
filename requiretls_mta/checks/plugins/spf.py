"""SPF."""

from requiretls_mta.checks.spf import SPFPlugin

spf = SPFPlugin()
