"""Recipients: which are taken, under which name they are stored, and whom an alias stands for."""

from __future__ import annotations

import attrs

from requiretls_mta.message import reply
from requiretls_mta.message.address import Address, names_mailbox
from requiretls_mta.message.envelope import Notify, Recipient
from requiretls_mta.message.reply import Reply
from requiretls_mta.message.xtext import encode
from requiretls_mta.receive.settings import Settings

MAX_EXPANSION = 1000
"""Recipients that the aliases of one message may come to."""


class AliasLoopError(ValueError):
    """An alias leads to more recipients than `MAX_EXPANSION`."""


def complete(address: Address, settings: Settings) -> Address:
    """The postmaster without a domain, or of this host's own name, is that of a local domain (RFC 5321 4.5.1)."""
    if not is_postmaster(address, settings) or address.key in settings.aliases:
        return address
    if settings.is_ours(address.domain):
        return address
    return Address(address.local, min(settings.local_domains, default=settings.hostname))


def refusal(address: Address, settings: Settings, *, relay: bool, delivers: bool = False) -> Reply | None:
    """Why this recipient is not taken, or None.

    `relay` is the client's right to send anywhere; `delivers` where mail comes for delivery only (LMTP).
    """
    ours = settings.is_local(address.domain) if delivers else settings.is_ours(address.domain)
    if not ours and (delivers or address.key not in settings.aliases):
        return None if relay or is_postmaster(address, settings) else reply.NO_RELAY
    if settings.is_local(address.domain) and not names_mailbox(address.local):
        return reply.BAD_LOCAL_PART
    return None


def is_postmaster(address: Address, settings: Settings) -> bool:
    """Whether this is the postmaster whom every host must take (RFC 5321 4.5.1)."""
    if address.local.lower() != "postmaster":
        return False
    domain = address.domain.lower()
    return not domain or domain == settings.hostname.lower() or settings.is_local(domain)


def expand(recipients: tuple[Recipient, ...], settings: Settings) -> tuple[Recipient, ...]:
    """The recipients with aliases replaced, each address once, in order; raises `AliasLoopError`.

    All stay on one message, so that every copy bears the same tag (RFC 8689 4.1).
    """
    if len(recipients) == 1 and not settings.aliases:
        return recipients
    found: dict[str, Recipient] = {}
    for recipient in recipients:
        _expand(recipient, settings, frozenset(), found)
    return tuple(found.values())


def _expand(recipient: Recipient, settings: Settings, above: frozenset[str], found: dict[str, Recipient]) -> None:
    key = recipient.address.key
    targets = settings.aliases.get(key)
    # An alias that (also) names itself means the mailbox behind it.
    if targets is None or key in above:
        found.setdefault(key, recipient)
        if len(found) > MAX_EXPANSION:
            raise AliasLoopError(f"aliases lead to more than {MAX_EXPANSION} recipients")
        return
    notify = recipient.notify
    # RFC 3461 5.2.7.2: the many behind an alias do not each report a success that the sender asked of one.
    if notify is not None and len(targets) > 1:
        notify = (notify - {Notify.SUCCESS}) or frozenset({Notify.NEVER})
    orcpt = recipient.orcpt
    if orcpt is None and recipient.address.is_ascii:
        orcpt = f"rfc822;{encode(str(recipient.address))}"
    for target in targets:
        _expand(attrs.evolve(recipient, address=target, notify=notify, orcpt=orcpt), settings, above | {key}, found)
