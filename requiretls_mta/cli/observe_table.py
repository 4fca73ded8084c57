"""The observations as a table for people, or where that is too wide for the terminal as paragraphs."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from requiretls_mta.cli.common import printable
from requiretls_mta.report.observation import FEATURES, Host, Sighting

_HEADINGS = dict(
    zip(FEATURES, ("STARTTLS", "REQUIRETLS", "TLS", "auth", "DNSSEC", "DANE", "MTA-STS"), strict=True),
)
_WEAK = ("unusable", "testing")
"""Values that are there, and protect nobody."""

Found = Sequence[tuple[str, str, Host]]


def print_table(found: Found, domain: str | None) -> None:
    """A line for each domain, and one or more for each of its MX hosts. Dates are UTC."""
    # A pipe has no width to fit into.
    console = Console(width=None if sys.stdout.isatty() else 4000, highlight=False)
    if not found:
        console.print(Text(printable(f"nothing is known of {domain}" if domain else "nothing was observed yet")))
        return
    table = _table(found)
    fits = console.measure(table, options=console.options.update(max_width=4000)).maximum <= console.width
    console.print(table if fits else Group(*_paragraphs(found)))


def _table(found: Found) -> Table:
    table = Table("domain, MX hosts", *_HEADINGS.values(), "last met", box=None, pad_edge=False)
    for domain, hosts in itertools.groupby(found, key=lambda row: row[0]):
        table.add_row(Text(printable(domain), "bold"))
        for _, mx, host in hosts:
            cells = [_cell(host.sighting(feature), host.last) for feature in FEATURES]
            table.add_row(Text(f"  {printable(mx)}"), *cells, _date(host.last))
    return table


def _paragraphs(found: Found) -> Iterator[RenderableType]:
    for domain, hosts in itertools.groupby(found, key=lambda row: row[0]):
        yield Text(printable(domain), "bold")
        for _, mx, host in hosts:
            yield Text(f"  {printable(mx)}, last met {_date(host.last)}")
            features = [
                Text(f"{heading} ").append_text(_cell(host.sighting(feature), host.last))
                for feature, heading in _HEADINGS.items()
            ]
            yield Padding(Text(", ").join(features), (0, 0, 0, 4))


def _cell(sighting: Sighting, last: float) -> Text:
    """What holds now; with a date where that was not seen when the host was met last, or has gone since."""
    value = sighting.current
    if value is not None:
        dated = f" ({_date(sighting.seen)})" if _date(sighting.seen) != _date(last) else ""
        return Text(printable(value).removeprefix("TLSv") + dated, "yellow" if value in _WEAK else "green")
    if sighting.missed is None:
        return Text("-", "dim")
    return Text(f"no (until {_date(sighting.seen)})" if sighting.seen is not None else "no", "red")


def _date(when: float | None) -> str:
    return "" if when is None else time.strftime("%Y-%m-%d", time.gmtime(when))
