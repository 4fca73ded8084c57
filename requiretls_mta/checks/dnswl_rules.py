"""What a DNS whitelist's answers mean (RFC 8904, RFC 5782): names to ask for, codes to accept, results to report."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Literal

import attrs
from dns.rdtypes.IN.A import A

from requiretls_mta.checks.dnswl_presets import ANY_CODE, ERROR_CODES
from requiretls_mta.checks.dnswl_text import Text, reportable
from requiretls_mta.dns.answer import Answer, Status
from requiretls_mta.message.authres import Property, Result

ClientIP = ipaddress.IPv4Address | ipaddress.IPv6Address
Code = ipaddress.IPv4Address
"""An A record of a list: a bit mask or a number, never the address of a host."""
Verb = Literal["pass", "none", "temperror", "permerror"]
"""The results of the method; there is no fail (RFC 8904 2)."""

LONGEST_ZONE = 253 - 64
"""Characters: 32 nibbles and their dots stand in front of it."""
SHORTEST_KEY = 16
"""Characters of a label that may be a key."""
MOST_CODES = 20
"""Different codes for one client; no list means more, and all of them are reported."""
_LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
# Documentation networks are as public as any to us, though `ipaddress` calls them private.
_IPV4_AT_HOME = "0.0.0.0/8 10.0.0.0/8 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.168.0.0/16"
_IPV6_AT_HOME = "::/127 fc00::/7 fe80::/10"
_AT_HOME = tuple(map(ipaddress.ip_network, f"{_IPV4_AT_HOME} {_IPV6_AT_HOME}".split()))
# RFC 8914 4.16 to 4.19: somebody between the list and us put his own answer in the place of the list's.
_EDE_FILTERED = frozenset({15, 16, 17, 18})
_EDE_OVER_QUOTA = 32
_REASONS = {"TIMEOUT": "timeout", "NETWORK": "timeout", "MALFORMED": "malformed"}
_OCTET = re.compile(r"(?:(\d{1,3})|\[(\d{1,3})\.\.(\d{1,3})\])\Z", re.ASCII)


@attrs.frozen
class Pattern:
    """Codes: one address, one with `[a..b]` for an octet, or `&` and the bits that all must be set (RFC 5782 6)."""

    text: str
    _limits: tuple[tuple[int, int], ...] = attrs.field(eq=False, repr=False)
    _mask: int | None = attrs.field(eq=False, repr=False)

    def matches(self, code: Code) -> bool:
        """Whether the code is one of them."""
        if self._mask is not None:
            return int(code) & self._mask == self._mask
        return all(low <= octet <= high for octet, (low, high) in zip(code.packed, self._limits, strict=True))


def parse_pattern(text: str) -> Pattern:
    """Read a pattern; ValueError when it is none."""
    is_mask = text.startswith("&")
    plain = text.removeprefix("&")
    octets = re.findall(r"\[[^\]]*\]|[^.]+", plain)  # ranges hold dots of their own
    limits = []
    for octet in octets:
        match = _OCTET.match(octet)
        if match is None or (is_mask and match.group(1) is None):
            break
        low, high = int(match.group(1) or match.group(2)), int(match.group(1) or match.group(3))
        if not low <= high <= 255:
            break
        limits.append((low, high))
    if len(limits) != 4 or ".".join(octets) != plain:
        raise ValueError(f"{text!r} is neither an address, in which [a..b] may stand, nor a bit mask such as &0.0.0.4")
    mask = int.from_bytes(bytes(low for low, _ in limits), "big") if is_mask else None
    return Pattern(text, tuple(limits), mask)


def patterns(texts: Iterable[str]) -> tuple[Pattern, ...]:
    """Read several."""
    return tuple(map(parse_pattern, texts))


ANY = patterns(ANY_CODE)


@attrs.frozen(kw_only=True)
class ListSettings:
    """One list, as configured."""

    zone: str = attrs.field(repr=False)
    """What is queried: A-labels in lower case, at most `LONGEST_ZONE` characters. May hold a key: never shown."""
    display_zone: str
    accept: tuple[Pattern, ...] = ANY
    errors: tuple[Pattern, ...] = patterns(ERROR_CODES)
    """Codes that say that the list does not answer us."""
    selftest: Literal["ipv4", "both", "off"] = "ipv4"
    txt: Literal["domain", "any", "off"] = "domain"
    override_spf: tuple[Pattern, ...] = ()
    report_none: bool = True

    @property
    def is_mirror(self) -> bool:
        """Whether another zone is asked than is shown."""
        return self.zone != self.display_zone

    def is_betrayed_by(self, text: str) -> bool:
        """Whether a text tells the zone that is asked, or a key in it, though another one is shown."""
        hidden = (one for one in (self.zone, *keys_in(self.zone)) if one not in self.display_zone)
        return any(one in text.lower() for one in hidden)


@attrs.frozen(kw_only=True)
class Finding:
    """What a list says about a client."""

    result: Verb
    reason: str | None = None
    """Of an error: over-quota, refused, selftest, bad-answer, filtered; timeout, servfail, bogus, malformed."""
    codes: tuple[Code, ...] = ()
    """Sorted, each once; of a pass, and of an error that a code tells."""
    text: Text | None = None
    sec: Literal["yes", "no", "na"] = "na"
    ttl: float = attrs.field(default=30.0, eq=False)
    """Seconds for which it holds (RFC 5782 6): what the DNS says of its answers, little for what is no answer."""

    def overrides_spf(self, settings: ListSettings) -> bool:
        """Whether it saves the client from an SPF rejection."""
        return self.result == "pass" and any(p.matches(code) for p in settings.override_spf for code in self.codes)


# --- names ----------------------------------------------------------------------------------------------------------


def keys_in(zone: str) -> tuple[str, ...]:
    """The labels of a zone that look like a customer's key: long, and letters and digits in one."""
    return tuple(
        label
        for label in zone.split(".")
        if len(label) >= SHORTEST_KEY and label.isalnum() and not label.isalpha() and not label.isdigit()
    )


def client_of(address: str | None) -> ClientIP | None:
    """The client that lists can know; None for UNIX sockets and for private, loopback, link-local and ULA addresses."""
    if address is None:
        return None
    client = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(client, ipaddress.IPv6Address) and client.ipv4_mapped is not None:
        client = client.ipv4_mapped
    if any(client.version == network.version and client in network for network in _AT_HOME):
        return None
    return client


def query_name(client: ClientIP, zone: str) -> str:
    """The name to ask for: reversed octets, or the 32 nibbles of an IPv6 address (RFC 5782 2.1, 2.4)."""
    if isinstance(client, ipaddress.IPv6Address):
        return ".".join(reversed(client.packed.hex())) + f".{zone}."
    return ".".join(str(octet) for octet in reversed(client.packed)) + f".{zone}."


@attrs.frozen(kw_only=True)
class TestEntries:
    """The names of RFC 5782 5 that every good list has, or never has."""

    __test__ = False  # no test of pytest's

    listed: str
    unlisted: str
    listed_v6: str
    unlisted_v6: str

    def asked(self, settings: ListSettings) -> tuple[str, ...]:
        """Those that this list is tested with; without a self-test, one that shows whether it answers at all."""
        if settings.selftest == "off":
            return (self.unlisted,)
        # Many lists have no IPv6 entry to be found, but a good one lists ::FFFF:7F00:1 no more than 127.0.0.1.
        names = (self.listed, self.unlisted, self.unlisted_v6)
        return (*names, self.listed_v6) if settings.selftest == "both" else names


def selftest_names(zone: str) -> TestEntries:
    """127.0.0.2 is listed, 127.0.0.1 is not; likewise ::FFFF:7F00:2 and ::FFFF:7F00:1, as nibbles."""
    v4, v6 = ipaddress.IPv4Address, ipaddress.IPv6Address
    return TestEntries(
        listed=query_name(v4("127.0.0.2"), zone),
        unlisted=query_name(v4("127.0.0.1"), zone),
        listed_v6=query_name(v6("::ffff:7f00:2"), zone),
        unlisted_v6=query_name(v6("::ffff:7f00:1"), zone),
    )


# --- answers --------------------------------------------------------------------------------------------------------


def judge(answer: Answer, settings: ListSettings) -> Finding:
    """What the answer to the A question comes to, by itself."""
    if _EDE_OVER_QUOTA in answer.ede:
        return Finding(result="permerror", reason="over-quota")
    if _EDE_FILTERED.intersection(answer.ede):
        return Finding(result="permerror", reason="filtered")
    if answer.status is Status.BOGUS:
        return Finding(result="temperror", reason="bogus")
    if answer.rcode == "REFUSED":
        return Finding(result="permerror", reason="refused")
    if answer.is_failure:
        return Finding(result="temperror", reason=_REASONS.get(answer.rcode, "servfail"))
    codes = tuple(sorted({Code(record.address) for record in answer.records if isinstance(record, A)}))
    # RFC 5782 2.1: lists answer with 127/8. Whoever sells a dead list's domain answers with a host.
    if len(codes) > MOST_CODES or not all(code in _LOOPBACK for code in codes):
        return Finding(result="permerror", reason="bad-answer", ttl=answer.ttl)
    if any(pattern.matches(code) for pattern in settings.errors for code in codes):
        return Finding(result="permerror", reason="over-quota", codes=codes, ttl=answer.ttl)
    if any(pattern.matches(code) for pattern in settings.accept for code in codes):
        return Finding(result="pass", codes=codes, ttl=answer.ttl)
    return Finding(result="none", ttl=answer.ttl)


def examine(answers: Mapping[str, Answer], entries: TestEntries, settings: ListSettings) -> dict[int, Finding]:
    """What the test entries say of the list, by the IP version of the clients that it is asked about.

    A pass is a list that can be believed; an error says why it cannot be, or, as a temperror, that nobody knows.
    """
    found = {name: tested(name, answer, entries, settings) for name, answer in answers.items()}
    # A list that is a wildcard for IPv4 is none the better for IPv6 clients.
    v4 = [finding for name, finding in found.items() if name in (entries.listed, entries.unlisted)]
    return {4: _worst(v4), 6: _worst(found.values())}


def tested(name: str, answer: Answer, entries: TestEntries, settings: ListSettings) -> Finding:
    """What one test entry says of the list."""
    finding = judge(answer, attrs.evolve(settings, accept=ANY))
    if finding.reason is not None:
        return finding
    is_right = (finding.result == "pass") == (name in (entries.listed, entries.listed_v6))
    if is_right or settings.selftest == "off":
        return Finding(result="pass", codes=finding.codes)
    return Finding(result="permerror", reason="selftest")


def _worst(findings: Iterable[Finding]) -> Finding:
    """A definite error before one that may pass, and that before none; the first of its kind."""
    found = sorted(findings, key=lambda f: ("permerror", "temperror", "pass").index(f.result))
    return found[0] if found else Finding(result="pass")


def complete(finding: Finding, a: Answer, txt: Answer | None, settings: ListSettings, *, validating: bool) -> Finding:
    """Add the text of a pass, and how the answers stand with DNSSEC.

    `txt` is None when it did not come in time; `validating` says that the resolver is known to validate, and that its
    AD is believed.
    """
    if finding.result not in ("pass", "none"):
        return finding
    text = None
    if finding.result == "pass" and txt is not None and not txt.is_failure and settings.txt != "off":
        text = reportable(txt.records, needs_domain=settings.txt == "domain")
        if text is not None and settings.is_betrayed_by(text.value):
            text = None
    sec: Literal["yes", "no", "na"] = "na"
    # RFC 8904 2: a local mirror is asked over no secure way that DNSSEC would know of.
    if validating and not settings.is_mirror:
        secure = a.is_secure and (text is None or (txt is not None and txt.is_secure))
        sec = "yes" if secure else "no"
    return attrs.evolve(finding, text=text, sec=sec)


def report(finding: Finding, settings: ListSettings) -> Result:
    """How it is written into Authentication-Results (RFC 8904 2)."""
    properties = [Property("dns", "zone", settings.display_zone), Property("dns", "sec", finding.sec)]
    if finding.codes:
        properties.append(Property("policy", "ip", ",".join(map(str, finding.codes))))
    if finding.text is not None:
        properties.append(Property("policy", "txt", finding.text.value, quoted=True, in_ascii=finding.text.in_ascii))
    return Result("dnswl", finding.result, reason=finding.reason, properties=tuple(properties))
