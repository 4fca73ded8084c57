"""The grammar of commands (RFC 5321 4.1): verbs, paths, parameters. Octets in; values, or a refusal, out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence, Set

import attrs

from requiretls_mta.message import reply
from requiretls_mta.message.address import Address, AddressError, AddressNeedsUTF8, check_domain, parse_mailbox
from requiretls_mta.message.envelope import Envelope, Notify, Recipient, Tag
from requiretls_mta.message.reply import Reply
from requiretls_mta.message.xtext import is_xtext

COMMAND_LIMIT = 512
"""Octets of a command line with its CRLF (RFC 5321 4.5.3.1.4)."""
AUTH_LIMIT = 12288
"""Octets of a line of an AUTH exchange; the command itself is one like any other (RFC 4954 4)."""
# What each extension adds to the MAIL line: RFC 1870, 6152, 6531, 8689, 3461, 4954.
_MAIL_ROOM = {"SIZE": 26, "8BITMIME": 17, "SMTPUTF8": 10, "REQUIRETLS": 11, "DSN": 500, "AUTH": 500}
_RCPT_ROOM = {"DSN": 500}

KNOWN_VERBS = frozenset(
    {"EHLO", "HELO", "LHLO", "STARTTLS", "AUTH", "BDAT", "ETRN", "TURN", "ATRN", "SEND", "SOML", "SAML"}
)
"""Verbs that exist somewhere; where they are not offered, the answer is 502, not 500."""
HTTP_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
# Whose controls are looked at elsewhere: in a path they make a bad address, and HTTP is not answered whatever it says.
_MAY_HOLD_CONTROLS = HTTP_METHODS | {"MAIL", "RCPT"}

_VERB = re.compile(rb"[A-Za-z][A-Za-z0-9-]*\Z")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*\Z")
_HELO_ATOM = re.compile(r"[\w.:\[\]-]+\Z", re.ASCII)
_PATH = re.compile(r'<((?:[^<>"\\ ]|"(?:[^"\\]|\\.)*")*)>(?: |\Z)', re.DOTALL)
_ROUTE = re.compile(r"@[^,:\s]+(?:,@[^,:\s]+)*:")


@attrs.frozen
class Command:
    """A command line taken apart."""

    verb: str
    """In upper case."""
    argument: bytes


def parse_command(line: bytes) -> Command | Reply:
    """A command line without its CRLF."""
    word, _, argument = line.partition(b" ")
    word = word.rstrip(b"\t ")
    if not _VERB.match(word):
        return reply.UNKNOWN_COMMAND
    verb = word.decode("ascii").upper()
    if _CONTROL.search(argument) and verb not in _MAY_HOLD_CONTROLS:
        return reply.UNKNOWN_COMMAND
    return Command(verb, argument.strip(b" \t"))


def is_http(line: bytes) -> bool:
    """Whether a command line, or its beginning, is a request of HTTP."""
    return line.partition(b" ")[0].decode("latin-1").upper() in HTTP_METHODS


def line_limit(start: bytes, offered: Set[str]) -> int:
    """Octets that a command line beginning with `start` may have, CRLF included."""
    verb = start[:5].upper()
    if verb.startswith(b"MAIL "):
        return COMMAND_LIMIT + sum(room for keyword, room in _MAIL_ROOM.items() if keyword in offered)
    if verb.startswith(b"RCPT "):
        return COMMAND_LIMIT + sum(room for keyword, room in _RCPT_ROOM.items() if keyword in offered)
    return COMMAND_LIMIT


def parse_helo(argument: bytes, *, strict: bool) -> str | Reply:
    """The name that the client gives itself; `strict` (EHLO) wants what looks like a domain or literal."""
    try:
        name = argument.decode("utf-8")
    except UnicodeDecodeError:
        return reply.BAD_SYNTAX
    try:
        check_domain(name)
    except AddressError:
        # Half the world greets with something that is no domain; only what could do harm later is refused.
        if not name or len(name) > 255 or (strict and not _HELO_ATOM.match(name)) or not name.isprintable():
            return reply.BAD_SYNTAX
    return name


@attrs.define
class _Mail:
    """MAIL parameters while they are collected."""

    tag: Tag | None = None
    body: str | None = None
    smtputf8: bool = False
    ret: str | None = None
    envid: str | None = None
    size: int | None = None


@attrs.define
class _Rcpt:
    """RCPT parameters while they are collected."""

    notify: frozenset[Notify] | None = None
    orcpt: str | None = None


def parse_mail(argument: bytes, offered: Set[str], *, in_clear: Set[str] = frozenset()) -> Envelope | Reply:
    """MAIL's argument. `offered` holds the keywords that EHLO listed, `in_clear` those of TLS only."""
    parts = _split(argument, b"FROM:")
    if isinstance(parts, Reply):
        return parts
    path, parameters = parts
    if "REQUIRETLS" in in_clear and any(keyword == "REQUIRETLS" for keyword, _ in parameters):
        return reply.REQUIRETLS_NEEDS_TLS
    values = _Mail()
    refused = _collect(parameters, _MAIL, offered, values)
    if refused is not None:
        return refused
    sender = None
    if path:
        mailbox = _mailbox(path, utf8=values.smtputf8, bare=False)
        if isinstance(mailbox, Reply):
            return mailbox
        sender = mailbox
    return Envelope(
        sender=sender,
        tag=values.tag,
        body=values.body,
        smtputf8=values.smtputf8,
        ret=values.ret,
        envid=values.envid,
        size=values.size,
    )


def parse_rcpt(argument: bytes, offered: Set[str], *, utf8: bool) -> Recipient | Reply:
    """RCPT's argument; `utf8` if MAIL carried SMTPUTF8."""
    parts = _split(argument, b"TO:")
    if isinstance(parts, Reply):
        return parts
    path, parameters = parts
    values = _Rcpt()
    refused = _collect(parameters, _RCPT, offered, values)
    if refused is not None:
        return refused
    mailbox = _mailbox(path, utf8=utf8, bare=True)
    if isinstance(mailbox, Reply):
        return mailbox
    return Recipient(mailbox, values.notify, values.orcpt)


def parse_bdat(argument: bytes) -> tuple[int, bool] | Reply:
    """BDAT's chunk size in octets, and whether it is the last (RFC 3030 2)."""
    parts = argument.split()
    last = len(parts) == 2 and parts[1].upper() == b"LAST"
    if not parts or len(parts) > 2 or (len(parts) == 2 and not last):
        return reply.BAD_SYNTAX
    if not parts[0].isdigit() or len(parts[0]) > 15:
        return reply.BAD_SYNTAX
    return int(parts[0]), last


def _split(argument: bytes, prefix: bytes) -> tuple[str, list[tuple[str, str | None]]] | Reply:
    """The path without its brackets, and the parameters: keyword in upper case, value."""
    if argument[: len(prefix)].upper() != prefix:
        return reply.BAD_SYNTAX
    try:
        text = argument[len(prefix) :].lstrip(b" ").decode("utf-8")
    except UnicodeDecodeError:
        return reply.BAD_SYNTAX
    found = _PATH.match(text)
    if not found:
        return reply.BAD_SYNTAX
    parameters: list[tuple[str, str | None]] = []
    for word in filter(None, text[found.end() :].split(" ")):
        keyword, equals, value = word.partition("=")
        if not _KEYWORD.match(keyword):
            return reply.BAD_SYNTAX
        parameters.append((keyword.upper(), value if equals else None))
    return found.group(1), parameters


def _mailbox(path: str, *, utf8: bool, bare: bool) -> Address | Reply:
    # RFC 5321 4.1.1.3 and C: a source route is accepted and ignored.
    if path.startswith("@"):
        route = _ROUTE.match(path)
        if not route:
            return reply.BAD_SYNTAX if ":" in path else reply.BAD_ADDRESS.with_text("Bad address: no local part")
        path = path[route.end() :]
    try:
        address = parse_mailbox(path, utf8=utf8, bare=bare)
    except AddressNeedsUTF8:
        return reply.NEEDS_SMTPUTF8
    except AddressError as error:
        return reply.BAD_ADDRESS.with_text(f"Bad address: {error}")
    if not address.domain and address.local.lower() != "postmaster":
        return reply.BAD_ADDRESS.with_text("Bad address: a domain is needed")
    return address


def _collect(
    parameters: Sequence[tuple[str, str | None]], table: _Table, offered: Set[str], values: object
) -> Reply | None:
    """Check each parameter and store what it says in `values`; the first refusal, or None."""
    seen = set()
    for keyword, value in parameters:
        extension, field, read = table.get(keyword, ("", "", None))
        if read is None or extension not in offered:
            return reply.UNKNOWN_PARAMETER.with_text(f"{keyword[:40]}: parameter not recognized or not implemented")
        if keyword in seen:
            return reply.BAD_PARAMETER.with_text(f"{keyword}: given twice")
        seen.add(keyword)
        found = read(value)
        if found is None:
            return reply.BAD_PARAMETER.with_text(f"{keyword}: bad or missing value")
        if field:
            setattr(values, field, found)
    return None


def _flag(meaning: object) -> _Read:
    """A parameter without a value (RFC 8689 2: `REQUIRETLS=` is not `REQUIRETLS`)."""
    return lambda value: meaning if value is None else None


def _choice(*choices: str) -> _Read:
    return lambda value: value.upper() if value is not None and value.upper() in choices else None


def _size(value: str | None) -> int | None:
    return int(value) if value is not None and value.isascii() and value.isdigit() and len(value) <= 20 else None


def _envid(value: str | None) -> str | None:
    return value if value and len(value) <= 100 and is_xtext(value) else None


def _auth(value: str | None) -> str | None:
    # RFC 4954 5: checked, but nobody here is trusted to vouch for a submitter.
    return value if value and (value == "<>" or is_xtext(value)) else None


def _notify(value: str | None) -> frozenset[Notify] | None:
    words = (value or "").upper().split(",")
    if any(word not in Notify.__members__ for word in words) or ("NEVER" in words and len(words) > 1):
        return None
    return frozenset(Notify(word) for word in words)


def _orcpt(value: str | None) -> str | None:
    kind, semicolon, address = (value or "").partition(";")
    # RFC 6533 3: a utf-8 address may hold raw UTF-8; anything else is xtext.
    if kind.lower() == "utf-8":
        fine = bool(address) and address.isprintable() and "=" not in address
    else:
        fine = bool(address) and is_xtext(address)
    return value if semicolon and _KEYWORD.match(kind) and fine and len(value or "") <= 500 else None


_Read = Callable[[str | None], object | None]
_Table = Mapping[str, tuple[str, str, _Read]]
"""Keyword to (extension that allows it, field it is stored in, reader)."""

_MAIL: _Table = {
    "SIZE": ("SIZE", "size", _size),
    "BODY": ("8BITMIME", "body", _choice("7BIT", "8BITMIME")),
    "SMTPUTF8": ("SMTPUTF8", "smtputf8", _flag(meaning=True)),
    "REQUIRETLS": ("REQUIRETLS", "tag", _flag(Tag.REQUIRED)),
    "RET": ("DSN", "ret", _choice("FULL", "HDRS")),
    "ENVID": ("DSN", "envid", _envid),
    "AUTH": ("AUTH", "", _auth),
}
_RCPT: _Table = {
    "NOTIFY": ("DSN", "notify", _notify),
    "ORCPT": ("DSN", "orcpt", _orcpt),
}
