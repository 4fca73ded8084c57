"""What gives birth to messages hands on what there is to tell of it: it becomes true when they are on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from requiretls_mta.message.ports import Events
from requiretls_mta.message.stored import Message


@attrs.frozen
class News:
    """An event that is not told yet."""

    event: str
    fields: Mapping[str, Any]

    def tell(self, events: Events) -> None:
        """Now it is true."""
        events.emit(self.event, **self.fields)


@attrs.frozen
class Offspring:
    """Messages that enter together with the end, or the acceptance, of another one."""

    messages: tuple[Message, ...] = ()
    news: tuple[News, ...] = ()
    """What is to be told once that is durable, and only then."""

    def __add__(self, other: Offspring) -> Offspring:
        return Offspring(self.messages + other.messages, self.news + other.news)


NONE = Offspring()
