"""Automatic replies: RFC 3834 rule by rule, what a reply says, and whom nothing is said to."""

import email
import email.policy
import time

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import succeed

from requiretls_mta.message.address import Address, parse_mailbox
from requiretls_mta.message.content import ContentScanner
from requiretls_mta.message.envelope import Envelope, Notify, Recipient, Tag
from requiretls_mta.message.outcome import Delivered
from requiretls_mta.message.profile import Profile
from requiretls_mta.message.reply import Reply
from requiretls_mta.message.stored import BytesBody, Message
from requiretls_mta.receive.autoreply import Silence, addressed, check_answer, write_reply
from requiretls_mta.receive.interfaces import Answer
from requiretls_mta.receive.responders import AutoReplies, load_responders
from requiretls_mta.receive.settings import Settings
from requiretls_mta.receive.signing_keys import SigningKey
from requiretls_mta.report.answered import Answered
from tests.receive.fakes import RecordedEvents
from tests.receive.signatures import ED25519, NOW, verdicts
from tests.report.test_ledger import Threads, wait

ANN, BOB = parse_mailbox("ann@here.test"), parse_mailbox("bob@there.test")
SETTINGS = Settings(
    hostname="mx.here.test",
    local_domains=frozenset({"here.test"}),
    aliases={
        "sales@here.test": (ANN, parse_mailbox("eve@here.test")),
        "team@here.test": (parse_mailbox("sales@here.test"),),
        "bob@there.test": (BOB,),
    },
)
HEADER = b"From: Bob <bob@there.test>\r\nTo: Ann <ann@here.test>\r\nSubject: the plan\r\nMessage-ID: <1@there.test>\r\n"


def message(header=HEADER, *, sender=BOB, tag=None, origin="smtp"):
    octets = header + b"\r\nbody\r\n"
    scanner = ContentScanner(len(octets))
    scanner.feed(octets)
    return Message(
        id="0000000000000001",
        envelope=Envelope(sender=sender, recipients=(Recipient(ANN),), tag=tag),
        body=BytesBody(octets),
        content=scanner.finish(),
        origin=origin,
    )


def meant(header=HEADER, recipient=ANN, **fields):
    return addressed(message(header, **fields), recipient, header, SETTINGS)


@pytest.mark.parametrize(
    ("to", "named"),
    [
        ("To: ann@here.test", "ann@here.test"),
        ("To: ANN@HERE.TEST", "ann@here.test"),
        ("Cc: x@y.test, Ann <ann@here.test>", "ann@here.test"),
        ("To: ann+requiretls@here.test", "ann+requiretls@here.test"),
        ("To: sales@here.test", "sales@here.test"),
        ("To: team@here.test", "team@here.test"),
        ("To: broken <x\r\nCc: friends: ann@here.test;", "ann@here.test"),
    ],
)
def test_who_is_named_is_answered_for(to, named):
    """By their own address, or an alias that leads to them; that one the sender knows."""
    assert meant(to.encode() + b"\r\n").key == named


def test_details_and_catch_alls_lead_to_mailboxes():
    """As they do for delivery."""
    header = b"To: ann+news@here.test\r\n"
    details = attrs.evolve(SETTINGS, recipient_delimiter="+", strips_detail=True)
    assert addressed(message(header), ANN, header, details).key == "ann+news@here.test"
    assert isinstance(meant(header), Silence)
    caught = attrs.evolve(SETTINGS, aliases={"@here.test": (ANN,)})
    assert addressed(message(header), ANN, header, caught).key == "ann+news@here.test"


NOBODY = [
    b"To: eve@here.test",
    b"Bcc: ann@here.test",
    b"Subject: ann@here.test",
    b"To: ann@elsewhere.test",
    b"To: no address, ann@here.test",
    b"To: " + b", ".join(b"x%d@y.test" % n for n in range(100)) + b", ann@here.test",
]


@pytest.mark.parametrize("header", NOBODY)
def test_who_is_not_named_was_not_written_to(header):
    """RFC 3834 2: blind copies, lists without a name, and one among a hundred."""
    assert isinstance(meant(header + b"\r\n"), Silence)


@pytest.mark.parametrize(
    "field",
    [
        *(b"Auto-Submitted: auto-generated", b"Auto-Submitted: auto-replied; x=y", b"Auto-Submitted: (no) yes"),
        *(b"auto-submitted:auto-notified", b"Auto-Submitted:", b"Auto-Submitted: nothing"),
        *(b"List-Id: <x.y>", b"List-Unsubscribe: <mailto:x@y>", b"LIST-POST: NO"),
        *(b"Precedence: bulk", b"Precedence: JUNK", b"precedence: list"),
    ],
)
def test_programs_and_lists_are_not_answered(field):
    """RFC 3834 2 and 5."""
    assert isinstance(meant(HEADER + field + b"\r\n"), Silence)


@pytest.mark.parametrize(
    "field", [b"Auto-Submitted: no", b"Auto-Submitted: (human) No ; x=y", b"Precedence: first-class", b"Listen: up"]
)
def test_people_are(field):
    """What only looks like it does not count."""
    assert meant(HEADER + field + b"\r\n") == ANN


@pytest.mark.parametrize(
    "local",
    [
        *("owner-list", "list-owner", "list-request", "list-bounces", "list-bounces+bob=there.test", "bounce-123"),
        *("MAILER-DAEMON", "Postmaster", "no-reply", "noreply+7", "majordomo"),
    ],
)
def test_machines_are_not_answered(local):
    """By the names that they go by."""
    assert isinstance(meant(sender=Address(local, "there.test")), Silence)


@pytest.mark.parametrize("local", ["bob", "owner", "requester", "bounces", "noreplay", "pre-request-post"])
def test_names_of_people_are_no_machines(local):
    """Only whole names count."""
    assert meant(sender=Address(local, "there.test")) == ANN


@pytest.mark.parametrize("sender", [None, ANN, parse_mailbox("sales@here.test"), parse_mailbox("team@here.test")])
def test_neither_nobody_nor_the_recipient_is_answered(sender):
    """The empty reverse path; the recipient, by whatever name."""
    assert isinstance(meant(sender=sender), Silence)


@pytest.mark.parametrize("origin", ["report", "reply", "list"])
def test_what_the_house_wrote_itself_is_not_answered(origin):
    """Nor what one of its lists has passed on."""
    assert isinstance(meant(origin=origin), Silence)


@given(st.binary(max_size=300))
def test_no_header_does_more_than_silence(octets):
    """Whatever strangers write."""
    header = b"To: ann@here.test\r\nCc: " + octets.replace(b"\r", b"") + b"\r\n"
    assert meant(header) == ANN or isinstance(meant(header), Silence)


# --- the reply ----------------------------------------------------------------------------------------------------
def written(answer, header=HEADER, **fields):
    about = message(header, **fields)
    reply = write_reply(
        answer,
        about,
        header,
        author=ANN,
        reply_id="0000000000000002",
        hostname="mx.here.test",
        now=0.0,
        profile=Profile.RFC8689,
    )
    return reply, email.message_from_bytes(b"".join(reply.pieces()), policy=email.policy.default)


def test_a_reply_is_what_rfc_3834_wants():
    """Section 3, field by field; nobody gets a report of it."""
    reply, mail = written(Answer(body="I am away.\nUntil May.\n", name="Ann Ä"))
    assert mail.items() == [
        ("From", "Ann Ä <ann@here.test>"),
        ("To", "bob@there.test"),
        ("Subject", "Auto: the plan"),
        ("Date", "Thu, 01 Jan 1970 00:00:00 +0000"),
        ("Message-ID", "<0000000000000002@mx.here.test>"),
        ("In-Reply-To", "<1@there.test>"),
        ("References", "<1@there.test>"),
        ("Auto-Submitted", "auto-replied"),
        ("MIME-Version", "1.0"),
        ("Content-Type", 'text/plain; charset="utf-8"'),
        ("Content-Transfer-Encoding", "7bit"),
    ]
    assert mail.get_content() == "I am away.\r\nUntil May.\r\n"
    assert reply.envelope == Envelope(sender=None, recipients=(Recipient(BOB, notify=frozenset({Notify.NEVER})),))
    assert (reply.origin, reply.parent) == ("reply", "0000000000000001")


def test_it_inherits_the_tag_b13():
    """RFC 8689 6: what was required stays so, and what was optional says so again."""
    reply, mail = written(Answer(body="x"), tag=Tag.REQUIRED)
    assert reply.envelope.tag is Tag.REQUIRED and mail["TLS-Required"] is None
    reply, mail = written(Answer(body="x"), tag=Tag.OPTIONAL)
    assert reply.envelope.tag is Tag.OPTIONAL and mail["TLS-Required"] == "No"


@pytest.mark.parametrize(
    ("answer", "tag", "theirs", "subject"),
    [
        (Answer(body="x", subject="away"), None, b"the plan", "Auto: away"),
        (Answer(body="x", subject="Grüße"), None, b"the plan", "Auto: Grüße"),
        (Answer(body="x"), Tag.REQUIRED, b"the plan", "Auto: your message"),
        (Answer(body="x", subject="away"), Tag.REQUIRED, b"the plan", "Auto: away"),
        (Answer(body="x"), Tag.OPTIONAL, b"the plan", "Auto: the plan"),
        (Answer(body="x"), None, b"=?utf-8?q?Gr=C3=BC=C3=9Fe?=", "Auto: Grüße"),
        (Answer(body="x"), None, "Grüße".encode(), "Auto: your message"),
        (Answer(body="x"), None, b"a\x00b", "Auto: your message"),
        (Answer(body="x"), None, b"x" * 201, "Auto: your message"),
        (Answer(body="x"), None, b"word " * 39 + b"x", "Auto: " + "word " * 39 + "x"),
    ],
)
def test_subjects(answer, tag, theirs, subject):
    """That of a message that requires TLS is not quoted, as reports do not."""
    _, mail = written(answer, HEADER.replace(b"the plan", theirs), tag=tag)
    assert mail["Subject"] == subject


def test_a_subject_that_is_not_there():
    """Has its stand-in."""
    assert written(Answer(body="x"), b"To: ann@here.test\r\n")[1]["Subject"] == "Auto: your message"


def test_references_are_bounded_and_nothing_but_identifiers():
    """RFC 5322 3.6.4; the first and the last stay."""
    many = b" ".join(b"<%d@x>" % n for n in range(100))
    _, mail = written(Answer(body="x"), HEADER + b"References: junk " + many + b" <bad id>\r\n")
    found = mail["References"].split()
    assert found == ["<0@x>", *(f"<{n}@x>" for n in range(92, 100)), "<1@there.test>"]
    _, mail = written(Answer(body="x"), HEADER + b"In-Reply-To: <0@x> and <7@x>\r\n")
    assert mail["References"].split() == ["<0@x>", "<1@there.test>"]
    assert written(Answer(body="x"), b"Message-ID: none\r\n")[1]["References"] is None


def test_addresses_outside_ascii():
    """A-labels where they do; a local part outside ASCII needs SMTPUTF8."""
    reply, mail = written(Answer(body="x"), sender=Address("bob", "münchen.example"))
    assert mail["To"] == "bob@xn--mnchen-3ya.example"
    reply, _ = written(Answer(body="x"), sender=Address("bücher", "there.test"))
    assert reply.envelope.smtputf8
    assert "To: bücher@there.test\r\n".encode() in reply.body.data
    _, mail = written(Answer(body="x", author=parse_mailbox("desk@here.test"), name='The "Desk"'))
    assert mail["From"].addresses[0].addr_spec == "desk@here.test"
    assert mail["From"].addresses[0].display_name == 'The "Desk"'


def test_a_reply_is_never_answered():
    """Not even where a forwarder has given it a reverse path."""
    reply, _ = written(Answer(body="x"))
    header = reply.header().replace(b"To: bob@there.test", b"To: ann@here.test")
    assert meant(header) == Silence("the message was submitted by a program")
    assert isinstance(meant(header, sender=None), Silence)


BODIES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]) | st.sampled_from("\n\t"), min_size=1)


@given(BODIES)
def test_any_body_arrives_as_it_was_said(text):
    """In 7-bit, whatever it is."""
    reply, mail = written(check_answer(Answer(body=text)))
    assert mail.get_content().replace("\r\n", "\n") == text.removesuffix("\n") + "\n"
    assert not reply.content.eight_bit_body and not reply.content.eight_bit_header
    assert max(map(len, reply.body.data.split(b"\r\n"))) <= 998


@pytest.mark.parametrize(
    "nonsense",
    [
        *("text", 5, ("subject", "body"), Answer),
        *(Answer(body=""), Answer(body="x" * 10_001), Answer(body="x\r\nBcc: y"), Answer(body=b"x"), Answer(body=None)),
        *(Answer(body="x", subject="a\nb"), Answer(body="x", subject="x" * 201), Answer(body="x", subject=None)),
        *(Answer(body="x", subject="a\u2028b"), Answer(body="x\ud800"), Answer(body="a\x00"), Answer(body="\x1b[1m")),
        *(Answer(body="x", name="a\r\nb"), Answer(body="x", author="a@b")),
    ],
)
def test_nonsense_is_no_answer(nonsense):
    """A plugin cannot break out of a field, nor fill the queue."""
    with pytest.raises((TypeError, ValueError)):
        check_answer(nonsense)


# --- responders ---------------------------------------------------------------------------------------------------
class Responder:
    def __init__(self, answer, name="r"):
        self.answer, self.name, self.asked = answer, name, []

    def respond(self, envelope, recipient, header):
        self.asked.append((envelope, recipient, header))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Memory:
    def __init__(self, why=None):
        self.why, self.noted = why, []

    def silence(self, *words):
        return self.why

    def note(self, *words):
        self.noted.append(words)
        return succeed(True)


def to_their_senders(about, made):
    return made


def replies(*responders, memory=None, about=None, to_all=to_their_senders, settings=SETTINGS, to=(ANN,)):
    events = RecordedEvents()
    given = AutoReplies(
        responders=responders,
        memory=memory or Memory(),
        settings=lambda: settings,
        profile=lambda: Profile.RFC8689,
        to_all=to_all,
        new_id=lambda: "0000000000000002",
        wall=lambda: float(NOW),
    )(
        about or message(),
        [Delivered(recipient=Recipient(one), reply=Reply(250, "2.0.0", "ok"), host="h") for one in to],
    )
    results = []
    given.addCallback(results.append)
    while not results:  # a ledger's thread
        time.sleep(0.001)
    (made,) = results
    for news in made.news:
        news.tell(events)
    return made.messages, events


OURS = attrs.evolve(SETTINGS, signing={"here.test": (SigningKey(domain="here.test", selector="s", key=ED25519),)})


@pytest.mark.parametrize(
    ("answer", "tag", "signed"),
    [
        (Answer(body="x", subject="away"), None, True),
        (Answer(body="x"), Tag.REQUIRED, True),
        (Answer(body="x"), None, False),
        (Answer(body="x", subject="away", author=BOB), None, False),
    ],
)
def test_what_is_all_our_own_word_is_signed(answer, tag, signed):
    """A subject that a stranger wrote is not said in our name; nor is a domain signed for that is not ours."""
    ((reply,), _) = replies(Responder(answer), about=message(tag=tag), settings=OURS)
    octets = b"".join(reply.pieces())
    assert verdicts(octets, OURS.signing) == ["pass"] * (2 * signed)
    assert octets.endswith(b"\r\n\r\nx\r\n") and reply.header().startswith(b"From: ")


def test_responders_are_found_by_name(monkeypatch):
    """Sorted; one without a name, or with another's, is left out."""
    found = [Responder(None, "b"), Responder(None, "a"), Responder(None, "a"), Responder(None, 5), object()]
    monkeypatch.setattr("requiretls_mta.receive.responders.getPlugins", lambda *_: found)
    assert load_responders() == [found[1], found[0]]


def test_the_first_who_answers_is_heard():
    """Others before had nothing to say, or broke; the log has it."""
    memory, last = Memory(), Responder(Answer(body="z"), "z")
    first = [Responder(None, "a"), Responder(RuntimeError("x"), "b"), Responder("nonsense", "c")]
    made, events = replies(*first, Responder(Answer(body="d"), "d"), last, memory=memory)
    assert [reply.body.data.partition(b"\r\n\r\n")[2] for reply in made] == [b"d\r\n"]
    assert first[0].asked == [(message().envelope, ANN, HEADER)] and not last.asked
    assert memory.noted == [("bob@there.test", "ann@here.test", "0000000000000001")]
    (told,) = events.of("replied")
    assert told["responder"] == "d" and told["reply_id"] == "0000000000000002"


@pytest.mark.parametrize(
    ("memory", "about"),
    [
        (Memory("answered yesterday"), None),
        (Memory(), message(sender=None)),
        (Memory(), message(HEADER + b"X: " + b"x" * 65_536 + b"\r\n")),
        (Memory(), message(HEADER + b"List-Id: <x>\r\n")),
    ],
)
def test_nobody_is_asked_in_vain(memory, about):
    """Where there is to be no reply no responder hears of the message."""
    responder = Responder(Answer(body="x"))
    made, events = replies(responder, memory=memory, about=about)
    assert made == () and not responder.asked and not memory.noted and not events.seen


def test_a_crash_neither_loses_nor_doubles_a_reply(tmp_path):
    """A settlement that was not stored is repeated, its reply with it; what comes later is not answered again."""
    first, later = (attrs.evolve(message(), id=f"{n:016}") for n in (1, 2))
    found = []
    for about in (first, first, later):  # each time another process
        memory = Answered(Threads(), tmp_path / "answered.db", lambda: 1e9)
        wait(memory.start())
        found.append(len(replies(Responder(Answer(body="x")), memory=memory, about=about)[0]))
        memory.stop()
    assert found == [1, 1, 0]


def test_what_cannot_be_remembered_is_not_said():
    """RFC 3834 2: better than to say it twice; the log has no reply that was not given."""
    memory = Memory()
    memory.note = lambda *words: succeed(False)
    made, events = replies(Responder(Answer(body="x")), memory=memory)
    assert made == () and not events.seen


def test_trouble_costs_the_reply_alone():
    """The settlement in which it would have entered must not fail for it; nor does anybody count as answered."""

    def broken(about, made):
        raise RuntimeError("no")

    memory = Memory()
    made, events = replies(Responder(Answer(body="x")), to_all=broken, memory=memory)
    assert made == () and memory.noted == [] and events.seen == []


def test_trouble_over_one_recipient_costs_no_others_reply():
    """Two mailboxes: the first one's reply comes to nothing."""
    cat, memory, calls = Address("cat", "here.test"), Memory(), []

    def breaks_once(about, made):
        calls.append(made)
        if len(calls) == 1:
            raise RuntimeError("no")
        return made

    about = message(HEADER.replace(b"To: ", b"To: cat@here.test, "))
    made, events = replies(Responder(Answer(body="x")), to_all=breaks_once, memory=memory, about=about, to=(ANN, cat))
    assert len(made) == 1 and [f["recipient"] for f in events.of("replied")] == ["cat@here.test"]
    assert [words[1] for words in memory.noted] == ["cat@here.test"]
