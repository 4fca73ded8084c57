"""Which addresses a user may send as (RFC 6409 6.1): `[access.senders]`."""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs

from requiretls_mta.message.address import Address, AddressError, parse_mailbox
from requiretls_mta.message.header import fields_named
from requiretls_mta.message.mailboxes import mailboxes
from requiretls_mta.message.reply import Reply, quote
from requiretls_mta.receive.rules import address_pattern

EVERYBODY_ELSE = "*"
"""The name that stands for all whom no other matches."""
_NOT_ALLOWED = Reply(550, "5.7.1", "Sender address not allowed")
_MOST_SHOWN = 150
"""Characters of a name or an address in a reply, of which a line has at most 512 (RFC 5321 4.5.3.1.5)."""


@attrs.frozen
class Grant:
    """One key of the table."""

    user: re.Pattern[str] | None
    """None: `EVERYBODY_ELSE`."""
    addresses: tuple[str, ...]
    """Patterns of addresses, in which `{user}` may stand."""


@attrs.frozen
class Right:
    """What one user may send as."""

    user: str
    addresses: tuple[re.Pattern[str], ...]

    def refusal(self, sender: Address | None) -> Reply | None:
        """Why MAIL is not taken; the empty reverse path is everybody's."""
        return self._refusal(sender, "MAIL") if sender is not None else None

    def refusal_of(self, header: bytes) -> Reply | None:
        """Why a message is not taken: its From and Sender, where it has them, must name nobody else.

        RFC 5322 3.6.2: From is the author, Sender who sends in his place; readers show either.
        """
        for name in ("From", "Sender"):
            for field in fields_named(header, name.lower().encode("ascii")):
                try:
                    named = mailboxes(field.value)
                    if not named:
                        raise AddressError("no address in it")
                    refused = next(filter(None, (self._refusal(address, name) for address in named)), None)
                except AddressError as why:
                    text = f"{name} cannot be read ({_cut(str(why))}), and {_cut(self.user)} may not send as anybody"
                    return _NOT_ALLOWED.with_text(text)
                if refused is not None:
                    return refused
        return None

    def _refusal(self, address: Address, where: str) -> Reply | None:
        key = address.key
        if any(pattern.match(key) for pattern in self.addresses):
            return None
        return _NOT_ALLOWED.with_text(f"{_cut(self.user)} may not send as {_cut(str(address))}, which is in {where}")


def right_of(user: str, grants: Sequence[Grant]) -> Right | None:
    """The right of a user, by all keys that match the name; None: without a table everybody may send as anybody."""
    if not grants:
        return None
    own = [grant for grant in grants if grant.user is not None and grant.user.match(user)]
    granted = own or [grant for grant in grants if grant.user is None]
    name = _compared(user)
    return Right(user, tuple(address_pattern(text, user=name) for grant in granted for text in grant.addresses))


def _compared(user: str) -> str:
    """A name that is an address itself as addresses are compared."""
    try:
        return parse_mailbox(user, utf8=True).key
    except AddressError:
        return user


def _cut(text: str) -> str:
    # Not every client knows SMTPUTF8.
    shown = quote(text).encode("ascii", "backslashreplace").decode("ascii")
    return shown if len(shown) <= _MOST_SHOWN else shown[: _MOST_SHOWN - 3] + "..."
