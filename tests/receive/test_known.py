"""Recipients that plugins know: one yes is enough, and nobody is turned away for good by one that fails."""

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.plugin import IPlugin
from zope.interface import implementer

from requiretls_mta.message.address import Address
from requiretls_mta.message.reply import CANNOT_VERIFY, UNKNOWN_RECIPIENT
from requiretls_mta.receive.interfaces import IRecipients
from requiretls_mta.receive.known import OfPlugins, load_recipients
from requiretls_mta.relay.callout import DEADLINE, KNOWN_FOR, UNKNOWN_FOR, Callout

ANN = Address("Ann", "here.test")


@implementer(IPlugin, IRecipients)
class Says:
    """A plugin of few words."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def has_mailbox(self, address):
        self.asked.append(address.key)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def answer(*plugins):
    """What the client is told, None for a yes."""
    found = []
    Deferred.fromCoroutine(OfPlugins([Says(each) for each in plugins])(ANN)).addCallback(found.append)
    return found[0]


@pytest.mark.parametrize(
    ("plugins", "expected"),
    [
        ((), CANNOT_VERIFY),
        ((True,), None),
        ((False,), UNKNOWN_RECIPIENT),
        ((False, True), None),
        ((succeed(False), succeed(True)), None),
        ((succeed(False), False), UNKNOWN_RECIPIENT),
        ((ValueError("broken"), True), None),
        ((ValueError("broken"), False), CANNOT_VERIFY),
        # Nothing but True is a yes.
        (("yes",), UNKNOWN_RECIPIENT),
    ],
)
def test_one_yes_is_enough(plugins, expected):
    """And a no takes all of them."""
    assert answer(*plugins) == expected


def test_a_failure_is_no_answer():
    """451, whether it raises or its Deferred fails."""
    assert answer(fail(OSError("no directory"))) == CANNOT_VERIFY


def test_answers_are_remembered_and_waited_for_not_long():
    """An hour and five minutes; a plugin that says nothing is given up, and the others wait no longer for it."""
    clock, plugin = Clock(), Says(True)
    asking = Callout(clock, OfPlugins([plugin]))
    found = []
    for later in (0, KNOWN_FOR - 1, 2, UNKNOWN_FOR + 1):
        clock.advance(later)
        plugin.answer = later == 0
        asked = asking.ask(ANN)
        asked.addCallback(found.append) if isinstance(asked, Deferred) else found.append(asked)
    assert found == [None, None, UNKNOWN_RECIPIENT, UNKNOWN_RECIPIENT] and len(plugin.asked) == 3
    plugin.answer = Deferred()
    asking.ask(Address("bob", "here.test")).addCallback(found.append)
    clock.advance(DEADLINE)
    assert found[-1] == CANNOT_VERIFY


def test_who_is_installed_is_found(monkeypatch):
    """By `twisted.plugin`; of ours there is none."""
    assert load_recipients() == []
    one = Says(True)
    monkeypatch.setattr("requiretls_mta.receive.known.getPlugins", lambda *_: iter([one]))
    assert load_recipients() == [one]
