"""Responders: asked once a message has arrived in a mailbox; what they answer goes out under the house's rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.plugin import getPlugins

from requiretls_mta.message.address import Address
from requiretls_mta.message.offspring import NONE, News, Offspring
from requiretls_mta.message.outcome import Delivered
from requiretls_mta.message.profile import Profile
from requiretls_mta.message.stored import Message
from requiretls_mta.receive import plugins
from requiretls_mta.receive.autoreply import MOST_HEADER, Silence, addressed, check_answer, quotes_subject, write_reply
from requiretls_mta.receive.interfaces import Answer, IResponder
from requiretls_mta.receive.settings import Settings
from requiretls_mta.receive.signing import sign_own

_log = Logger()


class Memory(Protocol):
    """Who was answered when, and how much is answered at all."""

    def silence(self, sender: str, recipient: str, message_id: str) -> str | None:
        """Why this message (queue id) is not answered now; None: it may be. Addresses are keys."""

    def note(self, sender: str, recipient: str, message_id: str) -> Deferred[bool]:
        """It is to be answered, once this fires with True: it is durable that it was; never fails.

        The same is told again of a message whose settlement, the reply in it, did not become durable.
        """


def load_responders(package: ModuleType = plugins) -> list[IResponder]:
    """All that are installed, by name; one that has none, or another's, is logged and left out."""
    found: dict[str, IResponder] = {}
    for plugin in getPlugins(IResponder, package):
        try:
            name = plugin.name
            if not isinstance(name, str) or name in found:
                raise ValueError(f"{name!r} is no name, or that of another")
            found[name] = plugin
        except Exception:
            _log.failure("the responder {plugin!r} is left out", plugin=plugin)
    return [found[name] for name in sorted(found)]


@attrs.frozen(kw_only=True)
class AutoReplies:
    """Called by the schedule before the settlement, so that a reply enters the queue when its message leaves it."""

    responders: Sequence[IResponder]
    memory: Memory
    settings: Callable[[], Settings]
    profile: Callable[[], Profile]
    to_all: Callable[[Message, Offspring], Offspring]
    """Of a message, its replies, to those behind the sender's own alias."""
    new_id: Callable[[], str]
    wall: Callable[[], float]

    def __call__(self, message: Message, delivered: Sequence[Delivered]) -> Deferred[Offspring]:
        """The replies of those in whose mailboxes it has arrived; never fails, and a mistake costs no other's."""
        return Deferred.fromCoroutine(self._replies(message, delivered))

    async def _replies(self, message: Message, delivered: Sequence[Delivered]) -> Offspring:
        born = NONE
        if message.envelope.sender is None or message.content.header_end > MOST_HEADER:
            return born
        header: bytes | None = None
        for outcome in delivered:
            try:
                header = message.header() if header is None else header
                born += await self._reply(message, outcome.recipient.address, header)
            except Exception:
                _log.failure("message {queue_id} gets no automatic reply", queue_id=message.id)
        return born

    async def _reply(self, message: Message, recipient: Address, header: bytes) -> Offspring:
        settings, sender = self.settings(), message.envelope.sender
        assert sender is not None
        author = addressed(message, recipient, header, settings)
        if isinstance(author, Silence) or self.memory.silence(sender.key, recipient.key, message.id):
            return NONE
        for responder in self.responders:
            answer = self._ask(responder, message, recipient, header)
            if answer is not None:
                break
        else:
            return NONE
        reply = write_reply(
            answer,
            message,
            header,
            author=author,
            reply_id=self.new_id(),
            hostname=settings.hostname,
            now=self.wall(),
            profile=self.profile(),
        )
        if not quotes_subject(answer, message):
            # A millisecond or few, some hundred times an hour at the most: no reason to let the settlement wait.
            reply = sign_own(reply, settings.signing, int(reply.received))
        replied = {
            "queue_id": message.id,
            "sender": str(sender),
            "recipient": str(recipient),
            "reply_id": reply.id,
            "responder": responder.name,
            "requiretls": reply.envelope.tag.value if reply.envelope.tag else None,
        }
        born = self.to_all(message, Offspring((reply,), (News("replied", replied),)))
        # Not before: whoever is noted hears nothing for a week. And what a crash would make forgotten might be said
        # again: rather nothing is said (RFC 3834 2).
        return born if await self.memory.note(sender.key, recipient.key, message.id) else NONE

    def _ask(self, responder: IResponder, message: Message, recipient: Address, header: bytes) -> Answer | None:
        try:
            return check_answer(responder.respond(message.envelope, recipient, header))
        except Exception:
            _log.failure("responder {name} failed over message {queue_id}", name=responder.name, queue_id=message.id)
            return None
