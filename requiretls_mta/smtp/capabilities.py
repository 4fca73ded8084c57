"""What a server offers: the keywords of its EHLO reply (RFC 5321 4.1.1.1)."""

from __future__ import annotations

from collections.abc import Mapping

from requiretls_mta.message.reply import Reply


def capabilities(reply: Reply) -> Mapping[str, tuple[str, ...]]:
    """Keyword in upper case to its parameters. The first line is the server's name and greeting, never a keyword."""
    found: dict[str, tuple[str, ...]] = {}
    for line in reply.text.split("\n")[1:]:
        words = line.split()
        if words:
            found.setdefault(words[0].upper(), tuple(words[1:]))
    return found
