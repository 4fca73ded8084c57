"""The composition root: every station made from one configuration, and handed what it needs."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
from twisted.application.service import IService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from requiretls_mta.checks.interfaces import Client, Tools
from requiretls_mta.checks.pipeline import Pipeline, load_checks
from requiretls_mta.checks.sharing import SharedResolver
from requiretls_mta.delivery.known import KnownMailboxes
from requiretls_mta.delivery.maildir import MaildirSettings, MaildirTransport
from requiretls_mta.dns import resolvconf
from requiretls_mta.dns.answer import Resolver
from requiretls_mta.dns.resolver import StubResolver
from requiretls_mta.dns.settings import show_server
from requiretls_mta.message.envelope import Recipient
from requiretls_mta.message.ports import Events, NoEvents
from requiretls_mta.message.stored import Message
from requiretls_mta.queue.sqlite import SQLiteStore
from requiretls_mta.queue.writer import Writer
from requiretls_mta.receive.admission import Admission
from requiretls_mta.receive.rates import Rates
from requiretls_mta.receive.reception import ReceptionStation
from requiretls_mta.receive.responders import AutoReplies
from requiretls_mta.receive.signing import Signer
from requiretls_mta.relay.destination import Way
from requiretls_mta.relay.lookup import RouteFinder
from requiretls_mta.relay.manager import RelayManager
from requiretls_mta.relay.schedule import Schedule
from requiretls_mta.relay.settings import RelaySettings
from requiretls_mta.relay.sts import STSPolicies
from requiretls_mta.relay.sts_fetch import PolicyHosts
from requiretls_mta.report.answered import Answered
from requiretls_mta.report.counters import Counters
from requiretls_mta.report.dsn import Reports
from requiretls_mta.report.observe import Observations, ledger_path
from requiretls_mta.report.tlsrpt import TLSReports
from requiretls_mta.service.auto_replies import auto_replies
from requiretls_mta.service.certificates import load_certificates
from requiretls_mta.service.config import Config
from requiretls_mta.service.config_notes import cautions
from requiretls_mta.service.config_sections import Listen
from requiretls_mta.service.control import Controls, ControlSocket
from requiretls_mta.service.doors import Doors
from requiretls_mta.service.events import Subscribers
from requiretls_mta.service.listeners import Listeners
from requiretls_mta.service.mailboxes import Mailboxes
from requiretls_mta.service.mta import MTA, Parts
from requiretls_mta.service.policies import Policies, policies, relay_settings, with_files
from requiretls_mta.service.state import prepare_state, shard
from requiretls_mta.service.tls_reports import tls_reports
from requiretls_mta.service.tracing import tracing
from requiretls_mta.service.users import UsersChecker
from requiretls_mta.service.users_file import UsersFile
from requiretls_mta.tls import server as server_tls

MAILBOX_THREADS = 4
"""Messages written into mailboxes at once; each waits for the disk, not for the processor."""
CHECK_THREADS = 2
"""Messages whose signatures are verified at once."""
SIGNING_THREADS = 2
"""Messages signed at once. Not in the checks' threads: what strangers send must not hold up what our users do."""
_MOST_WAYS = 10_000
"""Domains of which it is remembered who attempts their mail."""


def make_service(
    config: Config,
    reactor: Any = None,
    *,
    resolver: Resolver | None = None,
    events: Events | None = None,
    wall: Callable[[], float] = time.time,
) -> MTA:
    """The whole MTA as an `IService`. Composes only: no file, socket or thread before it is started."""
    if reactor is None:
        from twisted.internet import reactor  # noqa: PLC0415  # whoever names none means the global one
    return _House(config, reactor, resolver, events or NoEvents(), wall).service()


class _House:
    """The stations of one process, and the policies that are in force."""

    _log = Logger()

    def __init__(
        self,
        config: Config,
        reactor: Any,
        resolver: Resolver | None,
        events: Events,
        wall: Callable[[], float],
    ) -> None:
        self.config = config
        self.reactor = reactor
        self.wall = wall
        self.events = events
        # What sessions and admission tell of every message the trace has from admission, in one line.
        self.tracing = tracing(config, reactor, events, wall)
        told, trace = self.tracing.events, self.tracing.trace
        self.policies: Policies = policies(config)
        self._ways: dict[str, Way] = {}
        self._ways_under = self.policies
        self.relay: RelaySettings | None = None
        servers = [show_server(server) for server in config.dns.servers]
        dns = resolvconf.settings(servers, config.dns.trust_ad, config.dns.timeout)
        stub = StubResolver(reactor, dns)
        self.resolver = resolver or stub
        self.checks_pool = ThreadPool(0, CHECK_THREADS, name="checks")
        strangers = resolver or stub.for_strangers
        self.checks = load_checks(
            Tools(
                clock=reactor,
                resolver=strangers,
                resolver_of=SharedResolver(strangers, dns.for_strangers).of,
                events=events,
                settings=self._check_settings,
                in_thread=partial(deferToThreadPool, reactor, self.checks_pool),
            )
        )
        self.signing_pool = ThreadPool(0, SIGNING_THREADS, name="signing")
        self.signer = Signer(in_thread=partial(deferToThreadPool, reactor, self.signing_pool), wall=wall)
        self.contexts = server_tls.ServerContexts()
        self.users = UsersChecker(reactor, UsersFile(config.access.users))
        self.rates = Rates(reactor.seconds)
        self.store = SQLiteStore(reactor, shard(config.state), wall=wall, writer=Writer(reactor))
        self.mailbox_pool = ThreadPool(0, MAILBOX_THREADS, name="mailboxes")
        self.maildir = MaildirTransport(reactor, self.mailbox_pool, self._maildir_settings, wall)
        self.sts = self._sts() if config.mta_sts.enabled else None
        self.finder = RouteFinder(self.resolver, lambda: self.policies.lookup, policies=self.sts)
        # Only the sessions of the relay are of interest to others than the log; no other event is told twice.
        self.sessions = Subscribers(told)
        self.watchers: list[Observations | TLSReports] = [Observations(reactor, ledger_path(config.state), wall)]
        self.manager = RelayManager(
            reactor,
            finder=self.finder,
            settings=self._relay_settings,
            events=self.sessions,
            trace=trace,
            transcribes=self.tracing.transcribes,
        )
        reports = Reports(settings=lambda: self.policies.reports, new_id=self.store.new_id, wall=wall)
        self.mailboxes = Mailboxes(reactor, self.finder, self._relay_settings, lambda: self.policies)
        self.known = KnownMailboxes(self.maildir, self.mailboxes.why_none)
        replies: AutoReplies | None
        self.answered: Answered | None
        replies, self.answered = auto_replies(
            reactor,
            config,
            store=self.store,
            admission=lambda: self.admission,
            policies=lambda: self.policies,
            wall=wall,
        )
        counters = Counters()
        self.schedule = Schedule(
            store=self.store,
            choose=self._choose,
            report=lambda message, told: self.admission.to_all(message, reports(message, told)),
            clock=reactor,
            wall=wall,
            events=Subscribers(told, counters),
            settings=lambda: self.policies.schedule,
            respond=replies,
            trace=trace,
        )
        self.control = ControlSocket(
            reactor,
            config.state,
            Controls(
                store=self.store,
                wall=wall,
                reload=self._reload_asked,
                wake=self.schedule.wake,
                give_up=self.schedule.give_up,
                flush=self.tracing.writer.flush,
                counters=counters.text,
                events=told,
            ),
        )
        self.admission = Admission(
            self.store, self.schedule, lambda: self.policies.receive, events, expanded=reports.expanded, trace=trace
        )
        if config.tlsrpt.enabled:
            self.watchers.append(
                tls_reports(
                    reactor,
                    config,
                    resolver=self.resolver,
                    context=lambda: self._relay_settings().context,
                    admit=self._admit_signed,
                    new_id=self.store.new_id,
                    wall=wall,
                    events=events,
                )
            )
        for watcher in self.watchers:
            self.sessions.add(watcher)

    def service(self) -> MTA:
        """The service, with the order of its parts."""
        doors = Doors(
            reactor=self.reactor,
            config=self.config,
            users=self.users,
            contexts=self.contexts,
            station=self._station,
            pipeline=self._pipeline,
            events=self.events,
            transcribes=self.tracing.transcribes,
            wall=self.wall,
        )
        mta = MTA(
            self.reactor,
            Parts(
                listeners=Listeners(self.reactor, doors.bindings()),
                privileged=self._privileged,
                store=self.store,
                prepare=self._prepare,
                started=lambda: Deferred.fromCoroutine(self._started()),
                drain=self.schedule.stop,
                closed=lambda: Deferred.fromCoroutine(self._closed()),
                reload=self.reload,
            ),
        )
        self._mta = mta
        return mta

    # --- who attempts a recipient -----------------------------------------------------------------------------

    def _choose(self, recipient: Recipient) -> Way:
        if self._ways_under is not self.policies or len(self._ways) > _MOST_WAYS:
            self._ways, self._ways_under = {}, self.policies
        domain = recipient.address.domain
        if domain not in self._ways:
            self._ways[domain] = self._way(domain)
        return self._ways[domain]

    def _way(self, domain: str) -> Way:
        now = self.policies
        if now.maildir is not None and now.receive.is_local(domain):
            is_known = now.config.delivery.recipients == "any"
            return Way(self.maildir if is_known else self.known, "maildir", MAILBOX_THREADS)
        level = now.levels.of(domain)
        return Way(
            self.manager, f"{self.finder.key(domain)} {level.value}", now.config.relay.connections_per_destination
        )

    def _relay_settings(self) -> RelaySettings:
        assert self.relay is not None, "the service was not started"
        return self.relay

    def _sts(self) -> STSPolicies:
        hosts = PolicyHosts(self.reactor, self.resolver, lambda: self._relay_settings().context)
        return STSPolicies(
            self.reactor,
            self.resolver,
            hosts.fetch,
            folder=self.config.state / "shared" / "mta-sts",
            events=self.events,
            wall=self.wall,
        )

    def _maildir_settings(self) -> MaildirSettings:
        settings = self.policies.maildir
        assert settings is not None
        return settings

    async def _admit_signed(self, message: Message) -> None:
        await self.admission.admit(await self.signer.signed(message, self.policies.receive.signing))

    # --- listeners --------------------------------------------------------------------------------------------

    def _station(self, listen: Listen) -> ReceptionStation:
        return ReceptionStation(
            store=self.store,
            admission=self.admission,
            settings=lambda: self.policies.receive,
            events=self.events,
            decisions=self.tracing.events,
            wall=self.wall,
            trusted=listen.trusted,
            callout=self.mailboxes.ask,
            rates=self.rates,
            signer=self.signer,
        )

    def _check_settings(self, name: str) -> Any:
        return self.policies.checks.get(name)

    def _pipeline(self, listen: Listen) -> Pipeline | None:
        """The checks of a listener that takes mail of strangers."""
        if listen.service != "mx" or listen.trusted:
            return None

        def is_strange(client: Client) -> bool:
            return not self.policies.receive.may_relay(client.address, via_proxy=client.via_proxy)

        return Pipeline(self.checks, clock=self.reactor, events=self.events, applies=is_strange)

    # --- start, reload, stop ----------------------------------------------------------------------------------

    def _privileged(self) -> None:
        if self.config.tls.certificate is not None:
            self.contexts.loaded = load_certificates(self.config, self.wall())
        self.relay = relay_settings(self.config)
        self.policies = with_files(self.policies)
        self._caution()
        self.users.load()

    def _prepare(self) -> None:
        prepare_state(self.config.state)
        if self.contexts.loaded is None:
            self.contexts.loaded = load_certificates(self.config, self.wall())

    async def _started(self) -> None:
        self.tracing.writer.start()
        self.users.start()
        self.mailbox_pool.start()
        self.checks_pool.start()
        self.signing_pool.start()
        if self.sts is not None:
            self.sts.start()
        for watcher in self.watchers:
            watcher.start()
        if self.answered is not None:
            await self.answered.start()
        self.schedule.start()
        self.control.start()
        for check in self.checks:
            if IService.providedBy(check):
                check.startService()

    def _reload_asked(self) -> Deferred[None]:
        return maybeDeferred(lambda: self.reload(self._mta.reread()))

    def reload(self, config: Config) -> None:
        """Put a new configuration's policies into force, all of them or, raising, none."""
        new = with_files(policies(config, self.policies.generation + 1))
        loaded, relay, users = (
            load_certificates(config, self.wall()),
            relay_settings(config, new.generation),
            self.users.read(),
        )
        self.policies, self.relay, self.contexts.loaded = new, relay, loaded
        self.users.replace(users)
        self.config = attrs.evolve(self.config, tls=config.tls)
        self._caution()

    def _caution(self) -> None:
        for caution in cautions(self.policies):
            self._log.warn("{caution}", caution=caution)

    async def _closed(self) -> None:
        self.manager.close()
        self.mailboxes.close()
        for check in self.checks:
            if IService.providedBy(check):
                await maybeDeferred(check.stopService)
        for watcher in self.watchers:
            watcher.stop()
        if self.answered is not None:
            self.answered.stop()
        self.users.stop()
        for pool in (self.mailbox_pool, self.checks_pool, self.signing_pool):
            if pool.started:
                pool.stop()
        await self.control.stop()
        if isinstance(self.resolver, StubResolver):
            await self.resolver.close()
        # After the resolver: an attempt that waits for a policy must not find a way on without one.
        if self.sts is not None:
            self.sts.stop()
        self.tracing.writer.stop()
