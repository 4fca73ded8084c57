"""Who requires TLS without asking: the rules of `[[requiretls.rule]]`, and `user+requiretls@` (RFC 8689 4.3)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence

import attrs

from requiretls_mta.message.address import Address, AddressError, ascii_domain
from requiretls_mta.message.envelope import Tag
from requiretls_mta.message.glob import glob
from requiretls_mta.message.header import fields_named

SUFFIX = "+requiretls"
"""Behind a recipient's local part it asks for REQUIRETLS; taken off before delivery and relaying."""
BUILT_IN = "user+requiretls@"
"""What stands for a rule's name where the suffix decided."""


@attrs.frozen
class HeaderPattern:
    """A field with this name, and a value that matches."""

    name: bytes
    """In lower case."""
    value: re.Pattern[str]

    def matches(self, header: bytes) -> bool:
        """Whether one of the fields does."""
        # Most messages do not even hold the name, and few are worth taking apart.
        if self.name not in header.lower():
            return False
        found = fields_named(header, self.name)
        return any(self.value.match(field.value.decode("utf-8", "replace")) for field in found)


@attrs.frozen(kw_only=True)
class Rule:
    """All that is given must match; a rule that gives nothing matches every message."""

    name: str
    """As in the configuration's own messages: `requiretls.rule[0]`."""
    require: bool
    floor: bool = False
    """Whether `TLS-Required: No` of the message is not heeded."""
    sender: re.Pattern[str] | None = None
    recipient: re.Pattern[str] | None = None
    header: HeaderPattern | None = None
    user: re.Pattern[str] | None = None
    listener: str | None = None


@attrs.frozen(kw_only=True)
class Facts:
    """What the rules look at, of one message."""

    asked: Tag | None
    """By the MAIL parameter, or by a header field that is obeyed."""
    sender: str
    """`Address.key`; empty for the empty reverse path."""
    header: bytes
    user: str | None
    listener: str


@attrs.frozen
class Decision:
    """What was decided for a recipient."""

    tag: Tag | None
    rule: str | None = None
    """The rule that matched, if one did."""
    yields: bool = False
    """Whether it gave way to `TLS-Required: No`."""


def decide(facts: Facts, rules: Sequence[Rule]) -> Callable[[Address, bool], Decision]:
    """The decision for each recipient, as RCPT named it without the suffix, and whether the suffix was there.

    Nothing lowers what MAIL asked for (RFC 8689 4.1): the parameter is above all rules.
    """
    candidates = [rule for rule in rules if _may_match(rule, facts)] if facts.asked is not Tag.REQUIRED else []

    def decision(recipient: Address, suffixed: bool) -> Decision:
        if facts.asked is Tag.REQUIRED:
            return Decision(Tag.REQUIRED)
        rule = next((r for r in candidates if r.recipient is None or _matches(r.recipient, recipient, suffixed)), None)
        if suffixed and not (rule and rule.require):
            # The sender asked for it, so that a rule that would do without TLS has no say.
            return _required(facts, BUILT_IN, floor=False)
        if rule is None:
            return Decision(facts.asked)
        return _required(facts, rule.name, floor=rule.floor) if rule.require else Decision(Tag.OPTIONAL, rule.name)

    return decision


def _required(facts: Facts, name: str, *, floor: bool) -> Decision:
    if facts.asked is Tag.OPTIONAL and not floor:
        return Decision(Tag.OPTIONAL, name, yields=True)
    return Decision(Tag.REQUIRED, name)


def _may_match(rule: Rule, facts: Facts) -> bool:
    """Whether all but the recipient matches."""
    return (
        (rule.sender is None or rule.sender.match(facts.sender) is not None)
        and (rule.user is None or (facts.user is not None and rule.user.match(facts.user) is not None))
        and (rule.listener is None or rule.listener == facts.listener)
        and (rule.header is None or rule.header.matches(facts.header))
    )


def _matches(pattern: re.Pattern[str], recipient: Address, suffixed: bool) -> bool:
    if pattern.match(recipient.key):
        return True
    return suffixed and pattern.match(with_suffix(recipient).key) is not None


# --- the suffix ---------------------------------------------------------------------------------------------------
def without_suffix(address: Address) -> Address:
    """The mailbox that is meant; the same object when there is no suffix."""
    local = address.local
    if len(local) <= len(SUFFIX) or local[-len(SUFFIX) :].lower() != SUFFIX:
        return address
    return Address(local[: -len(SUFFIX)], address.domain)


def with_suffix(address: Address) -> Address:
    """The address as it was written."""
    return Address(address.local + SUFFIX, address.domain)


# --- reading patterns ---------------------------------------------------------------------------------------------
def address_pattern(text: str, **names: str) -> re.Pattern[str]:
    """A pattern for `Address.key`: a whole domain may be written with U-labels; `names` as in `glob`."""
    local, at, domain = text.rpartition("@")
    with contextlib.suppress(AddressError):  # else it has stars, and matches what it matches
        domain = ascii_domain(domain)
    return glob(f"{local}{at}{domain}", **names)


def header_pattern(text: str) -> HeaderPattern:
    """`Name: value`, or `Name` alone for any value. Raises `ValueError`."""
    name, _, value = text.partition(":")
    name = name.strip(" \t")
    if not re.fullmatch(r"[!-9;-~]+", name):
        raise ValueError("no field's name")
    return HeaderPattern(name.lower().encode("ascii"), glob(value.strip(" \t") or "*"))
