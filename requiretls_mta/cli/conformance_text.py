"""The conformance report: for people and for programs."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import attrs
from rich.console import Console
from rich.table import Table
from rich.text import Text

from requiretls_mta.cli.conformance_rules import Check, Finding, Verdict, is_conformant

_STYLE = {Verdict.PASS: "green", Verdict.FAIL: "bold red", Verdict.WARNING: "yellow", Verdict.NOT_TESTED: "dim"}


@attrs.frozen(kw_only=True)
class Report:
    """What one run came to."""

    server: str
    """HOST:PORT as it was asked for."""
    time: str
    """RFC 3339, UTC."""
    results: tuple[tuple[Check, Finding], ...]
    deliver: str | None = None
    """To whom a message was to be sent."""

    @property
    def conformant(self) -> bool:
        """Whether nothing failed and the essentials were seen."""
        return is_conformant(self.results)


def as_json(report: Report) -> dict[str, Any]:
    """The report for programs."""
    return {
        "server": report.server,
        "time": report.time,
        "conformant": report.conformant,
        "checks": [
            {
                "id": check.id,
                "title": check.title,
                "clause": check.clause,
                "verdict": finding.verdict.value,
                "seen": finding.seen,
                "expected": check.expected,
            }
            for check, finding in report.results
        ],
    }


def print_report(report: Report) -> None:
    """The report for people: a line for what is well, what was seen and expected for all else."""
    # A pipe has no width to fit into.
    console = Console(width=None if sys.stdout.isatty() else 4000, highlight=False)
    console.print(Text(f"REQUIRETLS conformance of {report.server}, {report.time}", "bold"))
    section = ""
    for number, (check, finding) in enumerate(report.results):
        if check.section != section:
            section = check.section
            console.print(Text(f"\n{section}", "bold"))
        verdict = Text(finding.verdict.value, _STYLE[finding.verdict])
        console.print(_row(verdict, Text.assemble(check.title, (f"  {check.clause}", "dim"))))
        # Neighbours that were not tested for the same reason have it told once.
        after = report.results[number + 1 :]
        if not (after and after[0][0].section == section and after[0][1] == finding):
            for detail in _details(check, finding):
                console.print(_row(Text(), detail))
    console.print()
    console.print(_summary(report))


def _row(left: Text, right: Text) -> Table:
    row = Table.grid()
    row.add_column(width=2)
    row.add_column(width=12)
    row.add_column()
    row.add_row("", left, right)
    return row


def _details(check: Check, finding: Finding) -> tuple[Text, ...]:
    if finding.verdict is Verdict.PASS:
        return (Text(f"seen      {finding.seen}", "dim"),) if check.informs else ()
    if finding.verdict is Verdict.NOT_TESTED:
        return (Text(f"because   {finding.seen}", "dim"),)
    return (Text(f"seen      {finding.seen}"), Text(f"expected  {check.expected}"))


def _summary(report: Report) -> Text:
    counts = Counter(finding.verdict for _, finding in report.results)
    told = ", ".join(
        f"{counts[verdict]} {word}"
        for verdict, word in (
            (Verdict.PASS, "passed"),
            (Verdict.FAIL, "failed"),
            (Verdict.WARNING, "with a warning"),
            (Verdict.NOT_TESTED, "not tested"),
        )
        if counts[verdict]
    )
    if report.conformant:
        verdict = Text("Conformant", "bold green")
    else:
        verdict = Text("Not conformant" if counts[Verdict.FAIL] else "Not shown to be conformant", "bold red")
    return Text.assemble(verdict, f": {told}. {_sent(report)}")


def _sent(report: Report) -> str:
    if report.deliver is None:
        return "No message was sent."
    taken = any(check.id == "deliver" and finding.verdict is Verdict.PASS for check, finding in report.results)
    if taken:
        return f"One message was sent to {report.deliver}."
    return f"The message to {report.deliver} was not seen to be taken."
