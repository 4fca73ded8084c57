"""check_host() of SPF (RFC 7208 4) without I/O: a generator that asks questions to the DNS and is sent the answers.

Not pyspf, which is the reference: it matches what strangers publish with patterns that need time in proportion to the
square of its length (a record of 16 KiB stops the process for seconds), and without threads it would have to start
again from the beginning for each of its questions. Its test suite is ours.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Generator, Iterable, Mapping
from typing import TypeVar

import attrs
import dns.exception
import dns.name

from requiretls_mta.checks.spf_record import (
    Mechanism,
    NeverMatches,
    Record,
    SyntaxFault,
    Template,
    Verb,
    is_record,
    parse_macros,
    parse_record,
    strings,
)
from requiretls_mta.dns.answer import Answer

ClientIP = ipaddress.IPv4Address | ipaddress.IPv6Address
Question = tuple[str, str]
"""Name and type."""

MOST_TERMS = 10  # RFC 7208 4.6.4, as the next ones
MOST_VOID = 2
MOST_HOSTS = 10  # of one mx or ptr
LONGEST_EXPLANATION = 450


@attrs.frozen(kw_only=True)
class Identity:
    """Whose right to send is looked up, by whom, from where."""

    client: ClientIP
    kind: str
    """`mailfrom`, or `helo` where the reverse path is empty (RFC 7208 2.4)."""
    local: str
    domain: str
    """A-labels where it has any."""
    helo: str
    receiver: str = "unknown"
    now: float = 0.0

    @property
    def sender(self) -> str:
        """The address."""
        return f"{self.local}@{self.domain}"


@attrs.frozen(kw_only=True)
class Outcome:
    """What check_host() comes to."""

    result: Verb
    problem: str = ""
    """Of an error."""
    mechanism: str = ""
    """What matched: `ip4`, `all`, ...; `default` when nothing did."""
    explanation: str = ""
    """The domain's own, of a fail: a stranger's words."""


Run = Generator[tuple[Question, ...], tuple[Answer, ...], Outcome]


class _Trouble(Exception):
    """The evaluation ends here."""

    def __init__(self, result: Verb, problem: str) -> None:
        super().__init__(problem)
        self.outcome = Outcome(result=result, problem=problem)


def check_host(identity: Identity) -> Run:
    """Evaluate. Yields questions that may be asked together, takes their answers, and returns the outcome."""
    evaluation = _Evaluation(identity)
    try:
        return (yield from evaluation.of_domain(identity.domain))
    except _Trouble as trouble:
        return trouble.outcome


def wire_name(domain: str) -> str | None:
    """The name to ask for, its odd octets escaped; None when there is no such name."""
    try:
        return dns.name.Name([*(label.encode("utf-8") for label in domain.split(".")), b""]).to_text()
    except dns.exception.DNSException:
        return None


R = TypeVar("R")
_Asking = Generator[tuple[Question, ...], tuple[Answer, ...], R]
"""A part of an evaluation, which comes to an R."""


class _Evaluation:
    """One evaluation: what its records share."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._client = identity.client
        self._rdtype = "A" if self._client.version == 4 else "AAAA"
        self._terms = 0
        self._void = 0
        self._names: tuple[str, ...] | None = None

    def of_domain(self, domain: str, *, is_included: bool = False) -> Run:
        """check_host() of one domain, of the message's or of one that a record names."""
        record = yield from self._record(domain)
        if record is None:
            return Outcome(result="none")
        for mechanism in record.mechanisms:
            if (yield from self._matches(mechanism, domain)):
                explanation = ""
                if mechanism.result == "fail" and record.explanation is not None and not is_included:
                    explanation = yield from self._explain(record.explanation, domain)
                return Outcome(result=mechanism.result, mechanism=mechanism.kind, explanation=explanation)
        if record.redirect is None:
            return Outcome(result="neutral", mechanism="default")
        self._count_term()
        try:
            target = yield from self._name(record.redirect, domain)
        except NeverMatches:
            return Outcome(result="neutral", mechanism="default")
        outcome = yield from self.of_domain(target, is_included=is_included)
        if outcome.result == "none":  # RFC 7208 6.1
            raise _Trouble("permerror", f"{target} is redirected to, and has no record")
        return outcome

    def _record(self, domain: str) -> _Asking[Record | None]:
        name = wire_name(domain)
        if name is None or "." not in domain or domain.startswith("["):  # RFC 7208 4.3
            return None
        (answer,) = yield ((name, "TXT"),)
        self._need(answer)
        found = [text for text in strings(answer.records) if is_record(text)]
        if len(found) > 1:
            raise _Trouble("permerror", f"{domain} has {len(found)} records")
        try:
            return parse_record(found[0]) if found else None
        except SyntaxFault as fault:
            raise _Trouble("permerror", f"{domain}: {fault}") from fault

    # --- mechanisms ---------------------------------------------------------------------------------------------

    def _matches(self, mechanism: Mechanism, domain: str) -> _Asking[bool]:
        if mechanism.kind == "all":
            return True
        if mechanism.network is not None:
            return mechanism.network.version == self._client.version and self._client in mechanism.network
        self._count_term()
        try:
            target = domain if mechanism.target is None else (yield from self._name(mechanism.target, domain))
        except NeverMatches:
            return False
        if mechanism.kind == "include":
            return (yield from self._include(target))
        if mechanism.kind == "ptr":
            names = yield from self._validated(counts=True)
            return any(_is_within(name, target) for name in names)
        name = wire_name(target)
        if name is None:
            return False
        if mechanism.kind == "exists":  # RFC 7208 5.7: an A record, whatever the client has
            (answer,) = yield ((name, "A"),)
            self._need(answer)
            self._count_void([answer])
            return answer.exists
        if mechanism.kind == "mx":
            answers = yield from self._hosts(name)
        else:
            answers = yield ((name, self._rdtype),)
        prefix = mechanism.prefixes[0 if self._client.version == 4 else 1]
        if any(self._is_at(address, prefix) for address in _addresses(answers)):
            return True
        for answer in answers:
            self._need(answer)
        self._count_void(answers)
        return False

    def _include(self, target: str) -> _Asking[bool]:
        outcome = yield from self.of_domain(target, is_included=True)
        if outcome.result == "none":  # RFC 7208 5.2
            raise _Trouble("permerror", f"{target} is included, and has no record")
        return outcome.result == "pass"

    def _hosts(self, name: str) -> _Asking[tuple[Answer, ...]]:
        """What the addresses of the domain's MX hosts are; the MX answer itself where it has none."""
        (answer,) = yield ((name, "MX"),)
        self._need(answer)
        if len(answer.records) > MOST_HOSTS:
            raise _Trouble("permerror", f"more than {MOST_HOSTS} MX records")
        hosts = {getattr(record, "exchange", dns.name.root) for record in answer.records} - {dns.name.root}
        if not hosts:
            return (answer,) if not answer.exists else ()
        return (yield tuple((host.to_text(), self._rdtype) for host in sorted(hosts)))

    def _validated(self, *, counts: bool = False) -> _Asking[tuple[str, ...]]:
        """The names of the client that lead back to it (RFC 7208 5.5); errors here match nothing."""
        if self._names is None:
            (answer,) = yield ((dns.name.from_text(self._client.reverse_pointer).to_text(), "PTR"),)
            if counts:
                self._count_void([answer])
            pointed = [record.target for record in answer.records if hasattr(record, "target")][:MOST_HOSTS]
            answers = yield tuple((name.to_text(), self._rdtype) for name in pointed)
            self._names = tuple(
                name.to_text(omit_final_dot=True)
                for name, found in zip(pointed, answers, strict=True)
                if self._client in _addresses([found])
            )
        return self._names

    def _is_at(self, address: ClientIP, prefix: int) -> bool:
        shift = address.max_prefixlen - prefix
        return int(address) >> shift == int(self._client) >> shift

    # --- limits -------------------------------------------------------------------------------------------------

    def _count_term(self) -> None:
        self._terms += 1
        if self._terms > MOST_TERMS:
            raise _Trouble("permerror", f"more than {MOST_TERMS} terms that need look-ups")

    def _count_void(self, answers: Iterable[Answer]) -> None:
        """One term counts once, when all that it looked up is not there."""
        found = list(answers)
        if found and all(not answer.exists and not answer.is_failure for answer in found):
            self._void += 1
            if self._void > MOST_VOID:
                raise _Trouble("permerror", f"more than {MOST_VOID} terms that look up what is not there")

    def _need(self, answer: Answer) -> None:
        if answer.is_failure:
            raise _Trouble("temperror", f"{answer.name} {answer.rdtype}: {answer.rcode}")

    # --- macros -------------------------------------------------------------------------------------------------

    def _name(self, template: Template, domain: str) -> _Asking[str]:
        values = yield from self._values(template, domain)
        return template.expand_name(values)

    def _values(self, template: Template, domain: str) -> _Asking[Mapping[str, str]]:
        who, client = self._identity, self._client
        letters = template.letters
        if not who.local.isascii() and letters & {"s", "l"}:
            raise NeverMatches
        is_v4 = client.version == 4
        values = {
            "s": who.sender,
            "l": who.local,
            "o": who.domain,
            "d": domain,
            "i": str(client) if is_v4 else ".".join(client.packed.hex().upper()),
            "h": who.helo,
            "c": str(client),
            "r": who.receiver,
            "t": str(int(who.now)),
            "v": "in-addr" if is_v4 else "ip6",
        }
        if "p" in letters:
            names = yield from self._validated()
            nearest = [name for name in names if name.lower() == domain.lower()]
            nearest += [name for name in names if _is_within(name, domain)]
            values["p"] = next(iter((*nearest, *names)), "unknown")
        return values

    def _explain(self, template: Template, domain: str) -> _Asking[str]:
        """RFC 7208 6.2: whatever is wrong with it, there is just none."""
        try:
            name = wire_name((yield from self._name(template, domain)))
            if name is None:
                return ""
            (answer,) = yield ((name, "TXT"),)
            texts = list(strings(answer.records))
            if answer.is_failure or len(texts) != 1 or not texts[0].isascii() or len(texts[0]) > LONGEST_EXPLANATION:
                return ""
            explanation = parse_macros(texts[0].decode("ascii"), explains=True)
            return explanation.expand((yield from self._values(explanation, domain)))
        except (SyntaxFault, NeverMatches):
            return ""


def _addresses(answers: Iterable[Answer]) -> list[ClientIP]:
    return [
        ipaddress.ip_address(record.address)
        for answer in answers
        for record in answer.records
        if hasattr(record, "address")
    ]


def _is_within(name: str, domain: str) -> bool:
    return f".{name.lower()}".endswith(f".{domain.lower()}")
