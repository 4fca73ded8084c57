"""The check of the client's name (RFC 8601 3): whether the name of its address leads back to that address."""

from __future__ import annotations

from collections.abc import Iterable

import dns.name
from dns.rdtypes.ANY.PTR import PTR
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.AAAA import AAAA
from twisted.internet.defer import Deferred, gatherResults
from zope.interface import implementer

from requiretls_mta.checks.dnswl_health import first_of_all
from requiretls_mta.checks.dnswl_rules import ClientIP, client_of
from requiretls_mta.checks.interfaces import ICheck, ICheckPlugin, Stage, Subject, Tools, Verdict
from requiretls_mta.dns.answer import Answer
from requiretls_mta.message.authres import Property, Result
from requiretls_mta.message.reply import quote
from requiretls_mta.message.shares import Shares, site_of

PATIENCE = 10.0
MOST_NAMES = 10  # RFC 8601 3, as in SPF
QUESTIONS_AT_ONCE = 100
"""About all clients together: connecting is cheap, and who has a slow zone has many addresses in it."""


@implementer(ICheck)
class IPRevCheck:
    """Asks for the names of the client and for their addresses, from the moment it connects."""

    name = "iprev"
    stage = Stage.CONNECTION
    needed = Stage.MESSAGE
    deadline = PATIENCE + 5

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._shares = Shares(QUESTIONS_AT_ONCE)

    def begin(self, subject: Subject) -> Deferred[Verdict] | None:
        """Ask; not about clients whose addresses only their own network can name."""
        client = client_of(subject.client.address)
        if client is None or not self._tools.settings(self.name):
            return None
        asked = Deferred.fromCoroutine(self._ask(client))
        asked.addTimeout(PATIENCE, self._tools.clock, onTimeoutCancel=lambda *_: _report(client, "temperror"))
        return asked.addCallback(lambda result: Verdict(check=self.name, results=(result,)))

    async def _ask(self, client: ClientIP) -> Result:
        pointers = await self._answers(client, [f"{client.reverse_pointer}."], "PTR")
        if not pointers or pointers[0].is_failure:
            return _report(client, "temperror")
        found = [record.target for record in pointers[0].records if isinstance(record, PTR)]
        names = list(dict.fromkeys(found))[:MOST_NAMES]
        if not names:
            return _report(client, "permerror")
        answers = await self._answers(
            client, [name.to_text() for name in names], "A" if client.version == 4 else "AAAA"
        )
        for name, answer in zip(names, answers, strict=False):
            if str(client) in _addresses(answer):
                return _report(client, "pass", name)
        is_known = answers and not any(answer.is_failure for answer in answers)
        return _report(client, "fail" if is_known else "temperror")

    async def _answers(self, client: ClientIP, names: list[str], rdtype: str) -> list[Answer]:
        """One for each name; none at all when too many questions are open."""
        site, resolver = site_of(str(client)), self._tools.resolver_of(str(client))
        if not self._shares.enter(site, len(names)):
            return []
        try:
            asked = [resolver.resolve(name, rdtype) for name in names]
            return await gatherResults(asked, consumeErrors=True).addErrback(first_of_all)
        finally:
            self._shares.leave(site, len(names))


def _addresses(answer: Answer) -> list[str]:
    return [record.address for record in answer.records if isinstance(record, A | AAAA)]


def _report(client: ClientIP, result: str, name: dns.name.Name | None = None) -> Result:
    """RFC 8601 2.7.3; the name, which is its owner's claim, in a comment."""
    comment = quote(name.to_text(omit_final_dot=True))[:255] if name is not None else None
    return Result("iprev", result, comment=comment, properties=(Property("policy", "iprev", str(client)),))


@implementer(ICheckPlugin)
class IPRevPlugin:
    """Makes the check."""

    def checks(self, tools: Tools) -> Iterable[ICheck]:
        """One check for all."""
        return [IPRevCheck(tools)]
