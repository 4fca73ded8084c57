"""Automatic replies (RFC 3834): to which messages there may be one, and what it looks like."""

from __future__ import annotations

import binascii
import contextlib
import re
import unicodedata
from collections.abc import Collection
from email.header import Header

import attrs

from requiretls_mta.message.address import Address, AddressError, ascii_domain
from requiretls_mta.message.content import ContentScanner
from requiretls_mta.message.envelope import Envelope, Notify, Recipient, Tag
from requiretls_mta.message.header import Field, fields
from requiretls_mta.message.mailboxes import mailboxes, write_mailbox
from requiretls_mta.message.profile import Profile
from requiretls_mta.message.stored import BytesBody, Message
from requiretls_mta.message.trace import date_time
from requiretls_mta.receive.interfaces import Answer
from requiretls_mta.receive.recipients import AliasLoopError, expand
from requiretls_mta.receive.rules import without_suffix
from requiretls_mta.receive.settings import Settings

MOST_HEADER = 64 * 1024
"""Octets of a header section; a longer one is answered by nobody."""
_MOST_NAMED = 100
"""Addresses in To and Cc that are looked at; RFC 3834 2: who is one of many was not written to in person."""
_MOST_BODY = 10_000
_MOST_LINE = 200
"""Characters of a subject or a name."""
_MOST_REFERENCES = 10
# RFC 3834 2, and how list servers and delivery systems call themselves.
_MACHINES = re.compile(
    r"""(owner-.* | .*-(owner|request|bounces?)(\+.*)? | bounces?[-+].* | no-?reply(\+.*)?
         | mailer-daemon | postmaster | listserv | majordomo)\Z""",
    re.IGNORECASE | re.VERBOSE,
)
_NOT_AUTOMATIC = re.compile(rb"(\s|\([^()]*\))*no(\s|\([^()]*\))*(;|\Z)", re.IGNORECASE)
_IDENTIFIER = re.compile(rb"<[!-;=?-~]{1,250}>")


_NO_TEXT = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Controls, surrogates, and what else some take for line ends."""


@attrs.frozen
class Silence:
    """There is to be no reply."""

    reason: str


def addressed(message: Message, recipient: Address, header: bytes, settings: Settings) -> Address | Silence:
    """By which address the sender meant this recipient, who may be asked for an answer; or why nobody is asked."""
    sender = message.envelope.sender
    if sender is None:
        return Silence("the reverse path is empty")
    if message.origin != "smtp":
        return Silence(f"the message is no letter, but a {message.origin}")
    if _MACHINES.match(sender.local):
        return Silence("the sender is no person")
    if _leads_to(sender, recipient, settings):
        return Silence("the sender is the recipient")
    found = list(fields(header))
    if silence := _automatic(found):
        return silence
    for named in _named(found):
        if _leads_to(named, recipient, settings):
            return named
    return Silence("neither To nor Cc names the recipient")


def _automatic(found: Collection[Field]) -> Silence | None:
    for field in found:
        if field.name == b"auto-submitted" and not _NOT_AUTOMATIC.match(field.value[:_MOST_LINE]):
            return Silence("the message was submitted by a program")
        if field.name.startswith(b"list-"):
            return Silence("the message comes from a list")
        if field.name == b"precedence" and field.value.lower() in (b"bulk", b"junk", b"list"):
            return Silence("the message was sent in bulk")
    return None


def _named(found: Collection[Field]) -> list[Address]:
    """The addresses in To and Cc; a field that is no list of them names nobody."""
    named: list[Address] = []
    for field in found:
        if field.name in (b"to", b"cc"):
            with contextlib.suppress(AddressError):
                named += mailboxes(field.value)
    return named[:_MOST_NAMED]


def _leads_to(address: Address, recipient: Address, settings: Settings) -> bool:
    """Whether mail for the address is mail for the recipient, by aliases or the suffix that requires TLS."""
    try:
        address = without_suffix(address)
        reached = expand((Recipient(address),), settings).recipients
        return recipient.key in {one.address.key for one in reached}
    except (AliasLoopError, AddressError):
        return False


# --- the reply ----------------------------------------------------------------------------------------------------
def check_answer(answer: object) -> Answer | None:
    """The same answer; raises `TypeError` or `ValueError` for what a reply could not say."""
    if answer is None:
        return None
    if not isinstance(answer, Answer):
        raise TypeError(f"{type(answer).__name__} is no answer")
    for text in (answer.subject, answer.name):
        if not isinstance(text, str) or len(text) > _MOST_LINE or _categories(text) & _NO_TEXT:
            raise ValueError(f"subject and name are one line of at most {_MOST_LINE} characters")
    if not isinstance(answer.body, str) or not 0 < len(answer.body) <= _MOST_BODY:
        raise ValueError(f"the body has 1 to {_MOST_BODY} characters")
    if _categories(answer.body.replace("\n", "").replace("\t", "")) & _NO_TEXT:
        raise ValueError("the body has characters that are no text")
    if not isinstance(answer.author, Address | None):
        raise TypeError("the author is an Address")
    return answer


def _categories(text: str) -> set[str]:
    return set(map(unicodedata.category, text))


def write_reply(
    answer: Answer,
    about: Message,
    header: bytes,
    *,
    author: Address,
    reply_id: str,
    hostname: str,
    now: float,
    profile: Profile,
) -> Message:
    """The reply as a message with the tag of the one that it answers (RFC 8689 6); `author`: who was addressed."""
    envelope = about.envelope
    assert envelope.sender is not None
    found = list(fields(header))
    body, encoding = _encoded(answer.body)
    lines = [
        f"From: {write_mailbox(answer.name, _written(answer.author or author))}",
        f"To: {_written(envelope.sender)}",
        f"Subject: {_subject(answer, found if quotes_subject(answer, about) else ())}",
        f"Date: {date_time(now)}",
        f"Message-ID: <{reply_id}@{hostname}>",
        *_thread(found),
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Transfer-Encoding: {encoding}",
    ]
    if envelope.tag is Tag.OPTIONAL:
        lines.append(profile.optional_field)
    octets = "".join(f"{line}\r\n" for line in lines).encode("utf-8") + b"\r\n" + body
    scanner = ContentScanner(len(octets))
    scanner.feed(octets)
    content = scanner.finish()
    return Message(
        id=reply_id,
        envelope=Envelope(
            # RFC 3834 3.3: no report of a reply, nor a reply to it.
            sender=None,
            recipients=(Recipient(envelope.sender, notify=frozenset({Notify.NEVER})),),
            tag=envelope.tag,
            smtputf8=content.eight_bit_header or not envelope.sender.is_ascii,
        ),
        body=BytesBody(octets),
        content=content,
        received=now,
        origin="reply",
        parent=about.id,
    )


def _written(address: Address) -> str:
    """With A-labels, only a local part outside ASCII keeps the reply from those without SMTPUTF8."""
    return str(attrs.evolve(address, domain=ascii_domain(address.domain)) if address.local.isascii() else address)


def quotes_subject(answer: Answer, about: Message) -> bool:
    """Whether the reply says what its sender wrote: not of a message whose sender wants it protected (RFC 8689 5)."""
    return not answer.subject and about.envelope.tag is not Tag.REQUIRED


def _subject(answer: Answer, quoted: Collection[Field]) -> str:
    text = answer.subject
    if not text:
        theirs = next((field.value for field in quoted if field.name == b"subject"), b"")
        # Encoded words stay as they are (RFC 3834 3.1.5); what would have to be cut is left out.
        text = theirs.decode("ascii") if theirs.isascii() and len(theirs) <= _MOST_LINE else ""
        text = text if text.isprintable() else ""
    text = f"Auto: {text or 'your message'}"
    charset = "us-ascii" if text.isascii() else "utf-8"
    return Header(text, charset, header_name="Subject").encode(linesep="\r\n")


def _thread(found: Collection[Field]) -> list[str]:
    """RFC 5322 3.6.4, as far as the fields are what they should be."""
    identifiers = {
        name: [one.decode("ascii") for field in found if field.name == name for one in _IDENTIFIER.findall(field.value)]
        for name in (b"message-id", b"references", b"in-reply-to")
    }
    own = identifiers[b"message-id"][:1]
    if not own:
        return []
    before = identifiers[b"references"] or identifiers[b"in-reply-to"][:1]
    if len(before) >= _MOST_REFERENCES:
        before = [before[0], *before[-_MOST_REFERENCES + 2 :]]
    return [f"In-Reply-To: {own[0]}", "References: " + "\r\n ".join(before + own)]


def _encoded(text: str) -> tuple[bytes, str]:
    octets = "".join(f"{line}\r\n" for line in text.removesuffix("\n").split("\n")).encode("utf-8")
    if octets.isascii() and max(map(len, octets.split(b"\r\n"))) <= 998:
        return octets, "7bit"
    return binascii.b2a_qp(octets, istext=True), "quoted-printable"
