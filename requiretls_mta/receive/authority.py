"""What the client of a transaction may do: relay, send as this or that address, and how often."""

from __future__ import annotations

import attrs

from requiretls_mta.message import reply
from requiretls_mta.message.address import Address
from requiretls_mta.message.reply import Reply
from requiretls_mta.message.shares import site_of
from requiretls_mta.receive.rates import Rate, Rates
from requiretls_mta.receive.senders import Right, right_of
from requiretls_mta.receive.settings import Settings
from requiretls_mta.smtp.interfaces import Session

_SUBMISSION = ("submission", "submissions")


@attrs.frozen(kw_only=True)
class Authority:
    """Taken at MAIL; it holds for the transaction."""

    submits: bool
    """Whether this is the first server on the message's way, so that RFC 6409 applies."""
    relays: bool
    """Whether mail is taken from the client for anywhere."""
    right: Right | None
    """None: to send as anybody."""
    _session: Session
    _settings: Settings
    _rates: Rates
    _counts_client: bool

    def mail(self, sender: Address | None) -> Reply | None:
        """Why MAIL is not taken; counts it otherwise, whatever becomes of the transaction."""
        if self._session.service in _SUBMISSION and not self.relays:
            return reply.AUTH_REQUIRED
        if self.right is not None and (refused := self.right.refusal(sender)) is not None:
            return refused
        rate = self._settings.messages_per_client
        if rate is not None and self._counts_client:
            client = site_of(self._session.peer.address)
            if not self._rates.take("messages from", client, rate):
                return _too_many("messages from this client", rate)
        return self._limit_of_user("messages", self._settings.messages_per_user)

    def rcpt(self) -> Reply | None:
        """Why this RCPT is not taken, whomever it names; counts it otherwise."""
        return self._limit_of_user("recipients", self._settings.recipients_per_user)

    def _limit_of_user(self, what: str, rate: Rate | None) -> Reply | None:
        user = self._session.user
        if rate is None or user is None or self._rates.take(what, user, rate):
            return None
        return _too_many(f"{what} from this user", rate)


def authority(session: Session, settings: Settings, rates: Rates, *, trusted: bool) -> Authority:
    """The client's authority; `trusted`: by its listener, whose clients are nobody's users."""
    peer, user = session.peer, session.user
    submits = session.service != "lmtp" and (user is not None or trusted)
    is_known = trusted or settings.may_relay(peer.address, via_proxy=peer.via_proxy)
    return Authority(
        submits=submits,
        relays=submits or (session.service == "mx" and is_known),
        right=right_of(user, settings.senders) if user is not None and not trusted else None,
        session=session,
        settings=settings,
        rates=rates,
        counts_client=not is_known and session.service != "lmtp",
    )


def _too_many(what: str, rate: Rate) -> Reply:
    return reply.TOO_OFTEN.with_text(f"Too many {what}, try again later; the limit is {rate.text}")
