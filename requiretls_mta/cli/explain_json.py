"""An explanation for programs. Beyond what people read: every record, digest and name, whole."""

from __future__ import annotations

import datetime
from typing import Any

from requiretls_mta.relay.explanation import Explanation, Visit
from requiretls_mta.relay.presented import Certificate
from requiretls_mta.relay.route import NoPolicy, Route


def in_json(told: Explanation) -> dict[str, Any]:
    """The object that `explain --json` prints."""
    route = told.route
    return {
        "address": told.address,
        "verdict": told.prospect.value,
        "status": told.status,
        "reply": None if told.reply is None else str(told.reply),
        "mx_security": told.mx_security.value,
        "policy": told.level.value,
        "local": told.is_local,
        "next_hop": (route.next_hop or None) if isinstance(route, Route) else None,
        "mta_sts": _mta_sts(route) if isinstance(route, Route) else None,
        "hosts": [_host(visit) for visit in told.visits],
    }


def _mta_sts(route: Route) -> dict[str, Any] | None:
    """The policy of the domain; null: none is announced, or nobody asked."""
    match route.policy:
        case None | NoPolicy(problem=""):
            return None
        case NoPolicy(problem=problem, result=result):
            return {"mode": None, "id": None, "mx": [], "max_age": None, "problem": problem, "result": result}
        case policy:
            return {
                "mode": policy.mode.value,
                "id": policy.id,
                "mx": list(policy.mx),
                "max_age": policy.max_age,
                "problem": None,
                "result": None,
            }


def _host(visit: Visit) -> dict[str, Any]:
    host, tls, waived = visit.host, visit.tls, visit.waived
    return {
        "host": host.name,
        "port": host.port,
        "preference": host.preference,
        "address": visit.address,
        "mx_security": host.mx_security.value,
        "steps": [
            {"step": one.step.value, "ok": one.ok, "reached": one.reached, "detail": one.detail, "clause": one.clause}
            for one in visit.steps
        ],
        "auth": visit.proved.auth if visit.proved is not None else None,
        "tls_version": tls.version if tls is not None else None,
        "cipher": tls.cipher if tls is not None else None,
        "certificates": [_certificate(one) for one in visit.certificates],
        "tlsa": {
            "state": host.tlsa.state.value,
            "base": host.tlsa.base or None,
            "problem": host.tlsa.problem or None,
            "records": [{"record": one.record, "matches": one.matches, "detail": one.detail} for one in visit.tlsa],
        },
        "mta_sts": host.sts.value,
        "waived": waived and {"step": waived.step.value, "detail": waived.detail, "clause": waived.clause},
        "login": visit.logs_in,
        "verdict": visit.prospect.value,
        "status": visit.status,
        "reply": None if visit.reply is None else str(visit.reply),
    }


def _certificate(one: Certificate | str) -> dict[str, Any]:
    if isinstance(one, str):
        return {"problem": one}
    return {
        "problem": None,
        "subject": one.subject,
        "issuer": one.issuer,
        "names": list(one.names),
        "not_before": _date_time(one.not_before),
        "not_after": _date_time(one.not_after),
        "sha256": one.sha256,
        "spki_sha256": one.spki_sha256,
    }


def _date_time(when: datetime.datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")
