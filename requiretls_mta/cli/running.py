"""Commands that ask the network by the service's own means: its reactor and its resolver, in the tool's process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from requiretls_mta.checks.interfaces import Tools
from requiretls_mta.cli.common import NO
from requiretls_mta.dns import resolvconf
from requiretls_mta.dns.resolver import StubResolver
from requiretls_mta.dns.settings import show_server
from requiretls_mta.message.ports import Events, NoEvents
from requiretls_mta.service.config import Config

T = TypeVar("T")


def run(config: Config, work: Callable[[Tools], Coroutine[Deferred[Any], Any, T]], events: Events | None = None) -> T:
    """The result of some work, done in the process's reactor with the configured resolver."""
    from twisted.internet import reactor as global_reactor

    reactor: Any = global_reactor
    servers = [show_server(server) for server in config.dns.servers]
    resolver = StubResolver(reactor, resolvconf.settings(servers, config.dns.trust_ad, config.dns.timeout))
    outcome: list[Any] = []

    def begin() -> None:
        done = Deferred.fromCoroutine(work(Tools(clock=reactor, resolver=resolver, events=events or NoEvents())))
        done.addBoth(outcome.append).addCallback(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run()
    if not outcome:  # interrupted
        sys.exit(NO)
    if isinstance(outcome[0], Failure):
        outcome[0].raiseException()
    result: T = outcome[0]
    return result
