"""`send_mail`: one message to its MX hosts, under a TLS requirement, without a queue."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from requiretls_mta.dns.answer import Resolver
from requiretls_mta.message.address import ascii_domain, parse_mailbox
from requiretls_mta.message.content import ContentScanner
from requiretls_mta.message.envelope import Envelope, Recipient, Tag
from requiretls_mta.message.outcome import Outcome
from requiretls_mta.message.ports import NoEvents
from requiretls_mta.message.stored import BytesBody, Message
from requiretls_mta.relay.lookup import LookupSettings, RouteFinder
from requiretls_mta.relay.manager import RelayManager
from requiretls_mta.relay.route import PolicyFinder
from requiretls_mta.relay.settings import RelaySettings
from requiretls_mta.tls.client import client_context


def send_mail(
    reactor: Any,
    resolver: Resolver,
    sender: str | None,
    recipients: Iterable[str],
    message: bytes,
    *,
    tag: Tag | None = None,
    hostname: str | None = None,
    trust: str = "system",
    port: int = 25,
    policies: PolicyFinder | None = None,
) -> Deferred[list[Outcome]]:
    """Try once to send `message` (CRLF line ends) to the MX hosts of its recipients; one outcome each, in their order.

    `tag` is `Tag.REQUIRED` for REQUIRETLS (RFC 8689 4.2.1), `Tag.OPTIONAL` for `TLS-Required: No`. `trust`
    is `system` or a PEM bundle of roots. MTA-STS counts only if `policies` are given, such as `relay.sts.STSPolicies`,
    which remember from call to call. Raises `AddressError` for an address that is none, `ValueError` for a message
    with a bare CR or LF; failures of the way are outcomes.
    """
    if message.count(b"\r\n") != message.count(b"\n") or message.count(b"\r") != message.count(b"\n"):
        raise ValueError("the message has a bare CR or LF; its lines must end with CRLF")
    to = tuple(Recipient(parse_mailbox(address, utf8=True)) for address in recipients)
    from_ = parse_mailbox(sender, utf8=True) if sender else None
    scanner = ContentScanner(len(message))
    scanner.feed(message)
    content = scanner.finish()
    addresses = [recipient.address for recipient in to] + ([from_] if from_ else [])
    whole = Message(
        id="",
        envelope=Envelope(
            sender=from_,
            recipients=to,
            tag=tag,
            body="8BITMIME" if content.eight_bit_body or content.eight_bit_header else None,
            smtputf8=content.eight_bit_header or not all(address.is_ascii for address in addresses),
        ),
        body=BytesBody(message),
        content=content,
    )
    settings = RelaySettings(hostname=hostname or socket.gethostname(), context=client_context(trust), idle=0.0)
    finder = RouteFinder(resolver, lambda: LookupSettings(port=port), policies=policies)
    manager = RelayManager(reactor, finder=finder, settings=lambda: settings, events=NoEvents())
    groups: dict[str, list[Recipient]] = {}
    for recipient in to:
        groups.setdefault(ascii_domain(recipient.address.domain), []).append(recipient)
    attempts = gatherResults([manager.deliver(whole, group) for group in groups.values()], consumeErrors=True)
    return attempts.addCallback(lambda found: _in_order(to, found))


def _in_order(recipients: Iterable[Recipient], found: Iterable[list[Outcome]]) -> list[Outcome]:
    outcomes = {id(outcome.recipient): outcome for group in found for outcome in group}
    return [outcomes[id(recipient)] for recipient in recipients]
