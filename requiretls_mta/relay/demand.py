"""What a message asks of every host, and its way out for the length of one attempt."""

from __future__ import annotations

import attrs

from requiretls_mta.message.envelope import Recipient
from requiretls_mta.message.stored import Message
from requiretls_mta.relay.dial import Line
from requiretls_mta.relay.route import Host
from requiretls_mta.relay.settings import RelaySettings
from requiretls_mta.relay.visits import Visits
from requiretls_mta.tls.elements import DANE, STS, Facts, MXSecurity, Proved, Requirement
from requiretls_mta.tls.judge import Row, judge
from requiretls_mta.tls.policy import Level


@attrs.frozen(kw_only=True)
class Demand:
    """How strictly a message is held to what."""

    requirement: Requirement
    level: Level = Level.ENFORCE
    local: bool = False
    """Delivery on this machine (RFC 8689 4.4), of which nothing is asked."""

    @property
    def needs_tls(self) -> bool:
        """Whether the message stays here rather than go without TLS."""
        strict = self.level in (Level.ENFORCE, Level.OPPORTUNISTIC_STARTTLS)
        return self.requirement is Requirement.REQUIRED and strict and not self.local

    @property
    def heeds_policies(self) -> bool:
        """Whether the will of the recipient's domain counts (RFC 8689 4.2.2: not where TLS is optional)."""
        return self.requirement is not Requirement.OPTIONAL and not self.local

    def judge(self, host: Host, line: Line | None = None) -> Row:
        """The row that decides about a host, before the connection or with a session to it."""
        return self._judge(host, host.tlsa.state, line, line.proves(host) if line else None)

    def waives(self, host: Host, line: Line) -> Row | None:
        """The row by which RFC 8689 alone would have kept a tagged message from this session; None: it would not."""
        if self.requirement is not Requirement.REQUIRED or self.local:
            return None
        if host.sts is STS.VOUCHES:
            host = attrs.evolve(
                host,
                sts=STS.NONE,
                mx_security=MXSecurity.NONE if host.mx_security is MXSecurity.MTA_STS else host.mx_security,
            )
        row = attrs.evolve(self, level=Level.ENFORCE).judge(host, line)
        return None if row.lets_through else row

    def rules_out(self, host: Host) -> Row | None:
        """The row by which a host is out, whatever TLSA records it may have; None: they have to be looked at."""
        row = self._judge(host, DANE.USABLE)
        return None if self.local or row.lets_through else row

    def _judge(self, host: Host, dane: DANE, line: Line | None = None, proved: Proved | None = None) -> Row:
        return judge(
            Facts(
                requirement=self.requirement,
                level=self.level,
                mx_security=host.mx_security,
                dane=dane,
                sts=host.sts,
                tls=line.tls if line else None,
                proof=proved.proof if proved else None,
                keyword=line.keyword if line else False,
            )
        )


@attrs.frozen(kw_only=True)
class Sending:
    """One message on its way to recipients of one route."""

    message: Message
    recipients: tuple[Recipient, ...]
    demand: Demand
    settings: RelaySettings
    attempt: str
    """The attempt's name, in all that the log says of it."""
    visits: Visits
    """For the trace."""
