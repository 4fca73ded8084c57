"""Whether a list can be believed: its test entries (RFC 5782 5), its refusals, its silence, and too many good words.

A list that lies is worse than none: some answer "highly trusted" to whoever asks too much, and the buyer of a dead
list's domain answers to everything.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from requiretls_mta.checks.dnswl_rules import ClientIP, Finding, ListSettings, examine, selftest_names
from requiretls_mta.dns.answer import Answer, Resolver
from requiretls_mta.message.ports import Events

REGULAR = 4 * 3600.0  # seconds between tests of a list that is well; they count against its quota
SOON = 60.0  # of one that does not answer
FIRST_PAUSE = 300.0  # of one that is not to be believed, doubled each time up to REGULAR
MOST_FAILURES = 5
"""Look-ups without an answer, one behind the other, after which the list is not asked for a while."""
WATCHED = 20
"""If that many clients in a row pass, the list may have begun to list everybody."""
_REFUSALS = frozenset({"over-quota", "refused"})

_log = Logger()


def first_of_all(failure: Failure) -> Failure:
    """The failure behind that of `gatherResults`; most of all, a cancellation is one."""
    return failure.value.subFailure if isinstance(failure.value, FirstError) else failure


class Health:
    """The state of one list; told to whoever keeps the log, once for each change."""

    def __init__(
        self,
        settings: ListSettings,
        *,
        clock: IReactorTime,
        resolver: Resolver,
        events: Events,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._names = selftest_names(settings.zone)
        self._clock = clock
        self._resolver = resolver
        self._events = events
        self._chance = chance
        self._trouble: dict[int, Finding] = {}
        self._tested: set[int] = {4, 6} if settings.selftest == "off" else set()
        self._tested_at = -SOON
        self._open: Finding | None = None
        self._failures = 0
        self._pauses = 0
        self._recent: OrderedDict[ClientIP, bool] = OrderedDict()
        self._alarmed_at = -REGULAR
        self._probing: Deferred[None] | None = None
        self._waiting: list[tuple[int, Deferred[Finding | None]]] = []
        self._timer: IDelayedCall | None = None
        self._over = False

    def start(self) -> None:
        """Test it now, and from now on."""
        self._over = False
        if self._settings.selftest != "off":
            self.test()

    def stop(self) -> None:
        """No more tests, whatever look-ups that are still under way come to."""
        self._over = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if self._probing is not None:
            self._probing.cancel()

    def bypass(self, client: ClientIP) -> Finding | None:
        """Why the list is not even asked; None when it is."""
        return self._open or self._trouble.get(client.version)

    def trouble(self, client: ClientIP) -> Deferred[Finding | None]:
        """Why an answer about this client cannot be believed; waits for the first test."""
        version = client.version
        if version in self._tested:
            return succeed(self._trouble.get(version))
        waiter: Deferred[Finding | None] = Deferred(lambda d: self._waiting.remove((version, d)))
        self._waiting.append((version, waiter))
        self.test()
        return waiter

    def heard(self, client: ClientIP, finding: Finding) -> None:
        """Take note of what a look-up came to."""
        if finding.result == "temperror":
            self._failures += 1
            if self._failures >= MOST_FAILURES and self._open is None:
                self._open = finding
                self._tell("error", "failing", finding.reason, "whitelist does not answer; is the resolver your own?")
                self._test_in(SOON)
            return
        self._failures = 0
        if finding.reason in _REFUSALS:
            self._conclude(dict.fromkeys((4, 6), finding))
        elif finding.result == "permerror":
            # One entry may be wrong, or all: the test tells, but not more often than it can have changed.
            if self._clock.seconds() - self._tested_at >= SOON:
                self.test()
        else:
            self._watch(client, finding.result == "pass")

    def test(self) -> None:
        """Ask for the test entries, unless that is being done."""
        if self._probing is not None:
            return
        self._tested_at = self._clock.seconds()
        names = self._names.asked(self._settings)
        asked = gatherResults([self._resolver.resolve(name, "A") for name in names], consumeErrors=True)
        examined = asked.addErrback(first_of_all).addCallback(self._examined, names)
        self._probing = examined.addErrback(self._test_failed)
        if asked.called:
            self._probing = None

    def _examined(self, answers: list[Answer], names: tuple[str, ...]) -> None:
        self._probing = None
        self._conclude(examine(dict(zip(names, answers, strict=True)), self._names, self._settings))

    def _test_failed(self, failure: Failure) -> None:
        self._probing = None
        waiting, self._waiting = self._waiting, []
        for _, waiter in waiting:
            waiter.callback(Finding(result="temperror", reason="timeout"))
        if not failure.check(CancelledError):
            _log.failure("a whitelist's test failed", failure)

    def _conclude(self, examined: dict[int, Finding]) -> None:
        before = {version: finding.reason for version, finding in self._trouble.items()}
        for version, finding in examined.items():
            # What nobody knows now stays as it was known last.
            if finding.result == "temperror":
                continue
            self._tested.add(version)
            self._trouble.pop(version, None)
            if finding.result == "permerror":
                self._trouble[version] = finding
        answered = examined[4].result != "temperror"
        if answered and self._open is not None:
            self._open, self._failures = None, 0
            self._tell("warn", "answering", None, "whitelist answers again")
        self._tell_change(before)
        self._plan(answered)
        waiting, self._waiting = self._waiting, []
        for version, waiter in waiting:
            known = version in self._tested
            waiter.callback(self._trouble.get(version) if known else examined[version])

    def _tell_change(self, before: dict[int, str | None]) -> None:
        now = {version: finding.reason for version, finding in self._trouble.items()}
        if now == before:
            return
        self._recent.clear()
        if not now:
            self._tell("warn", "good", None, "whitelist is good again")
            return
        reason = now.get(4) or now.get(6)
        whom = "" if 4 in now else " for IPv6 clients"
        self._tell("critical", "bad", reason, f"whitelist cannot be believed and is not used{whom}")

    def _plan(self, answered: bool) -> None:
        if not answered:
            self._test_in(SOON)
        elif self._trouble:
            self._test_in(min(FIRST_PAUSE * 2**self._pauses, REGULAR))
            self._pauses = min(self._pauses + 1, 10)
        else:
            self._pauses = 0
            if self._settings.selftest != "off":
                self._test_in(REGULAR)

    def _test_in(self, seconds: float) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._over:
            return
        self._timer = self._clock.callLater(seconds * (1 - 0.2 * self._chance()), self.test)

    def _watch(self, client: ClientIP, passes: bool) -> None:
        self._recent[client] = passes
        self._recent.move_to_end(client)
        if len(self._recent) > WATCHED:
            self._recent.popitem(last=False)
        now = self._clock.seconds()
        # Where most mail comes from a few large senders this may well be so: it is not told again and again.
        if len(self._recent) == WATCHED and all(self._recent.values()) and now - self._alarmed_at >= REGULAR:
            self._alarmed_at = now
            self._tell("critical", "suspect", None, f"whitelist listed each of the last {WATCHED} clients")
            self.test()

    def _tell(self, level: str, state: str, reason: str | None, message: str) -> None:
        zone = self._settings.display_zone
        self._events.emit("dnswl", level=level, zone=zone, state=state, reason=reason, message=message)
