"""The configuration as a tree of frozen values: one class per table, with the defaults that the documentation tells."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import attrs

from requiretls_mta.checks.dnswl_presets import preset
from requiretls_mta.message.address import Address
from requiretls_mta.service.config_types import (
    Addresses,
    AddressKey,
    AnswerPattern,
    Contact,
    Count,
    Domain,
    DomainPattern,
    Duration,
    DurationOrNone,
    Endpoints,
    File,
    FileOrWord,
    ListZone,
    Lmtp,
    Maildir,
    NameServer,
    Network,
    NextHop,
    Port,
    RateText,
    SenderPattern,
    Size,
    SourceIPv4,
    SourceIPv6,
    StoreURL,
    parse_answers,
    parse_network,
)
from requiretls_mta.service.endpoints import Endpoint
from requiretls_mta.tls.policy import Level

KIB, MIB = 1024, 1024 * 1024
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

Service = Literal["mx", "submission", "submissions", "lmtp"]


@attrs.frozen(kw_only=True)
class SNI:
    """`[[tls.sni]]`: another certificate for some names."""

    names: tuple[Domain, ...]
    certificate: File
    key: File


@attrs.frozen(kw_only=True)
class TLS:
    """`[tls]`: what this server presents."""

    certificate: File | None = None
    """None: a private CA and certificate are generated under `state`."""
    key: File | None = None
    minimum: Literal["1.2", "1.3"] = "1.2"
    sni: tuple[SNI, ...] = ()


@attrs.frozen(kw_only=True)
class Listen:
    """`[listen.NAME]`: one listener."""

    endpoint: Endpoints
    service: Service
    require_tls: bool = False
    trusted: bool = False
    max_connections: Count = Count(10_000)
    max_connections_per_client: Count = Count(1000)
    timeout: Duration = Duration(5 * MINUTE)
    max_recipients: Count = Count(1000)
    max_errors: Count = Count(20)
    proxies: tuple[Network, ...] = ()


@attrs.frozen(kw_only=True)
class Domains:
    """`[domains]`: whose mail is taken from anyone."""

    local: tuple[Domain, ...] = ()
    relay: tuple[Domain, ...] = ()


RECIPIENT_WORDS = ("any", "callout", "plugin")
"""How `delivery.recipients` says who exists, if not by a file."""


@attrs.frozen(kw_only=True)
class Delivery:
    """`[delivery]`: where mail for local domains goes."""

    maildir: Maildir | None = None
    """An absolute path in which `{domain}`, `{local}` and `{user}` may stand."""
    lmtp: Lmtp | None = None
    """`unix:/path` or `tcp:host:port`."""
    recipients: FileOrWord = attrs.field(default=FileOrWord("any"), metadata={"words": RECIPIENT_WORDS})
    """Those words, or the path of a file with one address a line."""
    recipient_delimiter: Literal["", "+", "-", "=", "_", "."] = ""
    """What parts `user` and `detail` in a local part."""


@attrs.frozen(kw_only=True)
class List:
    """`[[list]]`: a mailing list."""

    address: Address
    owner: Address
    members_file: File
    requiretls: Literal["inherit", "ignore"] = "inherit"


@attrs.frozen(kw_only=True)
class Access:
    """`[access]`: who may relay, and send as whom."""

    relay_from: tuple[Network, ...] = (parse_network("127.0.0.1"), parse_network("::1"))
    users: File = File(Path("/etc/requiretls-mta/users"))
    senders: Mapping[str, tuple[SenderPattern, ...]] = attrs.field(factory=dict)
    """Addresses by user; `*`, as a name, is everybody else. Empty: anybody may send as anybody."""


@attrs.frozen(kw_only=True)
class Limits:
    """`[limits]`: of messages, and of those who send them."""

    message_size: Size = Size(50 * MIB)
    headers_size: Size = Size(1 * MIB)
    received_hops: Count = Count(50)
    messages_per_user: RateText = RateText("")
    recipients_per_user: RateText = RateText("")
    messages_per_client: RateText = RateText("")


@attrs.frozen(kw_only=True)
class DNS:
    """`[dns]`: the stub resolver."""

    servers: tuple[NameServer, ...] = ()
    """(address, port) of each; empty: those of resolv.conf."""
    trust_ad: Literal["auto", "yes", "no"] = "auto"
    timeout: Duration = Duration(5.0)


@attrs.frozen(kw_only=True)
class Login:
    """`[relay.auth."host"]`: who we are to a provider."""

    user: str
    password_file: File


@attrs.frozen(kw_only=True)
class Relay:
    """`[relay]`: outgoing mail."""

    port: Port = Port(25)
    trust: FileOrWord = attrs.field(default=FileOrWord("system"), metadata={"words": ("system",)})
    """`system`, or the path of a PEM bundle."""
    retry: tuple[Duration, ...] = (
        Duration(1 * MINUTE),
        Duration(5 * MINUTE),
        Duration(15 * MINUTE),
        Duration(1 * HOUR),
        Duration(4 * HOUR),
    )
    lifetime: Duration = Duration(5 * DAY)
    bounce_lifetime: Duration = Duration(1 * DAY)
    delay_warning: Duration = Duration(4 * HOUR)
    connections_per_destination: Count = Count(20)
    idle: Duration = Duration(5.0)
    source_ipv4: SourceIPv4 = SourceIPv4("")
    source_ipv6: SourceIPv6 = SourceIPv6("")
    own_names: tuple[Domain, ...] = ()
    auth: Mapping[Domain, Login] = attrs.field(factory=dict)
    routes: Mapping[DomainPattern, NextHop] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Rule:
    """`[[requiretls.rule]]`: who requires TLS without asking."""

    require: bool
    sender: str | None = None
    recipient: str | None = None
    header: str | None = None
    user: str | None = None
    listener: str | None = None
    floor: bool = False


@attrs.frozen(kw_only=True)
class RequireTLS:
    """`[requiretls]`: how the promise is kept."""

    enabled: bool = True
    profile: Literal["rfc8689", "draft-03"] = "rfc8689"
    honor_header: Literal["any", "authenticated", "none"] = "any"
    lifetime: Duration = Duration(4 * HOUR)
    default: Level = Level.ENFORCE
    bounce: Literal["requiretls-then-redacted", "requiretls-only", "redacted"] = "requiretls-then-redacted"
    mta_sts_testing: bool = False
    policy: Mapping[DomainPattern, Level] = attrs.field(factory=dict)
    rule: tuple[Rule, ...] = ()


@attrs.frozen(kw_only=True)
class DANE:
    """`[dane]`."""

    enabled: bool = True


@attrs.frozen(kw_only=True)
class MTASTS:
    """`[mta_sts]`."""

    enabled: bool = True


@attrs.frozen(kw_only=True)
class TLSRPT:
    """`[tlsrpt]`: daily reports (RFC 8460)."""

    enabled: bool = False
    contact: Contact = Contact("mailto:tlsrpt@example.org")


@attrs.frozen(kw_only=True)
class DNSWL:
    """`[[dnswl]]`: one whitelist (RFC 8904)."""

    zone: ListZone = attrs.field(repr=False)
    display_zone: Domain = attrs.field(default=attrs.Factory(lambda self: self.zone, takes_self=True))
    # What is not given is as the list is known to need it.
    accept: tuple[AnswerPattern, ...] = attrs.Factory(
        lambda self: tuple(map(parse_answers, preset(self.display_zone).accept)), takes_self=True
    )
    errors: tuple[AnswerPattern, ...] = attrs.Factory(
        lambda self: tuple(map(parse_answers, preset(self.display_zone).errors)), takes_self=True
    )
    selftest: Literal["ipv4", "both", "off"] = attrs.Factory(
        lambda self: preset(self.display_zone).selftest, takes_self=True
    )
    txt: Literal["domain", "any", "off"] = "domain"
    override_spf: tuple[AnswerPattern, ...] = ()
    report_none: bool = True


@attrs.frozen(kw_only=True)
class IPRev:
    """`[iprev]`: whether the name of a client leads back to it (RFC 8601 3)."""

    enabled: bool = True


@attrs.frozen(kw_only=True)
class SPF:
    """`[spf]`."""

    action: Literal["off", "annotate", "reject"] = "annotate"


@attrs.frozen(kw_only=True)
class Sign:
    """`[[dkim.sign]]`: a key for one domain."""

    domain: Domain
    selector: Domain
    key: File


@attrs.frozen(kw_only=True)
class DKIM:
    """`[dkim]`."""

    verify: bool = True
    sign: tuple[Sign, ...] = ()


@attrs.frozen(kw_only=True)
class DMARC:
    """`[dmarc]`."""

    action: Literal["off", "annotate", "reject"] = "annotate"


@attrs.frozen(kw_only=True)
class Store:
    """`[store]`: where the queue lives."""

    url: StoreURL = StoreURL("")
    node: str = ""


@attrs.frozen(kw_only=True)
class Web:
    """`[web]`: status page and metrics."""

    endpoint: Endpoint | None = Endpoint("tcp:8025:interface=127.0.0.1")
    """None, written "": off."""


@attrs.frozen(kw_only=True)
class Log:
    """`[log]`."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warn", "error", "critical"] = "info"


@attrs.frozen(kw_only=True)
class Trace:
    """`[trace]`: what is kept of each message's way, for `requiretls-mta trace`."""

    keep: DurationOrNone = DurationOrNone(7 * DAY)
    """0: nothing."""
    size: Size = Size(1024 * MIB)
    transcripts: bool = True


Aliases = Mapping[AddressKey, Addresses]
"""`[aliases]`: one address, or all others of a domain, to one or many."""
