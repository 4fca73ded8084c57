"""The fan-out of events."""

from twisted.logger import globalLogPublisher

from requiretls_mta.service.events import Subscribers
from tests.receive.fakes import RecordedEvents


class Broken:
    """A subscriber with a bug."""

    def emit(self, event, /, **fields):
        fields.clear()
        raise ZeroDivisionError


def test_one_that_fails_keeps_no_event_from_the_others():
    """Each gets the fields as they came; the failure is logged."""
    first, last, logged = RecordedEvents(), RecordedEvents(), []
    globalLogPublisher.addObserver(logged.append)
    try:
        Subscribers(first, Broken(), last).emit("tls", mx="mx.test")
    finally:
        globalLogPublisher.removeObserver(logged.append)
    assert first.seen == last.seen == [("tls", {"mx": "mx.test"})]
    assert logged[0]["log_failure"].check(ZeroDivisionError) and logged[0]["name"] == "tls"
