"""What a client says in AUTH PLAIN, read more closely than stock Twisted does."""

from __future__ import annotations

from twisted.cred.error import UnauthorizedLogin

from requiretls_mta.smtp._stock import PLAINCredentials


class PlainCredentials(PLAINCredentials):
    """PLAIN (RFC 4616) where everybody acts for himself: another authorization identity is refused, not ignored."""

    username: bytes

    def setResponse(self, response: bytes) -> None:
        """Take `authorization identity NUL user NUL password`."""
        super().setResponse(response)
        if response.partition(b"\0")[0] not in (b"", self.username):
            raise UnauthorizedLogin("nobody may act for another user")
