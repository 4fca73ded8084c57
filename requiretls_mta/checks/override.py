"""Where the no of SPF and the yes of a whitelist meet (RFC 7208 D.3, RFC 8904 appendix A).

A whitelist opens no other door: it never lets anybody relay, or in without what else is asked of everybody.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from requiretls_mta.checks.dnswl import DNSWLVerdict
from requiretls_mta.checks.interfaces import Verdict
from requiretls_mta.checks.spf import SPFVerdict
from requiretls_mta.message.reply import Reply

SAVED = "not rejected: client is whitelisted"
UNKNOWN = Reply(451, "4.7.1", "SPF fails, and a whitelist that may know better cannot be asked now, try again later")


def settle(verdicts: Iterable[Verdict]) -> tuple[Verdict, ...]:
    """The same verdicts, SPF's rejection taken back or put off where a list with `override_spf` says so.

    A list that does not answer may have known the client; one that has none to say, or is not to be believed, saves
    nobody.
    """
    found = tuple(verdicts)
    lists = [pair for verdict in found if isinstance(verdict, DNSWLVerdict) for pair in verdict.findings]
    if any(finding.overrides_spf(settings) for settings, finding in lists):
        return tuple(_saved(v) if _is_rejection(v) else v for v in found)
    if any(settings.override_spf and finding.result == "temperror" for settings, finding in lists):
        return tuple(attrs.evolve(v, refusal=UNKNOWN) if _is_rejection(v) else v for v in found)
    return found


def _is_rejection(verdict: Verdict) -> bool:
    return isinstance(verdict, SPFVerdict) and verdict.outcome.result == "fail" and verdict.refusal is not None


def _saved(verdict: Verdict) -> Verdict:
    """What SPF found stays as it is (RFC 7208 D.3)."""
    return attrs.evolve(
        verdict, refusal=None, results=tuple(attrs.evolve(result, comment=SAVED) for result in verdict.results)
    )
