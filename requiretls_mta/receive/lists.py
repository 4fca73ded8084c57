"""Mailing lists: a message to a list becomes one to its members, with an envelope of its own (RFC 5321 3.9.2)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import attrs

from requiretls_mta.message.address import Address
from requiretls_mta.message.addresses_file import read_addresses
from requiretls_mta.message.envelope import Recipient, Tag
from requiretls_mta.message.header import fields_named
from requiretls_mta.message.stored import Message
from requiretls_mta.message.trace import date_time

MOST_MEMBERS = 10_000
"""Members of one list: all of them are recipients of one message."""
_IN_COMMENTS = frozenset("@.-_+!#$%&'*/=?^`{|}~")


@attrs.frozen(kw_only=True)
class MailingList:
    """One list."""

    address: Address
    owner: Address
    """Who gets what comes back: the envelope sender of its copies."""
    members: tuple[Address, ...] = ()
    """Nobody: what is sent to the list is for its owner."""
    inherit: bool = True
    """Whether copies bear the tag of what was sent to the list (RFC 8689 6)."""


Lists = Mapping[str, MailingList]
"""By `Address.key` of the list."""
Expand = Callable[[tuple[Recipient, ...]], tuple[Recipient, ...]]
"""Recipients with their aliases replaced."""


class ListLoopError(ValueError):
    """A message came to a list that it has already been through."""


def read_list(address: Address, owner: Address, members_file: Path, *, inherit: bool) -> MailingList:
    """A list with its members read from the file; raises `OSError` or `addresses_file.AddressesError`."""
    members = read_addresses(members_file, most=MOST_MEMBERS)
    return MailingList(address=address, owner=owner, members=members, inherit=inherit)


def to_members(
    message: Message, lists: Lists, expand: Expand, *, hostname: str, new_id: Callable[[], str], now: float
) -> list[Message]:
    """The message without the lists among its recipients, and a copy for each of these; in this order.

    Of lists in lists each sends its own copy, once. Where only lists were named, a copy takes the message's place and
    id, so that the id which the client is told is always that of a message in the queue. Raises `ListLoopError`.
    """
    if not lists or not any(r.address.key in lists for r in message.envelope.recipients):
        return [message]
    passed = _passed(message)
    done: set[str] = set()
    people, waiting = _parted(message.envelope.recipients, lists, done)
    if message.envelope.sender is None:
        return [_for(message, _with_owners(people, waiting, lists, expand))]
    copies: list[_Copy] = []
    queue = [(each, message.envelope.tag) for each in waiting]
    for each, tag in queue:  # grows while it is walked
        if _mark(each.address) in passed:
            raise ListLoopError(f"this message has been through the list {each.address}")
        inherited = tag if each.inherit else None
        members, inner = _parted(expand(tuple(map(Recipient, each.members))), lists, done)
        queue += [(one, inherited) for one in inner]
        if not members and not inner:
            members = _with_owners([], [each], lists, expand)
        if members:
            copies.append(_Copy(each, tuple(members), inherited))
    messages = [_for(message, people)] if people else []
    for copy in copies:
        mine = attrs.evolve(message, id=new_id(), parent=message.id) if messages else message
        messages.append(copy.of(mine, hostname=hostname, now=now))
    return messages


def _with_owners(people: list[Recipient], waiting: list[MailingList], lists: Lists, expand: Expand) -> list[Recipient]:
    """Also those who keep the lists: a report is not for the members (RFC 3834 2), and must not go round."""
    found, asked = {r.address.key: r for r in people}, set[str]()
    while waiting:
        owners = expand(tuple(Recipient(each.owner) for each in waiting))
        others, waiting = _parted(owners, lists, asked)
        for recipient in others:
            found.setdefault(recipient.address.key, recipient)
        if not found and not waiting:  # lists that own each other: their addresses mean the mailboxes behind them
            found |= {r.address.key: r for r in owners}
    return list(found.values())


@attrs.frozen
class _Copy:
    """What a list makes of a message."""

    list: MailingList
    members: tuple[Recipient, ...]
    tag: Tag | None

    def of(self, message: Message, *, hostname: str, now: float) -> Message:
        """The message under the list's own envelope; its Received field tells the list for `_passed`."""
        # RFC 3461 5.2.7.4: a list is final delivery; what the sender asked to be told ends here.
        envelope = attrs.evolve(
            message.envelope, sender=self.list.owner, recipients=self.members, tag=self.tag, ret=None, envid=None
        )
        by = f"by {hostname} (list {_mark(self.list.address)})"
        if self.tag is Tag.REQUIRED:
            by += " (requiretls)"
        trace = f"Received: {by}\r\n\tid {message.id}; {date_time(now)}\r\n"
        return attrs.evolve(message, envelope=envelope, prepend=trace.encode("ascii") + message.prepend, origin="list")


def _parted(
    recipients: Collection[Recipient], lists: Lists, done: set[str]
) -> tuple[list[Recipient], list[MailingList]]:
    """Those who are no list, and the lists that were not `done` before."""
    people, found = [], []
    for recipient in recipients:
        key = recipient.address.key
        if key not in lists:
            people.append(recipient)
        elif key not in done:
            done.add(key)
            found.append(lists[key])
    return people, found


def _for(message: Message, recipients: list[Recipient]) -> Message:
    return attrs.evolve(message, envelope=attrs.evolve(message.envelope, recipients=tuple(recipients)))


# --- the way that a message has come ------------------------------------------------------------------------------
def _mark(address: Address) -> str:
    """The list's address as it stands in the comment of a Received field: printable, without blanks or brackets."""
    return "".join(c if c.isascii() and (c.isalnum() or c in _IN_COMMENTS) else f"%{ord(c):X}" for c in address.key)


def _passed(message: Message) -> set[str]:
    """The marks of the lists in the Received fields that it came with."""
    header = message.header()
    if b"(list " not in header:
        return set()
    marks: set[str] = set()
    for field in fields_named(header, b"received"):
        for part in field.value.split(b"(list ")[1:]:
            marks.add(part.partition(b")")[0].decode("ascii", "replace"))
    return marks
