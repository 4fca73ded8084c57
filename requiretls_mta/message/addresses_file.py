"""Files with one address a line: members of a list, recipients that exist."""

from __future__ import annotations

from pathlib import Path

from requiretls_mta.message.address import Address, AddressError, parse_mailbox
from requiretls_mta.message.reply import quote

OCTETS = 32 * 1024 * 1024
"""Of the longest file that is read."""


class AddressesError(Exception):
    """The file cannot be used; the text names it and the line, and says what is allowed there."""


def read_addresses(path: Path, *, most: int) -> tuple[Address, ...]:
    """Its addresses, each once, in order; blank lines and lines that start with # count for nothing.

    Raises `AddressesError`, for more than `most` addresses too, or `OSError`.
    """
    with path.open("rb") as file:
        octets = file.read(OCTETS + 1)
    if len(octets) > OCTETS:
        raise AddressesError(f"{path}: more than {OCTETS // 2**20} MiB")
    found: dict[str, Address] = {}
    for number, line in enumerate(octets.splitlines(), 1):
        text = line.strip()
        if not text or text.startswith(b"#"):
            continue
        try:
            address = parse_mailbox(text.decode("utf-8"), utf8=True)
            found.setdefault(address.key, address)
        except (AddressError, UnicodeDecodeError) as error:
            why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
            raise AddressesError(f'{path}, line {number}: found "{quote(text)}"; one address a line: {why}') from None
        if len(found) > most:
            raise AddressesError(f"{path}, line {number}: more than {most} addresses")
    return tuple(found.values())
