"""DMARC (RFC 7489): whose name a message bears, what that domain asks for, and whether anything speaks for it."""

from __future__ import annotations

import re
from typing import Literal

import attrs

from requiretls_mta.checks.dkim_rules import Unusable, parse_tags
from requiretls_mta.checks.spf_record import strings
from requiretls_mta.dns.answer import Answer
from requiretls_mta.message.address import AddressError, ascii_domain, check_domain
from requiretls_mta.message.authres import Property, Result
from requiretls_mta.message.header import fields_named

Verb = Literal["none", "pass", "fail", "temperror", "permerror"]
Wish = Literal["none", "quarantine", "reject"]

MOST_DOMAINS = 5
"""In From; each has a policy of its own (RFC 7489 6.6.1)."""
LONGEST_FROM = 16 * 1024
LONGEST_RECORD = 4096
_WISHES: tuple[Wish, ...] = ("none", "quarantine", "reject")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"?|\[[^\]]*\]?|\\.|[()<>,;:"]|[^"()<>,;:\\\[]+|.', re.DOTALL)


class BadFrom(Exception):
    """Nobody can say in whose name the message comes."""


@attrs.frozen(kw_only=True)
class Policy:
    """A policy record."""

    wish: Wish
    """`p`."""
    of_subdomains: Wish
    """`sp`."""
    strict_dkim: bool = False
    strict_spf: bool = False
    percent: int = 100


@attrs.frozen
class Voice:
    """What SPF or DKIM said about a domain."""

    method: Literal["spf", "dkim"]
    domain: str
    result: str


@attrs.frozen(kw_only=True)
class Finding:
    """What DMARC comes to for one domain in From."""

    result: Verb
    domain: str = ""
    wish: Wish | None = None
    """What the domain asks for, of a message that fails."""
    percent: int = 100
    reason: str | None = None


# --- From -------------------------------------------------------------------------------------------------------------


def author_domains(header: bytes) -> list[str]:
    """The domains of all addresses in all From fields, as A-labels; raises `BadFrom`."""
    found: dict[str, None] = {}
    room = LONGEST_FROM
    for field in fields_named(header, b"from"):
        room -= field.end - field.start
        if room < 0:
            raise BadFrom("From is too long")
        for address in addresses(field.value.decode("utf-8", "replace")):
            _, at, domain = address.rpartition("@")
            try:
                domain = ascii_domain("".join(domain.split()).rstrip(".")) if at else ""
                check_domain(domain)
            except AddressError:
                raise BadFrom("From has an address without a domain") from None
            found[domain] = None
    if not found:
        raise BadFrom("From has no address")
    if len(found) > MOST_DOMAINS:
        raise BadFrom("From has too many domains")
    return list(found)


def addresses(value: str) -> list[str]:
    """Everything that somebody may take for an address in a From field, whatever its grammar makes of it."""
    found: list[str] = []
    plain: list[str] = []
    angle: list[str] | None = None
    depth, had_angle = 0, False
    for match in _TOKEN.finditer(value):
        piece = match.group()
        if piece == "(":
            depth += 1
        elif depth:
            depth -= piece == ")"
        elif piece == "<":
            angle = []
        elif piece == ">" and angle is not None:
            found.append("".join(angle))
            angle, had_angle = None, True
        elif angle is not None:
            angle.append(piece)
        elif piece in (",", ";"):
            found += _bare(plain, had_angle)
            plain, had_angle = [], False
        elif piece == ":":
            plain = []  # the name of a group
        else:
            plain.append(piece)
    if angle is not None:
        found.append("".join(angle))
    return found + _bare(plain, had_angle)


def _bare(plain: list[str], had_angle: bool) -> list[str]:
    # Quoted, an @ is part of a name.
    text = "".join("" if piece.startswith('"') and had_angle else piece for piece in plain).strip()
    return [text] if "@" in text and not had_angle else []


# --- policies ---------------------------------------------------------------------------------------------------------


def read_policy(answer: Answer) -> Policy | None:
    """The policy in an answer; None where there is not exactly one record. Raises `Unusable` (RFC 7489 6.6.3)."""
    texts = [text for text in strings(answer.records) if re.match(rb"v[ \t]*=[ \t]*DMARC1[ \t]*(;|\Z)", text)]
    if len(texts) != 1:
        return None
    if len(texts[0]) > LONGEST_RECORD:
        raise Unusable("policy record too long")
    tags = parse_tags(texts[0].decode("utf-8", "replace"))
    wish, of_subdomains = _wish(tags.get("p")), _wish(tags.get("sp", tags.get("p")))
    if wish is None or of_subdomains is None:
        if not tags.get("rua", "").startswith("mailto:"):
            raise Unusable("policy record without a valid policy")
        wish = of_subdomains = "none"
    percent = tags.get("pct", "100")
    return Policy(
        wish=wish,
        of_subdomains=of_subdomains,
        strict_dkim=tags.get("adkim") == "s",
        strict_spf=tags.get("aspf") == "s",
        percent=int(percent) if re.fullmatch(r"[0-9]{1,2}", percent) else 100,
    )


def _wish(text: str | None) -> Wish | None:
    return next((wish for wish in _WISHES if text is not None and text.lower() == wish), None)


@attrs.frozen
class Evidence:
    """What may speak for a domain."""

    voices: tuple[tuple[Voice, str], ...]
    """Each with the organizational domain of its domain."""
    is_partial: bool = False
    """Whether SPF or DKIM came to nothing: any domain may be theirs."""


def judge(domain: str, organization: str, policy: Policy, evidence: Evidence, *, own: bool) -> Finding:
    """Whether something speaks for a domain; `own` says that the policy is its own, not its organization's."""
    in_doubt = evidence.is_partial
    for voice, its_organization in evidence.voices:
        strict = policy.strict_spf if voice.method == "spf" else policy.strict_dkim
        aligned = voice.domain == domain if strict else its_organization == organization
        if aligned and voice.result == "pass":
            return Finding(result="pass", domain=domain)
        in_doubt = in_doubt or (aligned and voice.result == "temperror")
    wish = policy.wish if own else policy.of_subdomains
    if in_doubt:
        reason = "SPF or DKIM cannot be evaluated now"
        return Finding(result="temperror", domain=domain, wish=wish, percent=policy.percent, reason=reason)
    return Finding(result="fail", domain=domain, wish=wish, percent=policy.percent)


def report(finding: Finding) -> Result:
    """How it is written into Authentication-Results (RFC 7489 11)."""
    properties = (Property("header", "from", finding.domain),) if finding.domain else ()
    comment = f"p={finding.wish}" if finding.wish is not None else None
    return Result("dmarc", finding.result, reason=finding.reason, comment=comment, properties=properties)
