"""Transcripts: what the two sides of a session said, as it may be kept and shown.

Never an octet of a message or of a credential: of these only that there were some. Bounded, whatever is said.

A transcript as text has in its first line, as a JSON array, the milliseconds since the session began at which each of
the others came, with one time for all lines of a reply. They begin with `C` (client), `S` (server) or `*` (what neither
of them said). It is written for every message and read for hardly any: it is readers who escape what is in it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence

from requiretls_mta.message.reply import quote

MOST = 200
"""Commands and replies kept from the beginning,"""
LAST = 12
"""and from the end."""
LONGEST = 2048
"""Octets of each,"""
LARGEST = 64 * 1024
"""and of all together."""
HIDDEN = b"***"

_STATUS = re.compile(rb"[2-5]\.[0-9]{1,3}\.[0-9]{1,3}(?= |\Z)")


class Transcript:
    """Takes lines as they pass; `clock` tells seconds of a clock that only this process reads."""

    __slots__ = ("_at", "_clock", "_last", "_said", "_start")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._start = clock()
        self._at: list[float] = []
        self._said: list[bytes] = []
        self._last: deque[tuple[float, bytes]] | None = None

    def client(self, line: bytes) -> None:
        """A command, without its CRLF."""
        self._add(b"C" + line + b"\n")

    def octets(self, count: int) -> None:
        """Octets of a message, from the client."""
        self._add(b"C(%d octets)\n" % count)

    def server(self, code: int, texts: Sequence[bytes], *, hidden: bool = False) -> None:
        """A reply by its code and the texts of its lines; of a `hidden` one no more than its enhanced status."""
        if hidden:
            status = _STATUS.match(texts[-1])
            texts = [status.group() + b" " + HIDDEN if status else HIDDEN]
        lines = [b"S%d-%b\n" % (code, text) for text in texts[:-1]]
        self._add(b"".join(lines) + b"S%d %b\n" % (code, texts[-1]))

    def note(self, text: str) -> None:
        """What neither of them said."""
        self._add(b"*%b\n" % harmless(text))

    def text(self) -> str:
        """All of it."""
        return self._text(0)

    def _text(self, first: int, last: int | None = None, more: Sequence[bytes] = ()) -> str:
        at, said = self._at[first:last], self._said[first:last]
        if self._last is not None and last is None:
            at += [when for when, _ in self._last]
            said += [line for _, line in self._last]
        if more:
            at += [self._clock()] * len(more)
            said += more
        start = self._start
        octets = b"".join(said)
        if len(octets) > LARGEST:
            octets = octets[: octets.rfind(b"\n", 0, LARGEST) + 1] + b"*(the rest is left out)\n"
        return f"{[int((when - start) * 1000) for when in at]}\n{octets.decode('utf-8', 'backslashreplace')}"

    def _add(self, line: bytes) -> None:
        """A command or reply, each line of it with its line feed."""
        if len(self._said) < MOST and len(line) <= LONGEST:
            self._said.append(line)
            self._at.append(self._clock())
        else:
            self._add_with_care(line)

    def _add_with_care(self, line: bytes) -> None:
        if len(line) > LONGEST:
            line = line[: LONGEST - 4] + b"...\n"
        if len(self._said) < MOST:
            self._said.append(line)
            self._at.append(self._clock())
            return
        if self._last is None:
            self._said[-1] = b"*(lines left out)\n"
            self._last = deque(maxlen=LAST)
        self._last.append((self._clock(), line))

    def _cut(self, count: int) -> None:
        """Forget all but the first lines."""
        del self._at[count:], self._said[count:]
        self._last = None


def harmless(text: str | bytes) -> bytes:
    """As octets of one line."""
    return quote(text).encode("utf-8", "backslashreplace")
