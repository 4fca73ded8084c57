"""The listeners of one MTA: what each of its endpoints gives to a client that connects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.cred.portal import IRealm, Portal
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from requiretls_mta.checks.pipeline import Pipeline
from requiretls_mta.message.ports import Events
from requiretls_mta.receive.reception import ReceptionStation
from requiretls_mta.service.config import Config
from requiretls_mta.service.config_sections import Listen
from requiretls_mta.service.listeners import Binding
from requiretls_mta.service.policies import session_settings
from requiretls_mta.service.users import UsersChecker
from requiretls_mta.tls.server import ServerContexts


@implementer(IRealm)
class _Realm:
    """Whoever logs in may submit; what that means the station decides."""

    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> tuple[Any, Any, Callable[[], None]]:
        return interfaces[-1], None, lambda: None


@attrs.frozen(kw_only=True)
class Doors:
    """What the listeners have in common."""

    reactor: Any
    config: Config
    users: UsersChecker
    contexts: ServerContexts
    station: Callable[[Listen], ReceptionStation]
    pipeline: Callable[[Listen], Pipeline | None]
    events: Events
    transcribes: bool
    wall: Callable[[], float]

    def bindings(self) -> list[Binding]:
        """Every endpoint with its factory."""
        return [binding for name in self.config.listen for binding in self._bindings_of(name)]

    def _bindings_of(self, name: str) -> list[Binding]:
        # The session's classes import twisted.mail.smtp, which installs a reactor: not before somebody wants a service.
        from requiretls_mta.smtp._stock import LOGINCredentials  # noqa: PLC0415
        from requiretls_mta.smtp.credentials import PlainCredentials  # noqa: PLC0415
        from requiretls_mta.smtp.factory import RequireTLSESMTPFactory  # noqa: PLC0415
        from requiretls_mta.smtp.proxied import ProxiedFactory  # noqa: PLC0415
        from requiretls_mta.smtp.server import PROMISES  # noqa: PLC0415

        listen = self.config.listen[name]
        submission = listen.service.startswith("submission")
        sessions = RequireTLSESMTPFactory(
            Portal(_Realm(), [self.users]) if submission else None,
            reactor=self.reactor,
            settings=session_settings(self.config, name),
            station=self.station(listen),
            contextFactory=self.contexts,
            challengers={b"PLAIN": PlainCredentials, b"LOGIN": LOGINCredentials} if submission else None,
            promises=PROMISES,
            pipeline=self.pipeline(listen),
            events=self.events,
            listener=name,
            transcribes=self.transcribes,
            wall=self.wall,
        )
        factory: Any = sessions
        if listen.service == "submissions":
            factory = TLSMemoryBIOFactory(self.contexts, False, sessions)
            factory.noisy = False
        proxied = ProxiedFactory(
            factory,
            reactor=self.reactor,
            listener=name,
            proxies=listen.proxies,
            max_waiting=listen.max_connections,
        )
        return [
            Binding(
                name=name,
                endpoint=endpoint.listening,
                factory=proxied if endpoint.proxied else factory,
                sessions=sessions,
            )
            for endpoint in listen.endpoint
        ]
