"""One message over one outgoing session: MAIL, RCPT and the octets, and what the server said of each recipient."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Literal

import attrs
from twisted.internet.defer import Deferred

from requiretls_mta.message.address import Address, ascii_domain
from requiretls_mta.message.envelope import Recipient, Tag
from requiretls_mta.message.reply import Reply
from requiretls_mta.message.stored import Message
from requiretls_mta.message.xtext import embed
from requiretls_mta.smtp.client import ClientSession, SessionLostError, Timeouts
from requiretls_mta.smtp.transfer import stuff

_ONE_WRITE = 64 * 1024
"""Octets of a message that goes out in the same write as its envelope."""
_NEEDS_8BIT = Reply(550, "5.6.3", "the message has 8-bit content, which the host does not take")
_NEEDS_UTF8 = Reply(550, "5.6.7", "the message needs SMTPUTF8, which the host does not offer")
_TOO_BIG = Reply(552, "5.3.4", "the message is larger than the host takes")
_NO_RECIPIENT = Reply(451, "4.3.0", "the message was not sent: no recipient was accepted")
_EARLY = Reply(451, "4.5.0", "the host answered before it had the message")
_UNKNOWN = Reply(451, "4.4.2", "connection lost after the message was sent: whether it was taken is not known")


@attrs.frozen
class Refused:
    """The host takes the message not at all; nothing was delivered."""

    reply: Reply
    why: Literal["keyword", "sender", "ability", "lost"]
    """Whether REQUIRETLS, the sender, or an ability that it lacks is the reason, or the session was lost."""


@attrs.frozen
class Answered:
    """What the host said of each recipient, in their order."""

    replies: tuple[Reply, ...]
    commands: tuple[str | None, ...]
    """What each reply answers: `RCPT` or `DATA`; None where the host said nothing."""
    dsn_relayed: bool
    reusable: bool
    """Whether the session is ready for another MAIL."""


async def transact(
    session: ClientSession,
    message: Message,
    recipients: Sequence[Recipient],
    *,
    keyword: bool,
    lmtp: bool,
    timeouts: Timeouts,
) -> Refused | Answered:
    """Send `message` to `recipients`; `keyword` is whether MAIL carries REQUIRETLS. Raises only for a broken body."""
    lines = _envelope(session, message, recipients, keyword=keyword)
    if isinstance(lines, Reply):
        return Refused(lines, "ability")
    sending = _Sending(session, message, lmtp, timeouts)
    try:
        return await _converse(sending, session, lines, keyword=keyword)
    except BaseException:
        sending.give_up_waiting()
        raise


async def _converse(
    sending: _Sending, session: ClientSession, lines: Sequence[bytes], *, keyword: bool
) -> Refused | Answered:
    try:
        if "PIPELINING" in session.offers:
            mail, rcpts = await sending.together(lines)
        else:
            mail, rcpts = await sending.in_turn(lines)
    except SessionLostError as error:
        sending.give_up_waiting()
        if sending.is_sent:
            count = len(lines) - 1
            return Answered((_UNKNOWN,) * count, (None,) * count, dsn_relayed=False, reusable=False)
        return Refused(Reply(451, "4.4.2", str(error)), "lost")
    if not mail.is_positive:
        return Refused(mail, "keyword" if keyword and mail.is_permanent else "sender")
    ours = [_UNKNOWN, _EARLY, _NO_RECIPIENT]
    try:
        finals = await sending.finals(sum(reply.is_positive for reply in rcpts))
    except SessionLostError as error:
        sending.give_up_waiting()
        lost = Reply(451, "4.4.2", str(error))
        if not sending.is_sent and not any(reply.is_permanent for reply in rcpts):
            # Nobody has it and nobody was refused: a host that always breaks here must not hold back the next one.
            return Refused(lost, "lost")
        ours.append(lost)
        finals = itertools.repeat(_UNKNOWN if sending.is_sent else lost)
    replies = tuple(next(finals) if reply.is_positive else reply for reply in rcpts)
    commands = tuple(
        "RCPT" if not rcpt.is_positive else None if final in ours else "DATA"
        for rcpt, final in zip(rcpts, replies, strict=True)
    )
    return Answered(
        replies,
        commands,
        dsn_relayed="DSN" in session.offers,
        reusable=sending.is_over,
    )


def _settled(reply: Reply) -> Reply:
    """Only 2xx is a yes here; 3xx, asked for or not, promises nothing (RFC 5321 4.2.1)."""
    return Reply(451, "4.5.0", f"the host answered out of place: {reply}") if 300 <= reply.code < 400 else reply


class _Sending:
    """The steps of one transaction."""

    def __init__(self, session: ClientSession, message: Message, lmtp: bool, timeouts: Timeouts) -> None:
        self._session = session
        self._message = message
        self._lmtp = lmtp
        self._timeouts = timeouts
        # LMTP gives one reply per recipient at the end of DATA (RFC 2033 4.2); with BDAT hardly anybody does.
        self._bdat = "CHUNKING" in session.offers and not lmtp
        self._begun = False
        self._waits: list[Deferred[Reply]] = []
        self.is_sent = False
        """Whether all octets of the message may have reached the server."""
        self.is_over = False
        """Whether the server knows of no transaction any more."""

    def give_up_waiting(self) -> None:
        """Nobody will look at the replies that are still to come."""
        for wait in self._waits:
            wait.addErrback(lambda _: None)

    async def together(self, lines: Sequence[bytes]) -> tuple[Reply, list[Reply]]:
        """The whole envelope in one write (RFC 2920), and a small message with it (RFC 3030)."""
        waits = [(lines[0], self._timeouts.mail), *((line, self._timeouts.rcpt) for line in lines[1:])]
        size = self._message.size
        octets = b""
        if self._bdat and size <= _ONE_WRITE:
            waits.append((b"BDAT %d LAST" % size, self._timeouts.end))
            octets = b"".join(self._message.pieces())
            self.is_sent = True
        elif not self._bdat:
            waits.append((b"DATA", self._timeouts.data))
        replies = self._session.commands(waits, octets)
        self._waits = list(replies)
        if len(replies) > len(lines):
            self._begun = True
            self._last = replies.pop()
        mail = _settled(await replies[0])
        if not mail.is_positive:
            # Nothing of what came behind it can have been taken, whether the host still answers it or hangs up.
            await self._give_up(replies[1:])
            return mail, []
        rcpts = [_settled(await reply) for reply in replies[1:]]
        if not any(reply.is_positive for reply in rcpts):
            await self._give_up()
        return mail, rcpts

    async def in_turn(self, lines: Sequence[bytes]) -> tuple[Reply, list[Reply]]:
        """Command by command, for a server without PIPELINING."""
        mail = _settled(await self._session.command(lines[0], self._timeouts.mail))
        if not mail.is_positive:
            return mail, []
        rcpts = [_settled(await self._session.command(line, self._timeouts.rcpt)) for line in lines[1:]]
        if not any(reply.is_positive for reply in rcpts):
            await self._give_up()
        return mail, rcpts

    async def finals(self, count: int) -> Iterator[Reply]:
        """The replies to the message: one for all, or in LMTP one for each of `count` recipients."""
        if count == 0:
            return iter(())
        if self._bdat:
            reply = _settled(await (self._last if self._begun else self._chunk()))
            self.is_over = True
            return itertools.repeat(reply)
        start = await (self._last if self._begun else self._session.command(b"DATA", self._timeouts.data))
        if start.code != 354:
            return itertools.repeat(start if not start.is_positive else _NO_RECIPIENT)
        waits = [self._session.expect(self._timeouts.end) for _ in range(count if self._lmtp else 1)]
        self._waits = waits
        await self._flow(stuff(self._message.pieces()))
        replies = await self._answers(waits)
        self.is_over = len(replies) == len(waits)
        return itertools.chain(replies, itertools.repeat(_UNKNOWN)) if self._lmtp else itertools.repeat(replies[0])

    async def _answers(self, waits: Sequence[Deferred[Reply]]) -> list[Reply]:
        """The replies to the message. Those that came stand, though the session is lost before the others."""
        found = [_settled(await waits[0])]
        for wait in waits[1:]:
            try:
                reply = await wait
            except SessionLostError:
                # RFC 2033 4.2: each reply is its recipient's own; who was told yes must not get the message twice.
                self.give_up_waiting()
                break
            found.append(_settled(reply))
        return found

    async def _chunk(self) -> Reply:
        """A large message as one chunk."""
        size = self._message.size
        (wait,) = self._session.commands([(b"BDAT %d LAST" % size, self._timeouts.end)])
        self._waits = [wait]
        await self._flow(self._message.pieces())
        return await wait

    async def _flow(self, pieces: Iterator[bytes]) -> None:
        """Send the octets. A host that answered all before it had them, and stopped reading, has refused or lied."""
        try:
            await self._session.send(_marked(pieces, self), self._timeouts.chunk)
        except SessionLostError:
            if self.is_sent or not all(wait.called for wait in self._waits):
                raise
            for wait in self._waits:
                wait.addCallback(lambda reply: _EARLY if reply.is_positive else reply)

    async def _give_up(self, waits: Sequence[Deferred[Reply]] = ()) -> None:
        """Nobody will get it: end what was begun, and leave the session as it was before MAIL, if it still stands."""
        try:
            for wait in waits:
                await wait
            if self._begun:
                last = await self._last
                if last.code == 354:
                    # RFC 2920 3.1: the server waits for data that must not come.
                    await self._session.command(b".", self._timeouts.end)
            self._begun = False
            self.is_over = (await self._session.command(b"RSET", self._timeouts.mail)).is_positive
        except SessionLostError:
            self.give_up_waiting()


def _marked(pieces: Iterator[bytes], sending: _Sending) -> Iterator[bytes]:
    """The pieces; when the last is on its way nobody knows any more whether the server has the message."""
    held = next(pieces, b"")
    for piece in pieces:
        yield held
        held = piece
    sending.is_sent = True
    yield held


def _envelope(
    session: ClientSession, message: Message, recipients: Sequence[Recipient], *, keyword: bool
) -> list[bytes] | Reply:
    """The MAIL and RCPT lines, or why this server cannot be given the message."""
    envelope, content, offers = message.envelope, message.content, session.offers
    eight_bit = content.eight_bit_header or content.eight_bit_body
    locals_ascii = all(a.local.isascii() for a in (envelope.sender, *(r.address for r in recipients)) if a)
    needs_utf8 = not locals_ascii or (envelope.smtputf8 and content.eight_bit_header)
    # RFC 6531 3.1: SMTPUTF8 comes with 8BITMIME.
    utf8 = "SMTPUTF8" in offers and (needs_utf8 or envelope.smtputf8)
    if needs_utf8 and not utf8:
        return _NEEDS_UTF8
    mail = f"MAIL FROM:<{_shown(envelope.sender, utf8=utf8) if envelope.sender else ''}>"
    if "SIZE" in offers:
        # RFC 1870 6.1. Said by us, for a 5xx to MAIL would leave open whether it is the keyword that is refused.
        most = offers["SIZE"][0] if offers["SIZE"] else ""
        if most.isdecimal() and 0 < int(most[:20]) < message.size:
            return _TOO_BIG
        mail += f" SIZE={message.size}"
    if "8BITMIME" in offers:
        if envelope.body == "8BITMIME" or utf8:
            mail += " BODY=8BITMIME"
    elif envelope.body == "8BITMIME" and eight_bit:
        return _NEEDS_8BIT
    if utf8:
        mail += " SMTPUTF8"
    if keyword:
        mail += " REQUIRETLS"
    dsn = "DSN" in offers
    if dsn:
        # RFC 8689 5: a tagged message never comes back whole.
        # Nor by the habit of a host that was not told; but RET has no place on a report (RFC 3461 6.1).
        tagged = envelope.tag is Tag.REQUIRED and (envelope.ret or envelope.sender)
        ret = "HDRS" if tagged else envelope.ret
        mail += (f" RET={ret}" if ret else "") + (f" ENVID={envelope.envid}" if envelope.envid else "")
    lines = [mail]
    for recipient in recipients:
        line = f"RCPT TO:<{_shown(recipient.address, utf8=utf8)}>"
        if dsn and recipient.notify is not None:
            line += " NOTIFY=" + ",".join(sorted(notify.value for notify in recipient.notify))
        if dsn and recipient.orcpt:
            # RFC 6533 3: raw UTF-8 is for those who take it.
            line += f" ORCPT={recipient.orcpt if utf8 or recipient.orcpt.isascii() else embed(recipient.orcpt, '')}"
        lines.append(line)
    return [line.encode("utf-8") for line in lines]


def _shown(address: Address, *, utf8: bool) -> str:
    if utf8 or address.is_ascii or address.is_literal:
        return str(address)
    return str(Address(address.local, ascii_domain(address.domain)))
