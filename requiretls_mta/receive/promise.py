"""What is promised to whom: the recipients of a message, parted by the tag that the rules give it for each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import attrs

from requiretls_mta.message.envelope import Recipient, Tag
from requiretls_mta.receive.rules import Decision, Facts, Rule, decide


@attrs.frozen(kw_only=True)
class Share:
    """Recipients under one tag."""

    recipients: tuple[Recipient, ...]
    tag: Tag | None
    further: bool = False
    """Whether another share came before: then it is a message of its own, and no longer the one that came."""
    rules: tuple[str, ...] = ()
    """The names of those that matched."""
    yielded: bool = False
    """Whether they gave way to `TLS-Required: No`."""

    @property
    def note(self) -> dict[str, Any]:
        """What the log tells of the decision: the rule, and what it did."""
        if not self.rules:
            return {}
        effect = "yielded" if self.yielded else self.tag.value if self.tag else None
        return {"rule": ", ".join(self.rules), "effect": effect}

    @property
    def comment(self) -> str:
        """The same for the Received field."""
        if not self.rules:
            return ""
        names = ", ".join(self.rules)
        if self.yielded:
            return f"{names} yielded to TLS-Required: No"
        return f"by {names}" if self.tag is Tag.REQUIRED else f"TLS-Required: No by {names}"


def shares(
    recipients: tuple[Recipient, ...], suffixed: Collection[int], facts: Facts, rules: Sequence[Rule]
) -> list[Share]:
    """The recipients by tag, that of the first recipient first; `suffixed` are numbers of recipients."""
    decision = decide(facts, rules)
    # Who is named with the suffix and without it is one mailbox, and to it the stronger promise was asked for.
    asked = {recipients[number].address.key for number in suffixed}
    found: dict[Tag | None, list[tuple[Recipient, Decision]]] = {}
    for recipient in recipients:
        decided = decision(recipient.address, recipient.address.key in asked)
        found.setdefault(decided.tag, []).append((recipient, decided))
    return [
        Share(
            recipients=tuple(recipient for recipient, _ in members),
            tag=tag,
            further=index > 0,
            rules=tuple(dict.fromkeys(decided.rule for _, decided in members if decided.rule)),
            yielded=any(decided.yields for _, decided in members),
        )
        for index, (tag, members) in enumerate(found.items())
    ]
