"""Whose mail is signed on its way in, with what, and what happens when that fails."""

import re

import attrs
import pytest
from twisted.internet.defer import Deferred, maybeDeferred

from requiretls_mta.message import reply
from requiretls_mta.receive.lists import MailingList
from requiretls_mta.receive.signing import Signer
from requiretls_mta.receive.signing_keys import SigningKey
from tests.receive.signatures import BOTH, NOW, RSA, verdicts
from tests.receive.test_reception import SETTINGS, Bench, address, send

SETTINGS = attrs.evolve(SETTINGS, signing=BOTH)
SUBMITTED = {"service": "submission", "user": "anna"}
MESSAGE = b"From: anna@example.org\r\nSubject: x\r\n\r\n.\r\nbody\r\n"


def bench(in_thread=maybeDeferred, **options):
    return Bench(options.pop("settings", SETTINGS), signer=Signer(in_thread=in_thread, wall=lambda: NOW), **options)


def sent(bench, data=MESSAGE, **session):
    """What is stored of it, as it goes out."""
    assert send(bench.begin(**session), data).code == 250
    *_, message = bench.store.accepted
    return b"".join(message.pieces())


@pytest.mark.parametrize(
    ("session", "trusted", "is_signed"),
    [
        (SUBMITTED, False, True),
        ({"service": "submissions", "user": "anna"}, False, True),
        ({"service": "submission"}, True, True),
        ({"client": "192.0.2.7"}, False, True),
        ({"client": None}, True, True),
        ({}, False, False),
        ({"client": "127.0.0.1", "via_proxy": True}, False, False),
        ({"service": "lmtp", "client": "127.0.0.1"}, False, False),
        ({"service": "lmtp", "client": "127.0.0.1"}, True, False),
    ],
)
def test_who_is_answered_for(session, trusted, is_signed):
    """Users, trusted listeners, relay_from; never strangers, whatever name they write into From."""
    assert (b"DKIM-Signature:" in sent(bench(trusted=trusted), **session)) == is_signed


def test_where_the_signatures_stand():
    """Below our own trace, above what came; good as it goes out."""
    octets = sent(bench(), **SUBMITTED)
    head, _, rest = octets.partition(b"DKIM-Signature:")
    assert re.search(rb"Received: [^;]*; .* \+0000\r\n\Z", head) and rest.endswith(MESSAGE)
    assert verdicts(octets) == ["pass"] * 4


@pytest.mark.parametrize("place", range(3))
def test_fields_in_our_name_are_cut_and_the_signature_stays_good(place):
    """Not covered, wherever they stood; one that was signed by whoever sent it is his matter."""
    lines = MESSAGE.split(b"\r\n")
    lines[place:place] = [b"Authentication-Results: mx.example.org;\r\n spf=pass"]
    octets = sent(bench(), b"\r\n".join(lines), **SUBMITTED)
    assert b"spf=pass" not in octets
    assert verdicts(octets) == ["pass"] * 4


def test_one_signature_for_all_that_become_of_a_message():
    """Aliases and shares get what was signed once."""
    jobs = []
    bed = bench(lambda *job: jobs.append(job) or maybeDeferred(*job))
    to = ("sales@example.org", "bob+requiretls@elsewhere.example", "eve@elsewhere.example")
    assert send(bed.begin(**SUBMITTED), MESSAGE, to).code == 250
    first, second = bed.store.accepted
    assert len(jobs) == 1 and first.envelope.tag is not second.envelope.tag
    for message in (first, second):
        assert verdicts(b"".join(message.pieces())) == ["pass"] * 4


@pytest.mark.parametrize(("session", "good"), [(SUBMITTED, ["pass"] * 4), ({}, [])])
def test_posts_to_our_lists_keep_what_they_came_with(session, good):
    """A user's signature holds in the copies, which get no other; a stranger's posts get none."""
    members = (address("m@elsewhere.example"),)
    team = MailingList(address=address("team@example.org"), owner=address("boss@example.org"), members=members)
    bed = bench(settings=attrs.evolve(SETTINGS, lists={team.address.key: team}))
    assert send(bed.begin(**session), MESSAGE, ("team@example.org",)).code == 250
    (copy,) = bed.store.accepted
    assert copy.origin == "list" and verdicts(b"".join(copy.pieces())) == good


def test_a_stranger_costs_nothing():
    """Nor does anybody where no key is configured."""
    calls = []
    bed = bench(lambda *job: calls.append(job))
    sent(bed)
    sent(bench(calls.append, settings=attrs.evolve(SETTINGS, signing={})), **SUBMITTED)
    sent(bed, b"From: anna@example.com\r\n\r\n", **SUBMITTED)
    assert calls == [] and bed.events.of("policy") == []


def test_what_cannot_be_signed_goes_and_is_told():
    """Nobody could verify it anyway."""
    bed = bench()
    octets = sent(bed, b"From: a@example.org, b@example.org\r\n\r\n", **SUBMITTED)
    assert b"DKIM-Signature" not in octets
    (told,) = bed.events.of("policy")
    assert (told["decision"], told["reason"]) == ("not DKIM-signed", "From is not one field with one mailbox")


def test_a_failure_is_told_to_the_client():
    """451: the message stays with whoever sent it, and never goes out without its signature."""
    failed = Deferred()
    failed.errback(MemoryError("a bug"))
    bed = bench(lambda *job: failed)
    assert send(bed.begin(**SUBMITTED), MESSAGE) == reply.LOCAL_ERROR
    assert bed.store.accepted == [] and bed.store.writers[0].aborted


def test_the_policies_of_mail_time_sign():
    """A reload in the middle of a transaction is for the next one."""
    other = {"example.org": (SigningKey(domain="example.org", selector="new", key=RSA),)}
    now = [SETTINGS]
    bed = bench()
    bed.station = attrs.evolve(bed.station, settings=lambda: now[0])
    transaction = bed.begin(**SUBMITTED)
    now[0] = attrs.evolve(SETTINGS, signing=other)
    assert send(transaction, MESSAGE).code == 250
    assert b" s=r1;" in bed.store.accepted[0].prepend
    assert b" s=new;" in sent(bed, **SUBMITTED)


def test_what_we_add_is_signed():
    """RFC 6409 8: Date and Message-ID stand below the signature that covers them."""
    octets = sent(bench(), **SUBMITTED)
    _, _, rest = octets.rpartition(b"DKIM-Signature:")
    assert rest.index(b"\r\nDate:") < rest.index(b"\r\nMessage-ID:") < rest.index(b"\r\nFrom:")
    assert b":date:date:message-id:message-id:" in rest.translate(None, b"\r\n\t")
    assert verdicts(octets) == ["pass"] * 4
    assert verdicts(octets.replace(b"\r\nDate:", b"\r\nX-Date:")) == ["fail"] * 4


def test_text_without_a_header_is_not_signed():
    """It has no author; and it arrives."""
    octets = sent(bench(), b"just text\r\n", **SUBMITTED)
    assert b"DKIM-Signature" not in octets and octets.endswith(b"\r\n\r\njust text\r\n")
