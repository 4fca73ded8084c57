"""AUTH: who may ask for it, what each exchange answers, and that no secret is told to anybody."""

import base64

import pytest
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred
from twisted.mail.imap4 import LOGINCredentials
from twisted.mail.smtp import IMessageDelivery
from zope.interface import implementer

from requiretls_mta.message import reply
from requiretls_mta.smtp.auth import AuthBusyError
from requiretls_mta.smtp.credentials import PlainCredentials
from requiretls_mta.tls.facts import ServerTLS
from tests.smtp.memory import Memory

TLS = ServerTLS(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", bits=256)
MECHANISMS = {b"PLAIN": PlainCredentials, b"LOGIN": LOGINCredentials}


def b64(octets):
    return base64.b64encode(octets).decode()


GOOD = b64(b"\0ann\0secret")
BAD = b64(b"\0ann\0wrong")


@implementer(ICredentialsChecker)
class Checker:
    """Knows ann; is busy, broken or slow on demand."""

    credentialInterfaces = (IUsernamePassword,)
    trouble = None

    def requestAvatarId(self, credentials):
        if isinstance(self.trouble, Exception):
            raise self.trouble
        if self.trouble is not None:
            return self.trouble
        if (credentials.username, credentials.password) != (b"ann", b"secret"):
            raise UnauthorizedLogin
        return b"ann"


@implementer(IRealm)
class Realm:
    def __init__(self):
        self.logged_out = 0
        self.avatar_ids = []

    def requestAvatar(self, avatar_id, mind, *interfaces):
        self.avatar_ids.append(avatar_id)
        return IMessageDelivery, None, self.log_out

    def log_out(self):
        self.logged_out += 1


class Desk:
    """A submission listener and a line inside TLS."""

    def __init__(self, **options):
        self.checker, self.realm = Checker(), Realm()
        settings = {"service": "submission", "require_auth": True, **options.pop("settings", {})}
        options.setdefault("challengers", MECHANISMS)
        self.memory = Memory(portal=Portal(self.realm, [self.checker]), settings=settings, **options)
        self.line = self.memory.connect()
        self.line.session.startedTLS, self.line.session.tls = True, TLS
        self.line.said()
        self.ehlo = self.ask("EHLO x.example")

    def ask(self, command):
        return self.line.ask(command + "\r\n").decode().removesuffix("\r\n")


def test_it_is_offered_inside_tls_where_it_is_configured():
    """Never in the clear, never without challengers, never after HELO; there it is 502 5.5.1."""
    assert "AUTH PLAIN LOGIN" in Desk().ehlo
    without = Desk(challengers=None)
    assert "AUTH" not in without.ehlo
    assert without.ask(f"AUTH PLAIN {GOOD}")[:9] == "502 5.5.1"
    clear = Desk()
    clear.line.session.startedTLS, clear.line.session.tls = False, None
    assert "AUTH" not in clear.ask("EHLO x.example")
    assert clear.ask(f"AUTH PLAIN {GOOD}")[:9] == "502 5.5.1"
    helo = Desk()
    helo.ask("HELO x.example")
    assert helo.ask(f"AUTH PLAIN {GOOD}")[:9] == "502 5.5.1"


@pytest.mark.parametrize(
    "dialogue",
    [
        [f"AUTH PLAIN {GOOD}"],
        [f"auth plain {GOOD}"],
        ["AUTH PLAIN", GOOD],
        [f"AUTH PLAIN {b64(b'ann' + bytes([0]) + b'ann' + bytes([0]) + b'secret')}"],
        ["AUTH LOGIN", b64(b"ann"), b64(b"secret")],
        [f"AUTH LOGIN {b64(b'ann')}", b64(b"secret")],
    ],
)
def test_a_login(dialogue):
    """With and without initial response; who and how is in the session of the mail that follows, the A in its protocol.

    The name is the one that an application's own portal made its avatar of.
    """
    desk = Desk()
    assert desk.ask("MAIL FROM:<ann@b.example>")[:9] == "530 5.7.0"
    *challenges, last = [desk.ask(line) for line in dialogue]
    assert all(challenge.startswith("334 ") for challenge in challenges)
    assert last == "235 2.7.0 Authentication successful"
    assert desk.ask("MAIL FROM:<ann@b.example>")[:9] == "250 2.1.0"
    session = desk.memory.answers.begun[0].session
    assert (session.user, session.protocol) == ("ann", "ESMTPSA")
    assert session.mechanism == dialogue[0].split()[1].upper()
    assert desk.realm.avatar_ids == [session.user.encode()]


@pytest.mark.parametrize(
    ("dialogue", "code"),
    [
        (["AUTH"], "501 5.5.4"),
        ([f"AUTH PLAIN {GOOD} x"], "501 5.5.4"),
        (["AUTH CRAM-MD5"], "504 5.5.4"),
        (["AUTH PLAIN", "*"], "501 5.7.0"),
        (["AUTH PLAIN *"], "501 5.7.0"),
        (["AUTH LOGIN", b64(b"ann"), "*"], "501 5.7.0"),
        (["AUTH PLAIN !!!"], "501 5.5.2"),
        (["AUTH PLAIN", "A"], "501 5.5.2"),
        (["AUTH PLAIN", "\x00"], "501 5.5.2"),
        (["AUTH PLAIN ="], "501 5.5.2"),
        ([f"AUTH PLAIN {b64(b'ann')}"], "501 5.5.2"),
        ([f"AUTH PLAIN {BAD}"], "535 5.7.8"),
        ([f"AUTH PLAIN {b64(bytes([0]) + b'nobody' + bytes([0]) + b'secret')}"], "535 5.7.8"),
        ([f"AUTH PLAIN {b64(b'root' + bytes([0]) + b'ann' + bytes([0]) + b'secret')}"], "535 5.7.8"),
        (["AUTH LOGIN =", b64(b"secret")], "535 5.7.8"),
        (["AUTH LOGIN", "", ""], "535 5.7.8"),
        (["AUTH PLAIN " + "A" * 496], "501 5.5.2"),
        (["AUTH PLAIN " + "A" * 500], "500 5.5.2"),
        ([f"AUTH PLAIN {b64(b'x' * 9000)}"], "500 5.5.2"),
        (["AUTH PLAIN", "A" * 12284], "501 5.5.2"),
        (["AUTH PLAIN", "A" * 12288], "500 5.5.2"),
    ],
)
def test_no_login(dialogue, code):
    """The session goes on, and nobody is logged in."""
    desk = Desk()
    answers = [desk.ask(line) for line in dialogue]
    assert answers[-1][:9] == code, answers
    assert desk.ask("NOOP")[:9] == "250 2.0.0"
    assert desk.ask("MAIL FROM:<ann@b.example>")[:9] == "530 5.7.0"


def test_the_reply_does_not_tell_who_exists():
    """One text for a wrong password and an unknown user."""
    desk = Desk()
    unknown = b64(b"\0nobody\0secret")
    assert desk.ask(f"AUTH PLAIN {BAD}") == desk.ask(f"AUTH PLAIN {unknown}") == str(reply.BAD_CREDENTIALS)


@pytest.mark.parametrize("trouble", [AuthBusyError(), RuntimeError("the users file is gone")])
def test_a_checker_in_trouble(trouble):
    """454 4.7.0: the password may well be right."""
    desk = Desk()
    desk.checker.trouble = trouble
    assert desk.ask(f"AUTH PLAIN {GOOD}")[:9] == "454 4.7.0"
    desk.checker.trouble = None
    assert desk.ask(f"AUTH PLAIN {GOOD}")[:9] == "235 2.7.0"


def test_once_and_not_in_a_transaction():
    """503 5.5.1."""
    desk = Desk(settings={"require_auth": False})
    desk.ask("MAIL FROM:<ann@b.example>")
    assert desk.ask(f"AUTH PLAIN {GOOD}")[:9] == "503 5.5.1"
    desk.ask("RSET")
    desk.ask(f"AUTH PLAIN {GOOD}")
    assert desk.ask(f"AUTH PLAIN {GOOD}")[:9] == "503 5.5.1"


def test_what_is_pipelined_waits_for_the_checker():
    """Mail behind AUTH is not refused because the password is still being checked."""
    desk = Desk()
    desk.checker.trouble = slow = Deferred()
    assert desk.ask(f"AUTH PLAIN {GOOD}\r\nMAIL FROM:<ann@b.example>") == ""
    slow.callback(b"ann")
    assert [line[:3] for line in desk.line.said().split(b"\r\n")] == [b"235", b"250", b""]


def test_a_login_that_comes_too_late_is_logged_out():
    """The client left while the checker was thinking: the avatar must not stay."""
    desk = Desk()
    desk.checker.trouble = slow = Deferred()
    desk.ask(f"AUTH PLAIN {GOOD}")
    desk.line.transport.loseConnection()
    slow.callback(b"ann")
    assert desk.realm.logged_out == 1


def test_a_login_ends_with_the_session():
    """Once."""
    desk = Desk()
    desk.ask(f"AUTH PLAIN {GOOD}")
    desk.line.transport.loseConnection()
    assert desk.realm.logged_out == 1


def test_failed_logins_are_errors():
    """max_errors ends guessing, and the log shows who guessed."""
    desk = Desk(settings={"max_errors": 3})
    desk.ask(f"AUTH PLAIN {BAD}")
    desk.ask(f"AUTH PLAIN {BAD}")
    assert desk.ask(f"AUTH PLAIN {BAD}")[:9] == "421 4.7.0"
    assert not desk.line.is_open
    rejected = desk.memory.events.of("rejected")
    assert [(r["client"], r["reply"][:9]) for r in rejected] == [("192.0.2.1", "535 5.7.8")] * 3


def test_auth_of_mail_is_checked_where_auth_is_offered():
    """RFC 4954 5: the parameter is known, and nobody is believed."""
    desk = Desk()
    desk.ask(f"AUTH PLAIN {GOOD}")
    assert desk.ask("MAIL FROM:<ann@b.example> AUTH=bob@b.example")[:9] == "250 2.1.0"
    assert desk.memory.answers.begun[0].session.user == "ann"
    desk.ask("RSET")
    assert desk.ask("MAIL FROM:<ann@b.example> AUTH=")[:9] == "501 5.5.4"


def test_no_secret_is_told():
    """Neither events nor replies hold a password or a response."""
    desk = Desk()
    said = "".join(desk.ask(f"AUTH PLAIN {text}") for text in (BAD, GOOD))
    told = said + repr(desk.memory.events.told)
    assert not any(secret in told for secret in ("secret", "wrong", GOOD, BAD))
