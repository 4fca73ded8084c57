"""The queue as a table for people."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from requiretls_mta.cli.common import printable

_COLUMNS = ("id", "received", "size", "TLS", "sender", "recipient", "state", "last reply")


def print_table(rows: Iterator[dict[str, Any]]) -> None:
    """One line per recipient; the message stands in its first one."""
    table = Table(*_COLUMNS, box=None, pad_edge=False)
    count = 0
    for row in rows:
        count += 1
        cells = [row["id"], row["received"], str(row["size"]), row["requiretls"] or "-", row["sender"] or "<>"]
        for recipient in row["recipients"]:
            state = "held" if row["held"] and recipient["state"] == "queued" else recipient["state"]
            reply = recipient["last_reply"] or ""
            table.add_row(*(Text(printable(cell)) for cell in (*cells, recipient["address"], state, reply)))
            cells = [""] * 5
    # A pipe has no width to fit into.
    console = Console(width=None if sys.stdout.isatty() else 4000, highlight=False)
    if count:
        console.print(table)
    console.print(f"{count} queued" if count else "the queue is empty")
