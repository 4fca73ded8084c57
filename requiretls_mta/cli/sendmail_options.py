"""The command line of `sendmail`, as Postfix's sendmail(1) reads it: what each letter means here."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

from requiretls_mta.cli.sendmail_addresses import ListError, mailboxes
from requiretls_mta.cli.sendmail_trouble import USAGE, Trouble
from requiretls_mta.message.xtext import encode

_WITH_VALUE = frozenset("ABCFLNORVXbefhopr")
_IGNORED = frozenset("GUmnvcxALXehp")
_NOTIFY = frozenset({"SUCCESS", "FAILURE", "DELAY"})
_ENVID_LIMIT = 100
"""Characters (RFC 3461 4.4)."""
_BODIES = ("7BIT", "8BITMIME")
_MODES = {
    "d": "the server is started by twistd requiretls-mta",
    "i": "aliases are part of the configuration; SIGHUP makes the server read them again",
    "l": "the server is started by twistd requiretls-mta",
    "s": "speak SMTP to the server's own listener",
    "v": "requiretls-mta explain ADDRESS tells what would happen to a message",
}


@attrs.frozen(kw_only=True)
class Options:
    """What is asked for."""

    mode: str = "m"
    """`m`: a message comes on standard input; `p`: the queue is to be listed; `q`: to be attempted now."""
    recipients: tuple[str, ...] = ()
    sender: str | None = None
    """The envelope's; empty: the empty reverse path; None was not given."""
    name: str | None = None
    """The sender's full name, for a From field that is missing."""
    extract: bool = False
    """Whether recipients stand in the header."""
    ignore_dots: bool = False
    """Whether a line of a lone dot is text like any other."""
    config: Path | None = None
    queue_id: str | None = None
    """With mode `q`: of one message only."""
    require_tls: bool | None = None
    """False: `TLS-Required: No`; None: neither was asked for."""
    notify: str = ""
    """Comma-separated words of RFC 3461 4.1, in upper case."""
    ret: str = ""
    """`FULL` or `HDRS`."""
    envid: str = ""
    """In xtext."""


def parse_options(words: Sequence[str]) -> Options:
    """The command line without the program's name; raises `Trouble`."""
    given: dict[str, Any] = {}
    at = 0
    while at < len(words) and words[at].startswith("-") and words[at] != "-":
        word = words[at]
        at += 1
        if word == "--":
            break
        at = _read(word[1:], words, at, given)
    else:
        # Behind options nothing looks like one, unless "--" said so: a sender's or recipient's name may come from afar.
        if any(word.startswith("-") for word in words[at:]):
            raise Trouble(USAGE, "options stand before the recipients")
    try:
        recipients = tuple(address for word in words[at:] for address in mailboxes(word))
    except ListError as error:
        raise Trouble(USAGE, f"recipients: {error}") from error
    return Options(recipients=recipients, **given)


def _read(letters: str, words: Sequence[str], at: int, given: dict[str, Any]) -> int:
    """The options of one word; where the next word is."""
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter == "q":  # its value is glued to it, or there is none
            _queue_run(letters, given)
            return at
        if letter in _WITH_VALUE:
            if not letters:
                if at == len(words):
                    raise Trouble(USAGE, f"-{letter} needs a value")
                letters, at = words[at], at + 1
            if letter == "o" and len(letters) == 1 and letters not in "78im":
                at += 1  # -o x value
            _valued(letter, letters, given)
            return at
        _flag(letter, given)
    return at


def _flag(letter: str, given: dict[str, Any]) -> None:
    match letter:
        case "i":
            given["ignore_dots"] = True
        case "t":
            given["extract"] = True
        case "I":
            raise Trouble(USAGE, f"-I: {_MODES['i']}")
        case _ if letter not in _IGNORED:
            raise Trouble(USAGE, f"-{letter}: no such option")


def _valued(letter: str, value: str, given: dict[str, Any]) -> None:
    reader = _READERS.get(letter)
    if reader is not None:
        given.update(reader(value))


def _queue_run(what: str, given: dict[str, Any]) -> None:
    if not what:
        given["mode"] = "q"
    elif what.startswith("I") and len(what) > 1:
        given.update(mode="q", queue_id=what[1:])
    elif what[0] in "RS":
        raise Trouble(USAGE, f"-q{what}: only the whole queue (-q) or one message (-qIID) can be attempted at once")
    # Else an interval: how often the queue is run is the configuration's.


def _mode(value: str) -> dict[str, Any]:
    if value in _MODES:
        raise Trouble(USAGE, f"-b{value}: {_MODES[value]}")
    if value not in ("m", "p", "h", "H"):
        raise Trouble(USAGE, f"-b{value}: no such mode")
    return {"mode": value} if value in ("m", "p") else {}


def _sender(value: str) -> dict[str, Any]:
    try:
        found = mailboxes(value)
    except ListError as error:
        raise Trouble(USAGE, f"-f: {error}") from error
    if len(found) > 1:
        raise Trouble(USAGE, "-f: one sender is needed")
    return {"sender": found[0] if found else ""}


def _notify(value: str) -> dict[str, Any]:
    found = [word.strip().upper() for word in value.split(",")]
    if found != ["NEVER"] and not (set(found) <= _NOTIFY and len(set(found)) == len(found)):
        raise Trouble(USAGE, f"-N {value}: never, or some of success, failure and delay are needed")
    return {"notify": ",".join(found)}


def _ret(value: str) -> dict[str, Any]:
    if value.upper() not in ("FULL", "HDRS"):
        raise Trouble(USAGE, f"-R {value}: full or hdrs is needed")
    return {"ret": value.upper()}


def _envid(value: str) -> dict[str, Any]:
    if not (value.isascii() and value.isprintable() and 0 < len(value) <= _ENVID_LIMIT):
        raise Trouble(USAGE, f"-V: up to {_ENVID_LIMIT} printable ASCII characters are needed")
    return {"envid": encode(value)}


def _set(value: str) -> dict[str, Any]:
    name, _, wanted = value.partition("=")
    if name.strip().lower() != "requiretls":
        return {}
    if wanted.strip().lower() not in ("yes", "no"):
        raise Trouble(USAGE, f"-O {value}: requiretls=yes or requiretls=no is needed")
    return {"require_tls": wanted.strip().lower() == "yes"}


def _body(value: str) -> dict[str, Any]:
    if value.upper() not in _BODIES:
        raise Trouble(USAGE, f"-B {value}: 7BIT or 8BITMIME is needed")
    return {}  # the message shows which it is


def _name(value: str) -> dict[str, Any]:
    if not value.isprintable():
        raise Trouble(USAGE, "-F: the name has characters that cannot be printed")
    return {"name": re.sub(r"\s+", " ", value).strip()}


_READERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "B": _body,
    "C": lambda value: {"config": Path(value)},
    "F": _name,
    "N": _notify,
    "O": _set,
    "R": _ret,
    "V": _envid,
    "b": _mode,
    "f": _sender,
    "o": lambda value: {"ignore_dots": True} if value.startswith("i") else {},
    "r": _sender,
}
