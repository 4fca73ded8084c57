"""The check of DNS whitelists (RFC 8904): asks all lists about a client at once, from the moment it connects."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, TimeoutError, gatherResults, succeed  # noqa: A004
from twisted.python.failure import Failure
from zope.interface import implementer

from requiretls_mta.checks.dnswl_health import Health, first_of_all
from requiretls_mta.checks.dnswl_rules import (
    ClientIP,
    Finding,
    ListSettings,
    client_of,
    complete,
    judge,
    query_name,
    report,
)
from requiretls_mta.checks.interfaces import Client, ICheck, ICheckPlugin, Stage, Subject, Tools, Verdict
from requiretls_mta.dns.answer import Answer
from requiretls_mta.message.shares import Shares, site_of

PATIENCE = 5.0  # seconds for one list, whatever the resolver's own limit
MOST_AT_ONCE = 100
"""Clients that one list is being asked about; a list that hangs must not take the resolver from all others."""
TEXT_PATIENCE = 1.0  # seconds behind the A record, for text and DNSSEC
_TIMED_OUT = Finding(result="temperror", reason="timeout")


@attrs.frozen(kw_only=True)
class DNSWLVerdict(Verdict):
    """The verdict with what each list said, in the order of the configuration."""

    findings: tuple[tuple[ListSettings, Finding], ...] = ()


class Whitelist:
    """One list: asks it, if it can be believed."""

    def __init__(self, settings: ListSettings, tools: Tools, chance: Callable[[], float] = random.random) -> None:
        self.settings = settings
        self._clock = tools.clock
        self._resolver_of = tools.resolver_of
        self._under_way: Counter[ClientIP] = Counter()
        self._shares = Shares(MOST_AT_ONCE)
        self.health = Health(settings, clock=tools.clock, resolver=tools.resolver, events=tools.events, chance=chance)

    def look_up(self, client: ClientIP) -> Deferred[Finding]:
        """What the list says about a client, within `PATIENCE`; never fails, except when it is cancelled."""
        known = self.health.bypass(client)
        # Further sessions of a client that is being asked about ask nothing more.
        if known is None and client not in self._under_way and not self._shares.enter(site_of(str(client))):
            known = _TIMED_OUT
        if known is not None:
            return succeed(known)
        asked = Deferred.fromCoroutine(self._ask(client))
        return asked.addTimeout(PATIENCE, self._clock, onTimeoutCancel=lambda *_: self._heard(client, _TIMED_OUT))

    def _heard(self, client: ClientIP, finding: Finding) -> Finding:
        self.health.heard(client, finding)
        return finding

    async def _ask(self, client: ClientIP) -> Finding:
        self._under_way[client] += 1
        settings, name = self.settings, query_name(client, self.settings.zone)
        resolver = self._resolver_of(str(client))
        a = resolver.resolve(name, "A")
        trouble = self.health.trouble(client)
        txt = resolver.resolve(name, "TXT") if settings.txt != "off" else None
        # The root is signed: a server that cannot say so does not validate, and its silence on AD means nothing.
        root = resolver.resolve(".", "SOA") if not settings.is_mirror else None
        try:
            answer = await a
            finding = judge(answer, settings)
            if finding.reason is not None:
                return self._heard(client, finding)
            wrong = await trouble
            if wrong is not None:
                return wrong
            # Both clocks run from now on: two that are late together take one second, not two.
            texts, anchors = self._soon(txt if finding.result == "pass" else None), self._soon(root)
            text, anchor = await texts, await anchors
            validating = anchor is not None and anchor.is_secure
            return self._heard(client, complete(finding, answer, text, settings, validating=validating))
        finally:
            self._under_way[client] -= 1
            if not self._under_way[client]:
                del self._under_way[client]
                self._shares.leave(site_of(str(client)))
            for unneeded in (a, trouble, txt, root):
                if unneeded is not None:
                    unneeded.addErrback(lambda _: None)
                    unneeded.cancel()

    def _soon(self, asked: Deferred[Answer] | None) -> Deferred[Answer | None]:
        if asked is None:
            return succeed(None)
        return asked.addTimeout(TEXT_PATIENCE, self._clock).addErrback(_late)


def _late(failure: Failure) -> None:
    failure.trap(TimeoutError)


@implementer(ICheck)
class DNSWLCheck(Service):
    """Asks the configured lists; as a service, it tests them from the start on."""

    name = "dnswl"
    stage = Stage.CONNECTION
    needed = Stage.MESSAGE
    deadline = 2 * PATIENCE

    def __init__(self, tools: Tools, chance: Callable[[], float] = random.random) -> None:
        self._tools = tools
        self._chance = chance
        self._configured: tuple[ListSettings, ...] = ()
        self._lists: tuple[Whitelist, ...] = ()
        self._root: Deferred[None] | None = None

    @property
    def saves(self) -> bool:
        """Whether its word may keep a client from being rejected: then that rejection waits for it."""
        return any(one.settings.override_spf for one in self._lists)

    def startService(self) -> None:
        """Test the lists, and whether dns.sec can be told."""
        super().startService()
        for one in self._lists:
            one.health.start()
        self._update()
        if self._lists:
            self._root = self._tools.resolver.resolve(".", "SOA").addCallbacks(self._tell_root, lambda _: None)

    def stopService(self) -> None:
        """Leave them alone."""
        super().stopService()
        for one in self._lists:
            one.health.stop()
        if self._root is not None:
            self._root.cancel()

    def _tell_root(self, root: Answer) -> None:
        if root.is_secure or root.is_failure:
            return
        self._tools.events.emit(
            "dnswl",
            level="warn",
            message="dns.sec will be na: the resolver does not validate, or is not believed (dns.trust_ad)",
        )

    def begin(self, subject: Subject) -> Deferred[Verdict] | None:
        """Ask all lists about the client."""
        self._update()
        client = client_of(subject.client.address)
        if client is None or not self._lists:
            return None
        lists = self._lists
        asked = gatherResults([one.look_up(client) for one in lists], consumeErrors=True)
        return asked.addErrback(first_of_all).addCallback(self._found, lists, subject.client)

    def _found(self, findings: list[Finding], lists: tuple[Whitelist, ...], client: Client) -> Verdict:
        found = tuple(zip((one.settings for one in lists), findings, strict=True))
        for settings, finding in found:
            self._tools.events.emit(
                "dnswl",
                level="info" if finding.result == "pass" else "debug",  # what is wrong is told when it goes wrong
                session=client.session,
                client=client.address,
                zone=settings.display_zone,
                result=finding.result,
                reason=finding.reason,
                codes=[str(code) for code in finding.codes] or None,
                domain=finding.text.domain if finding.text else None,
            )
        results = tuple(report(f, s) for s, f in found if s.report_none or f.result != "none")
        lifetime = min(finding.ttl for finding in findings)
        return DNSWLVerdict(check=self.name, results=results, findings=found, lifetime=lifetime)

    def _update(self) -> None:
        """Follow the configuration; a list that stays as it was keeps its state."""
        configured: tuple[ListSettings, ...] = self._tools.settings(self.name) or ()
        if configured is self._configured:
            return
        self._configured = configured
        old = {one.settings: one for one in self._lists}
        self._lists = tuple(old.pop(s) if s in old else self._added(s) for s in configured)
        for gone in old.values():
            gone.health.stop()

    def _added(self, settings: ListSettings) -> Whitelist:
        added = Whitelist(settings, self._tools, self._chance)
        if self.running:
            added.health.start()
        return added


@implementer(ICheckPlugin)
class DNSWLPlugin:
    """Makes the check."""

    def checks(self, tools: Tools) -> Iterable[ICheck]:
        """One check for all lists."""
        return [DNSWLCheck(tools)]
