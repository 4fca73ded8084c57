"""What a server offers: the keywords of its EHLO reply (RFC 5321 4.1.1.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def capabilities(lines: Sequence[bytes]) -> Mapping[str, tuple[str, ...]]:
    """Keyword in upper case to its parameters. The first line is the server's name and greeting, never a keyword."""
    found: dict[str, tuple[str, ...]] = {}
    for line in lines[1:]:
        # RFC 5321 4.1.1.1: what is not ASCII is no keyword of anybody's, and must not become one by case folding.
        words = line.decode("ascii", "backslashreplace").split()
        if words:
            found.setdefault(words[0].upper(), tuple(words[1:]))
    return found
