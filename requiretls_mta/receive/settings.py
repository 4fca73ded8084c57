"""What reception goes by: whose mail is ours, who may relay, whose headers are obeyed."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

import attrs

from requiretls_mta.message.address import Address, AddressError, ascii_domain
from requiretls_mta.receive.lists import Lists
from requiretls_mta.receive.rates import Rate
from requiretls_mta.receive.rules import Rule
from requiretls_mta.receive.senders import Grant
from requiretls_mta.receive.signing_keys import Keys

_KNOWN = 10_000
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@attrs.frozen(kw_only=True)
class Settings:
    """One generation of reception's policies; a transaction keeps the one that was in force at its MAIL."""

    hostname: str
    authserv_id: str = attrs.field(default=attrs.Factory(lambda self: self.hostname, takes_self=True))
    """Who we are in Authentication-Results (RFC 8601 2.5); fields that others bring in this name are removed."""
    local_domains: frozenset[str] = frozenset()
    """A-labels in lower case: delivered here."""
    relay_domains: frozenset[str] = frozenset()
    """A-labels in lower case: taken from anyone and relayed."""
    relay_from: tuple[Network, ...] = ()
    """Clients that may relay without authentication."""
    aliases: Mapping[str, tuple[Address, ...]] = attrs.field(factory=dict)
    """`Address.key`, or `@` and a domain for all others there, to its targets."""
    recipient_delimiter: str = ""
    """What parts a local part from its detail, `+` in `user+detail`; empty: nothing."""
    strips_detail: bool = False
    """Whether the detail is taken off before delivery."""
    lists: Lists = attrs.field(factory=dict)
    recipients: frozenset[str] | None = None
    """`Address.key` of all who have a mailbox in the local domains; None: that is not known here."""
    callout: bool = False
    """Whether somebody is asked for them."""
    rules: tuple[Rule, ...] = ()
    """Who requires TLS without asking; the first that matches counts."""
    honor_header: str = "any"
    """Whose `TLS-Required: No` is obeyed: `any`, `authenticated` or `none`."""
    senders: tuple[Grant, ...] = ()
    """Which addresses each user may send as; empty: any."""
    messages_per_user: Rate | None = None
    recipients_per_user: Rate | None = None
    messages_per_client: Rate | None = None
    """Of clients that are neither trusted nor in `relay_from`; users among them count as both."""
    signing: Keys = attrs.field(factory=dict)
    """With what mail that may relay is signed."""
    received_hops: int = 50
    """Received fields that a message may bring along (RFC 5321 6.3)."""
    _relaying: dict[str, bool] = attrs.field(factory=dict, init=False, eq=False, repr=False)
    """Addresses that were looked up in `relay_from`, and what was found."""

    def is_local(self, domain: str) -> bool:
        """Whether mail for this domain is delivered here."""
        return _in(domain, self.local_domains)

    def is_ours(self, domain: str) -> bool:
        """Whether mail for this domain is taken from anyone: local, or relayed for its owner."""
        return _in(domain, self.local_domains) or _in(domain, self.relay_domains)

    def may_relay(self, address: str | None, *, via_proxy: bool) -> bool:
        """Whether a client with this IP address is in `relay_from`."""
        if address is None:
            return False
        known = self._relaying.get(address)
        if known is not None and not via_proxy:
            return known
        client = ipaddress.ip_address(address)
        # A PROXY line is only a claim; nobody on our loopback needs a proxy to get here.
        if via_proxy and client.is_loopback:
            return False
        found = any(client in network for network in self.relay_from if network.version == client.version)
        if len(self._relaying) >= _KNOWN:
            self._relaying.clear()
        self._relaying[address] = found
        return found


def _in(domain: str, domains: frozenset[str]) -> bool:
    if domain in domains:
        return True
    try:
        return ascii_domain(domain) in domains
    except AddressError:
        return False
