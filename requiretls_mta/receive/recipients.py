"""Recipients: which are taken, under which name they are stored, and whom an alias stands for."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import attrs

from requiretls_mta.message import reply
from requiretls_mta.message.address import Address, names_mailbox
from requiretls_mta.message.envelope import Notify, Recipient
from requiretls_mta.message.reply import Reply
from requiretls_mta.message.xtext import embed, encode
from requiretls_mta.receive.settings import Settings

MAX_EXPANSION = 1000
"""Recipients that the aliases of one message may lead to, counted on every way that leads there."""
MOST_KNOWN = 100_000
"""Addresses in a file of those that exist: what a reload can read without keeping sessions waiting for long."""
_BY_DEFAULT = frozenset({Notify.FAILURE, Notify.DELAY})
"""What is reported where NOTIFY was not given."""


class AliasLoopError(ValueError):
    """An alias leads to more recipients than `MAX_EXPANSION`."""


def complete(address: Address, settings: Settings) -> Address:
    """The postmaster without a domain, or of this host's own name, is that of a local domain (RFC 5321 4.5.1)."""
    if not is_postmaster(address, settings) or stands_for_others(address, settings):
        return address
    if settings.is_ours(address.domain):
        return address
    return Address(address.local, min(settings.local_domains, default=settings.hostname))


def refusal(address: Address, settings: Settings, *, relay: bool, delivers: bool = False) -> Reply | None:
    """Why this recipient is not taken, or None.

    `relay` is the client's right to send anywhere; `delivers` where mail comes for delivery only (LMTP).
    """
    ours = settings.is_local(address.domain) if delivers else settings.is_ours(address.domain)
    if not ours and (delivers or not stands_for_others(address, settings)):
        return None if relay or is_postmaster(address, settings) else reply.NO_RELAY
    if settings.is_local(address.domain) and not names_mailbox(address.local):
        return reply.BAD_LOCAL_PART
    if settings.recipients is not None and needs_mailbox(address, settings) and address.key not in settings.recipients:
        return reply.UNKNOWN_RECIPIENT
    return None


def stands_for_others(address: Address, settings: Settings) -> bool:
    """Whether this is an alias or a list."""
    return address.key in settings.aliases or address.key in settings.lists


def needs_mailbox(address: Address, settings: Settings) -> bool:
    """Whether mail for this address is for a mailbox here, which may not exist; the postmaster's always does."""
    return (
        settings.is_local(address.domain)
        and not stands_for_others(address, settings)
        and not is_postmaster(address, settings)
    )


def is_postmaster(address: Address, settings: Settings) -> bool:
    """Whether this is the postmaster whom every host must take (RFC 5321 4.5.1)."""
    if address.local.lower() != "postmaster":
        return False
    domain = address.domain.lower()
    return not domain or domain == settings.hostname.lower() or settings.is_local(domain)


@attrs.frozen
class Expansion:
    """Recipients with their aliases replaced."""

    recipients: tuple[Recipient, ...]
    """Each address once, in order."""
    reportable: tuple[Recipient, ...] = ()
    """Aliases for several recipients, whose success the sender wants to hear of: "expanded" (RFC 3461 5.2.7.3)."""


def expand(recipients: tuple[Recipient, ...], settings: Settings) -> Expansion:
    """Whom the message goes to; raises `AliasLoopError`.

    All stay on one message, so that every copy bears the same tag (RFC 8689 4.1).
    """
    if len(recipients) == 1 and not settings.aliases:
        return Expansion(recipients)
    found: dict[str, Recipient] = {}
    reportable: list[Recipient] = []
    waiting = deque((recipient, frozenset[str]()) for recipient in recipients)
    expanded = 0
    while waiting:
        recipient, above = waiting.popleft()
        key = recipient.address.key
        targets = settings.aliases.get(key)
        # An alias that (also) names itself means the mailbox behind it.
        if targets is None or key in above:
            found[key] = _joined(found[key], recipient) if key in found else recipient
            continue
        expanded += len(targets)
        if expanded > MAX_EXPANSION:
            raise AliasLoopError(f"aliases lead to more than {MAX_EXPANSION} recipients")
        if recipient.wants_success and len(targets) > 1:
            reportable.append(recipient)
        waiting.extendleft((each, above | {key}) for each in reversed(_behind(recipient, targets)))
    return Expansion(tuple(found.values()), tuple(reportable))


def _behind(recipient: Recipient, targets: Sequence[Address]) -> list[Recipient]:
    """The recipients that an alias stands for."""
    notify = recipient.notify
    # RFC 3461 5.2.7.3 (c): the many behind an alias do not each report a success that the sender asked of one.
    if notify is not None and len(targets) > 1:
        notify = (notify - {Notify.SUCCESS}) or frozenset({Notify.NEVER})
    # RFC 3461 5.2.1 (d): where the sender gave none, the address that the sender knows.
    orcpt = recipient.orcpt or _orcpt(recipient.address)
    return [attrs.evolve(recipient, address=target, notify=notify, orcpt=orcpt) for target in targets]


def _joined(one: Recipient, other: Recipient) -> Recipient:
    """One delivery for two who asked for it: nobody's wish to be told is lost."""
    if one.notify == other.notify:
        return one
    wishes = (one.notify or _BY_DEFAULT) | (other.notify or _BY_DEFAULT)
    return attrs.evolve(one, notify=(wishes - {Notify.NEVER}) or wishes)


def _orcpt(address: Address) -> str:
    """RFC 3461 4.2; RFC 6533 3 for what is not ASCII."""
    text = str(address)
    return f"rfc822;{encode(text)}" if text.isascii() else f"utf-8;{embed(text)}"
