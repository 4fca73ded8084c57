"""The end of the MX walk when no host would do: what all the causes come to, as one reply."""

from __future__ import annotations

from collections.abc import Sequence

from requiretls_mta.message.outcome import Cause, Step
from requiretls_mta.message.profile import Profile
from requiretls_mta.message.reply import Reply

_SECURITY = frozenset({Step.LOOKUP, Step.STARTTLS, Step.AUTHENTICATE})
_TEMPORARY = {Step.LOOKUP: "4.7.5", Step.CONNECT: "4.4.1", Step.STARTTLS: "4.7.5", Step.AUTHENTICATE: "4.7.5"}


def conclude(causes: Sequence[Cause], profile: Profile = Profile.RFC8689) -> Reply:
    """What all the causes come to.

    A temporary element means that asking again may help. Otherwise 5.7.30 where some host reached the EHLO inside
    authenticated TLS and lacked only the keyword (RFC 8689 4.2.1), else 5.7.10.
    """
    # A host that said a definite no by one address has been heard, even if another address could not be reached.
    heard = {cause.host for cause in causes if not cause.temporary}
    causes = [c for c in causes if not (c.temporary and c.step is Step.CONNECT and c.host in heard)]
    text = "; ".join(str(cause) for cause in causes)
    temporary = [cause for cause in causes if cause.temporary]
    # What a reply tells is the host's or the DNS's own trouble; without one it is ours with the host's security.
    security = [c for c in causes if c.reply is None and c.step in _SECURITY]
    if temporary:
        replied = next((cause.reply for cause in temporary if cause.reply is not None), None)
        if replied is not None and replied.is_temporary:
            return Reply(replied.code, replied.enhanced or "4.0.0", text)
        return Reply(451, _TEMPORARY.get(temporary[0].step, "4.4.2"), text)
    if any(cause.step is Step.REQUIRETLS for cause in causes):
        return profile.support_required(text)
    if security:
        return Reply(550, "5.7.10", f"Encryption needed: {text}")
    replied = next((cause.reply for cause in reversed(causes) if cause.reply is not None), None)
    if replied is not None:
        return Reply(replied.code, replied.enhanced or "5.0.0", text)
    return Reply(550, "5.4.4", text or "no host takes mail for this domain")
