"""What a conformance check is: what is said to a server, what came of it, and the verdict. Values; no I/O."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs

from requiretls_mta.message.reply import quote
from requiretls_mta.smtp.client_replies import Heard
from requiretls_mta.tls.facts import ClientTLS


class Verdict(enum.Enum):
    """What a check comes to; the values are those of the JSON report."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    WARNING = "warning"
    NOT_TESTED = "not tested"


@attrs.frozen
class Finding:
    """A verdict, and what it is based on: what was seen, or why nothing could be."""

    verdict: Verdict
    seen: str


class Kind(enum.Enum):
    """Why a dialogue broke off."""

    BUSY = enum.auto()
    """The server would not talk now: no further connection, 421."""
    REFUSED = enum.auto()
    """The server would not talk: 554, no TLS for now, a login that failed."""
    CLOSED = enum.auto()
    TIMED_OUT = enum.auto()
    GARBLED = enum.auto()
    """What came is no SMTP reply."""
    UNASKED = enum.auto()
    """A reply that no command asked for."""
    NO_TLS = enum.auto()
    """STARTTLS or the handshake failed."""


@attrs.frozen
class Trouble:
    """Why a dialogue broke off, in words fit to be shown."""

    kind: Kind
    text: str


class Start(enum.Enum):
    """How far a connection is when a check's script begins."""

    GREETED = enum.auto()
    """The greeting was read; nothing was said yet."""
    OLD_TLS = enum.auto()
    """A handshake with nothing newer than TLS 1.1."""
    HANDSHAKE = enum.auto()
    """TLS, and not a word in it yet."""
    READY = enum.auto()
    """EHLO inside TLS, and the login where there is one."""


@attrs.frozen
class Say:
    """One command, and one reply to it."""

    text: str
    """With `{ehlo}`, `{mail}`, `{rcpt}`, ... in it: see the runner's names."""
    octets: int = 0
    """Trailing blanks make the line so long, CRLF included."""
    starts_tls: bool = False
    """A 220 is followed by the handshake."""
    behind: bytes = b""
    """Octets of the same segment, in the clear."""
    only_after: str = ""
    """Said only behind a reply whose code begins so; else the dialogue ends."""

    def line(self, names: Mapping[str, str]) -> bytes:
        """What goes over the wire."""
        line = self.text.format_map(names).encode("utf-8")
        return line.ljust(self.octets - 2) + b"\r\n" + self.behind


@attrs.frozen
class Answer:
    """A command as it may be shown, and the reply."""

    said: str
    heard: Heard

    @property
    def code(self) -> int:
        """The reply's basic code."""
        return self.heard.reply.code

    @property
    def keywords(self) -> list[list[str]]:
        """The words of each line of a reply to EHLO, without the first line: the server's name is no keyword."""
        return [line.decode("ascii", "backslashreplace").split() for line in self.heard.lines[1:]]

    def __str__(self) -> str:
        return quote(f"{self.said}: {self.heard.reply}")


@attrs.frozen(kw_only=True)
class Seen:
    """A dialogue as it went."""

    answers: Sequence[Answer] = ()
    """To the commands of the script, as far as it came."""
    started: bool = True
    """Whether the start came about."""
    tls: ClientTLS | None = None
    trouble: Trouble | None = None
    """Why it broke off; None: it did not."""

    @property
    def why(self) -> str:
        """The trouble in words."""
        return self.trouble.text if self.trouble else "the dialogue ended early"


Judge = Callable[[Seen], Finding]


@attrs.frozen(kw_only=True)
class Check:
    """One row of the table of checks."""

    id: str
    section: str
    title: str
    clause: str
    expected: str
    start: Start
    script: tuple[Say, ...] = ()
    judge: Judge
    needs: tuple[str, ...] = ()
    """Checks without which this one says nothing; they stand above it."""
    unless: frozenset[str] = frozenset()
    """Circumstances in which it cannot be made: keys of the runner's reasons."""
    informs: bool = False
    """Whether a person wants to know what was seen though all is well."""
    essential: bool = False
    """Whether a server is conformant only when this was seen to pass."""


def is_conformant(results: Iterable[tuple[Check, Finding]]) -> bool:
    """Nothing failed, and what matters most was seen."""
    return all(
        finding.verdict is not Verdict.FAIL and (finding.verdict is Verdict.PASS or not check.essential)
        for check, finding in results
    )


# --- judges of most checks ------------------------------------------------------------------------------------------


class Want(enum.Enum):
    """What one reply of a script should be."""

    NEED = enum.auto()
    """Positive, or the check says nothing."""
    TAKE = enum.auto()
    """Positive."""
    REFUSE = enum.auto()
    """Negative."""


def replies(*wants: Want, otherwise: Verdict = Verdict.FAIL) -> Judge:
    """Judge each reply by what is wanted of it; the first that is not so decides, and is `otherwise`."""

    def judge(seen: Seen) -> Finding:
        decisive = ""
        for number, want in enumerate(wants):
            if number >= len(seen.answers):
                return _missing(seen, want)
            answer = seen.answers[number]
            finding = _one(answer, want, otherwise)
            if finding is not None:
                return finding
            if want is not Want.NEED or not decisive:
                decisive = str(answer)
        return Finding(Verdict.PASS, decisive)

    return judge


def taken(seen: Seen) -> Finding:
    """The first command is taken; or, when it is refused, so is the second, which no server need refuse."""
    if not seen.answers:
        return Finding(Verdict.NOT_TESTED, seen.why)
    first, *control = seen.answers
    kind = first.code // 100
    if kind == 2:
        return Finding(Verdict.PASS, str(first))
    if kind == 4 or not control or control[0].code // 100 != 2:
        return Finding(Verdict.NOT_TESTED, str(control[0] if control else first))
    return Finding(Verdict.FAIL, str(first))


def _one(answer: Answer, want: Want, otherwise: Verdict) -> Finding | None:
    kind, text = answer.code // 100, str(answer)
    if want is Want.REFUSE:
        if kind in (2, 3):
            return Finding(otherwise, text)
        return Finding(Verdict.WARNING, f"refused, but only for now: {text}") if kind == 4 else None
    if kind == 2:
        return None
    return Finding(Verdict.NOT_TESTED if want is Want.NEED or kind == 4 else otherwise, text)


def _missing(seen: Seen, want: Want) -> Finding:
    hung_up = want is Want.REFUSE and seen.trouble is not None and seen.trouble.kind is Kind.CLOSED
    return Finding(Verdict.WARNING if hung_up else Verdict.NOT_TESTED, seen.why)
