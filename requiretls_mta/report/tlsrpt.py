"""TLS reports (RFC 8460): sessions are counted day by day; when a day is over, each domain that wants to know is told.

What waits is in a ledger, so that a restart loses no day and repeats no report. Reports go by mail, with
`TLS-Required: No`, or by HTTPS, and are tried for a day. Whoever admits those that go by mail signs them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from requiretls_mta.message.address import Address
from requiretls_mta.message.content import ContentScanner
from requiretls_mta.message.envelope import Envelope, Recipient, Tag
from requiretls_mta.message.ports import Events
from requiretls_mta.message.profile import Profile
from requiretls_mta.message.stored import BytesBody, Message
from requiretls_mta.message.trace import date_time
from requiretls_mta.report import tlsrpt_store as store
from requiretls_mta.report.ledger import Ledger
from requiretls_mta.report.tlsrpt_format import TLSReport, as_message, compressed
from requiretls_mta.report.tlsrpt_record import Mail, Post, Target, parse_records, record_name
from requiretls_mta.report.tlsrpt_session import Session, session_of

PAUSE = 10.0
"""Seconds between two writes of counts."""
MOST_WAITING = 5000
"""Kinds of sessions that wait to be written; what is new beyond them is not counted."""
POLL = 60.0
"""Seconds between looks for what is due."""
AT_ONCE = 10
"""Reports that are attempted at once."""

Lookup = Callable[[str], "Deferred[Sequence[bytes] | None]"]
"""A name's TXT records, each with its strings joined; None when they cannot be had now. Never fails."""
Send = Callable[[Post, bytes], "Deferred[str]"]
"""Posts a file; fires with the trouble, empty when it was taken. Never fails."""


@attrs.frozen(kw_only=True)
class TLSReportSettings:
    """Who reports."""

    hostname: str
    contact: Address
    """Of who is responsible for the reports; ASCII."""
    profile: Profile = Profile.RFC8689


class TLSReports:
    """The subscriber that counts, and the clockwork that reports."""

    _log = Logger()

    def __init__(
        self,
        clock: Any,
        ledger: Ledger,
        *,
        settings: TLSReportSettings,
        lookup: Lookup,
        post: Send,
        admit: Callable[[Message], Awaitable[None]],
        new_id: Callable[[], str],
        wall: Callable[[], float],
        events: Events,
        rng: random.Random | None = None,
    ) -> None:
        self._clock = clock
        self._ledger = ledger
        self._settings = settings
        self._lookup = lookup
        self._post = post
        self._admit = admit
        self._new_id = new_id
        self._wall = wall
        self._events = events
        self._rng = rng or random.SystemRandom()
        self._waiting: Counter[Session] = Counter()
        self._writing: IDelayedCall | None = None
        self._polling: IDelayedCall | None = None
        self._reporting: Deferred[None] | None = None
        self._carriers: set[str] = set()
        self._running = False

    def start(self) -> None:
        """The state folder is there, and the queue takes messages."""
        self._running = True
        self._ledger.start()
        self._ledger.run(store.carriers).addCallback(lambda found: self._carriers.update(found or ()))
        self._polling = self._clock.callLater(0, self._poll)

    def stop(self) -> None:
        """Break off reports under way; they are due again. Write what was counted."""
        self._running = False
        for timer in (self._polling, self._writing):
            if timer is not None:
                timer.cancel()
        if self._reporting is not None:
            self._reporting.cancel()
        self._write()
        self._ledger.stop()

    # --- counting ---------------------------------------------------------------------------------------------

    def emit(self, event: str, /, **fields: Any) -> None:
        """Take one event."""
        # RFC 8460 3: the sessions that carried reports are not reported, lest two sides report for ever.
        if event != "tls" or fields.get("queue_id") in self._carriers:
            return
        session = session_of(fields, self._wall())
        if session is None or (session not in self._waiting and len(self._waiting) >= MOST_WAITING):
            return
        self._waiting[session] += 1
        if self._writing is None:
            self._writing = self._clock.callLater(PAUSE, self._write)

    def _write(self) -> None:
        self._writing = None
        sessions, self._waiting = self._waiting, Counter()
        if sessions:
            self._ledger.run(partial(store.count, sessions=sessions))

    # --- reporting --------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        self._polling = None
        self._reporting = Deferred.fromCoroutine(self._report())
        self._reporting.addErrback(self._broke_off).addBoth(lambda _: self._reported())

    def _broke_off(self, failure: Failure) -> None:
        if self._running:
            self._log.failure("TLS reports broke off", failure)

    def _reported(self) -> None:
        self._reporting = None
        if self._running:
            self._polling = self._clock.callLater(POLL, self._poll)

    async def _report(self) -> None:
        while due := await self._ledger.run(partial(store.claim, now=self._wall(), limit=AT_ONCE, rng=self._rng)):
            await gatherResults([Deferred.fromCoroutine(self._attempt(one)) for one in due], consumeErrors=True)
            # The ledger has forgotten the old ones.
            self._carriers = set(await self._ledger.run(store.carriers) or self._carriers)

    async def _attempt(self, due: store.Due) -> None:
        texts = await self._lookup(record_name(due.domain))
        if texts is None:
            return
        targets = parse_records(texts)
        if targets:
            made = await self._ledger.run(partial(_made, due=due, contact=self._settings.contact))
            if made is None or not await self._deliver(*made, targets):
                return
        await self._ledger.run(partial(store.finish, day=due.day, domain=due.domain))

    async def _deliver(self, report: TLSReport, file: bytes, targets: Sequence[Target]) -> bool:
        """RFC 8460 3: to every destination; it is delivered when one has taken it."""
        addresses = [target.address for target in targets if isinstance(target, Mail)]
        taken = bool(addresses) and await self._mail(report, file, addresses)
        for target in targets:
            if isinstance(target, Post):
                trouble = await self._posted(target, file)
                self._tell(report, target.uri, trouble)
                taken = taken or not trouble
        return taken

    async def _posted(self, target: Post, file: bytes) -> str:
        try:
            return await self._post(target, file)
        except CancelledError:
            raise
        except Exception as error:
            # What another destination has taken must not be sent again for it.
            self._log.failure("the TLS report to {uri} broke off", uri=target.uri)
            return f"it broke off here: {type(error).__name__}"

    async def _mail(self, report: TLSReport, file: bytes, addresses: Sequence[Address]) -> bool:
        message = self._message(report, file, addresses)
        self._carriers.add(message.id)
        await self._ledger.run(partial(store.add_carrier, queue_id=message.id, now=self._wall()))
        trouble = ""
        try:
            await self._admit(message)
        except CancelledError:
            raise
        except Exception as error:  # whatever it is, it is tried again
            trouble = f"it was not admitted to the queue: {error}"
        for address in addresses:
            self._tell(report, f"mailto:{address}", trouble, message.id)
        return not trouble

    def _message(self, report: TLSReport, file: bytes, addresses: Sequence[Address]) -> Message:
        settings, now, queue_id = self._settings, self._wall(), self._new_id()
        octets = as_message(
            report,
            file,
            to=addresses,
            date=date_time(now),
            message_id=f"{queue_id}@{settings.hostname}",
            profile=settings.profile,
        )
        scanner = ContentScanner(len(octets))
        scanner.feed(octets)
        return Message(
            id=queue_id,
            # Nobody is told of a report that cannot be delivered; it is tried for `relay.bounce_lifetime`.
            envelope=Envelope(
                sender=None, recipients=tuple(Recipient(address) for address in addresses), tag=Tag.OPTIONAL
            ),
            body=BytesBody(octets),
            content=scanner.finish(),
            received=now,
            origin="report",
        )

    def _tell(self, report: TLSReport, to: str, trouble: str, queue_id: str | None = None) -> None:
        self._events.emit(
            "tlsrpt",
            level="warn" if trouble else "info",
            message="TLS report not sent" if trouble else "TLS report sent",
            domain=report.domain,
            report_id=report.id,
            to=to,
            queue_id=queue_id,
            reason=trouble or None,
        )


def _made(connection: Any, *, due: store.Due, contact: Address) -> tuple[TLSReport, bytes]:
    """The report and its file; made in the ledger's thread, for they may be large."""
    report = TLSReport(
        domain=due.domain,
        day=due.day,
        unique=due.unique,
        contact=contact,
        policies=store.counts(connection, due.day, due.domain),
    )
    return report, compressed(report)
