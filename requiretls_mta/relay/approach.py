"""The way to a host, up to where MAIL would be said: what every attempt goes through, and what `explain` shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from requiretls_mta.message.outcome import Cause
from requiretls_mta.relay.demand import Demand
from requiretls_mta.relay.dial import Connect, Line, dial
from requiretls_mta.relay.lookup import RouteFinder
from requiretls_mta.relay.outcomes import judged
from requiretls_mta.relay.route import Host, HostAddress
from requiretls_mta.relay.settings import RelaySettings
from requiretls_mta.smtp.transcript import Transcript
from requiretls_mta.tls.judge import Row


@attrs.frozen(kw_only=True)
class Located:
    """A host of which all is known that can be known before a connection."""

    host: Host
    """With its TLSA records, unless nobody heeds them or it is out without them."""
    addresses: tuple[HostAddress, ...] = ()
    row: Row | None = None
    """By which it is not even connected to; then there are no addresses."""


async def locate(finder: RouteFinder, demand: Demand, host: Host) -> Located | Cause:
    """Look a host up, as far as it takes to know whether it is to be connected to."""
    row = demand.rules_out(host)
    if row is not None:
        return Located(host=host, row=row)
    addresses = await finder.addresses(host)
    if isinstance(addresses, Cause):
        return addresses
    if demand.heeds_policies:
        host = attrs.evolve(host, tlsa=await finder.tlsa(host, addresses))
        row = demand.judge(host)
        if not row.lets_through:
            return Located(host=host, row=row)
    return Located(host=host, addresses=addresses)


async def reach(
    connect: Connect,
    clock: Any,
    host: Host,
    address: str,
    *,
    demand: Demand,
    settings: RelaySettings,
    met: Callable[[Line], None],
    transcript: Transcript | None = None,
) -> tuple[Line, Row] | Cause:
    """A session in which MAIL may be said, and the row that approved of it.

    `met` is told of the session in which TLS was to be had, whatever is then thought of it.
    """

    async def dialled(*, use_tls: bool) -> Line | Cause:
        helo = not demand.needs_tls
        return await dial(
            connect, clock, host, address, settings, use_tls=use_tls, use_helo=helo, transcript=transcript
        )

    line = await dialled(use_tls=not demand.local)
    if isinstance(line, Cause):
        return line
    row = demand.judge(host, line)
    if demand.local:
        return line, row
    met(line)
    if not row.lets_through:
        line.session.quit(settings.timeouts.quit)
        return judged(host, line, row)
    if not line.session.is_open:
        # The handshake came to nothing, and the message may do without (RFC 8689 4.2.2).
        if host.protocol == "smtps":
            # Only here nothing goes without; who did not ask for TLS is not refused for its lack.
            return attrs.evolve(judged(host, line, row), temporary=True)
        if transcript is not None:
            transcript.note("connecting again, for a session without TLS")
        again = await dialled(use_tls=False)
        return again if isinstance(again, Cause) else (again, row)
    return line, row
