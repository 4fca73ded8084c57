"""What an attempt went through at each host, for the trace: what was said there, and which row of the table decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import attrs

from requiretls_mta.message.envelope import Recipient
from requiretls_mta.message.flat_json import write_members
from requiretls_mta.message.outcome import Cause
from requiretls_mta.message.stored import Message
from requiretls_mta.relay.route import Host
from requiretls_mta.smtp.transcript import Transcript
from requiretls_mta.tls.elements import Verdict
from requiretls_mta.tls.judge import Row

Result = TypeVar("Result")

MOST = 50
"""Hosts and addresses that are told of one attempt."""
_MEANT = {
    Verdict.PROCEED_TAGGED: "the message goes with REQUIRETLS",
    Verdict.PROCEED: "the message may go",
    Verdict.CLEAR: "the message may go without TLS",
}


@attrs.define
class Visit:
    """One host at one address, or a host that was not even connected to."""

    host: str
    address: str | None
    transcript: Transcript | None = None
    row: Row | None = None
    """By which the message was let through (None, too, of delivery on this machine, which nobody judges),"""
    cause: Cause | None = None
    """and why that came to nothing all the same, or why it was not."""

    def ended(self, result: Result) -> Result:
        """The result of its transaction, which is noted."""
        if isinstance(result, Cause):
            self.cause = result
        return result

    def told(self) -> dict[str, Any]:
        """As the trace has it: `host`, `address`, `decision`, `failure`, `transcript`, where there is one."""
        fields: dict[str, Any] = {"host": self.host, "address": self.address}
        if (row := self.row) is not None:
            fields["decision"] = {"step": row.step.value, "detail": _MEANT[row.verdict], "clause": row.clause}
        if (cause := self.cause) is not None:
            fields["failure"] = {
                "step": cause.step.value,
                "detail": cause.detail,
                "clause": cause.clause or None,
                "temporary": cause.temporary,
            }
        if self.transcript is not None:
            fields["transcript"] = self.transcript.text()
        return fields


class Visits:
    """Those of one attempt; where nobody watches, nothing is kept of them."""

    def __init__(self, clock: Callable[[], float], *, watched: bool, transcribed: bool) -> None:
        self._clock = clock
        self._watched = watched
        self._transcribed = watched and transcribed
        self._visits: list[Visit] = []
        self._count = 0

    def begin(self, host: Host, address: str) -> Visit:
        """A session is to be had there, or one is that was kept."""
        where = None if host.is_socket else f"{address}:{host.port}"
        visit = Visit(host.name, where, Transcript(self._clock) if self._transcribed else None)
        self._note(visit)
        return visit

    def passed(self, cause: Cause) -> None:
        """A host was passed over."""
        self._note(Visit(cause.host, cause.address, cause=cause))

    def told(self) -> dict[str, Any]:
        """Fields for the event `attempt`."""
        left_out = self._count - len(self._visits)
        return {"hosts": [visit.told() for visit in self._visits], "left_out": left_out or None}

    def _note(self, visit: Visit) -> None:
        self._count += 1
        if self._watched and len(self._visits) < MOST:
            self._visits.append(visit)


def attempt_event(message: Message, recipients: Sequence[Recipient], attempt: str, visits: Visits) -> str:
    """The members of the event `attempt`, as JSON."""
    return write_members(
        {
            "queue_id": message.id,
            "attempt": attempt,
            "domain": recipients[0].address.domain,
            "count": len(recipients),
            **visits.told(),
        }
    )
