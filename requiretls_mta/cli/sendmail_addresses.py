"""Address lists as people and scripts write them, in fields and arguments (RFC 5322 3.4), with bare names among them.

Read leniently: the caller's own words say whom he means. What strangers wrote, `message.mailboxes` reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# An encoded word of bad software may hold what else would part addresses (RFC 2047 5 forbids it in a phrase).
_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r\n]+)
      | (?P<quoted>"(?:[^"\\]|\\.)*")
      | (?P<literal>\[[^\[\]\\]*\])
      | (?P<word>=\?[^?\s]+\?[bBqQ]\?[^?\s]*\?=|[^\s"(),:;<>\[\]@]+)
      | (?P<special>[,:;<>@])""",
    re.VERBOSE | re.DOTALL,
)
_COMMENT = re.compile(r"[()]|\\.", re.DOTALL)


class ListError(ValueError):
    """The text is no list of addresses; the message says where it goes wrong."""


def mailboxes(text: str) -> list[str]:
    """The addresses in the list, `local@domain` or a bare `local`, in order; empty groups have none.

    Whether an address is one that SMTP allows, is for others to say. Raises `ListError`.
    """
    found: list[str] = []
    for element in _elements(text):
        address = _address(element)
        if address is not None:
            found.append(address)
    return found


def _elements(text: str) -> Iterator[list[str]]:
    """The tokens between commas; of groups, those of their members."""
    element: list[str] = []
    in_angle = False
    for part in _tokens(text):
        if part == (">", "<")[in_angle]:
            raise ListError(f"a {part} that does not belong there")
        in_angle = (in_angle or part == "<") and part != ">"
        if in_angle or part not in (",", ";", ":"):
            element.append(part)
        elif part == ":":
            element = []  # the name of a group
        else:
            yield element
            element = []
    if in_angle:
        raise ListError("a < without its >")
    yield element


def _tokens(text: str) -> Iterator[str]:
    """Words, quoted strings, literals, specials, and one blank for blanks and comments."""
    at = 0
    while at < len(text):
        if text[at] == "(":
            at = _behind_comment(text, at)
            yield " "
            continue
        match = _TOKEN.match(text, at)
        if match is None:
            raise ListError(f"a {text[at]} without its other half")
        at = match.end()
        yield " " if match.lastgroup == "blank" else match.group()


def _behind_comment(text: str, at: int) -> int:
    depth = 0
    for match in _COMMENT.finditer(text, at):
        if match.group() == "(":
            depth += 1
        elif match.group() == ")":
            depth -= 1
            if not depth:
                return match.end()
    raise ListError("a ( without its )")


def _address(tokens: list[str]) -> str | None:
    """The address of one element; None where there is nothing, or `<>`."""
    if "<" in tokens:
        start, end = tokens.index("<"), tokens.index(">")
        if any(part != " " for part in tokens[end + 1 :]):
            raise ListError("text behind the >")
        tokens = tokens[start + 1 : end]
        if ":" in tokens:  # a source route; RFC 5321 4.1.1.3 wants it ignored
            tokens = tokens[tokens.index(":") + 1 :]
    joined = "".join(tokens).strip()
    # RFC 5322 4.4: blanks around dots and the @ mean nothing; between words they part them.
    joined = re.sub(r" ?([.@]) ?", r"\1", joined) if '"' not in joined else joined
    return joined or None
