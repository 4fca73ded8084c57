"""Remarks on a valid configuration: keys without effect yet, files that are missing, changes that need a restart."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

from requiretls_mta.checks.dnswl_rules import keys_in
from requiretls_mta.message.addresses_file import AddressesError, read_addresses
from requiretls_mta.receive.known import load_recipients
from requiretls_mta.receive.lists import MOST_MEMBERS
from requiretls_mta.receive.recipients import MOST_KNOWN
from requiretls_mta.receive.signing_keys import ALLOWED, SigningKeyError, keys_of, read_key
from requiretls_mta.service.config import Config, as_toml_tables
from requiretls_mta.service.config_errors import Path_, Problem, dotted
from requiretls_mta.service.config_sections import RECIPIENT_WORDS
from requiretls_mta.service.config_types import Domain, ListZone, StoreURL
from requiretls_mta.service.policies import Policies

_LATER: dict[Path_, Callable[[Config], bool]] = {
    ("workers",): lambda config: config.workers != 1,
    ("store", "url"): lambda config: config.store.url != "",
    ("store", "node"): lambda config: config.store.node != config.hostname,
    ("web",): lambda config: config.web.endpoint is not None,
}
"""Keys whose capability is not built yet, and whether what they say asks for it."""

RELOADED: tuple[Path_, ...] = (
    ("tls",),
    ("aliases",),
    ("list",),
    ("delivery", "recipients"),
    ("delivery", "recipient_delimiter"),
    ("access",),
    ("limits", "messages_per_user"),
    ("limits", "recipients_per_user"),
    ("limits", "messages_per_client"),
    ("domains",),
    ("relay", "trust"),
    ("relay", "routes"),
    ("relay", "auth"),
    ("requiretls",),
    ("dane",),
    ("authserv_id",),
    ("dnswl",),
    ("iprev",),
    ("spf",),
    ("dkim",),
    ("dmarc",),
)
"""Certificates, keys, CA bundle, aliases, users and policies: what SIGHUP puts into force."""
_NOT_RELOADED: tuple[Path_, ...] = (("requiretls", "enabled"), ("access", "users"))
"""But these of them: what listeners offer, and where (not what) the users' file is."""


def without_effect(config: Config) -> list[str]:
    """The keys that were set, but whose capability this version does not have."""
    return [
        dotted(key)
        for key in config.given
        if any(_within(key, later) and asks(config) for later, asks in _LATER.items())
    ]


def needs_restart(old: Config, new: Config) -> list[str]:
    """The changed keys that only a restart puts into force, in their order."""
    before, after = (dict(_leaves(as_toml_tables(config))) for config in (old, new))
    changed = [key for key in (before | after) if before.get(key) != after.get(key)]
    return [
        dotted(key) for key in changed if key in _NOT_RELOADED or not any(_within(key, prefix) for prefix in RELOADED)
    ]


def unreadable_files(config: Config) -> list[Problem]:
    """Files that the configuration names and this process cannot use; a missing users file is an empty one."""
    problems = []
    for key, path in _files(config):
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            if key == ("access", "users") and isinstance(error, FileNotFoundError):
                continue
            found = f'"{path}": {os.strerror(error.errno) if error.errno else error}'
            problems.append(Problem(str(config.file or ""), dotted(key), found, "a readable file"))
    unread = {problem.key for problem in problems}
    return [*problems, *_bad_addresses(config, unread), *_bad_keys(config, unread)]


def _bad_addresses(config: Config, unread: set[str]) -> Iterator[Problem]:
    """What is wrong in files of addresses, but for those that cannot be read at all."""
    files: list[tuple[Path_, Path, int]] = [
        (("list", index, "members_file"), entry.members_file, MOST_MEMBERS) for index, entry in enumerate(config.lists)
    ]
    if config.delivery.recipients not in RECIPIENT_WORDS:
        files.append((("delivery", "recipients"), Path(config.delivery.recipients), MOST_KNOWN))
    for key, path, most in files:
        try:
            if dotted(key) not in unread:
                read_addresses(path, most=most)
        except AddressesError as error:
            yield Problem(str(config.file or ""), dotted(key), str(error), f"one address a line, at most {most}")


def _bad_keys(config: Config, unread: set[str]) -> Iterator[Problem]:
    """Files that hold no key to sign with, but for those that cannot be read at all."""
    for index, sign in enumerate(config.dkim.sign):
        key = dotted(("dkim", "sign", index, "key"))
        try:
            if key not in unread:
                read_key(sign.domain, sign.selector, sign.key)
        except SigningKeyError as error:
            yield Problem(str(config.file or ""), key, f'{error.found} in "{sign.key}"', ALLOWED)


def cautions(found: Policies) -> list[str]:
    """What an operator should know of valid policies with what stands in their files."""
    config, signing = found.config, found.receive.signing
    told = [caution for keys in signing.values() for key in keys for caution in key.cautions]
    if config.delivery.recipients == "plugin" and not load_recipients():
        told.append("delivery.recipients: no plugin is installed; mail for local mailboxes is put off by 451 4.3.0")
    contact = config.tlsrpt.contact
    if config.tlsrpt.enabled and not keys_of(contact.rpartition("@")[2].lower(), signing):
        # RFC 8460 3.
        told.append(
            f"tlsrpt: no [[dkim.sign]] is for {contact}; receivers must ignore reports by mail without a signature"
        )
    for index, entry in enumerate(config.dnswl):
        if keys_in(entry.display_zone):
            told.append(f"dnswl[{index}].zone: every message will show what looks like a key; set display_zone as well")
    return told


def _files(config: Config) -> Iterator[tuple[Path_, Path]]:
    yield ("access", "users"), config.access.users
    if config.tls.certificate and config.tls.key:
        yield ("tls", "certificate"), config.tls.certificate
        yield ("tls", "key"), config.tls.key
    for index, sni in enumerate(config.tls.sni):
        yield ("tls", "sni", index, "certificate"), sni.certificate
        yield ("tls", "sni", index, "key"), sni.key
    if config.relay.trust != "system":
        yield ("relay", "trust"), Path(config.relay.trust)
    if config.delivery.recipients not in RECIPIENT_WORDS:
        yield ("delivery", "recipients"), Path(config.delivery.recipients)
    for index, entry in enumerate(config.lists):
        yield ("list", index, "members_file"), entry.members_file
    for host, login in config.relay.auth.items():
        yield ("relay", "auth", host, "password_file"), login.password_file
    for index, sign in enumerate(config.dkim.sign):
        yield ("dkim", "sign", index, "key"), sign.key


def _within(key: Path_, prefix: Path_) -> bool:
    return key[: len(prefix)] == prefix


def _leaves(tables: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    for name, value in tables.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


def without_secrets(config: Config) -> Config:
    """The configuration as it may be shown: no password in the store's URL, no zone that is shown as another."""
    hidden = ListZone(Domain("***"))
    lists = (attrs.evolve(one, zone=hidden) if one.zone != one.display_zone else one for one in config.dnswl)
    config = attrs.evolve(config, dnswl=tuple(lists))
    head, at, tail = config.store.url.rpartition("@")
    scheme, slashes, login = head.partition("://")
    user, colon, _ = login.partition(":")
    if not (at and slashes and colon):
        return config
    url = StoreURL(f"{scheme}://{user}:***@{tail}")
    return attrs.evolve(config, store=attrs.evolve(config.store, url=url))
