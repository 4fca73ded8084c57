"""Patterns of the configuration: `*` stands for anything, `?` for one character, and nothing else is special."""

from __future__ import annotations

import re


def glob(pattern: str, **names: str) -> re.Pattern[str]:
    """The whole text must match, in any case; the time is linear in the text for each star.

    `{NAME}` stands for the text given by that name, in which nothing is special.
    """
    first, *rest = (_plain(part, names) for part in pattern.split("*"))
    if rest:
        # What lies between stars is best found as early as can be: no way back, for the text is a stranger's.
        *inner, last = rest
        first += "".join(f"(?>.*?{part})" for part in inner) + f".*{last}"
    return re.compile(first + r"\Z", re.DOTALL | re.IGNORECASE)


def _plain(part: str, names: dict[str, str]) -> str:
    escaped = re.escape(part).replace(r"\?", ".")
    for name, text in names.items():
        escaped = escaped.replace(re.escape(f"{{{name}}}"), re.escape(text))
    return escaped
