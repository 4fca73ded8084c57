"""AUTH (RFC 4954): PLAIN and LOGIN inside TLS, against any cred portal."""

from __future__ import annotations

import base64
from typing import Any

from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import maybeDeferred
from twisted.python.failure import Failure

from requiretls_mta.message import reply
from requiretls_mta.message.reply import Reply
from requiretls_mta.smtp._stock import IMessageDelivery, IMessageDeliveryFactory
from requiretls_mta.smtp.octets import Mode, OctetSession


class AuthBusyError(Exception):
    """Raised by a checker that has too much to do now; answered 454 4.7.0."""


class AuthSession(OctetSession):
    """The AUTH command and the lines of its exchange."""

    user: str | None = None
    """Who has authenticated."""
    mechanism = ""
    """How, in upper case; or how it was last tried."""
    challenger: Any = None

    def ext_AUTH(self, rest: bytes) -> None:
        """Begin an exchange, with or without an initial response."""
        words = rest.split()
        if "AUTH" not in self._offered:
            self.reply(reply.NOT_OFFERED)
            return
        if self.authenticated or self.in_transaction:
            self.reply(reply.BAD_SEQUENCE)
            return
        if not 1 <= len(words) <= 2:
            self.reply(reply.BAD_SYNTAX)
            return
        maker = self.challengers.get(words[0].upper())
        if maker is None:
            self.reply(reply.AUTH_MECHANISM)
            return
        self.challenger, self.mechanism = maker(), words[0].upper().decode("ascii", "replace")
        self._mode = Mode.AUTH
        if len(words) == 1:
            self._challenge()
            return
        self.challenger.getChallenge()  # the initial response answers it
        # RFC 4954 4: "=" stands for an empty initial response.
        self.auth_line(b"" if words[1] == b"=" else words[1])

    @property
    def in_transaction(self) -> bool:
        """Whether a MAIL has been accepted."""
        raise NotImplementedError

    def auth_line(self, line: bytes) -> None:
        """The client's answer to a challenge."""
        challenger = self.challenger
        if line == b"*":
            self._auth_over(reply.AUTH_ABORTED)
            return
        try:
            challenger.setResponse(base64.b64decode(line, validate=True))
            more = challenger.moreChallenges()
        except UnauthorizedLogin:
            self._auth_over(reply.BAD_CREDENTIALS)
            return
        except Exception as error:
            # What a mechanism raises for a malformed response is its own affair; never its text, that may be secret.
            self._log.debug("malformed AUTH response: {error}", error=type(error).__name__, session=self.id)
            self._auth_over(reply.AUTH_SYNTAX)
            return
        if more:
            self._challenge()
            return
        if self.portal is None:
            self._auth_over(reply.AUTH_UNAVAILABLE)
            return
        login = maybeDeferred(self.portal.login, challenger, None, IMessageDeliveryFactory, IMessageDelivery)
        login.addCallback(self._logged_in).addErrback(self._not_logged_in)

    def _challenge(self) -> None:
        text = base64.b64encode(self.challenger.getChallenge()).decode("ascii")
        self.reply(Reply(334, None, text))

    def _logged_in(self, login: tuple[Any, Any, Any]) -> None:
        if self._closing:  # the client left while the checker was thinking
            login[2]()
            return
        name = getattr(self.challenger, "username", None)
        self._cbAuthenticated(login)  # keeps the avatar as delivery, marks the session
        self.user = name.decode("utf-8", "replace") if isinstance(name, bytes) else name or ""
        self._auth_over(reply.AUTH_OK)

    def _not_logged_in(self, failure: Failure) -> None:
        if failure.check(UnauthorizedLogin):
            # One text for a wrong password and for an unknown user.
            self._auth_over(reply.BAD_CREDENTIALS)
        elif failure.check(AuthBusyError):
            self._auth_over(reply.AUTH_UNAVAILABLE)
        else:
            self._log.failure("a login failed for a reason of its own", failure, session=self.id)
            self._auth_over(reply.AUTH_UNAVAILABLE)

    def _auth_over(self, answer: Reply) -> None:
        self.challenger = None
        self._mode = Mode.COMMAND
        if answer.is_permanent:  # whoever tries passwords is to be seen in the log
            self.refuse(answer)
        else:
            self.reply(answer)

    def refuse(self, answer: Reply, **fields: str) -> None:
        """Answer no, and say so to whoever keeps the log."""
        raise NotImplementedError
