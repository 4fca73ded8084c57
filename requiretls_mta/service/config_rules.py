"""What must be true of several configuration keys together."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

import attrs

from requiretls_mta.checks.dnswl_rules import LONGEST_ZONE
from requiretls_mta.receive.rules import header_pattern
from requiretls_mta.service.config_errors import Path_
from requiretls_mta.service.config_types import AddressKey

if TYPE_CHECKING:
    from requiretls_mta.service.config import Config

LONGEST_NAME = 253
"""Characters of a name in the DNS."""


@attrs.frozen
class Conflict:
    """Keys that do not go together; `about` are all that were looked at, the first is the one to name."""

    about: tuple[Path_, ...]
    found: str
    allowed: str


def conflicts(config: Config) -> Iterator[Conflict]:
    """Everything that is wrong although each value by itself is allowed."""
    yield from _tls(config)
    yield from _delivery(config)
    yield from _listeners(config)
    yield from _lists(config)
    yield from _requiretls(config)
    yield from _dnswl(config)
    yield from _signing(config)
    if config.dmarc.action == "reject" and (config.spf.action == "off" or not config.dkim.verify):
        about: tuple[Path_, ...] = (("dmarc", "action"), ("spf", "action"), ("dkim", "verify"))
        yield Conflict(about, '"reject", without SPF or DKIM', "spf.action other than off, and dkim.verify = true")
    if not config.relay.retry:
        yield Conflict((("relay", "retry"),), "an empty list", "at least one pause")
    if config.web.endpoint is not None and config.web.endpoint.proxied:
        yield Conflict((("web", "endpoint"),), "haproxy:", "an endpoint without haproxy:")


def _tls(config: Config) -> Iterator[Conflict]:
    certificate, key = ("tls", "certificate"), ("tls", "key")
    if config.tls.certificate is None and config.tls.key is not None:
        yield Conflict((certificate, key), "nothing, beside tls.key", "both certificate and key, or neither")
    if config.tls.certificate is not None and config.tls.key is None:
        yield Conflict((key, certificate), "nothing, beside tls.certificate", "both certificate and key, or neither")
    for index, sni in enumerate(config.tls.sni):
        if not sni.names:
            yield Conflict((("tls", "sni", index, "names"),), "an empty list", "at least one name")


def _delivery(config: Config) -> Iterator[Conflict]:
    maildir, lmtp = ("delivery", "maildir"), ("delivery", "lmtp")
    about: tuple[Path_, ...] = (("delivery",), maildir, lmtp, ("domains", "local"))
    if config.delivery.maildir and config.delivery.lmtp:
        yield Conflict(about, "both maildir and lmtp", "exactly one of maildir and lmtp")
    if config.domains.local and not config.delivery.maildir and not config.delivery.lmtp:
        yield Conflict(about, "neither maildir nor lmtp", "exactly one of them, for the domains in domains.local")
    if config.delivery.recipients == "callout" and not config.delivery.lmtp:
        yield Conflict((("delivery", "recipients"), lmtp), '"callout" without lmtp', '"any", a file, or lmtp as well')
    for domain in sorted(set(config.domains.local) & set(config.domains.relay)):
        yield Conflict((("domains", "relay"), ("domains", "local")), f'"{domain}", also in local', "one of the two")


def _listeners(config: Config) -> Iterator[Conflict]:
    places: dict[tuple[str, int], str] = {}
    for name, listen in config.listen.items():
        here: Path_ = ("listen", name)
        endpoint = (*here, "endpoint")
        for place in listen.endpoint:
            if place.proxied and not place.is_private and not listen.proxies:
                found = f"nothing, though {place} can be reached from elsewhere"
                yield Conflict(((*here, "proxies"), endpoint), found, "the addresses of the proxies")
            # RFC 2033 5: LMTP must not be spoken on the SMTP port.
            if listen.service == "lmtp" and place.port == 25:
                yield Conflict((endpoint, (*here, "service")), "port 25 for LMTP", "another port (RFC 2033 5)")
            if not place.port:
                continue
            key = (place.interface, place.port)
            if key in places:
                yield Conflict((endpoint,), f"{place}, which listen.{places[key]} has", "a port of its own")
            places[key] = name


def _lists(config: Config) -> Iterator[Conflict]:
    addresses: set[str] = set()
    for index, entry in enumerate(config.lists):
        here: Path_ = ("list", index)
        key = entry.address.key
        if key in addresses:
            yield Conflict(((*here, "address"),), f'"{entry.address}" again', "each list once")
        addresses.add(key)
        if key in config.aliases:
            found = f'"{entry.address}", which is an alias too'
            yield Conflict(((*here, "address"), ("aliases",)), found, "an address that is either a list or an alias")
        # What comes back from the members must not go to them.
        if key in _behind(entry.owner.key, config):
            found = f'"{entry.owner}", which leads back to the list'
            yield Conflict(((*here, "owner"), ("aliases",)), found, "an address outside the list")


def _behind(key: str, config: Config) -> set[str]:
    """All addresses to which aliases lead from this one, itself included."""
    found, waiting = {key}, [key]
    while waiting:
        address = waiting.pop()
        catch_all = f"@{address.rpartition('@')[2]}"
        targets = [config.aliases.get(AddressKey(one), ()) for one in (address, catch_all)]
        new = {target.key for target in chain(*targets)} - found
        found |= new
        waiting += new
    return found


def _requiretls(config: Config) -> Iterator[Conflict]:
    for index, rule in enumerate(config.requiretls.rule):
        here: Path_ = ("requiretls", "rule", index)
        try:
            if rule.header is not None:
                header_pattern(rule.header)
        except ValueError:
            allowed = 'a field\'s name, or "Name: value", in which * may stand for anything'
            yield Conflict(((*here, "header"), here), f'"{rule.header}"', allowed)
        if rule.floor and not rule.require:
            yield Conflict(((*here, "floor"), here), "true, with require = false", "floor with require = true")
        if rule.listener is not None and rule.listener not in config.listen:
            names = ", ".join(config.listen) or "none is configured"
            yield Conflict(((*here, "listener"), ("listen",)), "no such listener", f"a listener's name ({names})")


def _dnswl(config: Config) -> Iterator[Conflict]:
    zones: dict[str, int] = {}
    for index, entry in enumerate(config.dnswl):
        if entry.zone in zones:
            yield Conflict((("dnswl", index, "zone"),), f"that of dnswl[{zones[entry.zone]}] again", "each zone once")
        zones.setdefault(entry.zone, index)
        if len(entry.zone) > LONGEST_ZONE:
            found = f"{len(entry.zone)} characters"
            yield Conflict((("dnswl", index, "zone"),), found, f"at most {LONGEST_ZONE}, for a name to stand in front")


def _signing(config: Config) -> Iterator[Conflict]:
    names: set[str] = set()
    for index, sign in enumerate(config.dkim.sign):
        about: tuple[Path_, ...] = (("dkim", "sign", index, "selector"), ("dkim", "sign", index))
        name = f"{sign.selector}._domainkey.{sign.domain}"
        if name in names:
            yield Conflict(about, f'"{sign.selector}" again for {sign.domain}', "each selector of a domain once")
        names.add(name)
        if len(name) > LONGEST_NAME:
            found = f"{len(name)} characters of {name}"
            yield Conflict(about, found, f"at most {LONGEST_NAME}, for a key must be found under it")
