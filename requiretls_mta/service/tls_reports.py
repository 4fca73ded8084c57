"""TLS reports put together: what the configuration says, the resolver for records, HTTPS with the relay's roots."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred

from requiretls_mta.dns.answer import Answer, Resolver
from requiretls_mta.message.address import parse_mailbox
from requiretls_mta.message.ports import Events
from requiretls_mta.message.profile import Profile
from requiretls_mta.message.stored import Message
from requiretls_mta.report.ledger import Ledger
from requiretls_mta.report.tlsrpt import Lookup, TLSReports, TLSReportSettings
from requiretls_mta.report.tlsrpt_post import Poster
from requiretls_mta.report.tlsrpt_store import SCHEMA, ledger_path
from requiretls_mta.service.config import Config
from requiretls_mta.tls.https import HTTPS


def tls_reports(
    reactor: Any,
    config: Config,
    *,
    resolver: Resolver,
    context: Callable[[], SSL.Context],
    admit: Callable[[Message], Awaitable[None]],
    new_id: Callable[[], str],
    wall: Callable[[], float],
    events: Events,
) -> TLSReports:
    """The reports of a service that is to send some; `context` has the trusted roots."""
    settings = TLSReportSettings(
        hostname=config.hostname,
        contact=parse_mailbox(config.tlsrpt.contact.removeprefix("mailto:")),
        profile=Profile(config.requiretls.profile),
    )
    return TLSReports(
        reactor,
        Ledger(reactor, ledger_path(config.state), SCHEMA),
        settings=settings,
        lookup=_texts(resolver),
        post=Poster(reactor, HTTPS(reactor, resolver, context)),
        admit=admit,
        new_id=new_id,
        wall=wall,
        events=events,
    )


def _texts(resolver: Resolver) -> Lookup:
    def look_up(name: str) -> Deferred[Sequence[bytes] | None]:
        return resolver.resolve(name, "TXT").addCallback(_strings)

    return look_up


def _strings(answer: Answer) -> Sequence[bytes] | None:
    """RFC 8460 3: the strings of a record are joined without anything between them."""
    if answer.is_failure:
        return None
    records: Any = answer.records
    return [b"".join(record.strings) for record in records]
