"""The check of ARC (RFC 8617): whether all who passed a message on vouch for what they saw."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping

import attrs
from twisted.internet.defer import Deferred, gatherResults
from zope.interface import implementer

from requiretls_mta.checks.dkim import PATIENCE, pieces
from requiretls_mta.checks.dkim_canon import canonical_field, hash_body, signed_header, without_signature
from requiretls_mta.checks.dkim_rules import (
    Signature,
    Unusable,
    holds,
    judge,
    parse_key,
    parse_signature,
    read_base64,
    read_domain,
    read_tags,
)
from requiretls_mta.checks.dnswl_health import first_of_all
from requiretls_mta.checks.interfaces import ICheck, ICheckPlugin, Stage, Subject, Tools, Verdict
from requiretls_mta.dns.answer import Answer
from requiretls_mta.message import header as headers
from requiretls_mta.message.authres import Property, Result
from requiretls_mta.message.header import Field, fields_named
from requiretls_mta.message.ports import Body
from requiretls_mta.message.shares import Shares, site_of

MOST_SETS = 50  # RFC 8617 4.2.1
MOST_WAITING = 100
"""Messages whose chains are being validated at once, shared by all clients."""
_NAMES = (b"arc-authentication-results", b"arc-message-signature", b"arc-seal")
_INSTANCE = re.compile(rb"(?:\A|;)[ \t]*i[ \t]*=[ \t]*([0-9]{1,2})[ \t]*(?:;|\Z)")


@attrs.frozen(kw_only=True)
class Seal:
    """One ARC-Seal field."""

    field: Field
    algorithm: str
    key_name: str
    domain: str
    value: bytes


@attrs.frozen
class Chain:
    """The ARC sets of a message, by instance from 1 on."""

    sets: tuple[tuple[Field, ...], ...]
    """Of each: results, signature, seal."""
    seals: tuple[Seal, ...]
    newest: Signature

    @property
    def key_names(self) -> list[str]:
        """The keys that are needed, each once."""
        return list(dict.fromkeys([self.newest.key_name, *(seal.key_name for seal in self.seals)]))


def read_chain(header: bytes) -> Chain | None:
    """The chain of a header section, None without any; raises `Unusable` (RFC 8617 5.2, steps 1 to 3)."""
    sets: dict[int, dict[bytes, Field]] = {}
    for name in _NAMES:
        for field in fields_named(header, name):
            found = _INSTANCE.search(field.value[:1000])
            instance = int(found.group(1)) if found else 0
            if not 1 <= instance <= MOST_SETS or name in sets.setdefault(instance, {}):
                raise Unusable("sets out of order")
            sets[instance][name] = field
    if not sets:
        return None
    if set(sets) != set(range(1, len(sets) + 1)) or any(len(one) != len(_NAMES) for one in sets.values()):
        raise Unusable("sets are missing")
    ordered = tuple(tuple(sets[number][name] for name in _NAMES) for number in range(1, len(sets) + 1))
    seals = tuple(_read_seal(one[2], is_first=number == 0) for number, one in enumerate(ordered))
    return Chain(ordered, seals, parse_signature(ordered[-1][1], arc=True))


def _read_seal(field: Field, *, is_first: bool) -> Seal:
    tags = read_tags(field, "a b d s cv")
    if tags["cv"].lower() != ("none" if is_first else "pass"):
        raise Unusable("the chain was broken before")
    if "h" in tags:  # RFC 8617 4.1.3
        raise Unusable("a seal with h=")
    domain, selector = read_domain(tags["d"]), read_domain(tags["s"])
    return Seal(
        field=field,
        algorithm=tags["a"].lower(),
        key_name=f"{selector}._domainkey.{domain}.",
        domain=domain,
        value=read_base64(tags["b"]),
    )


def verify_chain(
    chain: Chain, keys: Mapping[str, Answer], header: bytes, body: Body, is_late: Callable[[], bool] = lambda: False
) -> str | None:
    """Why a chain does not hold, None if it does (RFC 8617 5.2, steps 4 to 6). Blocks: reads the body."""
    try:
        newest = chain.newest
        key = parse_key(keys[newest.key_name], newest.algorithm)
        hashed = hash_body(pieces(body, len(header) + 2, is_late), [newest.body])[newest.body]
        relaxed = newest.relaxed_header
        own = header[newest.field.start : newest.field.end]
        signed = signed_header(header, headers.fields(header), newest.names, own, relaxed=relaxed)
        finding = judge(newest, key, signed, hashed, time.time())
        if finding.result != "pass":
            return finding.reason
        for seal, covered in reversed(list(zip(chain.seals, _sealed(chain, header), strict=True))):
            if not holds(parse_key(keys[seal.key_name], seal.algorithm).key, seal.value, covered):
                return "seal did not verify"
    except Unusable as why:
        return str(why)
    return None


def _sealed(chain: Chain, header: bytes) -> list[bytes]:
    """What each seal covers: all sets up to its own, without its signature (RFC 8617 5.1.1)."""
    covered, before = [], b""
    for one in chain.sets:
        results, signature, seal = (header[field.start : field.end] for field in one)
        before += canonical_field(results, relaxed=True) + canonical_field(signature, relaxed=True)
        covered.append(before + canonical_field(without_signature(seal), relaxed=True).removesuffix(b"\r\n"))
        before += canonical_field(seal, relaxed=True)
    return covered


@implementer(ICheck)
class ARCCheck:
    """Validates the chain, on the octets that came; a message without one is not told about."""

    name = "arc"
    stage = Stage.MESSAGE
    needed = Stage.MESSAGE
    deadline = PATIENCE + 5

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._shares = Shares(MOST_WAITING)

    def begin(self, subject: Subject) -> Deferred[Verdict] | Verdict | None:
        """Validate."""
        if not self._tools.settings(self.name) or subject.body is None:
            return None
        try:
            chain = read_chain(subject.header)
        except Unusable as why:
            return self._verdict(str(why), None, subject)
        if chain is None:
            return None
        site = site_of(subject.client.address)
        if not self._shares.enter(site):
            return self._verdict("too busy", chain, subject)
        validated = Deferred.fromCoroutine(self._validate(chain, subject, subject.body))
        validated.addTimeout(PATIENCE, self._tools.clock, onTimeoutCancel=lambda *_: "timeout")
        return validated.addBoth(self._done, site).addCallback(self._verdict, chain, subject)

    def _done(self, result: str | None, site: str) -> str | None:
        self._shares.leave(site)
        return result

    async def _validate(self, chain: Chain, subject: Subject, body: Body) -> str | None:
        seconds = self._tools.clock.seconds
        until = seconds() + PATIENCE
        names = chain.key_names
        resolver = self._tools.resolver_of(subject.client.address)
        asked = [resolver.resolve(name, "TXT") for name in names]
        keys = dict(zip(names, await gatherResults(asked, consumeErrors=True).addErrback(first_of_all), strict=True))
        why: str | None = await self._tools.in_thread(
            verify_chain, chain, keys, subject.header, body, lambda: seconds() > until
        )
        return why

    def _verdict(self, why: str | None, chain: Chain | None, subject: Subject) -> Verdict:
        """RFC 8617 5.2.1: every failure is one, that of the DNS too."""
        # The newest seal is the one whose owner answers for all the others.
        comment = f"i={len(chain.seals)} d={chain.seals[-1].domain}" if chain is not None else None
        client = subject.client.address
        properties = (Property("smtp", "remote-ip", client),) if client is not None else ()
        result = Result("arc", "pass" if why is None else "fail", reason=why, comment=comment, properties=properties)
        return Verdict(check=self.name, results=(result,))


@implementer(ICheckPlugin)
class ARCPlugin:
    """Makes the check."""

    def checks(self, tools: Tools) -> Iterable[ICheck]:
        """One check for all."""
        return [ARCCheck(tools)]
