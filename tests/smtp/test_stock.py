"""Applications written for `twisted.mail.smtp`: they change their factory, and nothing else."""

import time

import pytest
from twisted.cred.checkers import AllowAnonymousAccess, InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.testing import StringTransport
from twisted.mail import smtp
from twisted.mail.imap4 import LOGINCredentials, PLAINCredentials
from zope.interface import implementer

from requiretls_mta.message.envelope import Tag
from requiretls_mta.smtp.factory import RequireTLSESMTPFactory
from requiretls_mta.smtp.interfaces import IEnvelopeDelivery
from requiretls_mta.smtp.server import RequireTLSESMTP
from tests.smtp.memory import Line, Memory
from tests.smtp.test_auth import GOOD, TLS


@pytest.fixture(autouse=True)
def no_timer_is_left():
    """Applications without a reactor of their own use the global one; the next test must not find their timers."""
    yield
    for call in reactor.getDelayedCalls():
        call.cancel()


@implementer(smtp.IMessage)
class ConsoleMessage:
    """As in Twisted's own example of a mail server."""

    trouble = None

    def __init__(self, delivery):
        self.delivery, self.lines, self.lost = delivery, [], 0
        delivery.messages.append(self)

    def lineReceived(self, line):
        self.lines.append(line)
        if line == b"boom":
            raise self.delivery.trouble

    def eomReceived(self):
        return fail(self.delivery.trouble) if self.delivery.trouble else succeed(None)

    def connectionLost(self):
        self.lost += 1
        self.lines = None


@implementer(smtp.IMessageDelivery)
class ConsoleMessageDelivery:
    """Takes mail for console@..., from anybody but nobody@..."""

    trouble = None

    def __init__(self):
        self.messages, self.origins, self.users = [], [], []

    def receivedHeader(self, helo, origin, recipients):
        return b"Received: by console from " + helo[0]

    def validateFrom(self, helo, origin):
        if origin.local == b"nobody":
            raise smtp.SMTPBadSender(origin)
        self.origins.append(origin)
        return origin

    def validateTo(self, user):
        if user.dest.local == b"slow":
            return fail(smtp.SMTPServerError(450, b"4.2.1 Try later"))
        if user.dest.local not in (b"console", b'"con sole"', b"postmaster"):
            raise smtp.SMTPBadRcpt(user)
        self.users.append(user)
        return lambda: ConsoleMessage(self)


def application(base):
    """The example's factory on a base of choice."""

    class ConsoleSMTPFactory(base):
        protocol = smtp.ESMTP

        def __init__(self, *a, **kw):
            base.__init__(self, *a, **kw)
            self.delivery = ConsoleMessageDelivery()

        def buildProtocol(self, addr):
            p = base.buildProtocol(self, addr)
            p.delivery = self.delivery
            p.challengers = {b"LOGIN": LOGINCredentials, b"PLAIN": PLAINCredentials}
            return p

    return ConsoleSMTPFactory


class FixedHost(RequireTLSESMTPFactory):
    domain = b"console.test"


def talk(factory, script, *, secure=False):
    """All that is said on a connection, and the session."""
    line = Line(factory)
    if secure:
        line.session.startedTLS, line.session.tls = True, TLS
    return line.said() + line.ask(script), line


def codes(said):
    return [line[:3].decode() for line in said.split(b"\r\n") if line[3:4] == b" "]


TRANSACTION = b"EHLO x.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<console@d.example>\r\nDATA\r\n"


def test_the_example_works_with_another_base():
    """Only the factory's base is changed, even `protocol = smtp.ESMTP` may stay."""
    factory = application(FixedHost)()
    said, line = talk(factory, TRANSACTION + b"Subject: x\r\n\r\n..hello\r\n.\r\nQUIT\r\n")
    assert isinstance(line.session, RequireTLSESMTP)
    assert said.startswith(b"220 console.test ESMTP")
    assert codes(said) == ["220", "250", "250", "250", "354", "250", "221"]
    assert b"250 CHUNKING" in said and b"250-PIPELINING" in said
    # What nobody in this application keeps is not promised, and passwords do not travel in the clear.
    assert not any(word in said for word in (b"REQUIRETLS\r", b"DSN", b"SMTPUTF8", b"AUTH"))
    assert factory.delivery.messages[0].lines == [b"Received: by console from x.example", b"Subject: x", b"", b".hello"]


@pytest.mark.parametrize(
    "data",
    [
        b"Subject: x\r\n\r\nbody\r\n",
        b"no header\r\n",
        b"\r\nbody\r\n",
        b"",
        b"\r\n",
        b"A: b\r\nC: d\r\n",
        b"x:\r\n\r\n..\r\n...x\r\n",
    ],
)
def test_messages_are_what_stock_twisted_makes_of_them(data):
    """Line by line the same as twisted.mail.smtp, whose ESMTP gets the same octets."""
    lines = []
    for base in (smtp.SMTPFactory, FixedHost):
        factory = application(base)()
        if base is smtp.SMTPFactory:
            session, transport = factory.buildProtocol(None), StringTransport()
            session.makeConnection(transport)
            session.dataReceived(TRANSACTION + data + b".\r\n")
            session.setTimeout(None)
        else:
            talk(factory, TRANSACTION + data + b".\r\n")
        lines.append(factory.delivery.messages[0].lines)
    assert lines[0] == lines[1]


@pytest.mark.parametrize("borders", range(1, 9))
def test_lines_do_not_depend_on_chunks(borders):
    """BDAT may end a chunk in the middle of a CRLF."""
    factory = application(FixedHost)()
    _, line = talk(factory, TRANSACTION.replace(b"DATA\r\n", b""))
    data = b"A: b\r\n\r\nlong line\r\n\r\nlast"
    for start in range(0, len(data), borders):
        line.ask(b"BDAT %d\r\n" % len(data[start : start + borders]) + data[start : start + borders])
    assert line.ask(b"BDAT 0 LAST\r\n").startswith(b"250 2.0.0")
    assert factory.delivery.messages[0].lines[1:] == [b"A: b", b"", b"long line", b"", b"last"]


def test_one_message_for_each_recipient():
    """As ever; the octets are the same."""
    factory = application(FixedHost)()
    talk(factory, TRANSACTION[:-6] + b'RCPT TO:<"con sole"@e.example>\r\nDATA\r\nx: y\r\n.\r\n')
    assert [m.lines[1:] for m in factory.delivery.messages] == [[b"x: y"]] * 2
    first, second = factory.delivery.users
    assert (str(first.dest), str(second.dest)) == ("console@d.example", '"con sole"@e.example')
    assert (str(first.orig), first.helo) == ("a@b.example", (b"x.example", b"192.0.2.1"))
    assert first.protocol is not None


@pytest.mark.parametrize(
    ("path", "local", "domain"),
    [
        (b"a@B.Example", b"a", b"B.Example"),
        (b'"a@evil.example"@b.example', b'"a@evil.example"', b"b.example"),
        (b"a@[192.0.2.1]", b"a", b"[192.0.2.1]"),
        (b"", b"", b""),
    ],
)
def test_addresses_keep_their_meaning(path, local, domain):
    """Quotes stay: an application that writes the address again must not make another one of it."""
    factory = application(FixedHost)()
    talk(factory, b"EHLO x\r\nMAIL FROM:<" + path + b">\r\n")
    (origin,) = factory.delivery.origins
    assert isinstance(origin, smtp.Address)
    assert (origin.local, origin.domain, origin.addrstr) == (local, domain, path)


def test_a_bare_postmaster_is_ours():
    """The domain of the server, as stock Twisted completes it."""
    factory = application(FixedHost)()
    talk(factory, b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<postmaster>\r\n")
    assert str(factory.delivery.users[0].dest) == "postmaster@console.test"


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        (smtp.SMTPServerError(452, b"4.2.2 Mailbox full"), b"452 4.2.2 Mailbox full"),
        (smtp.SMTPServerError(550, b"No spam"), b"550 5.0.0 No spam"),
        (OSError("disk full"), b"451 4.3.0"),
        (smtp.SMTPServerError(-1, b"nonsense"), b"451 4.3.0"),
    ],
)
@pytest.mark.parametrize("line", [b"boom\r\n", b"x: y\r\n"])
def test_troubles_keep_their_kind(trouble, code, line):
    """In lineReceived or at the end: a temporary failure is not called permanent, and nothing calls itself accepted."""
    factory = application(FixedHost)()
    factory.delivery.trouble = trouble
    said, connection = talk(factory, TRANSACTION + line + b"more\r\n.\r\n")
    assert said.split(b"\r\n")[-2].startswith(code)
    if line == b"boom\r\n":
        assert factory.delivery.messages[0].lost == 1
    assert connection.ask(b"NOOP\r\n") == b"250 2.0.0 Ok\r\n"


def test_refused_senders_and_recipients():
    """The application's own codes, with an enhanced code before the text."""
    factory = application(FixedHost)()
    _, line = talk(factory, b"EHLO x\r\n")
    assert line.ask(b"MAIL FROM:<nobody@b.example>\r\n").startswith(b"550 5.0.0 ")
    line.ask(b"MAIL FROM:<a@b.example>\r\n")
    assert line.ask(b"RCPT TO:<other@b.example>\r\n").startswith(b"550 5.0.0 ")
    assert line.ask(b"RCPT TO:<slow@b.example>\r\n") == b"450 4.2.1 Try later\r\n"


def test_a_lost_connection_is_told_to_the_messages():
    """As in stock Twisted: no eomReceived, connectionLost once."""
    factory = application(FixedHost)()
    _, line = talk(factory, TRANSACTION + b"x: y\r\n")
    line.transport.loseConnection()
    assert [m.lost for m in factory.delivery.messages] == [1]


def test_without_any_delivery_nobody_may_send():
    """The stock default: no sender is valid."""
    said, _ = talk(FixedHost(), b"EHLO x\r\nMAIL FROM:<a@b.example>\r\n")
    assert codes(said) == ["220", "250", "550"]


def test_hooks_of_a_subclass_and_a_received_field_of_our_own():
    """Its own validateFrom and validateTo, no delivery: stock Twisted's own Received fails on Python 3."""
    made = []

    class Session(RequireTLSESMTP):
        def validateFrom(self, helo, origin):
            return origin

        def validateTo(self, user):
            return lambda: ConsoleMessage(self)

        trouble = None
        messages = made

    class Factory(FixedHost):
        protocol = Session

    talk(Factory(wall=lambda: 0.0), TRANSACTION + b"x: y\r\n.\r\n")
    received = made[0].lines[0].decode()
    assert received.startswith("Received: from x.example ([192.0.2.1])\n\tby console.test with ESMTP\n\tid ")
    assert received.endswith("; Thu, 1 Jan 1970 00:00:00 +0000")


def test_hooks_of_commands_and_extensions():
    """do_X, ext_X and extensions() of an application still work; whatever they raise is a temporary error."""

    class Session(RequireTLSESMTP):
        def extensions(self):
            return {**super().extensions(), b"XHELLO": [b"1", b"2"], b"XNONE": [], b"REQUIRETLS": None}

        def ext_XHELLO(self, rest):
            self.sendCode(250, b"one\n" + rest)

        def do_XBOOM(self, rest):
            raise RuntimeError("boom")

    class Factory(FixedHost):
        protocol = Session

    said, line = talk(Factory(), b"EHLO x\r\n")
    assert b"XHELLO 1 2\r\n" in said and b"XNONE" not in said and b"REQUIRETLS" not in said
    assert line.ask(b"XHELLO two\r\n") == b"250-2.0.0 one\r\n250 2.0.0 two\r\n"
    assert line.ask(b"XBOOM\r\nNOOP\r\n").startswith(b"451 4.3.0")


def test_timeouts_of_the_application():
    """On the session or the factory, as an attribute; the settings' otherwise."""
    for place in ("session", "factory"):
        session = type("Session", (RequireTLSESMTP,), {"timeout": 7} if place == "session" else {})
        factory = type("Factory", (FixedHost,), {"protocol": session, **({"timeout": 7} if place == "factory" else {})})
        memory = Memory(factory, stock=True)
        line = memory.connect()
        memory.clock.advance(8)
        assert not line.is_open
    memory = Memory(stock=True)
    line = memory.connect()
    memory.clock.advance(299)
    assert line.is_open


def test_our_session_under_a_stock_factory():
    """The session alone is a drop-in, too: with the reactor that the process has."""

    class Factory(smtp.SMTPFactory):
        protocol = RequireTLSESMTP
        domain = b"console.test"

    said, line = talk(Factory(), b"EHLO x\r\nQUIT\r\n")
    assert codes(said) == ["220", "250", "221"]
    assert not line.is_open


# --- promises ---------------------------------------------------------------------------------------------------------


@implementer(IEnvelopeDelivery)
class KeepingDelivery(ConsoleMessageDelivery):
    """Is told the envelope, and so can keep what it promises."""

    def __init__(self):
        super().__init__()
        self.told = []

    def envelope_received(self, envelope, session):
        self.told.append((envelope, session))
        return self.trouble_with_envelope

    trouble_with_envelope = None


TAGGED = TRANSACTION.replace(b"example>\r\nRCPT", b"example> REQUIRETLS RET=HDRS\r\nRCPT", 1)


def test_a_delivery_that_is_told_may_promise():
    """REQUIRETLS in TLS, DSN and SMTPUTF8 everywhere; the envelope arrives before the messages are made."""
    factory = FixedHost(delivery=KeepingDelivery())
    said, _ = talk(factory, TAGGED + b"x: y\r\n.\r\n", secure=True)
    assert all(word in said for word in (b"250 REQUIRETLS\r\n", b"DSN", b"SMTPUTF8"))
    assert codes(said)[-1] == "250"
    ((envelope, session),) = factory.delivery.told
    assert (envelope.tag, envelope.ret, len(envelope.recipients)) == (Tag.REQUIRED, "HDRS", 1)
    assert (session.protocol, session.tls) == ("ESMTPS", TLS)
    clear, _ = talk(factory, TAGGED)
    assert b"REQUIRETLS\r\n" not in clear and codes(clear)[2] == "530"


def test_it_may_still_refuse():
    """Before DATA, with its own code, and nothing is made of the message."""
    factory = FixedHost(delivery=KeepingDelivery())
    factory.delivery.trouble_with_envelope = fail(smtp.SMTPServerError(554, b"5.7.0 Not this one"))
    said, _ = talk(factory, TAGGED, secure=True)
    assert said.endswith(b"554 5.7.0 Not this one\r\n")
    assert factory.delivery.messages == []


def test_the_client_leaves_while_it_is_thinking():
    """Messages made afterwards are told at once."""
    factory = FixedHost(delivery=KeepingDelivery())
    factory.delivery.trouble_with_envelope = later = Deferred()
    _, line = talk(factory, TAGGED, secure=True)
    line.transport.loseConnection()
    later.callback(None)
    assert [m.lost for m in factory.delivery.messages] == [1]


def test_promises_by_name():
    """promises= is the application's word; others are a mistake."""
    said, _ = talk(FixedHost(promises={"DSN"}, delivery=ConsoleMessageDelivery()), TAGGED, secure=True)
    assert b"DSN" in said and b"REQUIRETLS\r\n" not in said
    assert codes(said)[2] == "555"
    with pytest.raises(ValueError, match="CHUNKING"):
        FixedHost(promises={"CHUNKING"})


@implementer(IRealm)
class Realm:
    """Gives everybody a delivery that keeps nothing."""

    def requestAvatar(self, avatar_id, mind, *interfaces):
        return smtp.IMessageDelivery, ConsoleMessageDelivery(), lambda: None


def test_a_login_does_not_inherit_a_promise():
    """The delivery of the user who logged in takes the place of the one that promised: 555, not a broken promise."""
    portal = Portal(Realm(), [InMemoryUsernamePasswordDatabaseDontUse(ann=b"secret")])
    factory = FixedHost(portal, delivery=KeepingDelivery(), challengers={b"PLAIN": PLAINCredentials})
    said, line = talk(factory, b"EHLO x\r\n", secure=True)
    assert b"REQUIRETLS" in said
    assert line.ask(f"AUTH PLAIN {GOOD}\r\n").startswith(b"235 ")
    assert line.ask(b"MAIL FROM:<a@b.example> REQUIRETLS\r\n").startswith(b"555 5.5.4")
    assert line.ask(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<console@d.example> NOTIFY=NEVER\r\n").count(b"555 5.5.4") == 1


def test_a_delivery_factory_is_asked_before_the_promise_counts():
    """Only MAIL shows which delivery a deliveryFactory gives."""

    @implementer(smtp.IMessageDeliveryFactory)
    class Deliveries:
        def getMessageDelivery(self):
            return ConsoleMessageDelivery()

    factory = FixedHost(delivery=KeepingDelivery(), deliveryFactory=Deliveries())
    said, _ = talk(factory, TAGGED, secure=True)
    assert codes(said)[2:] == ["555", "503", "503"]


def test_anonymous_mail_by_a_portal():
    """As in stock Twisted: the portal is asked for an anonymous delivery at MAIL."""
    said, _ = talk(FixedHost(Portal(Realm(), [AllowAnonymousAccess()])), TRANSACTION + b"x: y\r\n.\r\n")
    assert codes(said) == ["220", "250", "250", "250", "354", "250"]


def test_submission_without_a_login():
    """530 5.7.0 before any hook of the application is asked."""
    from requiretls_mta.smtp.settings import SessionSettings

    factory = application(FixedHost)(settings=SessionSettings(service="submission"))
    said, _ = talk(factory, TRANSACTION)
    assert codes(said)[2] == "530" and factory.delivery.origins == []


# --- weight -----------------------------------------------------------------------------------------------------------


def test_a_line_as_long_as_the_message_costs_no_more_than_its_length():
    """16 MiB without a line end, in chunks: joined once, not once per chunk."""
    factory = application(FixedHost)()
    _, line = talk(factory, TRANSACTION + b"\r\n")
    chunk = b"x" * 16384
    start = time.process_time()
    for _ in range(1024):
        line.session.dataReceived(chunk)
    assert line.ask(b"\r\n.\r\n").startswith(b"250 2.0.0")
    assert time.process_time() - start < 1.5
    assert len(factory.delivery.messages[0].lines[-1]) == 16 * 1024 * 1024
