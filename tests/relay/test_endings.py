"""Whatever the way and whatever fails on it: each accepted recipient ends exactly once, and a report is the end."""

import collections
import itertools
import random

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from requiretls_mta.message.envelope import Envelope, Notify, Recipient, Tag
from tests.relay.network import Network, address
from tests.report.rfc3464 import read

ALIASES = {
    "team@n0.test": ("ta@n0.test", "tb@n1.test", "unknown-t@n2.test"),
    "one@n1.test": ("group@n1.test",),
    "group@n1.test": ("ga@n0.test", "gb@n1.test"),
    "self@n1.test": ("self@n1.test", "sa@n0.test"),
    "boss@n0.test": ("boss@n1.test", "boss@n0.test"),
    "also@n0.test": ("a@n0.test",),
}
TARGETS = {key: tuple(map(address, targets)) for key, targets in ALIASES.items()}
SENDERS = ["s@n0.test", "s@n1.test", "boss@n0.test", "s@nowhere.test", None]
TO = [
    "a@n0.test",
    "b@n1.test",
    "c@n2.test",
    "unknown@n1.test",
    "x@nowhere.test",
    *sorted(set(ALIASES) - {"group@n1.test"}),
]
NOTIFY = (
    st.none()
    | st.just({Notify.NEVER})
    | st.sets(st.sampled_from([w for w in Notify if w is not Notify.NEVER]), min_size=1)
)
ENVELOPES = st.builds(
    lambda sender, to, tag, ret: Envelope(
        sender=sender and address(sender),
        recipients=tuple(Recipient(address(text), notify and frozenset(notify)) for text, notify in to.items()),
        tag=tag,
        ret=ret,
    ),
    st.sampled_from(SENDERS),
    st.dictionaries(st.sampled_from(TO), NOTIFY, min_size=1, max_size=4),
    st.sampled_from([None, *Tag]),
    st.sampled_from([None, "FULL", "HDRS"]),
)


def possible(text, above=()):
    """Who may end in place of an address: itself, where its alias is never reached, or those behind it."""
    if text not in ALIASES or text in above:
        return {frozenset({text})}
    behind = itertools.product(*(possible(target, (*above, text)) for target in ALIASES[text]))
    return {frozenset({text}), *(frozenset().union(*one) for one in behind)}


def told(message):
    """What a report tells: action of each final recipient."""
    return read(message.body.data).actions()


@settings(deadline=None, max_examples=100, phases=[Phase.explicit, Phase.generate])
@given(
    st.integers(0, 2**32),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.lists(ENVELOPES, min_size=1, max_size=2),
)
def test_each_recipient_ends_exactly_once(seed, count, trouble, envelopes):
    """In a mailbox, in one report of failure, or in silence only where NOTIFY or the empty reverse path says so."""
    network = Network(random.Random(seed), count, trouble, TARGETS)
    for root, envelope in enumerate(envelopes):
        network.send(0, envelope, root)
    network.run()
    for root, envelope in enumerate(envelopes):
        each = itertools.product(*(possible(str(recipient.address)) for recipient in envelope.recipients))
        found = ends(network, root)
        assert set(found.values()) == {1}, found
        assert frozenset(found) in {frozenset().union(*one) for one in each}, found
    each_report_is_right(network)


def ends(network, root):
    """How often each recipient of a message came to an end."""
    found = collections.Counter()
    reports = {}
    for origin, recipient, message in network.mailboxes:
        if origin != root:
            continue
        if is_report(message):
            reports[read(message.body.data).message["Message-ID"]] = message
        else:
            found[recipient] += 1
    for node in network.nodes:
        for event in node.events.of("discarded"):
            message = network.messages[event["queue_id"]]
            if network.roots[message.id] == root and is_report(message):
                reports[read(message.body.data).message["Message-ID"]] = message
        for event in (*node.events.of("bounced"), *node.events.of("expired")):
            message = network.messages[event["queue_id"]]
            if network.roots[message.id] == root and not is_report(message) and is_silent(node, message, event):
                found[event["recipient"]] += 1
    for message in reports.values():
        found.update(recipient for recipient, action in told(message).items() if action == "failed")
    return dict(found)


def is_report(message):
    return b"multipart/report" in message.body.data


def is_silent(node, message, event):
    """Whether nobody is told of this failure; then NOTIFY or the empty reverse path said so."""
    telling = [report for _, parent, report in node.network.reports if parent.id == message.id]
    silent = not any(told(report).get(event["recipient"]) == "failed" for report in telling)
    if silent and message.envelope.sender is not None:
        assert Notify.FAILURE not in (wish(message, event["recipient"]) or {Notify.FAILURE})
    return silent


def each_report_is_right(network):
    """Each is field by field RFC 3464's; of one recipient at one MTA one end is told at the most, and one delay."""
    seen = collections.Counter()
    for node, parent, report in network.reports:
        if is_report(parent):
            assert told(report) == told(parent), "a redacted report tells the same"
            continue
        for recipient, action in told(report).items():
            # A mailbox may be one of those behind the alias of its own name.
            kind = action if action in ("delayed", "expanded") else "end"
            seen[node.domain, parent.id, recipient, kind] += 1
            wishes = wish(parent, recipient)
            if action == "failed":
                assert wishes is None or Notify.FAILURE in wishes
            elif action == "delayed":
                assert wishes is None or Notify.DELAY in wishes
            elif action != "expanded":
                assert wishes is not None and Notify.SUCCESS in wishes
    assert set(seen.values()) <= {1}
    assert all(count == 0 for node in network.nodes for count in (len(node.store.messages), len(node.store.leased)))


def wish(message, text):
    """NOTIFY of a recipient of a queued message."""
    return next((r.notify for r in message.envelope.recipients if str(r.address) == text), None)
