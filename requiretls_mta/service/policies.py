"""One generation of policies: what a configuration means to each station, swapped as a whole at reload."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from requiretls_mta.checks.dnswl_rules import ListSettings, patterns
from requiretls_mta.checks.spf import SPFSettings
from requiretls_mta.delivery.maildir import MaildirSettings
from requiretls_mta.message.addresses_file import read_addresses
from requiretls_mta.message.glob import glob
from requiretls_mta.message.profile import Profile
from requiretls_mta.receive.lists import read_list
from requiretls_mta.receive.rates import Rate
from requiretls_mta.receive.recipients import MOST_KNOWN
from requiretls_mta.receive.rules import Rule, address_pattern, header_pattern
from requiretls_mta.receive.senders import EVERYBODY_ELSE, Grant
from requiretls_mta.receive.settings import Settings as ReceiveSettings
from requiretls_mta.receive.signing_keys import SigningKey, read_key
from requiretls_mta.relay.lookup import LookupSettings
from requiretls_mta.relay.retry import RetrySettings
from requiretls_mta.relay.settings import RelaySettings, ScheduleSettings
from requiretls_mta.relay.static_routes import StaticRoute, parse_route
from requiretls_mta.report.dsn import ReportSettings
from requiretls_mta.service import config_sections as sections
from requiretls_mta.service.config import Config
from requiretls_mta.service.config_errors import dotted
from requiretls_mta.service.config_sections import DNSWL, RECIPIENT_WORDS
from requiretls_mta.service.config_types import read_rate
from requiretls_mta.service.own_addresses import OwnAddresses
from requiretls_mta.smtp.login import Login
from requiretls_mta.smtp.settings import SessionSettings
from requiretls_mta.tls.client import client_context
from requiretls_mta.tls.policy import Policies as Levels


@attrs.frozen(kw_only=True)
class Policies:
    """What every station goes by."""

    config: Config
    generation: int
    receive: ReceiveSettings
    lookup: LookupSettings
    levels: Levels
    schedule: ScheduleSettings
    reports: ReportSettings
    maildir: MaildirSettings | None
    checks: Mapping[str, Any]
    """The settings of each check, by its name."""


def policies(config: Config, generation: int = 0) -> Policies:
    """The policies of a checked configuration; whose lists and recipients are in files, `with_files` adds."""
    requiretls, relay = config.requiretls, config.relay
    return Policies(
        config=config,
        generation=generation,
        receive=ReceiveSettings(
            hostname=config.hostname,
            authserv_id=config.authserv_id,
            local_domains=frozenset(config.domains.local),
            relay_domains=frozenset(config.domains.relay),
            relay_from=config.access.relay_from,
            aliases={str(key): tuple(targets) for key, targets in config.aliases.items()},
            recipient_delimiter=config.delivery.recipient_delimiter,
            # Behind LMTP there is a mailbox server, which can do more with the detail than we.
            strips_detail=bool(config.delivery.recipient_delimiter and config.delivery.maildir),
            callout=config.delivery.recipients in ("callout", "plugin"),
            rules=tuple(_rule(index, entry) for index, entry in enumerate(requiretls.rule)),
            honor_header=requiretls.honor_header,
            senders=tuple(_grant(user, addresses) for user, addresses in config.access.senders.items()),
            messages_per_user=_rate(config.limits.messages_per_user),
            recipients_per_user=_rate(config.limits.recipients_per_user),
            messages_per_client=_rate(config.limits.messages_per_client),
            received_hops=config.limits.received_hops,
        ),
        lookup=LookupSettings(
            port=relay.port,
            static=_static(config),
            own_names=frozenset({config.hostname, *relay.own_names}),
            own_addresses=_own_addresses(config),
            dane=config.dane.enabled,
            testing_vouches=config.requiretls.mta_sts_testing,
        ),
        levels=_levels(config),
        schedule=ScheduleSettings(
            retry=RetrySettings(
                pauses=relay.retry,
                lifetime=relay.lifetime,
                bounce_lifetime=relay.bounce_lifetime,
                tagged_lifetime=requiretls.lifetime,
                delay_warning=relay.delay_warning,
            )
        ),
        reports=ReportSettings(hostname=config.hostname, bounce=requiretls.bounce, profile=Profile(requiretls.profile)),
        maildir=MaildirSettings(config.delivery.maildir, config.hostname) if config.delivery.maildir else None,
        checks={
            "dnswl": tuple(map(list_settings, config.dnswl)),
            "iprev": config.iprev.enabled or None,
            "spf": _spf(config),
            "dkim": config.dkim.verify or None,
            "arc": config.dkim.verify or None,
            "dmarc": _dmarc(config),
        },
    )


def with_files(found: Policies) -> Policies:
    """The policies with what stands in files: members of lists, recipients that exist, keys to sign with.

    Raises `message.addresses_file.AddressesError`, `receive.signing_keys.SigningKeyError` or `OSError`.
    """
    config = found.config
    lists = {
        entry.address.key: read_list(
            entry.address, entry.owner, entry.members_file, inherit=entry.requiretls == "inherit"
        )
        for entry in config.lists
    }
    recipients = None
    if config.delivery.recipients not in RECIPIENT_WORDS:
        known = read_addresses(Path(config.delivery.recipients), most=MOST_KNOWN)
        recipients = frozenset(address.key for address in known)
    signing: dict[str, tuple[SigningKey, ...]] = {}
    for sign in config.dkim.sign:
        signing[sign.domain] = (*signing.get(sign.domain, ()), read_key(sign.domain, sign.selector, sign.key))
    receive = attrs.evolve(found.receive, lists=lists, recipients=recipients, signing=signing)
    return attrs.evolve(found, receive=receive)


def _grant(user: str, addresses: Sequence[str]) -> Grant:
    return Grant(None if user == EVERYBODY_ELSE else glob(user), tuple(addresses))


def _rate(text: str) -> Rate | None:
    return read_rate(text) if text else None


def _rule(index: int, entry: sections.Rule) -> Rule:
    return Rule(
        name=dotted(("requiretls", "rule", index)),
        require=entry.require,
        floor=entry.floor,
        sender=None if entry.sender is None else address_pattern(entry.sender),
        recipient=None if entry.recipient is None else address_pattern(entry.recipient),
        header=None if entry.header is None else header_pattern(entry.header),
        user=None if entry.user is None else glob(entry.user),
        listener=entry.listener,
    )


def _dmarc(config: Config) -> str | None:
    """Without SPF or DKIM there is nothing to draw a conclusion from."""
    is_possible = config.spf.action != "off" and config.dkim.verify
    return config.dmarc.action if is_possible and config.dmarc.action != "off" else None


def _spf(config: Config) -> SPFSettings | None:
    if config.spf.action == "off":
        return None
    return SPFSettings(action=config.spf.action, receiver=config.authserv_id)


def list_settings(entry: DNSWL) -> ListSettings:
    """What a `[[dnswl]]` table means to the check."""
    return ListSettings(
        zone=entry.zone,
        display_zone=entry.display_zone,
        accept=patterns(entry.accept),
        errors=patterns(entry.errors),
        selftest=entry.selftest,
        txt=entry.txt,
        override_spf=patterns(entry.override_spf),
        report_none=entry.report_none,
    )


def relay_settings(config: Config, generation: int = 0) -> RelaySettings:
    """How outgoing sessions behave; reads trusted roots and passwords, raises `tls.client.TrustError` or `OSError`."""
    relay = config.relay
    return RelaySettings(
        hostname=config.hostname,
        context=client_context(relay.trust),
        levels=_levels(config),
        profile=Profile(config.requiretls.profile),
        idle=relay.idle,
        logins={
            str(host): Login(login.user, login.password_file.read_bytes().partition(b"\n")[0].removesuffix(b"\r"))
            for host, login in relay.auth.items()
        },
        source_ipv4=relay.source_ipv4,
        source_ipv6=relay.source_ipv6,
        generation=generation,
    )


def _levels(config: Config) -> Levels:
    return Levels(config.requiretls.default, {str(key): level for key, level in config.requiretls.policy.items()})


def session_settings(config: Config, name: str) -> SessionSettings:
    """How the sessions of the listener `name` behave."""
    listen = config.listen[name]
    return SessionSettings(
        hostname=config.hostname,
        service=listen.service,
        require_tls=listen.require_tls,
        require_auth=listen.service.startswith("submission") and not listen.trusted,
        requiretls=config.requiretls.enabled,
        timeout=listen.timeout,
        message_size=config.limits.message_size,
        headers_size=config.limits.headers_size,
        max_recipients=listen.max_recipients,
        max_errors=listen.max_errors,
        max_connections=listen.max_connections,
        max_connections_per_client=listen.max_connections_per_client,
    )


def _static(config: Config) -> dict[str, StaticRoute]:
    routes: dict[str, StaticRoute] = {key: parse_route(text) for key, text in config.relay.routes.items()}
    if config.delivery.lmtp:
        local = _lmtp(config.delivery.lmtp)
        routes |= dict.fromkeys(config.domains.local, local)
    return routes


def _lmtp(text: str) -> StaticRoute:
    """`unix:/path` or `tcp:host:port` of `[delivery]`."""
    if text.startswith("unix:"):
        return parse_route(f"lmtp:{text}")
    host, _, port = text.removeprefix("tcp:").rpartition(":")
    route = parse_route(f"lmtp:[{host.strip('[]')}]:{port}")
    try:
        local = ipaddress.ip_address(route.host).is_loopback
    except ValueError:
        local = route.host == "localhost"
    return attrs.evolve(route, local=local)


def _own_addresses(config: Config) -> OwnAddresses:
    bound, ports = set(), set()
    for listen in config.listen.values():
        for endpoint in listen.endpoint:
            if not endpoint.port:
                continue
            address = ipaddress.ip_address(endpoint.interface.partition("%")[0] or "::")
            if address.is_unspecified:
                ports.add(endpoint.port)
            else:
                bound.add((str(address), endpoint.port))
    return OwnAddresses(frozenset(bound), frozenset(ports))
