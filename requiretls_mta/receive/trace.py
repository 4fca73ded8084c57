"""The trace fields put in front of an accepted message (RFC 5321 4.4)."""

from __future__ import annotations

from requiretls_mta.message.address import AddressError, ascii_domain, check_domain
from requiretls_mta.message.authres import MOST_OCTETS, Property, Result
from requiretls_mta.message.envelope import Envelope, Tag
from requiretls_mta.message.reply import quote
from requiretls_mta.message.trace import date_time
from requiretls_mta.smtp.interfaces import Session


def received_field(
    envelope: Envelope, session: Session, *, hostname: str, queue_id: str, now: float, decided: str = ""
) -> bytes:
    """The `Received` field with its CRLF; `now` in Unix seconds; `decided`: what a rule did, for a comment."""
    with_ = session.protocol
    if envelope.smtputf8:
        with_ = "UTF8" + with_.removeprefix("E")  # RFC 6531 4.3: UTF8SMTPS is ESMTPS with SMTPUTF8
    by = f"by {hostname} with {with_}"
    if session.tls is not None:
        by += f" ({session.tls.version} {session.tls.cipher})"
    if envelope.tag is Tag.REQUIRED:
        by += " (requiretls)"
    if decided:
        by += f" ({decided})"
    lines = [f"Received: from {_client(session)}", by, f"id {queue_id}"]
    # One recipient may be named; more would tell each other of blind copies (RFC 5321 7.2).
    if len(envelope.recipients) == 1 and envelope.recipients[0].address.is_ascii:
        lines.append(f"for <{envelope.recipients[0].address.text}>")
    # ASCII even for SMTPUTF8: the message may have to go on without it (RFC 6531 3.6).
    return ("\r\n\t".join(lines) + f"; {date_time(now)}\r\n").encode("ascii", "replace")


def auth_result(session: Session) -> Result | None:
    """RFC 8601 2.7.4: who logged in, and how.

    There is no `smtp.mailfrom`: it would be what MAIL's AUTH parameter says, and nobody is believed (RFC 4954 5).
    """
    if session.user is None:
        return None
    name = quote(session.user)
    value = name.encode("utf-8", "backslashreplace")[:MOST_OCTETS].decode("utf-8", "ignore")
    in_ascii = name.encode("ascii", "backslashreplace")[:MOST_OCTETS].decode("ascii")
    user = Property("smtp", "auth", value, in_ascii=in_ascii)
    return Result("auth", "pass", comment=session.mechanism.lower() or None, properties=(user,))


def _client(session: Session) -> str:
    """Extended-Domain with TCP-info: what the client calls itself, and where it really is."""
    where = session.peer.literal
    try:
        check_domain(session.helo)
    except AddressError:
        return f"unknown ({where})"
    return f"{ascii_domain(session.helo)} ({where})"
