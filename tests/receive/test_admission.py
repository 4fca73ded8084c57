"""The way into the queue: what is told, and what the client hears, goes by what is on disk."""

import attrs
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from requiretls_mta.message.envelope import Envelope, Notify, Recipient
from requiretls_mta.queue.store import StoreFull
from requiretls_mta.receive.admission import Admission
from tests.receive.fakes import RecordedEvents
from tests.receive.test_reception import SETTINGS, Bench, address, expanded_report

ASKED = Recipient(address("sales@example.org"), frozenset({Notify.SUCCESS}))
MESSAGE = attrs.evolve(
    expanded_report(address("x@example.org")),
    id="0" * 16,
    envelope=Envelope(sender=address("s@example.com"), recipients=(ASKED,)),
)


class Trace(RecordedEvents):
    """Keeps the names of births."""

    def put(self, event, write):
        self.seen.append((event, {"line": write()}))


class Admitted(SynchronousTestCase):
    """A message to an alias, of whose expansion there is to be a report."""

    def setUp(self):
        self.bench, self.trace, self.commit = Bench(), Trace(), Deferred()
        accept = self.bench.store.accept
        self.bench.store.accept = lambda *words: self.commit.addCallback(lambda _: accept(*words))
        self.admission = Admission(
            self.bench.store,
            self.bench.schedule,
            lambda: SETTINGS,
            self.bench.events,
            self.bench.tell,
            trace=self.trace,
        )

    def admit(self):
        return self.admission.admit(MESSAGE)

    def test_nothing_is_told_before_it_is_on_disk(self):
        """Neither that it is queued, nor that there is a report of its expansion; then log and trace hear of both."""
        done = self.admit()
        assert self.bench.expanded and not self.bench.events.seen and not self.trace.seen
        self.commit.callback(None)
        self.successResultOf(done)
        assert [event for event, _ in self.bench.events.seen] == ["queued", "reported"]
        assert [event for event, _ in self.trace.seen] == ["queued", "queued", "reported"]

    def test_what_is_on_disk_is_taken_whatever_breaks_then(self):
        """The client would bring it again, and have it delivered twice."""

        def breaks(*words, **more):
            raise ZeroDivisionError

        self.commit.callback(None)
        for one, verb in ((self.bench.schedule, "take"), (self.trace, "put"), (self.bench.events, "emit")):
            self.patch(one, verb, breaks)
            self.successResultOf(self.admit())
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 3

    def test_what_is_not_taken_is_not_told(self):
        """No space: there is no message, and no report."""
        self.bench.store.error = StoreFull("no space")
        done = self.admit()
        self.commit.callback(None)
        self.failureResultOf(done, StoreFull)
        assert not self.bench.events.seen and not self.trace.seen
