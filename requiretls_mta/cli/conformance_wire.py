"""A connection to a server that is not trusted in anything: each wait has an end, each reply a size."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable

from OpenSSL import SSL

from requiretls_mta.cli.conformance_rules import Kind, Trouble
from requiretls_mta.message.reply import quote
from requiretls_mta.smtp.client_replies import Heard, ReplyReader, ReplySyntaxError
from requiretls_mta.tls.client import Handshake
from requiretls_mta.tls.facts import ClientTLS

_CHUNK = 16384
_FAREWELL = 5.0
"""Seconds for the reply to QUIT, which nobody needs."""


class Broken(Exception):
    """The dialogue cannot go on."""

    def __init__(self, kind: Kind, text: str) -> None:
        super().__init__(text)
        self.trouble = Trouble(kind, text)


class Wire:
    """Octets and replies on a connected socket, in the clear and inside TLS; everything raises `Broken`.

    `timeout` is for each reply and handshake, whatever trickles in meanwhile; `end` is the last second of all, on
    `monotonic`.
    """

    def __init__(
        self, connection: socket.socket, *, timeout: float, end: float, monotonic: Callable[[], float]
    ) -> None:
        self._socket, self._timeout, self._end, self._monotonic = connection, timeout, end, monotonic
        self._until = end
        self._tls: SSL.Connection | None = None
        self._reader = ReplyReader()
        self._heard: deque[Heard] = deque()

    def send(self, octets: bytes) -> None:
        """One segment, as far as it is up to us."""
        self._begin(self._timeout)
        if self._heard or not self._reader.is_empty:
            unasked = str(self._heard[0].reply) if self._heard else "a part of a reply"
            raise Broken(Kind.UNASKED, quote(f"the server said what nobody had asked for: {unasked}"))
        if self._tls is None:
            self._write(octets)
            return
        try:
            self._tls.sendall(octets)
        except SSL.Error as error:
            raise Broken(Kind.CLOSED, f"TLS ended: {_reason(error)}") from error
        self._flush()

    def hear(self) -> Heard:
        """The next reply."""
        self._begin(self._timeout)
        return self._hear()

    def _hear(self) -> Heard:
        while not self._heard:
            octets = self._receive()
            if not octets:
                raise Broken(Kind.CLOSED, "the server closed the connection")
            try:
                self._heard += self._reader.feed(octets)
            except ReplySyntaxError as error:
                raise Broken(Kind.GARBLED, f"{error}: {quote(octets[:80])}") from error
        return self._heard.popleft()

    def start_tls(self, handshake: Handshake) -> ClientTLS:
        """Shake hands; what was said in the clear so far is forgotten."""
        self._begin(self._timeout)
        if self._heard or not self._reader.is_empty:
            raise Broken(Kind.UNASKED, "the server sent more in the clear behind its 220")
        connection = handshake.clientConnectionForTLS(None)
        connection.set_connect_state()
        self._tls = connection
        while True:
            try:
                connection.do_handshake()
                break
            except SSL.WantReadError:
                self._flush()
                if not self._fill():
                    raise Broken(Kind.NO_TLS, "the server closed the connection in the handshake") from None
            except SSL.Error as error:
                # The alert tells the server why.
                with contextlib.suppress(Broken):
                    self._flush()
                raise Broken(Kind.NO_TLS, f"the handshake failed: {_reason(error)}") from error
        self._flush()
        try:
            return handshake.facts(connection)
        except Exception as error:
            # A certificate is the server's octets; readers of certificates fail on some in ways of their own.
            raise Broken(Kind.NO_TLS, f"the certificate cannot be read: {quote(str(error))}") from error

    def quit(self) -> None:
        """Take leave as one should, without waiting for long."""
        with contextlib.suppress(Broken):
            self.send(b"QUIT\r\n")
            self._begin(_FAREWELL)
            self._hear()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    # --- octets -----------------------------------------------------------------------------------------------------

    def _begin(self, seconds: float) -> None:
        self._until = min(self._monotonic() + seconds, self._end)

    def _arm(self) -> None:
        left = self._until - self._monotonic()
        if left <= 0:
            raise Broken(Kind.TIMED_OUT, "no complete reply in time")
        self._socket.settimeout(left)

    def _receive(self) -> bytes:
        if self._tls is None:
            return self._read()
        while True:
            try:
                return self._tls.recv(_CHUNK)
            except SSL.WantReadError:
                self._flush()
                if not self._fill():
                    return b""
            except SSL.ZeroReturnError:
                return b""
            except SSL.Error as error:
                raise Broken(Kind.CLOSED, f"TLS ended: {_reason(error)}") from error

    def _fill(self) -> bool:
        """Give TLS what comes next; False at the end of the connection."""
        assert self._tls is not None
        octets = self._read()
        if octets:
            self._tls.bio_write(octets)
        return bool(octets)

    def _flush(self) -> None:
        """Send what TLS has to say."""
        assert self._tls is not None
        while True:
            try:
                octets = self._tls.bio_read(_CHUNK)
            except SSL.WantReadError:
                return
            self._write(octets)

    def _read(self) -> bytes:
        self._arm()
        try:
            return self._socket.recv(_CHUNK)
        except TimeoutError as error:
            raise Broken(Kind.TIMED_OUT, "no complete reply in time") from error
        except OSError as error:
            raise Broken(Kind.CLOSED, f"the connection broke: {error.strerror or error}") from error

    def _write(self, octets: bytes) -> None:
        self._arm()
        try:
            self._socket.sendall(octets)
        except TimeoutError as error:
            raise Broken(Kind.TIMED_OUT, "the server reads nothing") from error
        except OSError as error:
            raise Broken(Kind.CLOSED, f"the connection broke: {error.strerror or error}") from error


def _reason(error: SSL.Error) -> str:
    reasons = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "; ".join(reason[2] for reason in reasons) or quote(str(error)) or type(error).__name__
