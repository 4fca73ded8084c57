"""The profile: whose names and codes are emitted, RFC 8689's or those of the draft that it grew from; both are read."""

from __future__ import annotations

import enum

from requiretls_mta.message.reply import Reply


class Profile(enum.Enum):
    """`requiretls.profile`."""

    RFC8689 = "rfc8689"
    DRAFT_03 = "draft-03"
    """draft-ietf-uta-smtp-require-tls-03."""

    @property
    def optional_field(self) -> str:
        """The header field that asks for delivery whatever TLS can do, without its CRLF."""
        return "TLS-Required: No" if self is Profile.RFC8689 else "RequireTLS: NO"

    def support_required(self, text: str) -> Reply:
        """The end of a message whose hosts lack nothing but the keyword (RFC 8689 4.2.1, 7)."""
        if self is Profile.RFC8689:
            return Reply(550, "5.7.30", f"REQUIRETLS support required: {text}")
        # The draft names no number, only 5.7.YYY; RFC 3463 3.8 has one for security that is not supported.
        return Reply(530, "5.7.4", f"REQUIRETLS needed: {text}")


SUPPORT_REQUIRED = frozenset(profile.support_required("").enhanced for profile in Profile)
"""The enhanced codes that say so."""
