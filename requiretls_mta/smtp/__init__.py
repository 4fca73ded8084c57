"""SMTP and LMTP: grammar, data transfer, the server session and the outgoing session."""
