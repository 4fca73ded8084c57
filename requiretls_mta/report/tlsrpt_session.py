"""What a session comes to in a TLS report: who is told, under which policy it ran, and whether it failed and how."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from requiretls_mta.message.address import AddressError, check_domain
from requiretls_mta.message.reply import quote

DAY = 86400

POLICY_TYPES = frozenset({"tlsa", "sts", "no-policy-found"})
RESULT_TYPES = frozenset(
    {
        "starttls-not-supported",
        "certificate-host-mismatch",
        "certificate-expired",
        "certificate-not-trusted",
        "validation-failure",
        "tlsa-invalid",
        "dnssec-invalid",
        "dane-required",
        "sts-policy-fetch-error",
        "sts-policy-invalid",
        "sts-webpki-invalid",
    }
)
"""RFC 8460 4.3, all of them."""
GENERAL_FAILURE = "validation-failure"
"""RFC 8460 4.3.3: of whatever cannot be put elsewhere."""

MOST_STRINGS = 100
"""Strings of a policy, and patterns of its hosts, that a report shows."""
LONGEST_STRING = 2048


@attrs.frozen
class Policy:
    """The policy that a session was held to (RFC 8460 4.4)."""

    kind: str
    domain: str
    """A-labels: of DANE the TLSA base domain, else mostly the recipient's (RFC 8460 1.1)."""
    strings: tuple[str, ...] = ()
    mx: tuple[str, ...] = ()

    def dumped(self) -> str:
        """As text; equal for equal policies."""
        return json.dumps(attrs.astuple(self), separators=(",", ":"))

    @classmethod
    def loaded(cls, text: str) -> Policy:
        """What `dumped` wrote."""
        kind, domain, strings, mx = json.loads(text)
        return cls(kind, domain, tuple(strings), tuple(mx))


@attrs.frozen
class Failure:
    """What failed, and where (RFC 8460 4.4); empty is not known."""

    result: str
    sending_ip: str = ""
    mx: str = ""
    receiving_ip: str = ""
    reason: str = ""

    def dumped(self) -> str:
        """As text; equal for equal failures."""
        return json.dumps(attrs.astuple(self), separators=(",", ":"))

    @classmethod
    def loaded(cls, text: str) -> Failure:
        """What `dumped` wrote."""
        return cls(*json.loads(text))


@attrs.frozen
class Session:
    """One session, as it is counted."""

    day: int
    """Days since 1970, UTC."""
    domain: str
    """Who is told: the domain whose `_smtp._tls` record is asked for."""
    policy: Policy
    failure: Failure | None
    """None: a success."""


def session_of(fields: Mapping[str, Any], now: float) -> Session | None:
    """What a `tls` event comes to; None for what nobody is told of."""
    kind = str(fields.get("policy_type"))
    result = fields.get("result")
    # Nobody's policy covers the way to a host that our operator chose. Success means TLS.
    if kind not in POLICY_TYPES or fields.get("mx_security") == "not-applicable":
        return None
    if result is None and not fields.get("tls_version"):
        return None
    # RFC 8460 1.1: the recipient's domain, or that of the smarthost that local policy chose. The policy domain of DANE
    # is the TLSA base domain, a host's name; its reports belong to whose mail it takes.
    told, policy_domain = _name(fields.get("next_hop")), _name(fields.get("policy_domain"))
    if not told or not policy_domain:
        return None
    policy = Policy(
        kind=kind,
        domain=policy_domain,
        strings=tuple(_string(one) for one in _first(fields.get("policy_strings"))),
        # RFC 8460 4.4: only an MTA-STS policy has patterns.
        mx=tuple(quote(str(one)) for one in _first(fields.get("policy_mx") if kind == "sts" else None)),
    )
    failure = None
    if result is not None:
        failure = Failure(
            result=str(result) if result in RESULT_TYPES else GENERAL_FAILURE,
            sending_ip=quote(str(fields.get("source") or "")),
            mx=quote(str(fields.get("mx") or "")),
            receiving_ip=quote(str(fields.get("address") or "")),
            reason=quote(str(fields.get("detail") or "")),
        )
    return Session(int(now // DAY), told, policy, failure)


def _name(value: Any) -> str:
    """A domain in lower case; empty when it is none, or an address literal."""
    name = str(value or "").rstrip(".").lower()
    try:
        check_domain(name)
    except AddressError:
        return ""
    return name if name.isascii() and not name.startswith("[") else ""


def _first(values: Sequence[Any] | None) -> Sequence[Any]:
    return (values or ())[:MOST_STRINGS]


def _string(value: Any) -> str:
    """A string of a policy as it was published, but for what I-JSON does not hold (RFC 7493 2.1)."""
    return str(value)[:LONGEST_STRING].encode("utf-8", "backslashreplace").decode("utf-8")
