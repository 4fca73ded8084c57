"""Outcomes and causes: what an attempt is told to have come to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from requiretls_mta.message.envelope import Recipient
from requiretls_mta.message.outcome import Cause, Deferred, Delivered, Failed, Outcome, Security, Step
from requiretls_mta.message.reply import Reply
from requiretls_mta.relay.demand import Sending
from requiretls_mta.relay.dial import Line
from requiretls_mta.relay.route import Host
from requiretls_mta.smtp.exchange import Answered, Refused
from requiretls_mta.tls.elements import MXSecurity
from requiretls_mta.tls.judge import Row


def outcome(
    recipient: Recipient,
    reply: Reply,
    line: Line,
    causes: Sequence[Cause],
    sending: Sending,
    *,
    keyword: bool,
    transfer: float,
    command: str | None = "MAIL",
    answered: Answered | None = None,
) -> Outcome:
    """What became of a recipient in a session that got as far as MAIL; `command` is what the reply answers."""
    facts = line.session.tls
    security = Security(
        tls_version=facts.version if facts else None,
        cipher=facts.cipher if facts else None,
        auth=line.auth,
        mx_security=line.host.mx_security.value if not sending.demand.local else MXSecurity.NOT_APPLICABLE.value,
        requiretls=keyword,
    )
    host, delays = line.host.name, (*line.delays, transfer)
    if reply.is_positive:
        return Delivered(
            recipient=recipient,
            reply=reply,
            host=host,
            security=security,
            causes=tuple(causes),
            dsn_relayed=answered is not None and answered.dsn_relayed,
            in_mailbox=sending.demand.local,
            delays=delays,
        )
    kind = Deferred if reply.is_temporary else Failed
    return kind(
        recipient=recipient,
        reply=reply,
        host=host,
        security=security,
        causes=tuple(causes),
        command=command,
        delays=delays,
    )


def all_alike(recipients: Sequence[Recipient], reply: Reply, causes: tuple[Cause, ...]) -> list[Outcome]:
    """The same for all recipients, when no host would do."""
    kind = Deferred if reply.is_temporary else Failed
    host = causes[-1].host if causes else None
    return [kind(recipient=recipient, reply=reply, host=host, causes=causes) for recipient in recipients]


def judged(host: Host, line: Line | None, row: Row) -> Cause:
    """Why a host is out by a row of the table."""
    detail = row.detail or "the TLS handshake failed"
    more = line.detail if line is not None else host.tlsa.problem or host.sts_problem
    if more:
        detail = f"{detail}: {more}"
    return Cause(
        host=host.name,
        address=f"{line.address}:{host.port}" if line else None,
        step=row.step,
        detail=detail,
        temporary=row.temporary,
        clause=row.clause,
    )


def out_of_time(host: Host) -> Cause:
    """Why a host was not even tried."""
    return Cause(
        host=host.name,
        step=Step.CONNECT,
        detail="not tried in this attempt, which took too long already",
        temporary=True,
        clause="RFC 5321 4.5.4.1",
    )


def refused(line: Line, answer: Refused) -> Cause:
    """Why this host did not take the message, though the next may."""
    address = None if line.host.is_socket else f"{line.address}:{line.host.port}"
    if answer.why == "keyword":
        # It advertised the keyword and refuses the parameter: never again without (RFC 8689 4.2.1).
        return Cause(
            host=line.host.name,
            address=address,
            step=Step.REQUIRETLS,
            detail=f"MAIL with REQUIRETLS was answered {answer.reply}",
            temporary=False,
            clause="RFC 8689 4.2.1 (5)",
        )
    return Cause(
        host=line.host.name,
        address=address,
        step=Step.TRANSACTION,
        detail=f"MAIL was answered {answer.reply}" if answer.why == "sender" else answer.reply.text,
        temporary=answer.reply.is_temporary,
        reply=answer.reply,
        clause="RFC 5321 3.3",
    )


def waived_event(sending: Sending, host: Host, row: Row) -> dict[str, Any]:
    """The fields of the event `policy`: a tagged message went where the operator, not RFC 8689, lets it."""
    return {
        "message": "a promise was relaxed by the configuration",
        "queue_id": sending.message.id,
        "attempt": sending.attempt,
        "domain": sending.recipients[0].address.domain,
        "mx": host.name,
        "policy": sending.demand.level.value,
        "step": row.step.value,
        "detail": row.detail,
        "clause": row.clause,
    }
