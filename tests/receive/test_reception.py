"""A transaction from MAIL to the reply: who may send where, the tag, what is stored, and what goes wrong."""

import ipaddress
import itertools
import time

import attrs
import pytest
from twisted.internet.defer import Deferred, maybeDeferred

from requiretls_mta.message import reply
from requiretls_mta.message.address import parse_mailbox
from requiretls_mta.message.content import Content, ContentScanner
from requiretls_mta.message.envelope import Envelope, Notify, Recipient, Tag
from requiretls_mta.message.offspring import News, Offspring
from requiretls_mta.message.stored import BytesBody, Message
from requiretls_mta.queue.store import StoreFull
from requiretls_mta.receive.admission import Admission
from requiretls_mta.receive.reception import ReceptionStation
from requiretls_mta.receive.recipients import MAX_EXPANSION
from requiretls_mta.receive.settings import Settings
from requiretls_mta.smtp.interfaces import Peer, Session
from requiretls_mta.tls.facts import ServerTLS
from tests.receive.fakes import FakeSchedule, FakeStore, RecordedEvents

TLS = ServerTLS(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", bits=256)


def address(text):
    return parse_mailbox(text, utf8=True, bare=True)


ALIASES = {
    "sales@example.org": (address("anna@example.org"), address("bob@example.net"), address("Carla@Example.ORG")),
    "sales@backup.example": (address("anna@example.org"),),
    "loop@example.org": (address("pool@example.org"),),
    "pool@example.org": (address("loop@example.org"), address("anna@example.org")),
}
SETTINGS = Settings(
    hostname="mx.example.org",
    local_domains=frozenset({"example.org", "xn--bcher-kva.example"}),
    relay_domains=frozenset({"backup.example"}),
    relay_from=(ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("127.0.0.0/8")),
    aliases=ALIASES,
)


def expanded_report(to):
    """A report to this address."""
    envelope = Envelope(sender=None, recipients=(Recipient(to),))
    return Message(id="report", envelope=envelope, body=BytesBody(b"\r\n"), content=Content(size=2, header_end=0))


class Bench:
    """A station with fakes behind it."""

    def __init__(self, settings=SETTINGS, trusted=False, signer=None):
        self.store, self.schedule, self.events = FakeStore(), FakeSchedule(), RecordedEvents()
        self.expanded = []
        self.station = ReceptionStation(
            store=self.store,
            admission=Admission(self.store, self.schedule, lambda: settings, self.events, self.tell),
            settings=lambda: settings,
            events=self.events,
            wall=lambda: 1_700_000_000.0,
            trusted=trusted,
            signer=signer,
        )

    def tell(self, message, aliases, lists):
        """What is told of expanded aliases."""
        self.expanded.append((message, aliases))
        return Offspring((expanded_report(message.envelope.sender),), (News("reported", {"report": "report"}),))

    def begin(self, client="203.0.113.9", service="mx", **changes):
        peer = Peer(address=client, port=1, listener="mx", via_proxy=changes.pop("via_proxy", False))
        session = Session(
            id="s1",
            peer=peer,
            service=service,
            helo=changes.pop("helo", "client.example"),
            protocol=changes.pop("protocol", "ESMTP"),
            **changes,
        )
        return self.station.begin(session)


def send(transaction, data, recipients=("anna@example.org",), **envelope):
    envelope = Envelope(**{"sender": address("s@example.com")} | envelope)
    assert transaction.mail(envelope) == reply.SENDER_OK
    taken = []
    for recipient in recipients:
        recipient = recipient if isinstance(recipient, Recipient) else Recipient(address(recipient))
        assert transaction.rcpt(recipient) == reply.RECIPIENT_OK
        taken.append(recipient)
    assert transaction.data(attrs.evolve(envelope, recipients=tuple(taken))) is None
    transaction.write(data)
    scanner = ContentScanner(1 << 20)
    scanner.feed(data)
    replies = []
    maybeDeferred(transaction.end, scanner.finish(), scanner.header).addCallback(replies.append)
    return replies[0] if replies else None


RELAY = "bob@elsewhere.example"


@pytest.mark.parametrize(
    ("recipient", "session", "expected"),
    [
        ("anna@example.org", {}, reply.RECIPIENT_OK),
        ("ANNA@Example.Org", {}, reply.RECIPIENT_OK),
        ("anna@bücher.example", {}, reply.RECIPIENT_OK),
        ("x@backup.example", {}, reply.RECIPIENT_OK),
        ("x@sub.example.org", {}, reply.NO_RELAY),
        (RELAY, {}, reply.NO_RELAY),
        (RELAY, {"client": "192.0.2.7"}, reply.RECIPIENT_OK),
        (RELAY, {"client": "127.0.0.1"}, reply.RECIPIENT_OK),
        (RELAY, {"client": "127.0.0.1", "via_proxy": True}, reply.NO_RELAY),
        (RELAY, {"client": "192.0.2.7", "via_proxy": True}, reply.RECIPIENT_OK),
        (RELAY, {"client": None}, reply.NO_RELAY),
        (RELAY, {"client": "2001:db8::1"}, reply.NO_RELAY),
        (RELAY, {"service": "submission", "user": "anna"}, reply.RECIPIENT_OK),
        (RELAY, {"service": "lmtp", "client": "127.0.0.1"}, reply.NO_RELAY),
        ("x@backup.example", {"service": "lmtp"}, reply.NO_RELAY),
        ("sales@backup.example", {"service": "lmtp"}, reply.NO_RELAY),
        ("anna@example.org", {"service": "lmtp"}, reply.RECIPIENT_OK),
        ("postmaster@mx.example.org", {"service": "lmtp"}, reply.RECIPIENT_OK),
        ("postmaster", {}, reply.RECIPIENT_OK),
        ("PostMaster", {}, reply.RECIPIENT_OK),
        ("postmaster@mx.example.org", {}, reply.RECIPIENT_OK),
        ("postmaster@elsewhere.example", {}, reply.NO_RELAY),
        ('"a/b"@example.org', {}, reply.BAD_LOCAL_PART),
        ('".a"@example.org', {}, reply.BAD_LOCAL_PART),
        ('"a/b"@elsewhere.example', {"client": "192.0.2.7"}, reply.RECIPIENT_OK),
    ],
)
def test_who_may_send_to_whom(recipient, session, expected):
    """Never an open relay; local and relay domains from anyone; postmaster always."""
    transaction = Bench().begin(**session)
    assert transaction.mail(Envelope(sender=None)) == reply.SENDER_OK
    assert transaction.rcpt(Recipient(address(recipient))) == expected


def test_submission_needs_a_login_even_from_relay_from():
    """530 5.7.0 at MAIL unless the listener itself is trusted."""
    assert Bench().begin(client="127.0.0.1", service="submission").mail(Envelope(sender=None)) == reply.AUTH_REQUIRED
    trusted = Bench(trusted=True).begin(client="127.0.0.1", service="submission")
    assert trusted.mail(Envelope(sender=None)) == reply.SENDER_OK
    assert trusted.rcpt(Recipient(address(RELAY))) == reply.RECIPIENT_OK


@pytest.mark.parametrize(
    ("tag", "header", "honor", "user", "expected"),
    [
        (None, b"", "any", None, None),
        (Tag.REQUIRED, b"", "any", None, Tag.REQUIRED),
        (None, b"TLS-Required: No\r\n", "any", None, Tag.OPTIONAL),  # S19
        (Tag.REQUIRED, b"TLS-Required: No\r\n", "any", None, Tag.REQUIRED),  # S20
        (None, b"RequireTLS: NO\r\n", "any", None, Tag.OPTIONAL),  # S24
        (None, b"TLS-Required: Yes\r\n", "any", None, None),  # S22
        (None, b"TLS-Required: No\r\n", "none", "anna", None),
        (None, b"TLS-Required: No\r\n", "authenticated", None, None),  # P04
        (None, b"TLS-Required: No\r\n", "authenticated", "anna", Tag.OPTIONAL),
    ],
)
def test_the_tag_comes_from_the_parameter_and_only_without_it_from_the_header(tag, header, honor, user, expected):
    """RFC 8689 4.1, and whose header is obeyed; the header itself stays in the message."""
    bench = Bench(attrs.evolve(SETTINGS, honor_header=honor))
    data = header + b"Subject: x\r\n\r\nbody\r\n"
    assert send(bench.begin(user=user), data, tag=tag).code == 250
    (message,) = bench.store.accepted
    assert message.envelope.tag is expected
    assert b"".join(message.pieces()).endswith(data)
    ignored = bench.events.of("policy")
    assert bool(ignored) == (bool(header) and tag is None and expected is None)


def test_an_accepted_message_has_its_received_field_and_its_id_in_the_reply():
    """The id of the reply is the one in Received and in the events; the tag shows as a comment."""
    bench = Bench()
    got = send(bench.begin(protocol="ESMTPS", tls=TLS), b"\r\nhi\r\n", tag=Tag.REQUIRED)
    (message,) = bench.store.accepted
    assert got == reply.queued(message.id)
    assert message.prepend == (
        b"Received: from client.example ([203.0.113.9])\r\n"
        b"\tby mx.example.org with ESMTPS (TLSv1.3 TLS_AES_256_GCM_SHA384) (requiretls)\r\n"
        b"\tid %s\r\n\tfor <anna@example.org>; Tue, 14 Nov 2023 22:13:20 +0000\r\n" % message.id.encode()
    )
    assert [lease.message for lease in bench.schedule.leases] == [message]
    assert [(f["queue_id"], f["session"]) for _, f in bench.events.seen] == [(message.id, "s1")] * 2


def test_received_tells_no_second_recipient_and_trusts_no_helo():
    """Blind copies stay blind; a HELO that is no name does not reach the field."""
    bench = Bench()
    send(bench.begin(helo="a b (c", client=None), b"\r\n", recipients=["anna@example.org", "b@example.org"])
    (message,) = bench.store.accepted
    assert message.prepend.startswith(b"Received: from unknown (unix)\r\n")
    assert b"for <" not in message.prepend


@pytest.mark.parametrize(
    ("recipient", "stored"),
    [
        ("PostMaster", "PostMaster@example.org"),
        ("postmaster@MX.example.org", "postmaster@example.org"),
        ("postmaster@bücher.example", "postmaster@bücher.example"),
        ("postmaster@backup.example", "postmaster@backup.example"),
        ("root@example.org", "root@example.org"),
    ],
)
def test_postmasters_mail_has_a_mailbox(recipient, stored):
    """Of no domain, or of the host's own name, which is no local domain: it must not come back as a loop."""
    bench = Bench()
    send(bench.begin(), b"\r\n", recipients=["anna@example.org", recipient])
    assert [str(r.address) for r in bench.store.accepted[0].envelope.recipients] == ["anna@example.org", stored]


def test_an_alias_says_whom_the_hosts_postmaster_is():
    """It comes before everything else."""
    bench = Bench(attrs.evolve(SETTINGS, aliases={"postmaster@mx.example.org": (address("x@example.org"),)}))
    send(bench.begin(), b"\r\n", recipients=["postmaster@mx.example.org"])
    assert [str(r.address) for r in bench.store.accepted[0].envelope.recipients] == ["x@example.org"]


def test_smtputf8_shows_in_received():
    """RFC 6531 4.3: UTF8SMTPS; but the field is ASCII, for the message may be relayed without SMTPUTF8."""
    bench = Bench()
    session = {"protocol": "ESMTPS", "tls": TLS, "helo": "bücher.example"}
    send(bench.begin(**session), b"\r\n", recipients=["jürgen@example.org"], smtputf8=True)
    assert b"with UTF8SMTPS" in bench.store.accepted[0].prepend
    assert b"from xn--bcher-kva.example (" in bench.store.accepted[0].prepend


def test_an_alias_to_three_addresses_gives_three_recipients_under_one_tag():
    """S27: all copies are tagged alike (RFC 8689 4.1); SUCCESS is not asked of each (RFC 3461 5.2.7.2)."""
    bench = Bench()
    asked = Recipient(address("Sales@example.org"), notify=frozenset({Notify.SUCCESS, Notify.FAILURE}))
    send(bench.begin(), b"\r\n", recipients=[asked, "anna@example.org"], tag=Tag.REQUIRED)
    message, _report = bench.store.accepted
    assert message.envelope.tag is Tag.REQUIRED
    assert [r.address.key for r in message.envelope.recipients] == [
        "anna@example.org",
        "bob@example.net",
        "carla@example.org",
    ]
    assert message.envelope.recipients[1].notify == {Notify.FAILURE}
    assert message.envelope.recipients[1].orcpt == "rfc822;Sales@example.org"


@pytest.mark.parametrize("notify", [None, {"NEVER"}, {"FAILURE"}, {"SUCCESS"}, {"SUCCESS", "DELAY"}])
def test_an_alias_for_several_is_reported_as_expanded(notify):
    """RFC 3461 5.2.7.3 (c): to whoever asked for SUCCESS, with the message or not at all; one alias in another too."""
    words = None if notify is None else frozenset(map(Notify, notify))
    asked = [Recipient(address(f"{local}@example.org"), words) for local in ("sales", "one", "anna")]
    bench = Bench(attrs.evolve(SETTINGS, aliases={**ALIASES, "one@example.org": (address("Sales@example.org"),)}))
    send(bench.begin(), b"\r\n", recipients=asked)
    told = [str(alias.address) for _, aliases in bench.expanded for alias in aliases]
    assert told == (["sales@example.org", "Sales@example.org"] if notify and "SUCCESS" in notify else [])
    assert [message.id for message in bench.store.accepted] == ["0" * 16, *(["report"] if told else [])]
    assert len(bench.schedule.leases) == len(bench.store.accepted)
    if notify == {"SUCCESS"}:
        bob = bench.store.accepted[0].envelope.recipients[1]
        assert (str(bob.address), bob.notify) == ("bob@example.net", {Notify.NEVER})


def test_a_report_reaches_those_behind_the_senders_alias():
    """It enters with what gave birth to it, past the front door; and an alias loop does not lose it."""

    def to_all(bench, to):
        report = expanded_report(address(to))
        return bench.station.admission.to_all(expanded_report(None), Offspring((report,))).messages

    bench = Bench()
    (report,) = to_all(bench, "sales@example.org")
    assert [str(r.address) for r in report.envelope.recipients] == [
        "anna@example.org", "bob@example.net", "Carla@Example.ORG",
    ]  # fmt: skip
    many = {"all@example.org": tuple(address(f"{n}@example.org") for n in range(1001))}
    bench = Bench(attrs.evolve(SETTINGS, aliases=many))
    (report,) = to_all(bench, "all@example.org")
    assert [str(r.address) for r in report.envelope.recipients] == ["all@example.org"]


def test_two_wishes_for_one_mailbox_are_joined():
    """Direct and by an alias: one copy, and nobody who wants to hear of a failure is left without."""
    never, failure = (frozenset({Notify(word)}) for word in ("NEVER", "FAILURE"))
    for one, other, joined in (
        (never, failure, failure),
        (never, never, never),
        (None, None, None),
        (never, None, {Notify.FAILURE, Notify.DELAY}),
        ({Notify.SUCCESS}, failure, {Notify.SUCCESS, Notify.FAILURE}),
    ):
        bench = Bench()
        asked = [Recipient(address("anna@example.org"), one), Recipient(address("ANNA@example.org"), other)]
        send(bench.begin(), b"\r\n", recipients=asked)
        (recipient,) = bench.store.accepted[0].envelope.recipients
        assert recipient.notify == joined


def test_the_address_that_the_sender_knows_goes_along():
    """RFC 3461 5.2.1 (d), RFC 6533 3: as ORCPT, unless there is one."""
    given = Recipient(address("sales@example.org"), orcpt="rfc822;x@y")
    utf8 = Recipient(parse_mailbox("ä@example.org", utf8=True))
    bench = Bench(attrs.evolve(SETTINGS, aliases={**ALIASES, "ä@example.org": (address("e@example.org"),)}))
    send(bench.begin(), b"\r\n", recipients=[given, utf8], smtputf8=True)
    orcpts = [recipient.orcpt for recipient in bench.store.accepted[0].envelope.recipients]
    assert orcpts == ["rfc822;x@y"] * 3 + ["utf-8;\\x{E4}@example.org"]


def test_an_alias_loop_ends():
    """Two aliases that name each other mean the mailboxes behind them."""
    bench = Bench()
    send(bench.begin(), b"\r\n", recipients=["loop@example.org"])
    keys = [r.address.key for r in bench.store.accepted[0].envelope.recipients]
    assert keys == ["loop@example.org", "anna@example.org"]


def test_too_many_hops_are_a_loop():
    """554 5.4.6, and nothing is left behind."""
    bench = Bench()
    assert send(bench.begin(), b"Received: x\r\n" * 51 + b"\r\n") == reply.TOO_MANY_HOPS
    assert bench.store.writers[0].aborted
    assert send(bench.begin(), b"Received: x\r\n" * 50 + b"\r\n").code == 250


def test_recipients_without_aliases_are_as_many_as_the_listener_takes():
    """max_recipients is the limit of those that are named; only what aliases add has another."""
    bench = Bench()
    everybody = [f"r{number}@example.org" for number in range(MAX_EXPANSION)]
    assert send(bench.begin(), b"\r\n", recipients=[*everybody, "sales@example.org"]).code == 250
    assert len(bench.store.accepted[0].envelope.recipients) == MAX_EXPANSION + 3


@pytest.mark.parametrize("width", [1, 2])
def test_aliases_of_aliases_have_an_end(width):
    """A chain, and two names for each of two names and so on: 554, in no time, whatever few mailboxes they lead to."""
    names = [[address(f"a{level}-{n}@example.org") for n in range(width)] for level in range(MAX_EXPANSION + 2)]
    aliases = {each.key: tuple(below) for level, below in itertools.pairwise(names) for each in level}
    bench = Bench(attrs.evolve(SETTINGS, aliases=aliases))
    start = time.perf_counter()
    assert send(bench.begin(), b"\r\n", recipients=["a0-0@example.org"]).enhanced == "5.4.6"
    assert time.perf_counter() - start < 2
    assert bench.store.accepted == [] and bench.store.writers[0].aborted


def test_a_full_store_is_said_and_leaves_nothing():
    """452 4.3.1 at the end of data, whether the disk fills while writing or at the commit."""
    bench = Bench()
    bench.store.error = StoreFull()
    assert send(bench.begin(), b"\r\n") == reply.STORE_FULL
    assert bench.store.writers[0].aborted
    bench.store.error, bench.store.write_error = None, OSError(28, "No space left on device")
    assert send(bench.begin(), b"\r\n") == reply.STORE_FULL
    assert bench.store.accepted == []


def test_a_body_in_a_file_is_on_disk_before_the_message_is_taken():
    """And the disk may have no room for it even then."""
    bench = Bench()
    bench.store.synced = Deferred()
    assert send(bench.begin(), b"\r\n") is None and bench.store.accepted == []
    bench.store.synced.callback(None)
    assert len(bench.store.accepted) == 1 and not bench.store.writers[0].aborted
    bench.store.synced = Deferred()
    assert send(bench.begin(), b"\r\n") is None
    bench.store.synced.errback(StoreFull())
    assert len(bench.store.accepted) == 1 and bench.store.writers[1].aborted
