"""MTA-STS: a domain's announcement and its policy (RFC 8461 3.1, 3.2, 4.1), read by the letter of the ABNF.

What does not fit is no policy: the sender then does as though the domain had none, so guessing at what was meant would
let whoever garbles a policy choose what it says.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator

import attrs

from requiretls_mta.message.reply import quote

MOST_OCTETS = 64 * 1024
"""Octets of a policy (RFC 8461 3.3)."""
LONGEST_AGE = 31_557_600
"""Seconds: the greatest `max_age` (RFC 8461 3.2)."""
RECORD = "_mta-sts"
"""The label in front of a domain at which the announcement is (RFC 8461 3.1)."""
HOST = "mta-sts"
"""The label in front of a domain that makes the policy host (RFC 8461 3.2)."""

_WSP = " \t"
_RECORD_FIELD = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.\-]{0,31})=([\x21-\x3a\x3c\x3e-\x7e]+)\Z")
_ID = re.compile(r"[A-Za-z0-9]{1,32}\Z")
_POLICY_FIELD = re.compile(
    # A value may hold UTF-8 and, inside, spaces; no controls of ASCII.
    r"([A-Za-z0-9][A-Za-z0-9_.\-]{0,31}):[ \t]*"
    r"([\x21-\x7e\x80-\U0010ffff](?:[\x20-\x7e\x80-\U0010ffff]*[\x21-\x7e\x80-\U0010ffff])?)\Z"
)
_TERM = re.compile(r"\r?\n")
_MAX_AGE = re.compile(r"[0-9]{1,10}\Z")
# RFC 5321 4.1.2: Domain, with the lengths that the DNS has for it.
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?"
_DOMAIN = rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\Z"
_MX = re.compile(rf"(?:\*\.)?{_DOMAIN}")
_HOST = re.compile(_DOMAIN)


class PolicyError(ValueError):
    """The octets are no policy, or the TXT records no announcement; the message says why, escaped."""


class Mode(enum.Enum):
    """What a sender does when a policy is not met (RFC 8461 5)."""

    ENFORCE = "enforce"
    """Deliver elsewhere or not at all."""
    TESTING = "testing"
    """Deliver all the same, and report."""
    NONE = "none"
    """As though there were no policy."""


@attrs.frozen(kw_only=True)
class Policy:
    """What a domain promises about its MX hosts."""

    mode: Mode
    mx: tuple[str, ...]
    """Patterns in lower case: `mail.example.com`, `*.example.net`. Empty only if the mode is `none`."""
    max_age: int
    """Seconds that it holds from the time of its fetch."""
    id: str
    """The announcement's, by which a newer policy is known."""
    text: str = attrs.field(repr=False)
    """The policy as it was served."""

    @property
    def lines(self) -> tuple[str, ...]:
        """The text line by line, as reports tell it (RFC 8460 4.4)."""
        return tuple(line.rstrip(_WSP) for line in _lines(self.text))

    def matches(self, host: str) -> bool:
        """Whether it lists an MX host (A-labels). RFC 8461 4.1: a wildcard stands for exactly one label."""
        name = host.lower()
        label, _, rest = name.partition(".")
        return label not in ("", "*") and (name in self.mx or f"*.{rest}" in self.mx)


def can_have_policy(domain: str) -> bool:
    """Whether a domain (A-labels) can be a policy domain: its policy host must be a host name."""
    # RFC 8461 3.4: an address literal has none. The longer of the two labels is RECORD.
    return bool(_HOST.match(domain)) and len(f"{RECORD}.{domain}") <= 253


def parse_record(texts: Iterable[bytes]) -> str | None:
    """The id that the TXT records of `_mta-sts.DOMAIN` announce, or None where they announce nothing.

    Each item is one record, its strings joined. Raises `PolicyError` for an announcement that counts for none: several
    of them, or one against the grammar (RFC 8461 3.1).
    """
    found = [text for text in texts if text.startswith(b"v=STSv1;")]
    if not found:
        return None
    if len(found) > 1:
        raise PolicyError("there are several TXT records of MTA-STS, so none counts")
    if not found[0].isascii():
        raise PolicyError("the TXT record has octets outside ASCII")
    _, *fields = found[0].decode("ascii").split(";")
    *fields, last = fields
    if last.strip(_WSP):  # else the delimiter that may stand at the end
        if last != last.rstrip(_WSP):
            raise PolicyError("the TXT record ends in blanks")
        fields.append(last)
    announced = None
    for field in fields:
        pair = _RECORD_FIELD.match(field.strip(_WSP))
        if pair is None:
            raise PolicyError(f"the TXT record's field {quote(field)!r} is no name=value")
        # RFC 8461 3.2: of a field that comes twice the first counts.
        if pair[1] == "id" and announced is None:
            announced = pair[2]
    if announced is None or not _ID.match(announced):
        raise PolicyError("the TXT record has no id of 1 to 32 letters and digits")
    return announced


def parse_policy(octets: bytes, id: str) -> Policy:  # noqa: A002 - the announcement's own word
    """Read a policy as it was served, under the id that announced it. Raises `PolicyError`."""
    if len(octets) > MOST_OCTETS:
        raise PolicyError(f"the policy has more than {MOST_OCTETS} octets")
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PolicyError("the policy is not UTF-8") from error
    first: dict[str, str] = {}
    mx: dict[str, None] = {}
    for name, value in _fields(text):
        first.setdefault(name, value)  # RFC 8461 3.2: what comes twice is ignored, but for mx
        if name == "mx":
            if not _MX.match(value):
                raise PolicyError(f"mx is {quote(value)!r}; a host name is needed, *. may stand in front")
            mx[value.lower()] = None
    if first.get("version") != "STSv1":
        raise PolicyError("the policy's version is not STSv1")
    if first.get("mode") not in {mode.value for mode in Mode}:
        raise PolicyError("the policy's mode is none of enforce, testing, none")
    mode = Mode(first["mode"])
    age = first.get("max_age", "")
    if not _MAX_AGE.match(age) or int(age) > LONGEST_AGE:
        raise PolicyError(f"the policy's max_age is no number from 0 to {LONGEST_AGE}")
    if not mx and mode is not Mode.NONE:
        raise PolicyError("the policy lists no mx")
    return Policy(mode=mode, mx=tuple(mx), max_age=int(age), id=id, text=text)


def _fields(text: str) -> Iterator[tuple[str, str]]:
    """The pairs of a policy: one a line, blanks allowed behind the value."""
    for line in _lines(text):
        pair = _POLICY_FIELD.match(line.rstrip(_WSP))
        if pair is None:
            raise PolicyError(f"the policy's line {quote(line)!r} is no name: value")
        yield pair[1], pair[2]


def _lines(text: str) -> list[str]:
    lines = _TERM.split(text)
    return lines if lines[-1] else lines[:-1]  # the last line end may be there or not
