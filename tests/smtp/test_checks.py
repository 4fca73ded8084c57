"""Checks in a session: they begin and end with it, delay no greeting, and are heard before a recipient is taken."""

import pytest
from twisted.internet.defer import Deferred, succeed

from requiretls_mta.checks.interfaces import Stage, Verdict
from requiretls_mta.checks.pipeline import Pipeline
from requiretls_mta.message.reply import Reply
from requiretls_mta.message.stored import BytesBody
from tests.checks.test_pipeline import Check
from tests.smtp.memory import Memory
from tests.smtp.test_stock import KeepingDelivery

NO = Reply(550, "5.7.1", "No")
REFUSED = b"550 5.7.1 No\r\n"


def listener(*checks, **options):
    memory = Memory(**options)
    memory.factory.pipeline = Pipeline(checks, clock=memory.clock, events=memory.events)
    return memory


def test_the_greeting_does_not_wait():
    """The check has begun, and the client can already go on."""
    check = Check("a")
    line = listener(check).connect()
    assert line.said().startswith(b"220 ")
    client = check.subjects[0].client
    assert (client.address, client.session, client.service) == ("192.0.2.1", line.session.id, "mx")
    assert line.ask("EHLO x.example\r\nMAIL FROM:<a@b.example>\r\n").endswith(b"250 2.1.0 Sender ok\r\n")


@pytest.mark.parametrize("refusal", [None, NO])
def test_a_recipient_waits_for_what_is_needed(refusal):
    """What is pipelined behind it waits too, and comes in order."""
    check = Check("a", needed=Stage.RECIPIENT)
    line = listener(check).connect()
    line.ask("EHLO x.example\r\n")
    script = "MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<e@d.example>\r\nNOOP\r\n"
    assert line.ask(script) == b"250 2.1.0 Sender ok\r\n"
    check.deferreds[0].callback(Verdict(check="a", refusal=refusal))
    answer = REFUSED if refusal else b"250 2.1.5 Recipient ok\r\n"
    assert line.said() == 2 * answer + b"250 2.0.0 Ok\r\n"


def test_a_refused_recipient_never_reaches_the_transaction():
    """It could not forget it again."""
    memory = listener(Check("a", needed=Stage.RECIPIENT, answer=succeed(Verdict(check="a", refusal=NO))))
    line = memory.connect().ready()
    assert line.session.in_transaction
    assert not line.session._recipients
    assert [fields["reply"] for fields in memory.events.of("rejected")] == ["550 5.7.1 No"]


def test_the_transaction_is_given_the_checks():
    """Its own for each MAIL; the envelope's checks know what MAIL and EHLO said."""
    check = Check("a", stage=Stage.SENDER)
    memory = listener(check)
    line = memory.connect().ready()
    line.ask("RSET\r\nMAIL FROM:<>\r\n")
    assert [str(s.envelope.sender) for s in check.subjects] == ["a@b.example", "None"]
    assert check.subjects[0].helo == "x.example"
    checks = [transaction.session.checks for transaction in memory.answers.begun]
    assert checks[0] is not checks[1]
    assert all(isinstance(c.message(b"", None), Deferred) for c in checks)


def test_who_logged_in_is_not_checked():
    """71: a user is known; the address it comes from matters no more."""
    memory = listener(Check("a", needed=Stage.RECIPIENT))
    line = memory.connect()
    line.session.authenticated = True
    line.ready()
    assert line.session._recipients
    assert memory.answers.begun[0].session.checks is None


def test_a_client_that_leaves_takes_its_checks_along():
    """86: also in the middle of the waiting, where nothing is left to reply to."""
    check = Check("a", needed=Stage.RECIPIENT)
    memory = listener(check)
    line = memory.connect().ready()
    line.transport.loseConnection()
    assert check.cancelled == 1
    assert [call for call in memory.clock.getDelayedCalls() if call.active()] == []


def test_an_application_s_own_delivery_has_the_checks():
    """A factory of somebody else's, given a pipeline: refusals count there too, and the delivery may ask."""
    delivery = KeepingDelivery()
    check = Check("a", needed=Stage.RECIPIENT)
    memory = listener(check, stock=True, delivery=delivery)
    line = memory.connect()
    script = "EHLO x.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<console@d.example>\r\nDATA\r\nx: y\r\n\r\n.\r\n"
    assert line.ask(script).endswith(b"250 2.1.0 Sender ok\r\n")
    verdict = Verdict(check="a")
    check.deferreds[0].callback(verdict)
    assert line.said().startswith(b"250 2.1.5 Recipient ok\r\n354 ")
    ((_, session),) = delivery.told
    assert session.checks.message(b"", BytesBody(b"")).result == (verdict,)


def test_a_client_too_many_is_not_checked():
    """Who is sent away at once is nobody's concern."""
    check = Check("a")
    memory = listener(check, settings={"max_connections_per_client": 1})
    lines = [memory.connect(), memory.connect()]
    assert lines[1].said().startswith(b"421")
    assert len(check.subjects) == 1


def test_the_postmaster_hears_from_everybody():
    """RFC 5321 4.5.1: a check's no keeps nobody from writing to him, and delays no one who does."""
    check = Check("a", needed=Stage.RECIPIENT)
    line = listener(check).connect()
    line.ask("EHLO x.example\r\nMAIL FROM:<a@b.example>\r\n")
    assert line.ask("RCPT TO:<Postmaster>\r\n") == b"250 2.1.5 Recipient ok\r\n"
    check.deferreds[0].callback(Verdict(check="a", refusal=NO))
    assert line.ask("RCPT TO:<postMaster@d.example>\r\n") == b"250 2.1.5 Recipient ok\r\n"
    assert line.ask("RCPT TO:<c@d.example>\r\n") == REFUSED
