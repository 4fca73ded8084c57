"""A name server without a network, policies without a web, and a queue without a disk."""

import dns.rdata
import dns.rdataclass
import dns.rdatatype
from twisted.internet.defer import succeed
from zope.interface import implementer

from requiretls_mta.dns.answer import Answer, Status
from requiretls_mta.queue.store import Entry, IQueueStore, Lease
from requiretls_mta.relay.route import NoPolicy
from requiretls_mta.tls.mta_sts import Mode


class FakeResolver:
    """Answers from a table of (name, type) to records, or to an `Answer`'s fields."""

    def __init__(self, table=None, status=Status.SECURE):
        self.table, self.status, self.asked = dict(table or {}), status, []

    def resolve(self, name, rdtype):
        name = name.rstrip(".").lower()
        self.asked.append((name, rdtype))
        found = self.table.get((name, rdtype), [])
        if isinstance(found, dict):
            return succeed(Answer(name=f"{name}.", rdtype=rdtype, **found))
        records = tuple(_rdata(rdtype, text) for text in found)
        return succeed(
            Answer(name=f"{name}.", rdtype=rdtype, status=self.status, rcode="NOERROR", records=records, ttl=60)
        )


def _rdata(rdtype, text):
    if rdtype != "TLSA":
        return dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.from_text(rdtype), text)
    *numbers, data = text.split()
    octets = bytes(map(int, numbers)) + bytes.fromhex(data)
    return dns.rdata.GenericRdata(dns.rdataclass.IN, dns.rdatatype.TLSA, octets)


class FakePolicies:
    """MTA-STS policies by domain, and what replaces them."""

    def __init__(self, table, newer=None):
        self.table, self.newer, self.asked = table, newer, []

    def find(self, domain):
        self.asked.append(domain)
        return succeed(self.table.get(domain, NoPolicy()))

    def renewed(self, domain, known):
        assert self.table[domain] is known
        return succeed(self.newer)


class FakePolicy:
    """A policy that lists these hosts."""

    def __init__(self, mode, *mx):
        self.mode, self.mx, self.lines = Mode(mode), mx, (f"mode: {mode}",)

    def matches(self, host):
        return host in self.mx


@implementer(IQueueStore)
class MemoryStore:
    """A queue in memory: one entry per recipient, as the real stores keep them."""

    def __init__(self):
        self.messages, self.leased, self.settlements, self.fail = {}, set(), [], None

    def open(self):
        return succeed(None)

    def close(self):
        return succeed(None)

    def new_id(self):
        return f"{len(self.messages):016}"

    def body(self, message_id):
        raise AssertionError("no message streams in here")

    def accept(self, messages, lease=False):
        for message in messages:
            self.messages[message.id] = (
                message,
                {
                    number: Entry(number=number, recipient=recipient, next_attempt=message.received)
                    for number, recipient in enumerate(message.envelope.recipients)
                },
            )
        return self.claim(len(messages), 1e12, [m.id for m in messages]) if lease else succeed(())

    def claim(self, limit, now, ids=None):
        found = []
        for key, (message, entries) in self.messages.items():
            due = tuple(e for e in entries.values() if e.state == "queued" and e.next_attempt <= now)
            if due and key not in self.leased and (ids is None or key in ids) and len(found) < limit:
                self.leased.add(key)
                found.append(Lease(message=message, entries=due))
        return succeed(tuple(found))

    def lease(self, message_id):
        message, entries = self.messages.get(message_id, (None, {}))
        open_entries = tuple(entry for entry in entries.values() if entry.state == "queued")
        if message_id in self.leased or not open_entries:
            return succeed(None)
        self.leased.add(message_id)
        return succeed(Lease(message=message, entries=open_entries))

    def release(self, message_ids):
        self.leased -= set(message_ids)
        return succeed(None)

    def settle(self, settlements):
        import attrs

        if self.fail:
            raise self.fail
        for settlement in settlements:
            self.settlements.append(settlement)
            key = settlement.lease.message.id
            self.leased.discard(key)
            entries = self.messages[key][1]
            for settled in settlement.settled:
                if settled.final:
                    del entries[settled.number]
                else:
                    entries[settled.number] = attrs.evolve(
                        entries[settled.number],
                        attempts=entries[settled.number].attempts + 1,
                        next_attempt=settled.next_attempt,
                        last_reply=str(settled.outcome.reply),
                        warned=settled.warned,
                        tried=settled.tried,
                    )
            if not entries:
                del self.messages[key]
            self.accept(settlement.offspring)
        return succeed((None,) * len(settlements))

    def next_due(self):
        due = [e.next_attempt for k, (_, es) in self.messages.items() if k not in self.leased for e in es.values()]
        return succeed(min(due, default=None))

    def rows(self):
        return succeed(())

    def message(self, message_id):
        return succeed(None)

    def retry(self, message_id, now):
        return succeed(0)

    def hold(self, message_id, held):
        return succeed(False)

    def remove(self, message_id):
        return succeed(False)
