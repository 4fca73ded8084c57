"""Whatever the way and whatever fails on it: each accepted recipient ends exactly once, and a report is the end.

Through aliases, lists, rules and loops of them, over hops without DSN or the keyword, delays and expiry, full disks,
reports that cannot be written, operators who give up, and crashes before and behind each commit, which may double a
message, but never lose it.
"""

import collections
import itertools
import random

from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from requiretls_mta.message.envelope import Envelope, Notify, Recipient, Tag
from requiretls_mta.receive.lists import MailingList
from requiretls_mta.receive.rules import SUFFIX, Rule, address_pattern
from tests.relay.network import SECRET, Network, address, is_report, message_id, told

ALIASES = {
    "team@n0.test": ("ta@n0.test", "tb@n1.test", "unknown-t@n2.test"),
    "one@n1.test": ("group@n1.test",),
    "group@n1.test": ("ga@n0.test", "gb@n1.test"),
    "self@n1.test": ("self@n1.test", "sa@n0.test"),
    "boss@n0.test": ("boss@n1.test", "boss@n0.test"),
    "also@n0.test": ("a@n0.test",),
    # Round and round, until there are too many Received fields.
    "round@n0.test": ("round@n1.test",),
    "round@n1.test": ("round@n0.test",),
    "same@n0.test": ("unknown@n1.test",),
    "ring@n0.test": ("inner@n0.test",),
    "back@n0.test": ("loop@n1.test",),
    "listed@n0.test": ("list@n1.test", "za@n0.test"),
    "asks@n1.test": ("qa@n1.test", "unknown-q@n0.test"),
}
LISTS = {
    # Of people here and elsewhere, and an alias; of a list of its own; and one that comes back to itself.
    "list@n1.test": (("la@n0.test", "lb@n1.test", "unknown-l@n2.test", "lg@n1.test"), "owner@n0.test", True),
    "outer@n0.test": (
        ("oa@n1.test", "inner@n0.test", "middle@n0.test", "x@nowhere.test"),
        "outer-owner@n1.test",
        False,
    ),
    "middle@n0.test": (("ma@n0.test", "ring@n0.test"), "middle-owner@n0.test", True),
    "inner@n0.test": (("ia@n0.test", "unknown-i@n1.test"), "inner-owner@n2.test", True),
    "loop@n1.test": (("back@n0.test", "pa@n1.test"), "loop-owner@n0.test", True),
}
RULES = (
    Rule(name="rule[0]", require=True, floor=True, recipient=address_pattern("b@n1.test")),
    Rule(name="rule[1]", require=False, recipient=address_pattern("c@n2.test")),
)
TARGETS = {key: tuple(map(address, targets)) for key, targets in ALIASES.items()}
MAILING_LISTS = {
    key: MailingList(address=address(key), owner=address(owner), members=tuple(map(address, members)), inherit=inherit)
    for key, (members, owner, inherit) in LISTS.items()
}
SENDERS = ["s@n0.test", "s@n1.test", "boss@n0.test", "list@n1.test", "unknown@n1.test", "s@nowhere.test", None]
TO = [
    "a@n0.test",
    "b@n1.test",
    "c@n2.test",
    "unknown@n1.test",
    "x@nowhere.test",
    f"sx{SUFFIX}@n1.test",
    f"asks{SUFFIX}@n1.test",
    "bad/name@n0.test",
    *sorted(
        {*ALIASES, "list@n1.test", "outer@n0.test"}
        - {"group@n1.test", "round@n1.test", "listed@n0.test", "ring@n0.test"}
    ),
]
SUCCESS = {"delivered", "relayed", "expanded"}
PLAIN = {"b@n1.test", "c@n2.test"}
"""Whom nothing else leads to."""
MANY = {"team@n0.test", "outer@n0.test"}
"""What stands for several where each message comes in."""
NOTIFY = (
    st.none()
    | st.just({Notify.NEVER})
    | st.sets(st.sampled_from([w for w in Notify if w is not Notify.NEVER]), min_size=1)
)


def envelope(sender, to, tag=None, ret=None):
    """From a sender, or None, to recipients with what they wish to be told."""
    return Envelope(
        sender=sender and address(sender),
        recipients=tuple(Recipient(address(text), notify and frozenset(notify)) for text, notify in to.items()),
        tag=tag,
        ret=ret,
    )


ENVELOPES = st.builds(
    envelope,
    st.sampled_from(SENDERS),
    st.dictionaries(st.sampled_from(TO), NOTIFY, min_size=1, max_size=4),
    st.sampled_from([None, *Tag]),
    st.sampled_from([None, "FULL", "HDRS"]),
)
NOBODY = {"unknown@n1.test": {Notify.NEVER}, "same@n0.test": {Notify.FAILURE}}


def possible(sender, text, above=(), lists=()):
    """How it may end for an address: (reverse path, recipient) of whoever stands for it; itself, if not reached.

    `above` are the aliases that led here, since the last of the `lists`.
    """
    text = text.replace(SUFFIX, "")
    itself = {frozenset({(sender, text)})}
    if text in above or text in lists:
        return itself
    if text in LISTS:
        members, owner, _ = LISTS[text]
        sender, behind = (owner, members) if sender else ("", (owner,))
        above, lists = (), (*lists, text)
    elif text in ALIASES:
        behind, above = ALIASES[text], (*above, text)
    else:
        return itself
    each = itertools.product(*(possible(sender, target, above, lists) for target in behind))
    return itself | {frozenset().union(*one) for one in each}


@settings(deadline=None, max_examples=150, phases=[Phase.explicit, Phase.generate])
@given(
    st.integers(0, 2**32),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.sampled_from([0.0, 0.0, 0.02, 0.2]),
    st.lists(ENVELOPES, min_size=1, max_size=2),
)
# Two wishes for one who is unknown; and, by these seeds, a redacted report to an alias that names itself, and others.
@example(1, 2, 0.0, 0.0, [envelope("s@n0.test", NOBODY), envelope("s@n0.test", dict(reversed(NOBODY.items())))])
@example(1, 1, 1.0, 0.0, [envelope("boss@n0.test", {"a@n0.test": None}, Tag.REQUIRED)])
@example(4, 2, 1.0, 0.0, [envelope("boss@n0.test", {"a@n0.test": None}, Tag.REQUIRED)])
def test_each_recipient_ends_exactly_once(seed, count, trouble, disaster, envelopes):
    """In a mailbox, in one report of failure, or in silence only where NOTIFY or the empty reverse path says so."""
    network = Network(
        random.Random(seed),
        count,
        trouble=trouble,
        disaster=disaster,
        aliases=TARGETS,
        lists=MAILING_LISTS,
        rules=RULES,
    )
    taken = [network.send(envelope, root) for root, envelope in enumerate(envelopes)]
    network.run()
    assert all(not node.store.messages for node in network.nodes) and not network.untrue
    # Of what goes round, several may be with one process when it crashes.
    bounded = [n for (_, _, text), n in network.ends.items() if network.most_copies == 1 or "round" not in text]
    assert max(bounded, default=0) <= network.most_copies, network.ends
    for root, (envelope, recipients) in enumerate(zip(envelopes, taken, strict=True)):
        found = {(sender, recipient) for which, sender, recipient in network.ends if which == root}
        each = itertools.product(*(possible(envelope.reverse_path, str(r.address)) for r in recipients))
        ways = [frozenset().union(*one) for one in each]
        if network.most_copies == 1:
            assert found in ways, found
        else:
            # A copy may fare in another way.
            assert any(way <= found for way in ways) and found <= frozenset().union(*ways), found
        silence_was_asked_for(network, root, envelope.reverse_path, recipients)
        if network.most_copies == 1 and envelope.sender:
            success_is_told_once(network, root, envelope.reverse_path, recipients)
    each_report_is_right(network)
    each_reply_is_right(network)


def silence_was_asked_for(network, root, reverse_path, recipients):
    """Nobody fails unheard but by the wish of all who lead there, as the client gave it; and nobody behind a list."""
    for which, sender, text in network.silent:
        if which == root and sender:
            assert sender == reverse_path
            leads = [r for r in recipients if any((sender, text) in way for way in possible(sender, str(r.address)))]
            assert leads and not any(r.wants_failure for r in leads), text


def success_is_told_once(network, root, reverse_path, recipients):
    """Of whoever was reached by a name of its own, and of what stands for many at the first host.

    Where no report can be written the operator is told instead; it is not repeated for it.
    """
    told_of = collections.Counter()
    for _, parent, report in network.told:
        if not is_report(parent.body.data) and network.root(parent) == root:
            told_of.update(recipient for recipient, action in told(report).items() if action in SUCCESS)
    told_of.update(recipient for about, recipient in network.unheard if network.root(about) == root)
    for text, asked in ((str(r.address), r.wants_success) for r in recipients):
        assert told_of[text] <= asked or text not in PLAIN | MANY, text
        if text in MANY or (root, reverse_path, text) in network.delivered:
            assert told_of[text] == asked or text not in PLAIN | MANY, text


def each_report_is_right(network):
    """Of one recipient at one MTA one end is told at most, and one delay; and each report comes to an end itself."""
    seen = collections.Counter()
    for node, parent, report in network.told:
        assert any(which == message_id(report.body.data) for which, _, _ in network.ends)
        assert report.envelope.sender is None and report.origin == "report"
        if parent.envelope.tag is Tag.REQUIRED and report.envelope.tag is not Tag.REQUIRED:
            assert SECRET not in report.body.data and node.bounce != "requiretls-only"
        if is_report(parent.body.data):
            # RFC 5321 6.1: no report of a report; its less telling form is the same one.
            assert message_id(report.body.data) == message_id(parent.body.data)
            assert told(report) == told(parent)
            continue
        assert parent.envelope.sender is not None
        for recipient, action in told(report).items():
            # A mailbox may be one of those behind the alias of its own name.
            kind = action if action in ("delayed", "expanded") else "end"
            seen[parent.id, recipient, kind] += 1
            wishes = wish(parent, recipient)
            if action == "failed":
                assert wishes is None or Notify.FAILURE in wishes
            elif action == "delayed":
                assert wishes is None or Notify.DELAY in wishes
            elif recipient not in LISTS and action != "expanded":
                assert wishes is not None and Notify.SUCCESS in wishes
            # RFC 3461 5.2.1: where the next hop speaks DSN, it reports.
            assert action != "relayed" or not network.next_hop(node, recipient).dsn
    assert set(seen.values()) <= {1}
    # RFC 8689 5: not discarded because the way back lacks protection.
    for node, reply in network.given_up:
        assert node.bounce == "requiretls-only" or reply.enhanced not in ("5.7.30", "5.7.10", "5.4.7")


def each_reply_is_right(network):
    """Of nothing but a letter, to its sender, as protected as that; and nobody hears of how it ends."""
    for parent, reply in network.replies:
        assert parent.envelope.sender is not None and parent.origin == "smtp"
        assert reply.envelope.sender is None and reply.envelope.tag is parent.envelope.tag
        assert reply.envelope.tag is not Tag.REQUIRED or SECRET not in reply.body.data
        which = message_id(reply.body.data)
        assert any(root == which for root, _, _ in network.ends)
        assert all(parent is not reply for _, parent, _ in network.told)


def wish(message, text):
    """NOTIFY of a recipient of a queued message."""
    return next((r.notify for r in message.envelope.recipients if str(r.address) == text), None)
