"""Mailing lists: copies with an envelope of their own, tagged alike or not; loops, owners, and lists in lists (B14)."""

import itertools

import attrs
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from requiretls_mta.message.address import parse_mailbox
from requiretls_mta.message.content import ContentScanner
from requiretls_mta.message.envelope import Envelope, Notify, Recipient, Tag
from requiretls_mta.message.stored import BytesBody, Message
from requiretls_mta.receive.lists import ListLoopError, MailingList, to_members
from requiretls_mta.receive.recipients import AliasLoopError, expand
from requiretls_mta.receive.settings import Settings


def address(text):
    return parse_mailbox(text, utf8=True)


def a_list(name, *members, owner="owner@example.org", **given):
    return MailingList(address=address(name), owner=address(owner), members=tuple(map(address, members)), **given)


LISTS = [
    a_list("team@example.org", "ann@example.org", "bob@far.example", "both@example.org"),
    a_list("open@example.org", "ann@example.org", "team@example.org", inherit=False),
    a_list("all@example.org", "open@example.org", "team@example.org", "eve@example.org", owner="all-owner@example.org"),
    a_list("ring@example.org", "gnir@example.org"),
    a_list("gnir@example.org", "ring@example.org", owner="gnir-owner@example.org"),
    a_list("empty@example.org"),
    a_list("mutual@example.org", "x@example.org", owner="lautum@example.org"),
    a_list("lautum@example.org", "y@example.org", owner="mutual@example.org"),
]
ALIASES = {
    "both@example.org": (address("ann@example.org"), address("carl@example.org")),
    "teams@example.org": (address("team@example.org"), address("dora@example.org")),
    "all-owner@example.org": (address("team@example.org"),),
}
SETTINGS = Settings(hostname="mx.example.org", lists={each.address.key: each for each in LISTS}, aliases=ALIASES)


def message(*to, sender="s@example.com", header=b"", **envelope):
    data = header + b"Subject: x\r\n\r\nbody\r\n"
    scanner = ContentScanner(1 << 20)
    scanner.feed(data)
    recipients = tuple(r if isinstance(r, Recipient) else Recipient(address(r)) for r in to)
    return Message(
        id="first",
        envelope=Envelope(sender=address(sender) if sender else None, recipients=recipients, **envelope),
        body=BytesBody(data),
        content=scanner.finish(),
        prepend=b"Received: from x\r\n",
        received=1_700_000_000.0,
    )


def copies(came, settings=SETTINGS):
    numbers = itertools.count(1)
    recipients = expand(came.envelope.recipients, settings).recipients
    return to_members(
        attrs.evolve(came, envelope=attrs.evolve(came.envelope, recipients=recipients)),
        settings.lists,
        lambda members: expand(members, settings).recipients,
        hostname="mx.example.org",
        new_id=lambda: f"new{next(numbers)}",
        now=1_700_000_000.0,
    )


def shown(messages):
    return [
        (
            m.id,
            m.parent,
            m.origin,
            m.envelope.reverse_path,
            [r.address.key for r in m.envelope.recipients],
            m.envelope.tag,
        )
        for m in messages
    ]


TEAM = ["ann@example.org", "bob@far.example", "carl@example.org"]
REQ = Tag.REQUIRED


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        (["dora@example.org"], [("first", None, "smtp", "s@example.com", ["dora@example.org"], REQ)]),
        # Only a list: its copy has the id that the client hears.
        (["team@example.org"], [("first", None, "list", "owner@example.org", TEAM, REQ)]),
        (
            ["dora@example.org", "TEAM@example.org"],
            [
                ("first", None, "smtp", "s@example.com", ["dora@example.org"], REQ),
                ("new1", "first", "list", "owner@example.org", TEAM, REQ),
            ],
        ),
        # A list behind an alias.
        (
            ["teams@example.org"],
            [
                ("first", None, "smtp", "s@example.com", ["dora@example.org"], REQ),
                ("new1", "first", "list", "owner@example.org", TEAM, REQ),
            ],
        ),
        # A list in a list that does not inherit: what comes through it has no tag.
        (
            ["open@example.org"],
            [
                ("first", None, "list", "owner@example.org", ["ann@example.org"], None),
                ("new1", "first", "list", "owner@example.org", TEAM, None),
            ],
        ),
        # Each list once, by the shortest way; that one counts for the tag.
        (
            ["all@example.org"],
            [
                ("first", None, "list", "all-owner@example.org", ["eve@example.org"], REQ),
                ("new1", "first", "list", "owner@example.org", ["ann@example.org"], None),
                ("new2", "first", "list", "owner@example.org", TEAM, REQ),
            ],
        ),
        # Lists in a ring, and one without members: their owners have the message.
        (["ring@example.org"], [("first", None, "list", "gnir-owner@example.org", ["gnir-owner@example.org"], REQ)]),
        (["empty@example.org"], [("first", None, "list", "owner@example.org", ["owner@example.org"], REQ)]),
    ],
)
def test_whom_lists_reach(to, expected):
    """B14: who sends, to whom, under which tag, of which parent."""
    assert shown(copies(message(*to, tag=REQ))) == expected


@pytest.mark.parametrize(
    ("to", "reached"),
    [
        (["team@example.org"], ["owner@example.org"]),
        (["team@example.org", "owner@example.org"], ["owner@example.org"]),
        # An owner behind whom there is a list, whose owner it is then.
        (["all@example.org"], ["owner@example.org"]),
        (["mutual@example.org"], ["lautum@example.org"]),
    ],
)
def test_reports_go_to_the_owner(to, reached):
    """RFC 3834 2: a message with an empty sender reaches no member, keeps that sender, and goes round nowhere."""
    assert shown(copies(message(*to, sender=None))) == [("first", None, "smtp", "", reached, None)]


def test_what_the_sender_asked_to_be_told_ends_at_the_list():
    """RFC 3461 5.2.7.4; and the copy's own trace is on top, with the list in it."""
    asked = Recipient(address("team@example.org"), notify=frozenset({Notify.SUCCESS}), orcpt="rfc822;x")
    (copy,) = copies(message(asked, tag=REQ, ret="FULL", envid="1", smtputf8=True))
    assert (copy.envelope.ret, copy.envelope.envid, copy.envelope.smtputf8) == (None, None, True)
    assert copy.envelope.recipients[0] == Recipient(address("ann@example.org"))
    assert b"".join(copy.pieces()) == (
        b"Received: by mx.example.org (list team@example.org) (requiretls)\r\n"
        b"\tid first; Tue, 14 Nov 2023 22:13:20 +0000\r\n"
        b"Received: from x\r\nSubject: x\r\n\r\nbody\r\n"
    )


def test_who_went_through_a_list_does_not_go_through_it_again():
    """A member that forwards to the list: found by the trace of its copy, whichever host wrote it."""
    (copy,) = copies(message("team@example.org"))
    back = copy.prepend.replace(b"mx.example.org", b"other.example.org")
    with pytest.raises(ListLoopError, match=r"team@example\.org"):
        copies(message("teams@example.org", header=b"Received: from y\r\n" + back))
    assert len(copies(message("empty@example.org", header=back))) == 1
    assert len(copies(message("team@example.org", header=b"Subject: (list team@example.org)\r\n"))) == 1


NAMES = [f"n{number}@example.org" for number in range(7)]


@given(
    lists=st.dictionaries(
        st.sampled_from(NAMES),
        st.tuples(st.lists(st.sampled_from(NAMES), max_size=4), st.sampled_from(NAMES), st.booleans()),
    ),
    aliases=st.dictionaries(st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES), min_size=1, max_size=4)),
    to=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True),
    sender=st.sampled_from(["s@example.com", None]),
)
def test_whatever_leads_where_a_message_ends_somewhere_and_nowhere_twice(lists, aliases, to, sender):
    """Any net of aliases, lists and owners: nobody is left out, and only a list that ignores the tag drops it."""
    found = {name: a_list(name, *members, owner=owner, inherit=i) for name, (members, owner, i) in lists.items()}
    settings = Settings(
        hostname="mx.example.org",
        lists=found,
        aliases={name: tuple(map(address, targets)) for name, targets in aliases.items() if name not in found},
    )
    try:
        got = copies(message(*to, sender=sender, tag=REQ), settings)
    except AliasLoopError:
        reject()  # a net so tight that its threads are more than anybody may follow
    assert got and got[0].id == "first" and len({m.id for m in got}) == len(got)
    assert all(m.parent == (None if m is got[0] else "first") for m in got)
    for one in got:
        keys = [r.address.key for r in one.envelope.recipients]
        assert keys and len(set(keys)) == len(keys)
        assert one.envelope.tag is REQ or not all(each.inherit for each in found.values())
        assert (one.envelope.sender is None) == (sender is None)
    marks = [m.prepend.split(b")")[0] for m in got if m.origin == "list"]
    assert len(set(marks)) == len(marks)
    assert sender or len(got) == 1
    if not found:
        return
    named = expand(message(*to).envelope.recipients, settings).recipients
    reached = {r.address.key for m in got for r in m.envelope.recipients}
    assert {r.address.key for r in named if r.address.key not in found} <= reached
    if sender:
        for each in (found[r.address.key] for r in named if r.address.key in found):
            members = expand(tuple(map(Recipient, each.members)), settings).recipients
            assert {r.address.key for r in members if r.address.key not in found} <= reached
