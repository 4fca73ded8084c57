"""The transcript of a client's session: how it was opened, and its latest transaction.

A transaction is noted for every message and read of hardly any, so as little as can be is done for it: the lines of the
client are kept as they are, of ours those that are not the `usual` reply to a command, and the time of its beginning.
As text its first line is `~`, with two times as in `transcript`: of its first line and of its last; of the others a
line that begins with `>` is ours, one with `*` what neither of us said, and each other one the client's.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence

from requiretls_mta.message import reply
from requiretls_mta.smtp.transcript import HIDDEN, LARGEST, LAST, LONGEST, MOST, Transcript, harmless

OPENING = 60
"""Commands and replies kept of what came before the first MAIL."""
# Whose whole line is shown. Of all else the verb at the most: a client out of step with us, that was refused AUTH or
# DATA and goes on all the same, sends passwords and messages where we expect commands.
_WHOLE = re.compile(rb"(?:MAIL FROM:|RCPT TO:|(?:EHLO|HELO|LHLO) |BDAT [0-9 ]+(?:LAST)?\Z|DATA\Z)", re.IGNORECASE)
_PLAIN = re.compile(rb"(?:MAIL FROM:|RCPT TO:|DATA\Z)[ -~]{0,1500}\Z")
_VERB = re.compile(
    rb"(?:DATA|BDAT|RSET|QUIT|STARTTLS|NOOP|VRFY|EXPN|HELP|MAIL|RCPT|EHLO|HELO|LHLO)(?= |\Z)", re.IGNORECASE
)
_AUTH = re.compile(
    rb"AUTH(?: (?:PLAIN|LOGIN|CRAM-MD5|DIGEST-MD5|EXTERNAL|XOAUTH2|OAUTHBEARER|SCRAM-SHA-[0-9]{1,3}(?:-PLUS)?))?"
    rb"(?= |\Z)",
    re.IGNORECASE,
)
_USUAL = {verb: answer.wire for verb, answer in reply.USUAL.items()}
_HELLOS = frozenset({b"EHLO", b"HELO", b"LHLO"})


class Incoming(Transcript):
    """Takes commands and replies as they pass."""

    __slots__ = ("_began", "_latest", "_lines", "_usual", "kept")

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._lines: list[bytes] | None = None
        """Of the latest transaction; None before the first one."""
        self._latest: deque[bytes] | None = None
        self._began = 0.0
        self._usual: bytes | None = None
        """The reply to the latest command that need not be noted."""
        self.kept: tuple[object, str] | None = None
        """For whoever writes about each of many messages what is true of all: what it depends on, and the text."""

    def command(self, line: bytes) -> None:
        """A command line of the client's."""
        verb = line[:4].upper()
        self._usual = _USUAL.get(verb)
        if verb == b"MAIL":
            if self._lines is None:
                self._cut(OPENING)
            self._lines, self._latest, self._began = [], None, self._clock()
        elif self._usual is None and verb in _HELLOS and self._lines is not None:
            # Whoever begins anew has an opening of his own.
            self._lines = self._latest = self.kept = None
            self._cut(0)
        lines = self._lines
        if lines is not None and _PLAIN.match(line) and len(lines) < MOST:  # nearly always
            lines.append(line)
            return
        if not _WHOLE.match(line):
            line = _shown(line)
        elif b"\n" in line:
            line = harmless(line)
        if lines is None:
            self.client(line)
        else:
            self._keep(line)

    def response(self) -> None:
        """A line of an AUTH exchange."""
        if self._lines is None:
            self.client(HIDDEN)
        else:
            self._keep(HIDDEN)

    def octets(self, count: int) -> None:
        """Octets of a message."""
        if self._lines is None:
            super().octets(count)
        else:
            self._keep(b"(%d octets)" % count)

    def note(self, text: str) -> None:
        """What neither of us said."""
        if self._lines is None:
            super().note(text)
        else:
            self._keep(b"*" + harmless(text))

    def reply(self, wire: bytes) -> None:
        """What we said, as it went out."""
        if wire == self._usual:
            self._usual = None
            return
        if wire.startswith(b"334"):
            wire = b"334 %b\r\n" % HIDDEN
        if self._lines is None:
            self._add(b"S" + wire.replace(b"\r\n", b"\r\nS", wire.count(b"\n") - 1))
        else:
            self._keep(_ours(wire))

    @property
    def opening(self) -> str:
        """What was said before the first MAIL."""
        return self.text()

    def transaction(self, answers: Sequence[bytes] = ()) -> str:
        """What was said since; `answers` are replies on the wire that are about to be given."""
        lines = [*(self._lines or ()), *(self._latest or ()), *map(_ours, answers)]
        octets = b"\n".join(lines)
        if len(octets) > LARGEST:
            octets = octets[: octets.rfind(b"\n", 0, LARGEST)] + b"\n*(the rest is left out)"
        start, began, now = self._start, self._began, self._clock()
        text = octets.decode("utf-8", "backslashreplace")
        return f"~[{int((began - start) * 1000)},{int((now - start) * 1000)}]\n{text}"

    def _keep(self, line: bytes) -> None:
        lines = self._lines
        assert lines is not None
        if len(lines) < MOST and len(line) <= LONGEST:
            lines.append(line)
            return
        if len(line) > LONGEST:
            line = line[: LONGEST - 3] + b"..."
        if len(lines) < MOST:
            lines.append(line)
            return
        if self._latest is None:
            lines[-1] = b"*(lines left out)"
            self._latest = deque(maxlen=LAST)
        self._latest.append(line)


def _ours(wire: bytes) -> bytes:
    return b">" + wire[:-2].replace(b"\r\n", b"\n>")


def _shown(line: bytes) -> bytes:
    for known in (_VERB, _AUTH):
        if match := known.match(line):
            shown = match.group()
            return shown if len(shown) == len(line) else shown + b" " + HIDDEN
    return b"(no command: %d octets)" % len(line)
