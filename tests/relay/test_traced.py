"""What the trace is told of an attempt: each host, what was said there, and which clause decided."""

import json
import shutil
import tempfile
from pathlib import Path

import attrs
from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks
from twisted.internet.task import Clock

from requiretls_mta.message.outcome import Deferred as Postponed
from requiretls_mta.message.outcome import Delivered, Failed
from requiretls_mta.relay import visits
from requiretls_mta.relay.manager import RelayManager
from requiretls_mta.relay.static_routes import parse_route
from requiretls_mta.report.trace import Trace
from requiretls_mta.report.trace_files import TraceSettings
from requiretls_mta.report.trace_story import transcript
from tests.receive.fakes import RecordedEvents
from tests.relay.walking import FIRST, SECRET, Walking, message
from tests.smtp.fake_mx import GOOD


class Told(RecordedEvents):
    """A trace that remembers."""

    def put(self, event, write):
        self.emit(event, **json.loads("{" + write() + "}"))


class Traced(Walking):
    """The walk of test_walk, watched."""

    def setUp(self):
        super().setUp()
        self.trace = Told()
        self.manager = RelayManager(
            reactor,
            finder=self.manager._finder,
            settings=lambda: self.settings,
            events=self.events,
            trace=self.trace,
        )

    def hosts(self):
        (fields,) = self.trace.of("attempt")
        assert SECRET.decode() not in str(fields)
        return fields["hosts"]

    def said(self, host):
        return [line["text"] for line in transcript(host["transcript"])]

    @inlineCallbacks
    def test_one_host_falls_short_and_the_next_takes_it(self):
        """Both sessions, the failure and the decision with their clauses; the attempt's name is the outcome's."""
        self.mx(1, inside=GOOD)
        second = self.mx(2)
        outcome = yield self.one(message(), approved=[second])
        assert isinstance(outcome, Delivered)
        (fields,) = self.trace.of("attempt")
        assert fields["attempt"] == outcome.attempt and fields["queue_id"] == "q" * 16
        first, second = self.hosts()
        assert first["address"] == f"{FIRST}:{self.number}"
        assert first["failure"]["clause"] == "RFC 8689 4.2.1 (5)" and "decision" not in first
        assert "QUIT" in self.said(first)
        assert "failure" not in second and second["decision"]["clause"] == "RFC 8689 4.2.1"
        said = self.said(second)
        assert "STARTTLS" in said and "authenticated: pkix" in said
        assert any(text.startswith("MAIL FROM:<secret-sender@here.test>") and "REQUIRETLS" in text for text in said)
        assert said[-1].startswith("250")

    @inlineCallbacks
    def test_a_kept_session_says_so(self):
        """The second message's transcript has its own transaction only."""
        server = self.mx(1)
        for _ in range(2):
            yield self.one(message(), approved=[server])
        first, second = self.trace.of("attempt")
        said = self.said(second["hosts"][0])
        assert said[0] == "in a session that an earlier message began"
        assert said[1].startswith("MAIL") and not any(text.startswith("EHLO") for text in said)
        assert len(self.said(first["hosts"][0])) > len(said)

    @inlineCallbacks
    def test_hosts_without_a_session_are_told_too(self):
        """Nobody listens there; and a domain that has no host at all."""
        outcome = yield self.one(message(), "x@one.test")
        assert isinstance(outcome, Postponed)
        (host,) = self.hosts()
        assert host["failure"]["detail"] == "connection refused" and host["failure"]["temporary"]
        assert transcript(host["transcript"]) == []
        self.trace.seen.clear()
        outcome = yield self.one(message(), "x@nowhere.test")
        assert isinstance(outcome, Failed)
        (host,) = self.hosts()
        assert host["failure"]["step"] == "lookup" and "transcript" not in host

    @inlineCallbacks
    def test_a_handshake_that_fails_is_told(self):
        """And the second session without TLS, for mail that may do without."""
        self.mx(1, stall=True, clear=("STARTTLS", *GOOD))
        yield self.one(message(tag=None), "x@one.test")
        said = self.said(self.hosts()[0])
        assert any("handshake" in text or "TLS" in text for text in said)

    @inlineCallbacks
    def test_without_transcripts_only_decisions_are_told(self):
        """`trace.transcripts = false`."""
        self.manager._transcribes = False
        server = self.mx(1)
        yield self.one(message(), approved=[server])
        (host,) = self.hosts()
        assert set(host) == {"host", "address", "decision"}

    @inlineCallbacks
    def test_the_way_into_a_mailbox_here_is_not_judged(self):
        """LMTP to a local server: what was said is told, and no clause."""
        self.lookup = attrs.evolve(
            self.lookup, static={"local.test": attrs.evolve(parse_route(f"lmtp:[{FIRST}]:{self.number}"), local=True)}
        )
        self.mx(1, clear=GOOD)
        outcome = yield self.one(message(tag=None), "x@local.test")
        assert isinstance(outcome, Delivered)
        (host,) = self.hosts()
        assert set(host) == {"host", "address", "transcript"} and self.said(host)[1].startswith("LHLO")

    @inlineCallbacks
    def test_what_goes_wrong_in_the_telling_changes_no_outcome(self):
        """Else a message that was delivered would be sent again."""
        self.patch(visits, "_MEANT", {})
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        self.manager._trace = Trace(Clock(), folder, TraceSettings(keep=1.0), lambda: 0.0)
        server = self.mx(1)
        assert isinstance((yield self.one(message(), approved=[server])), Delivered)
        assert len(self.flushLoggedErrors(KeyError)) == 1
