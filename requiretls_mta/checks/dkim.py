"""The check of DKIM signatures (RFC 6376): keys through our resolver, hashes and signatures in a thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

import attrs
from twisted.internet.defer import Deferred, gatherResults
from zope.interface import implementer

from requiretls_mta.checks.dkim_canon import hash_body, signed_header
from requiretls_mta.checks.dkim_rules import (
    MOST_SIGNATURES,
    Finding,
    KeyRecord,
    Signature,
    Unusable,
    judge,
    parse_key,
    parse_signature,
    report,
)
from requiretls_mta.checks.dnswl_health import first_of_all
from requiretls_mta.checks.interfaces import ICheck, ICheckPlugin, Stage, Subject, Tools, Verdict
from requiretls_mta.dns.answer import Answer
from requiretls_mta.message import header as headers
from requiretls_mta.message.ports import Body
from requiretls_mta.message.shares import Shares, site_of

PATIENCE = 20.0
"""Seconds for keys and hashes together."""
MOST_WAITING = 200
"""Messages whose signatures are being verified at once, shared by all clients; those of more are a temperror."""
PIECE = 64 * 1024


@attrs.frozen(kw_only=True)
class DKIMVerdict(Verdict):
    """The verdict with what each signature came to; DMARC reads it."""

    findings: tuple[Finding, ...] = ()


@implementer(ICheck)
class DKIMCheck:
    """Verifies the first signatures of a message, on the octets that came."""

    name = "dkim"
    stage = Stage.MESSAGE
    needed = Stage.MESSAGE
    deadline = PATIENCE + 5

    def __init__(self, tools: Tools, wall: Callable[[], float] = time.time) -> None:
        self._tools = tools
        self._wall = wall
        self._shares = Shares(MOST_WAITING)

    def begin(self, subject: Subject) -> Deferred[Verdict] | Verdict | None:
        """Verify."""
        if not self._tools.settings(self.name) or subject.body is None:
            return None
        signatures, findings = _read(subject.header)
        if not signatures:
            return self._verdict(findings or [Finding("none")])
        site = site_of(subject.client.address)
        if not self._shares.enter(site):
            return self._verdict([Finding("temperror", "too busy", signature) for signature in signatures])
        verified = Deferred.fromCoroutine(self._verify(signatures, findings, subject, subject.body))
        verified.addTimeout(PATIENCE, self._tools.clock, onTimeoutCancel=lambda *_: _late(signatures))
        return verified.addBoth(self._done, site).addCallback(self._verdict)

    def _done(self, result: list[Finding], site: str) -> list[Finding]:
        self._shares.leave(site)
        return result

    def _verdict(self, findings: Sequence[Finding]) -> Verdict:
        return DKIMVerdict(check=self.name, results=tuple(map(report, findings)), findings=tuple(findings))

    async def _verify(
        self,
        signatures: Sequence[Signature],
        unusable: Sequence[Finding],
        subject: Subject,
        body: Body,
    ) -> list[Finding]:
        seconds = self._tools.clock.seconds
        until = seconds() + PATIENCE

        def is_late() -> bool:
            return seconds() > until

        names = dict.fromkeys(signature.key_name for signature in signatures)
        resolver = self._tools.resolver_of(subject.client.address)
        asked = [resolver.resolve(name, "TXT") for name in names]
        keys = dict(zip(names, await gatherResults(asked, consumeErrors=True).addErrback(first_of_all), strict=True))
        job = Job(signatures=signatures, keys=keys, header=subject.header, body=body)
        found: list[Finding] = await self._tools.in_thread(verify, job, self._wall(), is_late)
        return [*found, *unusable]


def _read(header: bytes) -> tuple[list[Signature], list[Finding]]:
    """The signatures that can be read, and what those come to that cannot (RFC 8601 2.7.1: neutral)."""
    signatures: list[Signature] = []
    findings: list[Finding] = []
    for field in islice(headers.fields_named(header, b"dkim-signature"), MOST_SIGNATURES):
        try:
            signatures.append(parse_signature(field))
        except Unusable as why:
            findings.append(Finding("neutral", str(why)))
    return signatures, findings


def _late(signatures: Iterable[Signature]) -> list[Finding]:
    return [Finding("temperror", "timeout", signature) for signature in signatures]


@attrs.frozen(kw_only=True)
class Job:
    """What is to be verified."""

    signatures: Sequence[Signature]
    keys: Mapping[str, Answer]
    """By `Signature.key_name`."""
    header: bytes
    body: Body
    """The whole message."""


def verify(job: Job, now: float, is_late: Callable[[], bool] = lambda: False) -> list[Finding]:
    """What each signature comes to. Blocks: reads the body, once for all, unless nobody waits any more."""
    ready: dict[Signature, KeyRecord | Finding] = {}
    for signature in job.signatures:
        answer = job.keys[signature.key_name]
        if answer.is_failure:
            ready[signature] = Finding("temperror", "key not available", signature)
            continue
        try:
            ready[signature] = parse_key(answer, signature.algorithm)
        except Unusable as why:
            ready[signature] = Finding("permerror", str(why), signature)
    wanted = {signature.body for signature, key in ready.items() if isinstance(key, KeyRecord)}
    hashes = hash_body(pieces(job.body, len(job.header) + 2, is_late), wanted) if wanted else {}
    if is_late():
        return _late(job.signatures)
    fields = list(headers.fields(job.header))
    found = []
    for signature in job.signatures:
        key = ready[signature]
        if isinstance(key, KeyRecord):
            own = job.header[signature.field.start : signature.field.end]
            signed = signed_header(job.header, fields, signature.names, own, relaxed=signature.relaxed_header)
            found.append(judge(signature, key, signed, hashes[signature.body], now))
        else:
            found.append(key)
    return found


def pieces(body: Body, start: int, is_late: Callable[[], bool] = lambda: False) -> Iterator[bytes]:
    """A body from an octet on, as long as somebody waits for it. Blocks."""
    while start < body.size and not is_late():
        piece = body.read(start, PIECE)
        if not piece:
            raise EOFError(f"the message ends at octet {start} of {body.size}")
        yield piece
        start += len(piece)


@implementer(ICheckPlugin)
class DKIMPlugin:
    """Makes the check."""

    def checks(self, tools: Tools) -> Iterable[ICheck]:
        """One check for all."""
        return [DKIMCheck(tools)]
