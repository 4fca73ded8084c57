"""Recipients: which are taken, under which name they are stored, and whom an alias stands for.

An alias is looked up by the address, then without its detail (`user+detail`), then as the catch-all of its domain.
"""

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
    if settings.recipients is not None and needs_mailbox(address, settings) and not _is_known(address, settings):
        return reply.UNKNOWN_RECIPIENT
    return None


def stands_for_others(address: Address, settings: Settings) -> bool:
    """Whether this is an alias or a list."""
    return address.key in settings.lists or alias_of(address, settings) is not None


def alias_of(address: Address, settings: Settings) -> str | None:
    """The key in `settings.aliases` that is meant by an address."""
    key, aliases = address.key, settings.aliases
    if key in aliases:
        return key
    local, _, domain = key.rpartition("@")
    plain = f"{without_detail(local, settings)}@{domain}"
    if plain in aliases:
        return plain
    # Where it is known who has a mailbox, the catch-all is for those who have none; else for everybody else.
    is_caught = f"@{domain}" in aliases and (settings.recipients is None or not _is_known(address, settings))
    return f"@{domain}" if is_caught else None


def without_detail(local: str, settings: Settings) -> str:
    """The part of a local part that names the mailbox (RFC 5233 4: user, separator, detail)."""
    separator = settings.recipient_delimiter
    user = local.partition(separator)[0] if separator else local
    return user or local


def mailbox(address: Address, settings: Settings) -> Address:
    """The address without its detail, if that is ours to take off and no part of a name."""
    if not (settings.strips_detail and settings.is_local(address.domain)):
        return address
    if settings.recipients is not None and address.key in settings.recipients:
        return address
    user = without_detail(address.local, settings)
    return address if user == address.local else Address(user, address.domain)


def _is_known(address: Address, settings: Settings) -> bool:
    """Whether there is such a mailbox, as far as we know who has one."""
    if settings.recipients is None or address.key in settings.recipients:
        return True
    local, _, domain = address.key.rpartition("@")
    return f"{without_detail(local, settings)}@{domain}" in settings.recipients


def needs_mailbox(address: Address, settings: Settings) -> bool:
    """Whether mail for this address is for a mailbox here, which may not exist; the postmaster's always does."""
    return (
        settings.is_local(address.domain)
        and not stands_for_others(address, settings)
        and not is_postmaster(address, settings)
    )


def is_named(address: Address, settings: Settings) -> bool:
    """Whether the configuration itself names this mailbox, so that nobody has to be asked for it."""
    known = settings.recipients is not None and address.key in settings.recipients
    # An alias that names itself means the mailbox behind it.
    return known or address.key in settings.aliases or address.key in settings.lists or is_postmaster(address, settings)


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
    if len(recipients) == 1 and not settings.aliases and not settings.strips_detail:
        return Expansion(recipients)
    found: dict[str, Recipient] = {}
    reportable: list[Recipient] = []
    waiting = deque((recipient, frozenset[str]()) for recipient in recipients)
    expanded = 0
    while waiting:
        recipient, above = waiting.popleft()
        alias = None if recipient.address.key in settings.lists else alias_of(recipient.address, settings)
        # An alias that (also) names itself means the mailbox behind it.
        if alias is None or alias in above:
            recipient = _in_mailbox(recipient, settings)
            key = recipient.address.key
            found[key] = _joined(found[key], recipient) if key in found else recipient
            continue
        targets = settings.aliases[alias]
        expanded += len(targets)
        if expanded > MAX_EXPANSION:
            raise AliasLoopError(f"aliases lead to more than {MAX_EXPANSION} recipients")
        if recipient.wants_success and len(targets) > 1:
            reportable.append(recipient)
        waiting.extendleft((each, above | {alias}) for each in reversed(_behind(recipient, targets)))
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


def _in_mailbox(recipient: Recipient, settings: Settings) -> Recipient:
    """The recipient by the name of the mailbox; reports name the address that the sender knows."""
    address = mailbox(recipient.address, settings)
    if address is recipient.address:
        return recipient
    return attrs.evolve(recipient, address=address, orcpt=recipient.orcpt or _orcpt(recipient.address))


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
