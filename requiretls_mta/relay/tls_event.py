"""The event `tls`: how a session with a host came out under the policies of its domain (RFC 8460 4.3)."""

from __future__ import annotations

from typing import Any

from requiretls_mta.relay.dial import Line
from requiretls_mta.relay.route import Host, NoPolicy, Route
from requiretls_mta.tls.elements import DANE, STS, Proof, TLSState
from requiretls_mta.tls.judge import Row

MOST_STRINGS = 100
"""Records, or lines, of one policy that are told."""
_BY_PROOF = {
    Proof.WRONG_NAME: "certificate-host-mismatch",
    Proof.EXPIRED: "certificate-expired",
    Proof.UNTRUSTED: "certificate-not-trusted",
}
_BY_STATE = {
    TLSState.NOT_OFFERED: "starttls-not-supported",
    TLSState.REFUSED: "starttls-not-supported",
    TLSState.UNAVAILABLE: "starttls-not-supported",
    TLSState.HANDSHAKE_FAILED: "validation-failure",
}


def session_event(queue_id: str, route: Route, host: Host, line: Line, *, heeded: bool) -> dict[str, Any]:
    """The fields for a session; `heeded` is False where nobody asked for policies, and `policy_type` then None."""
    session = line.session.tls
    result, detail = _result(route, host, line)
    return {
        "message": "TLS established" if session else "no TLS",
        **_policy(queue_id, route, host, line.address),
        "source": line.source,
        **({} if heeded else {"policy_type": None}),
        "starttls": line.tls is not TLSState.NOT_OFFERED,
        "keyword": line.keyword,
        "tls_version": session.version if session else None,
        "cipher": session.cipher if session else None,
        "auth": line.auth,
        "result": result,
        "detail": detail,
    }


def passed_over_event(queue_id: str, route: Route, host: Host, row: Row) -> dict[str, Any] | None:
    """The fields for a host that was not even connected to; None unless it is for a policy's sake."""
    if host.tlsa.state is DANE.UNKNOWN:
        result, detail = "dnssec-invalid", host.tlsa.problem
    elif host.sts is STS.UNLISTED:
        result, detail = "validation-failure", row.detail
    elif host.sts is STS.UNAVAILABLE and isinstance(route.policy, NoPolicy):
        result, detail = route.policy.result or "sts-policy-fetch-error", route.policy.problem
    else:
        return None
    return {
        "message": "host passed over",
        **_policy(queue_id, route, host, None),
        "starttls": False,
        "keyword": False,
        "tls_version": None,
        "cipher": None,
        "auth": None,
        "result": result,
        "detail": detail,
    }


def _policy(queue_id: str, route: Route, host: Host, address: str | None) -> dict[str, Any]:
    policy, tlsa = route.policy, host.tlsa
    mode: str | None = None
    patterns: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    strings: tuple[str, ...] = ()
    if policy is not None and not isinstance(policy, NoPolicy):
        mode, patterns, lines = policy.mode.value, tuple(policy.mx), tuple(policy.lines)
    kind = "no-policy-found"
    if tlsa.state is not DANE.NONE:
        kind, strings = "tlsa", tuple(map(str, tlsa.records))
    elif mode in ("enforce", "testing") or (isinstance(policy, NoPolicy) and policy.result):
        kind, strings = "sts", lines
    return {
        "queue_id": queue_id,
        "domain": route.domain,
        "next_hop": route.next_hop or route.domain,
        "mx": host.name,
        "address": address,
        "port": host.port,
        "mx_security": host.mx_security.value,
        "dane": tlsa.state.value,
        "policy_type": kind,
        "policy_domain": tlsa.base if kind == "tlsa" else route.next_hop or route.domain,
        "policy_strings": strings[:MOST_STRINGS],
        "policy_mx": patterns[:MOST_STRINGS],
        "sts_mode": mode,
    }


def _result(route: Route, host: Host, line: Line) -> tuple[str | None, str]:
    """The result type, None for success, and what is to be said about it."""
    policy = route.policy
    if line.tls is not TLSState.ESTABLISHED:
        return _BY_STATE[line.tls], line.detail
    failed = _BY_PROOF.get(line.proved.proof) if line.proved else None
    if host.tlsa.state is DANE.USABLE:
        return failed, line.detail
    if host.tlsa.state is DANE.UNUSABLE:
        return "tlsa-invalid", "; ".join(filter(None, (record.problem for record in host.tlsa.records[:3])))
    if isinstance(policy, NoPolicy):
        return policy.result, policy.problem
    if policy is None or policy.mode.value not in ("enforce", "testing"):
        return None, line.detail
    if not policy.matches(host.name):
        return "validation-failure", "the MTA-STS policy of the domain does not list the host"
    return failed, line.detail
