"""Who has a mailbox, as `delivery.recipients` says: asked at RCPT, and where nobody named a recipient there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from requiretls_mta.message.address import Address
from requiretls_mta.message.reply import UNKNOWN_RECIPIENT, Reply
from requiretls_mta.receive.known import OfPlugins, load_recipients
from requiretls_mta.receive.recipients import is_named
from requiretls_mta.relay.callout import Callout, Finder, OfServer
from requiretls_mta.relay.settings import RelaySettings
from requiretls_mta.service.policies import Policies

Answer = Reply | Deferred[Reply | None] | None
"""Why mail for an address of a local domain is not taken, or None; the Deferred never fails."""


class Mailboxes:
    """Asks the server that delivers, or plugins."""

    def __init__(
        self,
        reactor: Any,
        finder: Finder,
        relay: Callable[[], RelaySettings],
        policies: Callable[[], Policies],
    ) -> None:
        self._policies = policies
        self._server = Callout(reactor, OfServer(reactor, finder, relay))
        self._plugins = Callout(reactor, OfPlugins(load_recipients()))

    def ask(self, address: Address) -> Answer:
        """Where the configuration leaves nothing but to ask."""
        asked = self._plugins if self._policies().config.delivery.recipients == "plugin" else self._server
        return asked.ask(address)

    def why_none(self, address: Address) -> Answer:
        """Of whoever may not have been named at RCPT: a stranger's forged sender must not have a Maildir made."""
        now = self._policies()
        if now.config.delivery.recipients == "any" or is_named(address, now.receive):
            return None
        return self.ask(address) if now.receive.callout else UNKNOWN_RECIPIENT

    def close(self) -> None:
        """Break off what is asked."""
        self._server.close()
        self._plugins.close()
