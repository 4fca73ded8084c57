"""Providers that want to know us: who logs in, how, and where the password never goes."""

import base64

import attrs
from twisted.internet.defer import inlineCallbacks

from requiretls_mta.message.outcome import Deferred as Postponed
from requiretls_mta.message.outcome import Delivered, Step
from requiretls_mta.relay.static_routes import parse_route
from requiretls_mta.smtp.login import Login
from tests.relay.walking import Walking, message
from tests.smtp.fake_mx import GOOD

PASSWORD = b"open sesame"
PLAIN = base64.b64encode(b"\0us\0" + PASSWORD)


class Logins(Walking):
    """A smarthost that has a login."""

    def setUp(self):
        super().setUp()
        self.lookup = attrs.evolve(self.lookup, static={"*": parse_route(f"smtp:[mx1.there.test]:{self.number}")})
        self.settings = attrs.evolve(self.settings, logins={"mx1.there.test": Login("us", PASSWORD)})

    @inlineCallbacks
    def test_once_per_session(self):
        """PLAIN with the response in the command, before MAIL, and not again on the kept session."""
        first = self.mx(inside=(*GOOD, "REQUIRETLS", "AUTH LOGIN PLAIN"))
        for _ in range(2):
            assert isinstance((yield self.one(message(), approved=[first])), Delivered)
        assert first.tls.count(b"AUTH PLAIN " + PLAIN + b"\r\n") == 1
        assert first.tls.index(b"AUTH") < first.tls.index(b"MAIL") and first.connections == 1
        assert b"AUTH" not in first.clear

    @inlineCallbacks
    def test_login_by_prompts(self):
        """Where PLAIN is not offered."""
        prompts = ("334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6", "235 ok")
        first = self.mx(inside=(*GOOD, "REQUIRETLS", "AUTH LOGIN"), replies={"AUTH": prompts})
        assert isinstance((yield self.one(message(), approved=[first])), Delivered)
        assert b"AUTH LOGIN\r\ndXM=\r\n" + base64.b64encode(PASSWORD) + b"\r\n" in first.tls

    @inlineCallbacks
    def test_a_long_password_waits_to_be_asked_for(self):
        """No command line is longer than RFC 5321 allows."""
        login = Login("us", b"x" * 500)
        self.settings = attrs.evolve(self.settings, logins={"mx1.there.test": login})
        first = self.mx(inside=("REQUIRETLS", "AUTH PLAIN"), replies={"AUTH": ("334 ", "235 ok")})
        assert isinstance((yield self.one(message(), approved=[first])), Delivered)
        assert b"AUTH PLAIN\r\n" in first.tls

    @inlineCallbacks
    def test_the_password_goes_to_nobody_unknown(self):
        """Neither in the clear, nor to another's certificate, whatever the message asks for: deferred."""
        for options in (
            {"clear": (*GOOD, "AUTH PLAIN")},
            {"files": self.other.host("mx1.there.test")},
            {"files": self.good[1]},
            {"break_handshake": True, "clear": ("STARTTLS", "AUTH PLAIN")},
        ):
            first = self.mx(inside=(*GOOD, "AUTH PLAIN"), **options)
            got = yield self.one(message(None))
            assert isinstance(got, Postponed) and got.causes[0].step is Step.AUTHENTICATE, (options, got)
            assert b"AUTH" not in first.clear + first.tls and first.messages == []
            self.drop(first)

    @inlineCallbacks
    def test_a_login_refused_keeps_the_mail(self):
        """535, no mechanism, or a session that ends over it: for the operator to mend, not for the sender."""
        for options in (
            {"inside": ("AUTH PLAIN",), "replies": {"AUTH": ("535 5.7.8 no",)}},
            {"inside": ("AUTH GSSAPI",)},
            {"inside": ("AUTH PLAIN",), "close": "AUTH"},
        ):
            first = self.mx(**options)
            got = yield self.one(message(None))
            assert isinstance(got, Postponed), (options, got)
            assert first.messages == [] and PASSWORD.decode() not in str(got)
            self.drop(first)
