"""The check of DMARC (RFC 7489): whether SPF or DKIM speak for the domain in From, and what it wishes if not."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Literal

from publicsuffixlist import PublicSuffixList
from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from zope.interface import implementer

from requiretls_mta.checks.dkim import DKIMVerdict
from requiretls_mta.checks.dkim_rules import Unusable
from requiretls_mta.checks.dmarc_rules import (
    BadFrom,
    Evidence,
    Finding,
    Policy,
    Voice,
    author_domains,
    judge,
    read_policy,
    report,
)
from requiretls_mta.checks.dnswl_health import first_of_all
from requiretls_mta.checks.interfaces import Client, ICheck, ICheckPlugin, Stage, Subject, Tools, Verdict
from requiretls_mta.checks.spf import SPFVerdict
from requiretls_mta.message.reply import Reply

PATIENCE = 10.0
BAD_FROM = Reply(550, "5.7.1", "DMARC: the From field does not say in whose name the message comes")
REJECTED = Reply(550, "5.7.1", "DMARC")
UNANSWERED = Reply(451, "4.7.1", "DMARC cannot be evaluated now, try again later")


@cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()


def organization(domain: str) -> str:
    """The organizational domain (RFC 7489 3.2): one label more than a public suffix."""
    found = _suffixes().privatesuffix(domain)
    return found if isinstance(found, str) else domain


@implementer(ICheck)
class DMARCCheck(Service):
    """Draws the conclusion from what SPF and DKIM found."""

    name = "dmarc"
    stage = Stage.CONCLUSION
    needed = Stage.MESSAGE
    deadline = PATIENCE + 5

    def __init__(self, tools: Tools, chance: Callable[[], float] = random.random) -> None:
        self._tools = tools
        self._chance = chance

    def startService(self) -> None:
        """Read the list of public suffixes, which takes a tenth of a second."""
        super().startService()
        self._tools.in_thread(_suffixes)

    def begin(self, subject: Subject) -> Deferred[Verdict] | Verdict | None:
        """Look the policies up."""
        action: Literal["annotate", "reject"] | None = self._tools.settings(self.name)
        if action is None:
            return None
        try:
            domains = author_domains(subject.header)
        except BadFrom as why:
            finding = Finding(result="permerror", reason=str(why))
            return Verdict(
                check=self.name, results=(report(finding),), refusal=BAD_FROM if action == "reject" else None
            )
        evidence = _evidence(subject.verdicts)
        asked = [Deferred.fromCoroutine(self._of_domain(domain, evidence, subject.client)) for domain in domains]
        found = gatherResults(asked, consumeErrors=True).addErrback(first_of_all)
        found.addTimeout(PATIENCE, self._tools.clock, onTimeoutCancel=lambda *_: [_unknown(d) for d in domains])
        return found.addCallback(self._conclude, action)

    async def _of_domain(self, domain: str, evidence: Evidence, client: Client) -> Finding:
        resolver = self._tools.resolver_of(client.address)
        its_organization = organization(domain)
        # `localhost` and its like have no policy, and no name server that would know it.
        for owner in dict.fromkeys((domain, its_organization)) if "." in domain else ():
            answer = await resolver.resolve(f"_dmarc.{owner}.", "TXT")
            if answer.is_failure:
                return _unknown(domain)
            try:
                policy: Policy | None = read_policy(answer)
            except Unusable as why:
                return Finding(result="permerror", domain=domain, reason=str(why))
            if policy is not None:
                return judge(domain, its_organization, policy, evidence, own=owner == domain)
        return Finding(result="none", domain=domain)

    def _conclude(self, findings: list[Finding], action: str) -> Verdict:
        refusal = None
        if action == "reject":
            # RFC 7489 6.6.1: of several domains in From the strictest wish counts.
            refusals = [reply for finding in findings if (reply := self._refusal(finding)) is not None]
            refusal = next((reply for reply in refusals if reply.is_permanent), next(iter(refusals), None))
        return Verdict(check=self.name, results=tuple(map(report, findings)), refusal=refusal)

    def _refusal(self, finding: Finding) -> Reply | None:
        if finding.result == "temperror" and finding.wish in ("reject", None):
            return UNANSWERED
        if finding.result != "fail" or finding.wish != "reject":
            return None
        # RFC 7489 6.3: of the others, the next weaker policy, which is not to reject.
        if self._chance() * 100 >= finding.percent:
            return None
        return REJECTED.with_text(f"Email rejected per DMARC policy for {finding.domain}")  # RFC 7489 10.3


def _unknown(domain: str) -> Finding:
    return Finding(result="temperror", domain=domain, reason="policy not available")


def _evidence(verdicts: Sequence[Verdict]) -> Evidence:
    # The verdict of a check that failed, or was late, is an empty one.
    is_partial = any(type(verdict) is Verdict and verdict.check in ("spf", "dkim") for verdict in verdicts)
    return Evidence(tuple((voice, organization(voice.domain)) for voice in _voices(verdicts)), is_partial)


def _voices(verdicts: Iterable[Verdict]) -> Iterable[Voice]:
    for verdict in verdicts:
        if isinstance(verdict, SPFVerdict):
            yield Voice("spf", verdict.identity.domain.lower(), verdict.outcome.result)
        elif isinstance(verdict, DKIMVerdict):
            for finding in verdict.findings:
                if finding.signature is not None:
                    yield Voice("dkim", finding.signature.domain, finding.result)


@implementer(ICheckPlugin)
class DMARCPlugin:
    """Makes the check."""

    def checks(self, tools: Tools) -> Iterable[ICheck]:
        """One check for all."""
        return [DMARCCheck(tools)]
