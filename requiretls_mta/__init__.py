"""requiretls-mta: the mail transfer agent that keeps the sender's promise (RFC 8689)."""

__version__ = "0.1.0"
