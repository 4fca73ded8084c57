"""A store and a schedule in memory, for reception's tests."""

from twisted.internet.defer import Deferred, succeed

from requiretls_mta.message.stored import BytesBody
from requiretls_mta.queue.store import Entry, Lease


class FakeWriter:
    """Collects octets; says whether it was aborted."""

    synced = None
    """Of a body in a file: fires when it is on disk."""

    def __init__(self, store):
        self.store, self.data, self.aborted = store, b"", False

    def write(self, data):
        if self.store.write_error:
            raise self.store.write_error
        self.data += data

    def finish(self):
        body = BytesBody(self.data)
        return body if self.synced is None else self.synced.addCallback(lambda _: body)

    def abort(self):
        self.aborted = True


class FakeStore:
    """Only the verbs that reception uses."""

    synced = None
    """What the next writers are to wait for."""

    def __init__(self):
        self.accepted, self.writers, self.error, self.write_error = [], [], None, None

    def new_id(self):
        return f"{len(self.writers):016}"

    def body(self, message_id):
        self.writers.append(FakeWriter(self))
        self.writers[-1].synced = self.synced
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
