"""The pipeline: runs the checks of a session, each from its stage on, and has their verdicts when they are needed.

    stage        begins       waits for
    CONNECTION   dnswl, iprev
    SENDER       spf
    RECIPIENT                 spf where it rejects, and then dnswl where a list may save the client
    MESSAGE      dkim, arc    all, for Authentication-Results
    CONCLUSION   dmarc        what it draws from their verdicts

Nobody waits before RECIPIENT: the greeting is never late. Without checks, or for a client to whom they do not apply,
there is nothing at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, succeed  # noqa: A004
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.plugin import getPlugins
from twisted.python.failure import Failure

from requiretls_mta.checks import plugins
from requiretls_mta.checks.interfaces import Client, ICheck, ICheckPlugin, Stage, Subject, Tools, Verdict
from requiretls_mta.checks.override import settle
from requiretls_mta.message.envelope import Envelope
from requiretls_mta.message.ports import Body, Events
from requiretls_mta.message.reply import Reply

ORDER = ("dnswl", "iprev", "spf", "dkim", "arc", "dmarc")
"""Of the house's checks in Authentication-Results; others follow by name."""

GONE = Reply(451, "4.4.2", "Connection lost before the message was accepted")
"""To nobody: who leaves before the reply has not been told yes, and must not get past the checks that way."""

_log = Logger()


def load_checks(tools: Tools, package: ModuleType = plugins) -> list[ICheck]:
    """The checks of all plugins that are installed; a plugin that fails is logged and does without."""
    found: dict[str, ICheck] = {}
    for plugin in getPlugins(ICheckPlugin, package):
        try:
            for check in plugin.checks(tools):
                if not ICheck.providedBy(check) or check.name in found:
                    raise ValueError(f"{check!r} is no check, or has the name of another")
                found[check.name] = check
        except Exception:
            _log.failure("the checks of {plugin!r} are left out", plugin=plugin)
    return [found[name] for name in sorted(found, key=_place)]


def _place(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


class Pipeline:
    """The checks of one listener."""

    def __init__(
        self,
        checks: Iterable[ICheck],
        *,
        clock: IReactorTime,
        events: Events,
        applies: Callable[[Client], bool] = lambda _: True,
    ) -> None:
        """`applies` says whether a client is to be checked: who is trusted is neither looked up nor delayed."""
        self._checks = tuple(checks)
        self._more_to_come = any(check.stage != Stage.CONNECTION for check in self._checks)
        self._clock = clock
        self._events = events
        self._applies = applies

    def begin(self, client: Client) -> SessionChecks | None:
        """A client has connected; None when there is nothing to check."""
        if not self._checks or not self._applies(client):
            return None
        running = self.start(Stage.CONNECTION, Subject(client=client))
        return SessionChecks(self, client, running) if running or self._more_to_come else None

    def start(self, stage: Stage, subject: Subject) -> list[Running]:
        """Begin the checks of a stage."""
        running = (self._start(check, subject) for check in self._checks if check.stage == stage)
        return [one for one in running if one is not None]

    def renewed(self, running: Sequence[Running], client: Client) -> Sequence[Running]:
        """The checks of a connection, those begun again whose verdicts hold no longer."""
        if not any(one.is_outdated for one in running):
            return running
        subject = Subject(client=client)
        fresh = (self._start(one.check, subject) if one.is_outdated else one for one in running)
        return [one for one in fresh if one is not None]

    def _start(self, check: Any, subject: Subject) -> Running | None:
        try:
            begun = check.begin(subject)
        except Exception:
            _log.failure("check {check} failed", check=check.name)
            return None
        return None if begun is None else Running(check, begun, self._clock, self._events, subject.client)


class Running:
    """One check under way, and all who wait for it."""

    def __init__(
        self, check: Any, begun: Deferred[Verdict] | Verdict, clock: IReactorTime, events: Events, client: Client
    ) -> None:
        self.needed: Stage = check.needed
        # Only the house's whitelists may speak for a client, and only against SPF: see `override`.
        self.saves: bool = getattr(check, "saves", False)
        self.verdict: Verdict | None = None
        self.check = check
        self._clock = clock
        self._until = math.inf
        self._events = events
        self._client = client
        self._waiting: list[Deferred[None]] = []
        self._work: Deferred[Any] = begun if isinstance(begun, Deferred) else succeed(begun)
        # One that has been called may still wait for another that it was chained to.
        self._work.addTimeout(check.deadline, clock)
        self._work.addCallback(self._read).addErrback(self._failed).addCallback(self._done)

    def wait(self) -> Deferred[None]:
        """Fires when the verdict is there."""
        if self.verdict is not None:
            return succeed(None)
        waiter: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiter)
        return waiter

    def stop(self) -> None:
        """Nobody is interested any more."""
        self._work.cancel()

    @property
    def is_outdated(self) -> bool:
        """Whether there was a verdict, which holds no longer."""
        return self._until <= self._clock.seconds()

    def _read(self, verdict: object) -> Verdict:
        if not isinstance(verdict, Verdict) or (verdict.refusal is not None and verdict.refusal.is_positive):
            raise TypeError(f"{verdict!r} is no verdict")
        return verdict

    def _done(self, verdict: Verdict) -> None:
        self.verdict = verdict
        self._until = self._clock.seconds() + verdict.lifetime
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(None)

    def _failed(self, failure: Failure) -> Verdict:
        if failure.check(TimeoutError):
            self._events.emit(
                "check", level="warn", check=self.check.name, session=self._client.session, reason="timeout"
            )
        elif not failure.check(CancelledError):
            _log.failure("check {check} failed", failure, check=self.check.name)
        return Verdict(check=self.check.name)


class SessionChecks:
    """The checks of one session."""

    def __init__(self, pipeline: Pipeline, client: Client, running: Sequence[Running]) -> None:
        self._pipeline = pipeline
        self._client = client
        self._running: Sequence[Running] = running
        self._of_transaction: TransactionChecks | None = None

    def transaction(self, helo: str, envelope: Envelope) -> TransactionChecks:
        """A transaction begins; the one before has ended."""
        if self._of_transaction is not None:
            self._of_transaction.stop()
        self._running = self._pipeline.renewed(self._running, self._client)
        subject = Subject(client=self._client, helo=helo, envelope=envelope)
        self._of_transaction = TransactionChecks(self._pipeline, subject, self._running)
        return self._of_transaction

    def stop(self) -> None:
        """The client is gone."""
        for running in self._running:
            running.stop()
        if self._of_transaction is not None:
            self._of_transaction.stop()


class TransactionChecks:
    """The checks of one transaction: those of its session, and its own."""

    def __init__(self, pipeline: Pipeline, subject: Subject, of_session: Sequence[Running]) -> None:
        self._pipeline = pipeline
        self._subject = subject
        self._own = pipeline.start(Stage.SENDER, subject)
        self._of_session = of_session
        self._over = False

    def refusal(self) -> Reply | Deferred[Reply | None] | None:
        """Stage RECIPIENT: why the client's mail is not taken, once the checks needed by now have spoken."""
        needed = [running for running in (*self._of_session, *self._own) if running.needed <= Stage.RECIPIENT]
        # Only who would be turned away has to wait for those who may know better.
        savers = [running for running in self._of_session if running.saves and running not in needed]
        if _are_known(needed):
            if refusal_of(_verdicts(needed)) is None:
                return None
            if _are_known(savers):
                return refusal_of(settle(_verdicts((*needed, *savers))))
        return Deferred.fromCoroutine(self._refusal(needed, savers))

    def message(self, header: bytes, body: Body) -> Deferred[tuple[Verdict, ...]]:
        """Stage MESSAGE: the verdicts of all checks, in order; one of a check that failed or was late is empty."""
        return Deferred.fromCoroutine(self._message(header, body))

    def stop(self) -> None:
        """End what is this transaction's only."""
        self._over = True
        for running in self._own:
            running.stop()

    async def _refusal(self, needed: Sequence[Running], savers: Sequence[Running]) -> Reply | None:
        for running in needed:
            await running.wait()
        if refusal_of(_verdicts(needed)) is None:
            return None
        for running in savers:
            await running.wait()
        return refusal_of(settle(_verdicts((*needed, *savers))))

    async def _message(self, header: bytes, body: Body) -> tuple[Verdict, ...]:
        subject = attrs.evolve(self._subject, header=header, body=body)
        for stage in (Stage.MESSAGE, Stage.CONCLUSION):
            self._own += self._pipeline.start(stage, subject)
            everything = (*self._of_session, *self._own)
            for running in everything:
                await running.wait()
            if self._over:
                return (Verdict(check="", refusal=GONE),)
            subject = attrs.evolve(subject, verdicts=tuple(_verdicts(everything)))
        return settle(sorted(subject.verdicts, key=lambda verdict: _place(verdict.check)))


def refusal_of(verdicts: Iterable[Verdict]) -> Reply | None:
    """The first refusal."""
    return next((verdict.refusal for verdict in verdicts if verdict.refusal is not None), None)


def _are_known(everything: Iterable[Running]) -> bool:
    return all(running.verdict is not None for running in everything)


def _verdicts(everything: Iterable[Running]) -> Iterator[Verdict]:
    return (running.verdict for running in everything if running.verdict is not None)
