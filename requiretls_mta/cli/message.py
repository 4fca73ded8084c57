"""A message to submit: line ends made right, what RFC 5322 asks for added where it is missing."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping, Sequence

from requiretls_mta.message.header import fields
from requiretls_mta.message.profile import Profile
from requiretls_mta.message.trace import date_time

_LINE_END = re.compile(rb"\r\n|\r|\n")
FIRST_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")


def prepare(
    octets: bytes, *, sender: str, recipients: Sequence[str], now: float, tls_optional: Profile | None = None
) -> bytes:
    """The message as it is submitted: CRLF line ends; From, To, Date and Message-ID unless it brings them.

    Text without a header section becomes a body. `tls_optional` adds the profile's
    `TLS-Required: No` (RFC 8689 5).
    """
    message = _LINE_END.sub(b"\r\n", octets)
    if not FIRST_FIELD.match(message):
        message = b"\r\n" + message.removeprefix(b"\r\n")
    if not message.endswith(b"\r\n"):
        message += b"\r\n"
    end = 0 if message.startswith(b"\r\n") else message.find(b"\r\n\r\n")
    present = {field.name for field in fields(message[: end + 2 if end > 0 else len(message) if end < 0 else 0])}
    domain = sender.rpartition("@")[2] or "localhost"
    wanted = {
        "From": sender or "MAILER-DAEMON",
        "To": ", ".join(recipients),
        "Date": date_time(now),
        "Message-ID": message_id(domain),
    }
    if tls_optional is not None:
        wanted |= optional(tls_optional)
    return added_fields(wanted, present) + message


def added_fields(wanted: Mapping[str, str], present: Collection[bytes]) -> bytes:
    """Those that are not present by their names (in lower case), each with its CRLF."""
    added = [f"{name}: {value}\r\n" for name, value in wanted.items() if name.lower().encode() not in present]
    return "".join(added).encode()


def message_id(domain: str) -> str:
    """A new one."""
    return f"<{secrets.token_hex(12)}@{domain}>"


def optional(profile: Profile) -> dict[str, str]:
    """The field that asks for delivery whatever TLS can do (RFC 8689 5), name and value."""
    name, _, value = profile.optional_field.partition(": ")
    return {name: value}
