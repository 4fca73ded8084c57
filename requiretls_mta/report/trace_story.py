"""The story of a message: what the trace holds of it, as the tool tells it and its documentation promises."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from requiretls_mta.message.reply import USUAL, quote
from requiretls_mta.report.trace_read import Record

_STATES = {"deferred": "queued", "delivered": "delivered", "bounced": "failed", "expired": "failed"}
_SIDES = {"C": "client", "S": "server"}
_REMOVED = "removed"


def stories(records: Mapping[str, Sequence[Record]]) -> list[dict[str, Any]]:
    """Each message of a family (`trace_read.family`) with its events, in the order of their birth."""
    parents = {found["queue_id"]: found.get("parent") for one in records.values() for found in one if _is_birth(found)}
    return [
        _story(one, found, [child for child, parent in parents.items() if parent == one])
        for one, found in records.items()
    ]


def transcript(text: str) -> list[dict[str, Any]]:
    """A transcript by lines: `at` (seconds, None: not noted), `from` (client, server, None: a remark), `text`.

    Its forms are described in `smtp.transcript` and, for a client's transaction, in `smtp.incoming`.
    """
    is_transaction = text.startswith("~")
    head, _, rest = text.removeprefix("~").partition("\n")
    try:
        times = [float(when) / 1000 for when in json.loads(head)]
    except (ValueError, TypeError):
        times = []
    lines = [line.rstrip("\r") for line in rest.split("\n") if line]
    return _transaction(lines, times) if is_transaction else _session(lines, times)


def _session(said: Sequence[str], times: Sequence[float]) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    number, more = 0, False
    for line in said:
        if not (more and line[0] == "S"):
            number += 1
        more = line[0] == "S" and line[4:5] == "-"
        at = times[min(number, len(times)) - 1] if times else 0.0
        lines.append({"at": at, "from": _SIDES.get(line[0]), "text": quote(line[1:])})
    return lines


def _transaction(said: Sequence[str], times: Sequence[float]) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for line, following in zip_longest(said, said[1:], fillvalue=""):
        side = {">": "server", "*": None}.get(line[0], "client")
        lines.append({"at": None, "from": side, "text": quote(line if side == "client" else line[1:])})
        usual = USUAL.get(line[:4].upper().encode("ascii", "replace")) if side == "client" else None
        if usual is not None and not following.startswith(">"):
            lines.append({"at": None, "from": "server", "text": str(usual)})
    if lines and len(times) == 2:
        lines[0]["at"], lines[-1]["at"] = times
    return lines


def _is_birth(record: Record) -> bool:
    return record.get("event") == "queued"


def _story(queue_id: str, records: Sequence[Record], born: list[str]) -> dict[str, Any]:
    birth: Record = next(filter(_is_birth, records), {})
    recipients = _recipients(birth, records)
    return {
        "id": queue_id,
        "message_id": birth.get("message_id"),
        "origin": birth.get("origin"),
        "parent": birth.get("parent"),
        "sender": birth.get("sender", next((r["sender"] for r in records if "sender" in r), None)),
        "requiretls": birth.get("requiretls"),
        "size": birth.get("size"),
        "received": birth.get("time"),
        "finished": bool(recipients) and all(one["state"] != "queued" for one in recipients),
        "recipients": recipients,
        "born": born,
        "events": [event for record in records for event in _events(record)],
    }


def _recipients(birth: Record, records: Sequence[Record]) -> list[dict[str, Any]]:
    """How each stands, as far as the trace knows."""
    found: dict[str, dict[str, Any]] = {
        address: {"address": address, "state": "queued", "attempts": 0, "last_reply": None}
        for address in birth.get("recipients", ())
    }
    for record in records:
        event, address = record.get("event"), record.get("recipient")
        if event in _STATES and address is not None:
            found[address] = {
                "address": address,
                "state": _STATES[event],
                "attempts": record.get("attempts", 0),
                "last_reply": record.get("reply"),
            }
        elif event == "operator" and record.get("action") == "remove":
            for one in found.values():
                if one["state"] == "queued":
                    one["state"] = _REMOVED
    return list(found.values())


def _events(record: Record) -> list[dict[str, Any]]:
    """A line as the one or two events that it tells of."""
    record = dict(record)
    if not _is_birth(record):
        if isinstance(hosts := record.get("hosts"), list):
            record["hosts"] = [_with_transcript(host) for host in hosts]
        return [record]
    session, said, checks = (record.pop(name, None) for name in ("session", "transcript", "checks"))
    if session is None:
        return [record]
    accepted = {
        "time": record.get("time"),
        "event": "accepted",
        "queue_id": record.get("queue_id"),
        **({"message_id": record["message_id"]} if "message_id" in record else {}),
        **{name: value for name, value in session.items() if name not in ("id", "transcript")},
        "session": session.get("id"),
    }
    if checks is not None:
        accepted["checks"] = checks
    if said is not None:
        accepted["transcript"] = transcript(session.get("transcript", "")) + transcript(said)
    return [accepted, record]


def _with_transcript(host: dict[str, Any]) -> dict[str, Any]:
    return {**host, "transcript": transcript(host["transcript"])} if "transcript" in host else host
