"""Counters of what became of promises, since the service began, in the text format of Prometheus."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

_OUTCOMES = frozenset({"delivered", "deferred", "bounced", "expired"})
_KINDS = {
    "required": ("requiretls_mta_requiretls_total", "Outcomes of attempts of messages with REQUIRETLS, by recipient."),
    "optional": ("requiretls_mta_tls_required_no_total", "The same of messages with TLS-Required: No."),
}
_STATUS = re.compile(r"[0-9]{3} ([245]\.[0-9]{1,3}\.[0-9]{1,3})(?: |\Z)")
MOST = 1000
"""Sets of labels that are told apart: the reasons are other servers' words."""


class Counters:
    """Subscribes to the events of settled attempts."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str]] = Counter()

    def emit(self, event: str, /, **fields: Any) -> None:
        """Take one event; only those of tagged messages count."""
        tag = fields.get("requiretls")
        if event not in _OUTCOMES or tag not in _KINDS:
            return
        status = _STATUS.match(str(fields.get("reply", "")))
        labels = (tag, event, status.group(1) if status else "none")
        if labels not in self._counts and len(self._counts) >= MOST:
            labels = (tag, event, "other")
        self._counts[labels] += 1

    def text(self) -> str:
        """All counters; `reason` is the enhanced status code of the reply that decided."""
        lines = []
        for tag, (name, help_text) in _KINDS.items():
            lines += [f"# HELP {name} {help_text}", f"# TYPE {name} counter"]
            lines += [
                f'{name}{{outcome="{outcome}",reason="{reason}"}} {count}'
                for (kind, outcome, reason), count in sorted(self._counts.items())
                if kind == tag
            ]
        return "\n".join(lines) + "\n"
