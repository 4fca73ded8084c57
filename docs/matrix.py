"""Writes `matrix.rst` from the very table that decides: `python docs/matrix.py` after each change of `tls/judge.py`."""

from __future__ import annotations

import csv
import enum
import io
from collections.abc import Collection
from pathlib import Path

from requiretls_mta.tls.judge import PARTS, Row
from requiretls_mta.tls.policy import Level

PAGE = Path(__file__).with_name("matrix.rst")

HEAD = """\
===================
The decision matrix
===================

What a message may do at a host. ``docs/matrix.py`` writes this page from the table in
``requiretls_mta/tls/judge.py``, which is what decides; the tests try every combination against it. Rows are read from
the top, and the first that fits decides. An empty field fits everything.

The table is asked twice: when a host has been found, before any connection to it, and when the session stands as well
as it will. *Next host* means that this one is left, with QUIT, before it has seen one octet of the message. When no
host is left, a *definite* reason fails the message; one that is *later* keeps it in the queue, for
``requiretls.lifetime`` if it is tagged.

Message
    ``required``: tagged by REQUIRETLS. ``report``: tagged, with an empty reverse path. ``optional``: ``TLS-Required:
    No``. ``none``: neither. How strictly a tagged message is held to it, ``requiretls.default`` and
    ``requiretls.policy`` say.
MX
    How the host was found. ``dnssec``: signed MX records, or a signed denial of them. ``mta-sts``: an MTA-STS policy
    lists it. ``none``: neither. ``not-applicable``: nothing was looked up, for a ``[host]`` route or an address
    literal.
TLSA
    The host's records for DANE. ``none``: DNSSEC vouches for none. ``usable``: one at least. ``unusable``: all of
    them are of a kind that SMTP has no use for, or malformed. ``unknown``: they cannot be looked up now.
MTA-STS
    ``enforced``: a policy in ``enforce`` mode lists the host. ``vouches``: one in ``testing`` mode does, and
    ``requiretls.mta_sts_testing`` lets it vouch. ``unlisted``: one in ``enforce`` mode does not list it.
    ``unavailable``: one is announced, but cannot be had. ``none``: there is none that asks for anything.
Certificate
    Where TLSA records are usable only they count, else the trusted roots and the name of the MX host (``pkix``).
Keyword
    Whether the EHLO inside TLS lists REQUIRETLS.
"""

COLUMNS = ("Row", "Message", "MX", "TLSA", "MTA-STS", "TLS", "Certificate", "Keyword", "What happens", "Clause")


def page() -> str:
    """The whole page."""
    lines, number = [HEAD], 0
    for title, rows in PARTS.items():
        lines += [title, "=" * len(title), "", ".. csv-table::", "   :header-rows: 1", "", _line(COLUMNS)]
        for row in rows:
            number += 1
            lines.append(_line((str(number), *_row(row))))
        lines.append("")
    return "\n".join(lines)


def _row(row: Row) -> tuple[str, ...]:
    keyword = "" if row.keyword is None else "yes" if row.keyword else "no"
    return (
        _message(row),
        _any(row.mx_security),
        _any(row.dane),
        _any(row.sts),
        _any(row.tls, none="not connected"),
        _any(row.proof, none="none"),
        keyword,
        _outcome(row),
        row.clause,
    )


def _message(row: Row) -> str:
    if not row.level or row.level == frozenset(Level):
        return _any(row.requirement)
    return f"{_any(row.requirement)}, at level {_any(row.level)}"


def _outcome(row: Row) -> str:
    if row.lets_through:
        return f"**{row.verdict.value}**"
    return f"**{row.verdict.value}**, {'later' if row.temporary else 'definite'}: {row.detail} ({row.step.value})"


def _any(elements: Collection[enum.Enum | None], none: str = "") -> str:
    # In the order in which the enumeration has them: sets have none.
    present = [element for element in elements if element is not None]
    order = list(type(present[0])) if present else []
    texts = [str(element.value) for element in sorted(present, key=order.index)]
    return " or ".join([none] * (None in elements) + texts)


def _line(texts: tuple[str, ...]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(texts)
    return f"   {line.getvalue()}"


if __name__ == "__main__":
    PAGE.write_text(page())
