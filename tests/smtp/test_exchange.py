"""One message over one session: what is written in which order, and what each recipient is told."""

import attrs
import pytest
from twisted.internet.defer import Deferred

from requiretls_mta.message.address import parse_mailbox
from requiretls_mta.message.content import ContentScanner
from requiretls_mta.message.envelope import Envelope, Notify, Recipient, Tag
from requiretls_mta.message.stored import BytesBody, Message
from requiretls_mta.smtp.client import Timeouts
from requiretls_mta.smtp.exchange import Answered, Refused, transact
from tests.smtp.memory_server import MemoryServer

TEXT = b"Subject: x\r\n\r\n.dot\r\n"
LARGE = b"\r\n" + b"line\r\n" * 20_000


def message(octets=TEXT, *, sender="s@here.test", **changes):
    """One with this body; `changes` are the envelope's."""
    scanner = ContentScanner(1 << 20)
    scanner.feed(octets)
    envelope = Envelope(sender=parse_mailbox(sender, utf8=True) if sender else None, **changes)
    return Message(id="q" * 16, envelope=envelope, body=BytesBody(octets), content=scanner.finish())


class Transaction:
    """A transaction under way; `outcome` is None until it is over."""

    def __init__(self, *offers, whole=None, to=("a@x.test",), keyword=False, lmtp=False):
        self.server = MemoryServer(*offers)
        recipients = [r if isinstance(r, Recipient) else Recipient(parse_mailbox(r, utf8=True)) for r in to]
        self.outcome = None
        Deferred.fromCoroutine(
            transact(
                self.server.session,
                whole or message(),
                recipients,
                keyword=keyword,
                lmtp=lmtp,
                timeouts=Timeouts(),
            )
        ).addCallback(lambda outcome: setattr(self, "outcome", outcome))

    @property
    def codes(self):
        """What each recipient was told."""
        return [reply.code for reply in self.outcome.replies]


def mail(*offers, whole, keyword=False, to="a@x.test"):
    """The first lines of a transaction, or why there are none."""
    transaction = Transaction("PIPELINING", *offers, whole=whole, keyword=keyword, to=(to,))
    if transaction.outcome is not None:
        return transaction.outcome.reply.enhanced
    return b"".join(transaction.server.said()).decode().split("\r\n")[:2]


def test_all_in_one_write():
    """MAIL, RCPT, BDAT and the message: one segment there, one back (RFC 3030 4.2)."""
    it = Transaction("PIPELINING", "CHUNKING", to=("a@x.test", "b@x.test"))
    (octets,) = it.server.said()
    assert octets == (
        b"MAIL FROM:<s@here.test>\r\nRCPT TO:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nBDAT %d LAST\r\n" % len(TEXT) + TEXT
    )
    it.server.say("250 ok", "250 ok", "550 5.1.1 no", "250 2.0.0 taken")
    assert it.codes == [250, 550] and it.outcome.reusable
    assert not it.server.clock.getDelayedCalls()


def test_a_large_message_waits_for_a_recipient():
    """Its octets are not spent on a host that may refuse all."""
    it = Transaction("PIPELINING", "CHUNKING", whole=message(LARGE))
    assert b"BDAT" not in b"".join(it.server.said())
    it.server.say("250 ok", "250 ok")
    it.server.drain()
    assert b"".join(it.server.said()) == b"BDAT %d LAST\r\n" % len(LARGE) + LARGE
    it.server.say("250 ok")
    assert it.codes == [250] and it.outcome.reusable


def test_data_is_asked_for_along_with_the_envelope():
    """DATA is the last of its group, the octets follow 354, dots doubled (RFC 2920 3.1)."""
    it = Transaction("PIPELINING")
    assert it.server.said() == [b"MAIL FROM:<s@here.test>\r\nRCPT TO:<a@x.test>\r\nDATA\r\n"]
    it.server.say("250 ok", "250 ok", "354 go")
    it.server.drain()
    assert b"".join(it.server.said()) == b"Subject: x\r\n\r\n..dot\r\n.\r\n"
    it.server.say("250 ok")
    assert it.codes == [250] and it.outcome.reusable


def test_without_pipelining_each_waits_for_its_reply():
    """One command at a time."""
    it = Transaction(to=("a@x.test", "b@x.test"))
    for expected in (b"MAIL FROM:<s@here.test>\r\n", b"RCPT TO:<a@x.test>\r\n", b"RCPT TO:<b@x.test>\r\n", b"DATA\r\n"):
        assert it.server.said() == [expected]
        it.server.say("354 go" if expected == b"DATA\r\n" else "250 ok")
    it.server.drain()
    it.server.say("250 ok")
    assert it.codes == [250, 250]


@pytest.mark.parametrize("answer", ["354 go", "554 5.5.1 no recipients"])
def test_data_that_was_begun_for_nobody_is_ended(answer):
    """All refused, and the server may wait for data nevertheless: an empty message, then RSET (RFC 2920 3.1)."""
    it = Transaction("PIPELINING", to=("a@x.test", "b@x.test"))
    it.server.said()
    it.server.say("250 ok", "550 no", "450 later", answer)
    if answer.startswith("354"):
        assert it.server.said() == [b".\r\n"]
        it.server.say("554 no recipients")
    assert it.server.said() == [b"RSET\r\n"]
    it.server.say("250 ok")
    assert it.codes == [550, 450] and it.outcome.reusable


def test_what_each_reply_answers():
    """RCPT or the message; nothing where the words are ours."""
    it = Transaction("PIPELINING", to=("a@x.test", "b@x.test"))
    it.server.say("250 ok", "550 5.1.1 no", "250 ok", "354 go")
    it.server.drain()
    it.server.say("554 5.6.0 spam")
    assert (it.codes, it.outcome.commands) == ([550, 554], ("RCPT", "DATA"))
    it = Transaction("PIPELINING", "CHUNKING", to=("a@x.test", "b@x.test"))
    it.server.say("250 ok", "250 ok", "450 later")
    it.server.hang_up()
    assert (it.codes, it.outcome.commands) == ([451, 450], (None, "RCPT"))


def test_a_chunk_for_nobody_is_no_delivery():
    """All refused, yet the server says 250 to the chunk: nobody was accepted, so nobody has it."""
    it = Transaction("PIPELINING", "CHUNKING")
    it.server.say("250 ok", "550 no", "250 ok")
    it.server.say("250 ok")
    assert it.codes == [550]


@pytest.mark.parametrize("keyword", [True, False])
def test_the_keyword_refused(keyword):
    """5xx to MAIL with REQUIRETLS is its lack; without, the sender's refusal. Never a second MAIL."""
    it = Transaction("PIPELINING", whole=message(tag=Tag.REQUIRED), keyword=keyword)
    assert (b" REQUIRETLS\r\n" in b"".join(it.server.said())) is keyword
    it.server.say("555 5.5.4 what", "503 5.5.1 no", "503 5.5.1 no")
    it.server.say("250 ok")
    assert isinstance(it.outcome, Refused) and it.outcome.why == ("keyword" if keyword else "sender")
    assert b"MAIL" not in b"".join(it.server.said())


@pytest.mark.parametrize("offers", [("PIPELINING",), ()])
def test_lost_before_the_message_is_out(offers):
    """The host took nothing: another one may be tried."""
    it = Transaction(*offers)
    it.server.say("250 ok")
    it.server.say("250 ok")
    it.server.hang_up()
    assert isinstance(it.outcome, Refused) and it.outcome.why == "lost"


def test_lost_before_the_message_is_out_with_somebody_refused():
    """A definite no is not lost with the session."""
    it = Transaction("PIPELINING", to=("a@x.test", "b@x.test"))
    it.server.say("250 ok", "250 ok", "550 5.1.1 no")
    it.server.hang_up()
    assert it.codes == [451, 550] and not it.outcome.reusable
    assert "is not known" not in it.outcome.replies[0].text


def test_lost_in_the_midst_of_the_message():
    """Without its end the server has no message: another host may be tried."""
    it = Transaction("PIPELINING", whole=message(b"\r\n" + b"x" * 600_000))
    it.server.say("250 ok", "250 ok", "354 go")
    it.server.drain(1)
    it.server.hang_up()
    assert isinstance(it.outcome, Refused) and it.outcome.why == "lost"


@pytest.mark.parametrize("offers", [("PIPELINING",), ("PIPELINING", "CHUNKING"), ("CHUNKING",)])
def test_lost_behind_the_message(offers):
    """The host may have it: not for another host now, and the text says so."""
    it = Transaction(*offers)
    it.server.say("250 ok")
    it.server.say("250 ok")
    if "CHUNKING" not in offers:
        it.server.say("354 go")
    it.server.drain()
    it.server.hang_up()
    assert isinstance(it.outcome, Answered) and not it.outcome.reusable
    assert it.codes == [451] and "is not known" in it.outcome.replies[0].text


@pytest.mark.parametrize(
    ("replies", "seconds"),
    [((), 300), (("250 ok",), 300), (("250 ok", "250 ok"), 120), (("250 ok", "250 ok", "354 go"), 600)],
)
def test_each_phase_has_its_time(replies, seconds):
    """MAIL and RCPT 5 minutes, DATA 2, the end of the data 10 (RFC 5321 4.5.3.2)."""
    it = Transaction("PIPELINING")
    for reply in replies:
        it.server.say(reply)
    it.server.drain()
    it.server.clock.advance(seconds - 1)
    assert it.outcome is None and it.server.session.is_open
    it.server.clock.advance(1)
    assert it.outcome is not None and it.server.transport.aborted
    assert not it.server.clock.getDelayedCalls()


def test_what_mail_says():
    """Parameters by what the server offers and the message needs."""
    plain = message()
    assert mail(whole=plain) == ["MAIL FROM:<s@here.test>", "RCPT TO:<a@x.test>"]
    assert mail(whole=message(sender=None))[0] == "MAIL FROM:<>"
    assert mail("SIZE", whole=plain)[0] == f"MAIL FROM:<s@here.test> SIZE={len(TEXT)}"
    assert mail("SIZE 0", whole=plain)[0].endswith(f" SIZE={len(TEXT)}")
    assert mail("SIZE 5", whole=plain) == "5.3.4"
    assert mail("8BITMIME", whole=message(body="8BITMIME"))[0].endswith(" BODY=8BITMIME")
    assert "BODY" not in mail("8BITMIME", whole=message(body="7BIT"))[0]
    tagged = message(tag=Tag.REQUIRED, ret="FULL", envid="e+2B1")
    assert mail("DSN", whole=tagged, keyword=True)[0].endswith(" REQUIRETLS RET=HDRS ENVID=e+2B1")
    assert mail(whole=tagged, keyword=True)[0] == "MAIL FROM:<s@here.test> REQUIRETLS"
    assert mail("DSN", whole=message(ret="FULL"))[0].endswith(" RET=FULL")


def test_b08_no_host_returns_a_tagged_message_whole():
    """RET=HDRS to any host with DSN, keyword or not, asked for or not; but not on a report (RFC 3461 6.1)."""
    for ret in (None, "FULL", "HDRS"):
        assert mail("DSN", whole=message(tag=Tag.REQUIRED, ret=ret))[0] == "MAIL FROM:<s@here.test> RET=HDRS"
    assert mail("DSN", whole=message(tag=Tag.REQUIRED, sender=None))[0] == "MAIL FROM:<>"
    assert mail("DSN", whole=message(tag=Tag.REQUIRED, sender=None, ret="FULL"))[0] == "MAIL FROM:<> RET=HDRS"
    assert mail("DSN", whole=message(tag=Tag.OPTIONAL))[0] == "MAIL FROM:<s@here.test>"


def test_what_rcpt_says():
    """NOTIFY and ORCPT as they came, where DSN is offered; raw UTF-8 only where it is taken (RFC 6533 3)."""
    asked = Recipient(parse_mailbox("a@x.test"), frozenset({Notify.SUCCESS, Notify.DELAY}), "rfc822;a+2Bb@y")
    assert mail("DSN", whole=message(), to=asked)[1] == "RCPT TO:<a@x.test> NOTIFY=DELAY,SUCCESS ORCPT=rfc822;a+2Bb@y"
    assert mail(whole=message(), to=asked)[1] == "RCPT TO:<a@x.test>"
    utf8 = Recipient(parse_mailbox("a@x.test"), orcpt="utf-8;ä\\x{2B}b@y")
    assert mail("DSN", whole=message(), to=utf8)[1].endswith(" ORCPT=utf-8;\\x{E4}\\x{2B}b@y")
    whole = message(smtputf8=True)
    assert mail("DSN", "8BITMIME", "SMTPUTF8", whole=whole, to=utf8)[1].endswith(" ORCPT=utf-8;ä\\x{2B}b@y")


def test_more_than_ascii():
    """8BITMIME and SMTPUTF8: what needs them fails without, what does not goes as 7-bit and A-labels."""
    both, eight = ("8BITMIME", "SMTPUTF8"), b"Subject: x\r\n\r\n\xc3\xa4\r\n"
    assert mail(whole=message(eight, body="8BITMIME")) == "5.6.3"
    assert mail(whole=message(eight))[0] == "MAIL FROM:<s@here.test>"
    assert mail(whole=message(body="8BITMIME"))[0] == "MAIL FROM:<s@here.test>"
    assert mail(whole=message(), to="ä@x.test") == "5.6.7"
    assert mail(whole=message(b"Subject: \xc3\xa4\r\n\r\n", smtputf8=True)) == "5.6.7"
    idn = message(sender="s@bücher.test", smtputf8=True)
    assert mail(whole=idn)[0] == "MAIL FROM:<s@xn--bcher-kva.test>"
    assert mail(*both, whole=idn)[0] == "MAIL FROM:<s@bücher.test> BODY=8BITMIME SMTPUTF8"
    assert mail(*both, whole=message(), to="ä@x.test")[1] == "RCPT TO:<ä@x.test>"


def test_our_trace_fields_go_along():
    """The block in front counts for SIZE and BDAT, and cut ranges do not."""
    whole = attrs.evolve(message(b"A: forged\r\nB: x\r\n\r\ntext\r\n"), prepend=b"Received: us\r\n", cuts=((0, 11),))
    expected = b"Received: us\r\nB: x\r\n\r\ntext\r\n"
    (octets,) = Transaction("PIPELINING", "CHUNKING", "SIZE", whole=whole).server.said()
    assert b"SIZE=%d\r\n" % len(expected) in octets
    assert octets.endswith(b"BDAT %d LAST\r\n" % len(expected) + expected)
