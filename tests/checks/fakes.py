"""A resolver that says what it is told to, and a recorder of events."""

import attrs
from twisted.internet.defer import Deferred, succeed

from tests.checks.answers import answer


class FakeResolver:
    """Answers at once; NXDOMAIN to what has no script. A script of None never answers."""

    def __init__(self):
        self.script, self.asked, self.waiting, self.cancelled = {}, [], [], 0

    def on(self, name, rdtype, *answers):
        """Script the answers to a question, the last one for ever."""
        self.script[(name, rdtype)] = list(answers)

    def count(self, name, rdtype="A"):
        """How often that was asked."""
        return self.asked.count((name, rdtype))

    def resolve(self, name, rdtype):
        self.asked.append((name, rdtype))
        answers = self.script.get((name, rdtype), [answer(rdtype, rcode="NXDOMAIN")])
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        if found is not None:
            return succeed(attrs.evolve(found, name=name, rdtype=rdtype))
        waiting = Deferred(self._cancel)
        self.waiting.append((name, rdtype, waiting))
        return waiting

    def answer(self, name, rdtype, found):
        """Answer those who wait for this."""
        waiting, self.waiting = self.waiting, []
        for entry in waiting:
            if entry[:2] == (name, rdtype):
                entry[2].callback(attrs.evolve(found, name=name, rdtype=rdtype))
            else:
                self.waiting.append(entry)

    def _cancel(self, waiting):
        self.cancelled += 1
        self.waiting = [entry for entry in self.waiting if entry[2] is not waiting]


class RecordedEvents:
    """Keeps the events."""

    def __init__(self):
        self.seen = []

    def emit(self, event, /, **fields):
        self.seen.append((event, fields))

    def states(self):
        """(level, state, reason) of the changes of lists."""
        return [(f["level"], f["state"], f["reason"]) for e, f in self.seen if e == "dnswl" and "state" in f]
