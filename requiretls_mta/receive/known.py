"""Recipients that plugins know: a question to all who are installed."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from twisted.internet.defer import CancelledError, maybeDeferred
from twisted.logger import Logger
from twisted.plugin import getPlugins

from requiretls_mta.message.address import Address
from requiretls_mta.message.reply import CANNOT_VERIFY, UNKNOWN_RECIPIENT, Reply
from requiretls_mta.receive import plugins
from requiretls_mta.receive.interfaces import IRecipients


class OfPlugins:
    """Why mail for an address is not taken, or None: one yes is enough, and a no takes all of them."""

    _log = Logger()

    def __init__(self, installed: Sequence[IRecipients]) -> None:
        self._installed = installed

    async def __call__(self, address: Address) -> Reply | None:
        """Asks one after the other."""
        in_doubt = not self._installed
        for plugin in self._installed:
            try:
                if await maybeDeferred(plugin.has_mailbox, address) is True:
                    return None
            except CancelledError:
                raise
            except Exception:
                self._log.failure("{plugin!r} cannot tell whether there is a mailbox", plugin=plugin)
                in_doubt = True
        return CANNOT_VERIFY if in_doubt else UNKNOWN_RECIPIENT


def load_recipients(package: ModuleType = plugins) -> list[IRecipients]:
    """All that are installed."""
    return list(getPlugins(IRecipients, package))
