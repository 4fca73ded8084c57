"""The message itself: DATA and BDAT of a session, its limits, and the reply at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from requiretls_mta.message import reply
from requiretls_mta.message.content import ContentScanner
from requiretls_mta.message.envelope import Envelope, Recipient
from requiretls_mta.message.reply import Reply
from requiretls_mta.smtp.auth import AuthSession
from requiretls_mta.smtp.grammar import parse_bdat
from requiretls_mta.smtp.interfaces import Transaction
from requiretls_mta.smtp.octets import Mode
from requiretls_mta.smtp.transfer import DataReader, LineEnds


class DataSession(AuthSession):
    """Takes a message's octets, whichever way they come, and gives them to the transaction."""

    _transaction: Transaction | None = None
    _envelope: Envelope | None = None
    _recipients: Sequence[Recipient] = ()
    _reader: DataReader | None = None
    _ends: LineEnds | None = None
    _scanner: ContentScanner | None = None
    _refusal: Reply | None = None
    _chunk_left = 0
    _chunk_last = False
    _data_began = 0.0
    _data_arrived = 0
    _ending = False

    @property
    def in_transaction(self) -> bool:
        """Whether a MAIL has been accepted."""
        return self._envelope is not None

    @property
    def in_message(self) -> bool:
        """Whether a message is coming in, or its reply is being worked out."""
        return self._scanner is not None or self._ending

    def now(self) -> float:
        """Seconds of a clock that only this process reads."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget the transaction."""
        transaction, self._transaction = self._transaction, None
        self._envelope, self._recipients = None, []
        self._reader = self._ends = self._scanner = self._refusal = None
        self._from, self._to = None, []
        if transaction is not None:
            transaction.abort()

    def do_DATA(self, rest: bytes) -> None:
        """The message follows, dot-stuffed."""
        if rest:
            self.reply(reply.BAD_SYNTAX)
        elif not self._recipients or self._scanner is not None:
            self.reply(reply.BAD_SEQUENCE)
        else:
            self._begin_message(self._data_granted)

    def ext_BDAT(self, rest: bytes) -> None:
        """A counted chunk follows, whatever the reply will be (RFC 3030 2)."""
        parsed = parse_bdat(rest)
        if isinstance(parsed, Reply):
            # Without a size nobody knows where the next command begins.
            self.close(parsed)
            return
        self._chunk_left, self._chunk_last = parsed
        if self.transcript is not None:
            self.transcript.octets(self._chunk_left)
        if "CHUNKING" not in self._offered or not self._recipients:
            self._refusal = reply.NOT_OFFERED if self._recipients else reply.BAD_SEQUENCE
            self._data_begins()
            self._enter_chunk()
        elif self._scanner is None:
            self._begin_message(self._chunk_granted)
        else:
            self._enter_chunk()

    def data_octets(self, data: bytes) -> bytes:
        """Octets of the message."""
        self.resetTimeout()
        self._data_arrived += len(data)
        if self._is_too_slow():
            self.close(reply.TIMED_OUT)
            return b""
        if self._mode is Mode.CHUNK:
            return self._chunk_octets(data)
        assert self._reader is not None
        octets, rest = self._reader.feed(data)
        self._take(octets, dots=self._reader.dots)
        if rest is None:
            return b""
        self._mode = Mode.COMMAND
        self._busy = True
        if self.transcript is not None and self._scanner is not None:
            self.transcript.octets(self._scanner.size)
        self._message_complete(bare=self._reader.bare)
        return rest

    # --- the way in -------------------------------------------------------------------------------------------

    def _begin_message(self, granted: Callable[[Reply | None], None]) -> None:
        assert self._transaction is not None and self._envelope is not None
        self._envelope = self._envelope.to(tuple(self._recipients))
        self.ask(granted, self._transaction.data, self._envelope)

    def _data_granted(self, refused: Reply | None) -> None:
        if refused is not None:
            sender = self._envelope.reverse_path if self._envelope else ""
            self.reset()
            self.refuse(refused, sender=sender)
            return
        self._start_scanning()
        self._reader = DataReader()
        self._mode = Mode.DATA
        self.reply(reply.START_DATA)

    def _chunk_granted(self, refused: Reply | None) -> None:
        if refused is not None:
            self.reset()
            self._refusal = refused
            self._data_begins()
        else:
            self._start_scanning()
            self._ends = LineEnds()
        self._enter_chunk()

    def _start_scanning(self) -> None:
        self._scanner = ContentScanner(self.settings.headers_size)
        self._data_begins()

    def _data_begins(self) -> None:
        self._data_began, self._data_arrived = self.now(), 0

    def _is_too_slow(self) -> bool:
        """Whether the data, taken or refused, drips: every octet may be in time and the end never come."""
        elapsed = self.now() - self._data_began
        if elapsed <= self.settings.timeout:
            return False
        return self._data_arrived < elapsed * self.settings.minimum_rate or elapsed > self.settings.session_time

    def _enter_chunk(self) -> None:
        self._mode = Mode.CHUNK
        if self._chunk_left == 0:
            self._chunk_complete()
            return
        # The command's reply follows its octets; they may all be in the buffer already.
        self._busy = False
        self._drain()

    def _chunk_octets(self, data: bytes) -> bytes:
        octets, rest = data[: self._chunk_left], data[self._chunk_left :]
        self._chunk_left -= len(octets)
        if self._scanner is not None and self._ends is not None:
            self._ends.feed(octets)
            self._take(octets)
        if self._chunk_left == 0:
            self._busy = True
            self._chunk_complete()
        return rest

    def _chunk_complete(self) -> None:
        self._mode = Mode.COMMAND
        if self._scanner is None or self._ends is None:
            refusal, self._refusal = self._refusal or reply.BAD_SEQUENCE, None
            self.refuse(refusal)
        elif self._chunk_last:
            self._ends.finish()
            self._message_complete(bare=self._ends.bare)
        else:
            self.reply(reply.CHUNK_OK)

    def _take(self, octets: bytes, *, dots: bool = True) -> None:
        scanner = self._scanner
        assert scanner is not None
        if self._refusal is not None or not octets:
            return
        scanner.feed(octets, dots=dots)
        if scanner.size > self.settings.message_size:
            self._refuse_message(reply.TOO_BIG)
        elif scanner.header_too_long:
            self._refuse_message(reply.HEADER_TOO_BIG)
        elif self._transaction is not None:
            try:
                self._transaction.write(octets)
            except Exception:
                self._log.failure("a transaction failed", session=self.id)
                self._refuse_message(reply.LOCAL_ERROR)

    def _refuse_message(self, refusal: Reply) -> None:
        """What still comes of the message is read and dropped; the reply follows at its end."""
        self._refusal = refusal
        if self._transaction is not None:
            self._transaction.abort()

    # --- the end ----------------------------------------------------------------------------------------------

    def _message_complete(self, *, bare: bool) -> None:
        scanner, transaction = self._scanner, self._transaction
        assert scanner is not None and transaction is not None
        refusal = self._refusal or (reply.BARE_LINE_BREAK if bare else None)
        count, envelope = len(self._recipients), self._envelope
        if refusal is not None:
            self.reset()
            self._final(refusal, count, envelope)
            return
        # From here on the transaction may have taken responsibility: it is not aborted any more.
        self._transaction = None
        self._ending = True
        self.reset()
        self.ask(lambda answer: self._final(answer, count, envelope), transaction.end, scanner.finish(), scanner.header)

    def _final(self, answer: Reply | Sequence[Reply], count: int, envelope: Envelope | None) -> None:
        self._ending = False
        # RFC 2033 4.2: in LMTP one reply for each recipient that was accepted.
        replies = [answer] * (count if self.settings.service == "lmtp" else 1) if isinstance(answer, Reply) else answer
        if not self._closing:
            for early in replies[:-1]:
                self.say(early.wire)
        if replies[-1].is_positive:
            self.reply(replies[-1])
        else:
            self.refuse(replies[-1], sender=envelope.reverse_path if envelope else "")

    def ask(self, then: Callable[[Any], None], question: Callable[..., Any], *arguments: Any) -> None:
        """Go on with the answer to a question, now or later; its failure is our own and temporary."""
        try:
            answer = question(*arguments)
        except Exception:
            self._log.failure("a transaction failed", session=self.id)
            answer = reply.LOCAL_ERROR
        if not isinstance(answer, Deferred):
            then(answer)
            return

        def answered(result: Any) -> None:
            try:
                if not self._closing or self._ending:
                    then(result)
            except Exception:
                # A mistake of ours behind an answer: nobody would ever reply, so nobody is kept waiting.
                self._log.failure("the session failed", session=self.id)
                self.close(reply.LOCAL_ERROR)

        def failed(failure: Failure) -> None:
            self._log.failure("a transaction failed", failure, session=self.id)
            answered(reply.LOCAL_ERROR)

        answer.addCallbacks(answered, failed)
