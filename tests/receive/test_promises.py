"""Rules, the suffix, lists and known recipients in a transaction: what is stored, what is told, what Received says."""

import attrs
import pytest
from twisted.internet.defer import Deferred, succeed

from requiretls_mta.message import reply
from requiretls_mta.message.address import parse_mailbox
from requiretls_mta.message.envelope import Envelope, Notify, Recipient, Tag
from requiretls_mta.message.glob import glob
from requiretls_mta.message.offspring import NONE, Offspring
from requiretls_mta.receive.lists import MailingList
from requiretls_mta.receive.rules import Rule, address_pattern, header_pattern
from tests.receive.test_reception import SETTINGS, Bench, address, send

TEAM = MailingList(
    address=address("team@example.org"),
    owner=address("owner@example.org"),
    members=(address("anna@example.org"), address("x@far.example")),
)
HEADER_NO = b"TLS-Required: No\r\n\r\n"


def rules(**given):
    return attrs.evolve(SETTINGS, rules=(Rule(name="requiretls.rule[0]", **given),))


def stored(bench):
    return [
        (m.id, m.parent, m.envelope.tag, [str(r.address) for r in m.envelope.recipients]) for m in bench.store.accepted
    ]


def test_p01_a_rule_upgrades_and_is_told():
    """The log's `queued` names the rule, Received has the tag's comment and the rule's."""
    bench = Bench(rules(require=True, sender=address_pattern("*@example.com")))
    assert send(bench.begin(), b"\r\n").code == 250
    (message,) = bench.store.accepted
    assert message.envelope.tag is Tag.REQUIRED
    assert b"with ESMTP (requiretls) (by requiretls.rule[0])\r\n" in message.prepend
    (queued,) = bench.events.of("queued")
    assert (queued["requiretls"], queued["rule"], queued["effect"]) == ("required", "requiretls.rule[0]", "required")
    assert bench.events.of("accepted")[0]["requiretls"] == "required"
    assert len(bench.events.seen) == 2


@pytest.mark.parametrize(
    ("floor", "tag", "comment"),
    [
        (True, Tag.REQUIRED, b" (requiretls) (by requiretls.rule[0])\r\n"),  # P02
        (False, Tag.OPTIONAL, b" (requiretls.rule[0] yielded to TLS-Required: No)\r\n"),
    ],
)
def test_p02_a_floor_wins_over_the_header(floor, tag, comment):
    """And what is no floor yields, which is told as well."""
    bench = Bench(rules(require=True, floor=floor))
    send(bench.begin(), HEADER_NO)
    (message,) = bench.store.accepted
    assert message.envelope.tag is tag
    assert comment in message.prepend


@pytest.mark.parametrize(
    ("given", "user", "tag"),
    [
        ({"user": glob("ann*")}, "anna", Tag.REQUIRED),
        ({"user": glob("ann*")}, "bob", None),
        ({"listener": "mx", "header": header_pattern("X-Secret: yes")}, None, Tag.REQUIRED),
        ({"listener": "submission"}, "anna", None),
    ],
)
def test_rules_know_who_came_where_with_what(given, user, tag):
    """The user, the listener and the header are those of the session and its message."""
    bench = Bench(rules(require=True, **given))
    send(bench.begin(user=user), b"X-Secret: yes\r\n\r\n")
    assert bench.store.accepted[0].envelope.tag is tag


def test_a_header_that_is_not_obeyed_does_not_make_a_rule_yield():
    """P04 with a rule: it counts as if it were not there."""
    bench = Bench(attrs.evolve(rules(require=True), honor_header="authenticated"))
    send(bench.begin(), HEADER_NO)
    assert bench.store.accepted[0].envelope.tag is Tag.REQUIRED


def test_p03_the_suffix_asks_and_is_taken_off():
    """Also before the alias is looked up; Received names whom it is for."""
    bench = Bench()
    send(bench.begin(), b"\r\n", recipients=["anna+RequireTLS@example.org"])
    (message,) = bench.store.accepted
    assert stored(bench) == [(message.id, None, Tag.REQUIRED, ["anna@example.org"])]
    assert b"(requiretls) (by user+requiretls@)\r\n" in message.prepend
    assert b"for <anna@example.org>" in message.prepend
    bench = Bench()
    send(bench.begin(), b"\r\n", recipients=["loop+requiretls@example.org"])
    assert stored(bench)[0][2:] == (Tag.REQUIRED, ["loop@example.org", "anna@example.org"])


def test_recipients_under_different_rules_have_messages_of_their_own():
    """One commit, one reply; the further one names the first as its parent, and blind copies stay blind."""
    bench = Bench()
    got = send(bench.begin(), b"\r\nx\r\n", recipients=["a@example.org", "b+requiretls@example.org", "c@example.org"])
    first, second = bench.store.accepted
    assert got == reply.queued(first.id)
    assert stored(bench) == [
        (first.id, None, None, ["a@example.org", "c@example.org"]),
        (second.id, first.id, Tag.REQUIRED, ["b@example.org"]),
    ]
    assert first.body is second.body
    assert second.id.encode() in second.prepend and b"for <b@example.org>" in second.prepend
    assert [(q["queue_id"], q.get("parent")) for q in bench.events.of("queued")] == [
        (first.id, None),
        (second.id, first.id),
    ]
    assert len(bench.schedule.leases) == 2


def test_copies_of_an_alias_are_tagged_alike_whatever_rules_say_of_them():
    """RFC 8689 4.1: rules look at the recipient whom RCPT named, not at whom its alias leads to."""
    bench = Bench(rules(require=False, recipient=address_pattern("*@example.net")))
    send(bench.begin(), b"\r\n", recipients=["sales@example.org"])
    assert [m.envelope.tag for m in bench.store.accepted] == [None]


def test_b14_a_list_gets_copies_in_the_same_commit():
    """The sender keeps the others; members are told of nothing; the log names the parent and the origin."""
    bench = Bench(attrs.evolve(SETTINGS, lists={"team@example.org": TEAM}))
    send(bench.begin(), b"\r\nx\r\n", recipients=["anna@example.org", "Team@example.org"], tag=Tag.REQUIRED)
    first, copy = bench.store.accepted
    assert stored(bench) == [
        (first.id, None, Tag.REQUIRED, ["anna@example.org"]),
        (copy.id, first.id, Tag.REQUIRED, ["anna@example.org", "x@far.example"]),
    ]
    assert copy.envelope.reverse_path == "owner@example.org"
    queued = bench.events.of("queued")[1]
    assert (queued["origin"], queued["parent"], queued["requiretls"]) == ("list", first.id, "required")


def test_a_list_loop_is_refused():
    """554 5.4.6, nothing is kept."""
    bench = Bench(attrs.evolve(SETTINGS, lists={"team@example.org": TEAM}))
    send(bench.begin(), b"\r\n", recipients=["team@example.org"])
    (copy,) = bench.store.accepted
    again = send(bench.begin(), b"".join(copy.pieces()), recipients=["team@example.org"])
    assert (again.code, again.enhanced) == (554, "5.4.6")
    assert len(bench.store.accepted) == 1 and bench.store.writers[1].aborted


def test_a_list_that_was_sent_to_with_success_is_reported():
    """RFC 3461 5.2.7.1: the promise to the sender ends at the list, which is told, and is no alias."""
    bench = Bench(attrs.evolve(SETTINGS, lists={"team@example.org": TEAM}))
    told = []
    bench.station.admission._expanded = lambda message, aliases, lists: told.append((aliases, lists)) or NONE
    asked = Recipient(address("team@example.org"), notify=frozenset({Notify.SUCCESS}))
    send(bench.begin(), b"\r\n", recipients=[asked])
    assert told == [((), (asked,))]


def test_a_report_to_a_sender_who_is_a_list_goes_to_its_owner():
    """What `Admission.to_all` does with reports that the schedule writes."""
    bench = Bench(attrs.evolve(SETTINGS, lists={"team@example.org": TEAM}))
    send(bench.begin(), b"\r\n")
    (message,) = bench.store.accepted
    report = attrs.evolve(message, envelope=Envelope(sender=None, recipients=(Recipient(address("team@example.org")),)))
    (sent,) = bench.station.admission.to_all(message, Offspring((report,))).messages
    assert [str(r.address) for r in sent.envelope.recipients] == ["owner@example.org"]


def test_a_report_in_place_of_another_goes_only_to_whom_is_left():
    """The sender's alias names itself and others, of whom one has the report already: it is not expanded once more."""
    bench = Bench(
        attrs.evolve(SETTINGS, aliases={"boss@example.org": (address("boss@example.org"), address("x@y.test"))})
    )
    send(bench.begin(), b"\r\n")
    (message,) = bench.store.accepted
    first = attrs.evolve(message, envelope=Envelope(sender=None, recipients=(Recipient(address("boss@example.org")),)))
    (sent,) = bench.station.admission.to_all(message, Offspring((first,))).messages
    assert [str(r.address) for r in sent.envelope.recipients] == ["boss@example.org", "x@y.test"]
    again = attrs.evolve(sent, envelope=attrs.evolve(sent.envelope, recipients=sent.envelope.recipients[:1]))
    offspring = Offspring((again,))
    assert bench.station.admission.to_all(attrs.evolve(sent, origin="report"), offspring) is offspring


# --- recipients known at RCPT -------------------------------------------------------------------------------------
KNOWN = attrs.evolve(SETTINGS, recipients=frozenset({"anna@example.org"}), lists={"team@example.org": TEAM})


@pytest.mark.parametrize(
    ("recipient", "expected"),
    [
        ("Anna@Example.org", reply.RECIPIENT_OK),
        ("anna+requiretls@example.org", reply.RECIPIENT_OK),
        ("nobody@example.org", reply.UNKNOWN_RECIPIENT),
        ("nobody+requiretls@example.org", reply.UNKNOWN_RECIPIENT),
        ("anna@bücher.example", reply.UNKNOWN_RECIPIENT),
        ("sales@example.org", reply.RECIPIENT_OK),
        ("team@example.org", reply.RECIPIENT_OK),
        ("postmaster@example.org", reply.RECIPIENT_OK),
        ("PostMaster", reply.RECIPIENT_OK),
        ("postmaster@mx.example.org", reply.RECIPIENT_OK),
        ("anyone@backup.example", reply.RECIPIENT_OK),
        ("anyone@elsewhere.example", reply.NO_RELAY),
    ],
)
@pytest.mark.parametrize("callout", [False, True])
def test_unknown_recipients_are_refused_at_rcpt(recipient, expected, callout):
    """550 5.1.1 rather than backscatter, from a file or from the server that delivers."""
    settings = attrs.evolve(KNOWN, recipients=None, callout=True) if callout else KNOWN
    bench = Bench(settings)

    def ask(who):
        return succeed(None) if who.key == "anna@example.org" else reply.UNKNOWN_RECIPIENT

    bench.station = attrs.evolve(bench.station, callout=ask)
    transaction = bench.begin()
    transaction.mail(Envelope(sender=None))
    got = transaction.rcpt(Recipient(parse_mailbox(recipient, utf8=True, bare=True)))
    if isinstance(got, Deferred):
        got = got.result
    assert got == expected
