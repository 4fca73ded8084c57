"""A store and a schedule in memory, for reception's tests."""

from twisted.internet.defer import Deferred, succeed

from requiretls_mta.message.stored import BytesBody
from requiretls_mta.queue.store import Entry, Lease


class FakeWriter:
    """Collects octets; says whether it was aborted."""

    def __init__(self, store):
        self.store, self.data, self.aborted = store, b"", False

    def write(self, data):
        if self.store.write_error:
            raise self.store.write_error
        self.data += data

    def finish(self):
        return succeed(BytesBody(self.data))

    def abort(self):
        self.aborted = True


class FakeStore:
    """Only the verbs that reception uses."""

    def __init__(self):
        self.accepted, self.writers, self.error, self.write_error = [], [], None, None

    def new_id(self):
        return f"{len(self.writers):016}"

    def body(self, message_id):
        self.writers.append(FakeWriter(self))
        return self.writers[-1]

    def accept(self, messages, lease=False):
        if self.error:
            d = Deferred()
            d.errback(self.error)
            return d
        self.accepted += messages
        leases = tuple(
            Lease(
                message=m,
                entries=tuple(Entry(number=i, recipient=r) for i, r in enumerate(m.envelope.recipients)),
            )
            for m in messages
        )
        return succeed(leases if lease else ())


class FakeSchedule:
    """Takes everything."""

    def has_room_for(self, message):
        return True

    def __init__(self):
        self.leases = []

    def take(self, leases):
        self.leases += leases


class RecordedEvents:
    """Keeps the events."""

    def __init__(self):
        self.seen = []

    def emit(self, event, /, **fields):
        self.seen.append((event, fields))

    def of(self, name):
        return [fields for event, fields in self.seen if event == name]
