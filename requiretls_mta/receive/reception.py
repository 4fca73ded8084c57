"""Reception: one mail transaction of a session, from MAIL to the reply that takes responsibility."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from requiretls_mta.checks.interfaces import Verdict
from requiretls_mta.checks.pipeline import refusal_of
from requiretls_mta.message import authres, reply
from requiretls_mta.message import header as headers
from requiretls_mta.message.address import Address
from requiretls_mta.message.content import Content
from requiretls_mta.message.envelope import Envelope, Recipient, Tag
from requiretls_mta.message.offspring import News
from requiretls_mta.message.ports import Body, Events
from requiretls_mta.message.reply import Reply
from requiretls_mta.message.stored import Message, header_of
from requiretls_mta.queue.store import BodyWriter, IQueueStore, StoreFull
from requiretls_mta.receive.admission import Admission
from requiretls_mta.receive.authority import authority
from requiretls_mta.receive.lists import ListLoopError
from requiretls_mta.receive.promise import Share, shares
from requiretls_mta.receive.rates import Rates
from requiretls_mta.receive.recipients import AliasLoopError, complete, is_postmaster, mailbox, needs_mailbox, refusal
from requiretls_mta.receive.rules import Facts, without_suffix
from requiretls_mta.receive.settings import Settings
from requiretls_mta.receive.signing import Signer
from requiretls_mta.receive.signing_rules import Unsigned
from requiretls_mta.receive.submission import Submission, submit
from requiretls_mta.receive.trace import auth_result, received_field
from requiretls_mta.receive.traced import reception
from requiretls_mta.smtp.interfaces import Session

MOST_FORGED = 100
"""Fields in our name that are taken out of a message; whoever brings more does not mean mail."""


@attrs.frozen
class _Arrival:
    """A message that has come, nothing of it refused so far."""

    body: Body
    content: Content
    header: bytes
    cuts: tuple[tuple[int, int], ...]
    """Where it speaks in our name."""
    added: bytes
    """Fields that it lacked, and signatures."""


@attrs.frozen(kw_only=True)
class ReceptionStation:
    """Begins the transactions of one listener."""

    store: IQueueStore
    admission: Admission
    settings: Callable[[], Settings]
    events: Events
    """Told of messages that are accepted; the trace hears of these by `admission`."""
    wall: Callable[[], float]
    decisions: Events = attrs.field(default=attrs.Factory(lambda self: self.events, takes_self=True))
    """Told of what was decided about a message."""
    trusted: bool = False
    """Whether every client of the listener counts as one of `relay_from`."""
    callout: Callable[[Address], Reply | Deferred[Reply | None] | None] | None = None
    """Asks whether a mailbox exists: why its mail is not taken, or None. Never fails."""
    rates: Rates = attrs.field(factory=lambda: Rates(time.monotonic))
    """How often who has sent: of all listeners together."""
    signer: Signer | None = None
    """None: nothing is signed, whatever the settings say."""

    def begin(self, session: Session) -> Reception:
        """A transaction under the policies of this moment."""
        return Reception(self, session, self.settings())


class Reception:
    """A `smtp.interfaces.Transaction` that ends in the queue."""

    _log = Logger()
    _decisions: tuple[News, ...] = ()
    """To be told once there is a message that they were taken about."""

    def __init__(self, station: ReceptionStation, session: Session, settings: Settings) -> None:
        self._station = station
        self._session = session
        self._settings = settings
        self._authority = authority(session, settings, station.rates, trusted=station.trusted)
        # RFC 6376 2.1: for whom we answer.
        self._signs = self._authority.relays and bool(settings.signing) and station.signer is not None
        self._envelope: Envelope | None = None
        self._suffixed: set[int] = set()
        """Numbers of the recipients that were named with `rules.SUFFIX`."""
        self._id = ""
        self._writer: BodyWriter | None = None
        self._broken: Reply | None = None

    def mail(self, envelope: Envelope) -> Reply:
        """MAIL."""
        return self._authority.mail(envelope.sender) or reply.SENDER_OK

    def rcpt(self, recipient: Recipient) -> Reply | Deferred[Reply]:
        """RCPT."""
        if (too_many := self._authority.rcpt()) is not None:
            return too_many
        address = self._meant(recipient)
        delivers = self._session.service == "lmtp"
        refused = refusal(address, self._settings, relay=self._authority.relays, delivers=delivers)
        ask = self._station.callout if self._settings.callout else None
        if refused is not None or ask is None or not needs_mailbox(address, self._settings):
            return refused or reply.RECIPIENT_OK
        answer = ask(mailbox(address, self._settings))
        if isinstance(answer, Deferred):
            return answer.addCallback(lambda unknown: unknown or reply.RECIPIENT_OK)
        return answer or reply.RECIPIENT_OK

    def _meant(self, recipient: Recipient) -> Address:
        return complete(without_suffix(recipient.address), self._settings)

    def data(self, envelope: Envelope) -> Reply | None:
        """DATA, or the first BDAT."""
        for number, recipient in enumerate(envelope.recipients):
            address = self._meant(recipient)
            if address is not recipient.address:
                recipients = list(envelope.recipients)
                recipients[number] = attrs.evolve(recipient, address=address)
                envelope = attrs.evolve(envelope, recipients=tuple(recipients))
                if without_suffix(recipient.address) is not recipient.address:
                    self._suffixed.add(number)
        self._envelope = envelope
        self._id = self._station.store.new_id()
        self._writer = self._station.store.body(self._id)
        return None

    def write(self, chunk: bytes) -> None:
        """Octets of the message."""
        if self._writer is None:
            return
        try:
            self._writer.write(chunk)
        except (OSError, StoreFull) as error:
            # The client hears of it at the end of its data; until then the rest is read and dropped.
            self._log.error("message {queue_id} cannot be written: {error}", error=str(error), **self._names)
            self._broken = reply.STORE_FULL
            self.abort()

    def end(self, content: Content, header: bytes) -> Reply | Deferred[Reply]:
        """The message is complete."""
        writer, self._writer = self._writer, None
        if writer is None:
            return self._broken or reply.LOCAL_ERROR
        try:
            answer = self._answer(writer, content, header)
        except Exception:
            return self._failed(Failure(), writer)
        return answer.addErrback(self._failed, writer) if isinstance(answer, Deferred) else answer

    def _answer(self, writer: BodyWriter, content: Content, header: bytes) -> Reply | Deferred[Reply]:
        body = writer.finish()
        if isinstance(body, Deferred) or self._session.checks is not None or self._signs:
            looked_at = Deferred.fromCoroutine(self._looked_at(body, content, header))
            return looked_at.addCallback(_over, writer)
        arrival = self._arrival(body, content, header)
        return _over(arrival, writer) if isinstance(arrival, Reply) else self._enter(arrival)

    def abort(self) -> None:
        """Leave no trace."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.abort()

    @property
    def _names(self) -> dict[str, Any]:
        """Of which session and message a line of the log speaks."""
        return {"session": self._session.id, "queue_id": self._id}

    async def _looked_at(self, body: Body | Deferred[Body], content: Content, header: bytes) -> Reply:
        """The end of a message for which something has to be waited for besides the queue."""
        arrival = self._arrival(body if not isinstance(body, Deferred) else await body, content, header)
        if isinstance(arrival, Reply):
            return arrival
        checks = self._session.checks
        verdicts = await checks.message(arrival.header, arrival.body) if checks is not None else ()
        if (refused := refusal_of(verdicts)) is not None and not self._is_for_postmaster():
            return refused
        if self._signs:
            signatures = await self._signatures(arrival)
            arrival = attrs.evolve(arrival, added=signatures + arrival.added)
        return await self._enter(arrival, verdicts)

    def _arrival(self, body: Body, content: Content, header: bytes) -> _Arrival | Reply:
        """The message as it is to be taken, by what can be said at once."""
        if len(header) < content.header_end:  # too long for the session to keep
            header = header_of(body, content)
        added = b""
        if self._authority.submits:
            submission = self._submission(header, content)
            if isinstance(submission, Reply):
                return submission
            header, content, added = submission.header, submission.content, submission.added
        if headers.exceeds(header, b"received", self._settings.received_hops):
            return reply.TOO_MANY_HOPS
        # RFC 8601 5: of whoever is trusted as ourselves, what is said in our name is kept.
        forged = () if self._station.trusted else authres.forged(header, self._settings.authserv_id)
        if len(forged) > MOST_FORGED:
            return reply.TOO_MANY_FORGED
        return _Arrival(body, content, header, forged, added)

    def _enter(self, arrival: _Arrival, verdicts: Sequence[Verdict] = ()) -> Deferred[Reply]:
        """Take responsibility: once this fires the message is on disk."""
        parts = self._shares(arrival.header)
        messages = [self._message(arrival, share, verdicts) for share in parts]
        answer = reply.queued(self._id)
        header = arrival.added + arrival.header if arrival.added else arrival.header
        done = self._station.admission.admit_all(
            messages,
            self._session.id,
            [share.note for share in parts],
            partial(self._reception, header, verdicts, answer),
        )
        return done.addCallback(self._entered, answer, parts[0].tag)

    def _entered(self, _: None, answer: Reply, tag: Tag | None) -> Reply:
        for news in self._decisions:
            news.tell(self._station.decisions)
        session = self._session
        self._station.events.emit(
            "accepted",
            session=session.id,
            queue_id=self._id,
            client=session.peer.address,
            protocol=session.protocol,
            user=session.user,
            requiretls=tag.value if tag else None,
            tls_version=session.tls.version if session.tls else None,
        )
        return answer

    def _failed(self, failure: Failure, writer: BodyWriter) -> Reply:
        """What is said of a message that could not be taken."""
        writer.abort()
        error = failure.value
        match error:
            case StoreFull():
                return reply.STORE_FULL
            case AliasLoopError():
                self._log.error("message {queue_id}: {error}", error=str(error), **self._names)
                return reply.TOO_MANY_HOPS.with_text("The recipient's alias leads to too many recipients")
            case ListLoopError():
                self._log.warn("message {queue_id}: {error}", error=str(error), **self._names)
                return reply.TOO_MANY_HOPS.with_text("This message has been through the list already")
            case _:
                self._log.failure("message {queue_id} was not accepted", failure, **self._names)
                return reply.LOCAL_ERROR

    def _reception(self, header: bytes, verdicts: Sequence[Verdict], answer: Reply) -> str:
        """What the trace is told of how the message came."""
        assert self._envelope is not None
        return reception(self._session, header, verdicts, len(self._envelope.recipients), answer)

    def _submission(self, header: bytes, content: Content) -> Submission | Reply:
        """RFC 6409: the message judged by its header, with what it lacks."""
        strict = self._session.user is not None
        submission = submit(
            header,
            content,
            strict=strict,
            queue_id=self._id,
            hostname=self._settings.hostname,
            now=self._station.wall(),
        )
        right = self._authority.right
        if isinstance(submission, Reply) or right is None:
            return submission
        return right.refusal_of(submission.header) or submission

    def _shares(self, header: bytes) -> list[Share]:
        """The recipients by what is promised them; each share becomes a message (RFC 8689 4.1: the tag is its own)."""
        envelope = self._envelope
        assert envelope is not None
        asked = self._tag(envelope, header)
        if not self._suffixed and not self._settings.rules:
            return [Share(recipients=envelope.recipients, tag=asked)]
        facts = Facts(
            asked=asked,
            sender=envelope.sender.key if envelope.sender else "",
            header=header,
            user=self._session.user,
            listener=self._session.peer.listener,
        )
        return shares(envelope.recipients, self._suffixed, facts, self._settings.rules)

    async def _signatures(self, arrival: _Arrival) -> bytes:
        """Fields for the top; what is cut out of the header is never signed.

        A failure is the message's: it is to come again, for without the signature it might be refused elsewhere.
        """
        assert self._station.signer is not None
        signatures = await self._station.signer.sign(
            arrival.added + arrival.header, arrival.body, arrival.content.header_end + 2, self._settings.signing
        )
        if isinstance(signatures, Unsigned):
            self._note_decision("not DKIM-signed", signatures.reason)
            return b""
        return signatures

    def _message(self, arrival: _Arrival, share: Share, verdicts: Sequence[Verdict]) -> Message:
        assert self._envelope is not None
        now = self._station.wall()
        envelope = self._envelope
        if share.tag is not envelope.tag or len(share.recipients) < len(envelope.recipients):
            envelope = attrs.evolve(envelope, tag=share.tag, recipients=share.recipients)
        queue_id = self._station.store.new_id() if share.further else self._id
        return Message(
            id=queue_id,
            envelope=envelope,
            body=arrival.body,
            content=arrival.content,
            # Outside ASCII only where it goes nowhere without SMTPUTF8 anyway (RFC 6531 3.2).
            prepend=self._results(verdicts, utf8=envelope.smtputf8 and arrival.content.eight_bit_header)
            + received_field(
                envelope,
                self._session,
                hostname=self._settings.hostname,
                queue_id=queue_id,
                now=now,
                decided=share.comment,
            )
            + arrival.added,
            cuts=arrival.cuts,
            received=now,
            parent=self._id if share.further else None,
            listener=self._session.peer.listener,
        )

    def _results(self, verdicts: Sequence[Verdict], *, utf8: bool) -> bytes:
        """One field for login and checks, above all other trace (RFC 8601 4), then theirs; none without either."""
        login = auth_result(self._session)
        if not verdicts and login is None:
            return b""
        results = tuple(result for verdict in verdicts for result in verdict.results)
        if login is not None:
            results = (login, *results)
        field = authres.AuthenticationResults(self._settings.authserv_id, results)
        trace = "".join(f"{line}\r\n" for verdict in verdicts for line in verdict.trace)
        return authres.write(field, utf8=utf8) + trace.encode("utf-8" if utf8 else "ascii", "backslashreplace")

    def _is_for_postmaster(self) -> bool:
        """Whether the message is for nobody else, so that it is always taken (RFC 5321 4.5.1)."""
        assert self._envelope is not None
        return all(is_postmaster(recipient.address, self._settings) for recipient in self._envelope.recipients)

    def _tag(self, envelope: Envelope, header: bytes) -> Tag | None:
        """RFC 8689 4.1: the MAIL parameter decides, and only without it the header field."""
        if envelope.tag is not None:
            return envelope.tag
        match headers.tls_required(header):
            case headers.TLSRequired.ABSENT:
                return None
            case headers.TLSRequired.INVALID:
                self._note_decision("TLS-Required ignored", "it is not one field that says exactly No")
                return None
            case headers.TLSRequired.NO:
                honor = self._settings.honor_header
                if honor == "any" or (honor == "authenticated" and self._session.user is not None):
                    return Tag.OPTIONAL
                self._note_decision("TLS-Required ignored", f"requiretls.honor_header is {honor}")
                return None

    def _note_decision(self, decision: str, reason: str) -> None:
        self._decisions += (News("policy", {**self._names, "decision": decision, "reason": reason}),)


def _over(answer: Reply, writer: BodyWriter) -> Reply:
    if not answer.is_positive:
        writer.abort()
    return answer
