"""SMTP replies (RFC 5321 4.2) with enhanced status codes (RFC 2034, 3463, 8689 7): the one place for their texts."""

from __future__ import annotations

import re

import attrs

QUOTE_LIMIT = 512
"""Characters of foreign text that a report, log or reply of ours ever shows."""
_ENHANCED = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?: |\Z)")


@attrs.frozen
class Reply:
    """One reply; a line break in the text makes it a multi-line one."""

    code: int
    enhanced: str | None
    text: str
    wire: bytes = attrs.field(init=False, eq=False, repr=False)
    """The reply as it goes over the wire."""

    @property
    def is_positive(self) -> bool:
        """2xx or 3xx."""
        return self.code < 400

    @property
    def is_temporary(self) -> bool:
        """4xx."""
        return 400 <= self.code < 500

    @property
    def is_permanent(self) -> bool:
        """5xx."""
        return self.code >= 500

    @property
    def message(self) -> str:
        """The text of each line with its enhanced status code, lines parted by line breaks: all but the basic code."""
        if self.enhanced is None:
            return self.text
        return f"{self.enhanced} " + self.text.replace("\n", f"\n{self.enhanced} ")

    @wire.default
    def _(self) -> bytes:
        above, parted, last = self.message.rpartition("\n")
        lines = f"{self.code}-" + above.replace("\n", f"\r\n{self.code}-") + "\r\n" if parted else ""
        return f"{lines}{self.code} {last}\r\n".encode()

    def __str__(self) -> str:
        return f"{self.code} {self.message}".replace("\n", " ")

    def with_text(self, text: str) -> Reply:
        """The same codes with another text."""
        return Reply(self.code, self.enhanced, text)

    def with_class(self) -> Reply:
        """The same reply; one without an enhanced code gets the one that says no more than the basic code."""
        return self if self.enhanced else Reply(self.code, f"{self.code // 100}.0.0", self.text)


def parse_reply(code: int, lines: list[bytes]) -> Reply:
    """A peer's reply from its code and the texts of its lines; an enhanced code is taken off its lines."""
    texts = [line.decode("utf-8", "replace") for line in lines]
    found = _ENHANCED.match(texts[-1]) if texts else None
    enhanced = found.group(1) if found and found.group(1)[0] == str(code)[0] else None
    if enhanced:
        texts = [text[len(enhanced) + 1 :] if f"{text} ".startswith(f"{enhanced} ") else text for text in texts]
    return Reply(code, enhanced, quote("\n".join(texts), breaks=True))


def quote(text: str | bytes, *, breaks: bool = False) -> str:
    """Foreign text made harmless: controls escaped, at most `QUOTE_LIMIT` characters; `breaks` keeps line breaks."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    if len(text) <= QUOTE_LIMIT and text.isprintable():
        return text
    shown = "".join(c if c.isprintable() or (breaks and c == "\n") else ascii(c)[1:-1] for c in text[: QUOTE_LIMIT + 1])
    return shown if len(shown) <= QUOTE_LIMIT else shown[: QUOTE_LIMIT - 3] + "..."


# --- accepted -----------------------------------------------------------------------------------------------------
OK = Reply(250, "2.0.0", "Ok")
SENDER_OK = Reply(250, "2.1.0", "Sender ok")
RECIPIENT_OK = Reply(250, "2.1.5", "Recipient ok")
START_TLS = Reply(220, "2.0.0", "Ready to start TLS")
START_DATA = Reply(354, None, "End data with <CR><LF>.<CR><LF>")
CHUNK_OK = Reply(250, "2.0.0", "Chunk ok")
BYE = Reply(221, "2.0.0", "Bye")
AUTH_OK = Reply(235, "2.7.0", "Authentication successful")
VRFY = Reply(252, "2.0.0", "Cannot VRFY user, but will accept message and attempt delivery")
HELP = Reply(214, "2.0.0", "See RFC 5321 and RFC 8689")

USUAL = {b"MAIL": SENDER_OK, b"RCPT": RECIPIENT_OK, b"DATA": START_DATA}
"""What is said in a transaction as it should be: transcripts leave it out, and whoever reads them adds it."""


def queued(queue_id: str) -> Reply:
    """The message is on disk; from now on it is ours to deliver or to report."""
    return Reply(250, "2.0.0", f"Ok: queued as {queue_id}")


# --- not now ------------------------------------------------------------------------------------------------------
SHUTTING_DOWN = Reply(421, "4.3.2", "Service shutting down, try again later")
TIMED_OUT = Reply(421, "4.4.2", "Timeout, closing connection")
TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors, closing connection")
NOT_HTTP = Reply(421, "4.7.0", "This is not an HTTP server")
TOO_MANY_CONNECTIONS = Reply(421, "4.7.0", "Too many connections, try again later")
STORE_FULL = Reply(452, "4.3.1", "Insufficient storage, try again later")
TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients, send the rest in another transaction")
CANNOT_VERIFY = Reply(451, "4.3.0", "The recipient cannot be verified now, try again later")
TOO_OFTEN = Reply(450, "4.7.1", "Too many messages, try again later")
LOCAL_ERROR = Reply(451, "4.3.0", "Local error in processing, try again later")
AUTH_UNAVAILABLE = Reply(454, "4.7.0", "Temporary authentication failure, try again later")

# --- never --------------------------------------------------------------------------------------------------------
UNKNOWN_COMMAND = Reply(500, "5.5.2", "Command not recognized")
LINE_TOO_LONG = Reply(500, "5.5.2", "Command line too long")
BAD_SYNTAX = Reply(501, "5.5.4", "Syntax error in parameters or arguments")
NOT_OFFERED = Reply(502, "5.5.1", "Command not implemented")
BAD_SEQUENCE = Reply(503, "5.5.1", "Bad sequence of commands")
AUTH_MECHANISM = Reply(504, "5.5.4", "Authentication mechanism not offered")
BAD_PARAMETER = Reply(501, "5.5.4", "Bad parameter value")
BAD_ADDRESS = Reply(553, "5.1.3", "Bad address")
UNKNOWN_PARAMETER = Reply(555, "5.5.4", "Parameter not recognized or not implemented")
AUTH_REQUIRED = Reply(530, "5.7.0", "Authentication required")
STARTTLS_REQUIRED = Reply(530, "5.7.0", "Must issue a STARTTLS command first")
REQUIRETLS_NEEDS_TLS = Reply(530, "5.7.10", "REQUIRETLS needs TLS, issue a STARTTLS command first")
BAD_CREDENTIALS = Reply(535, "5.7.8", "Authentication credentials invalid")
AUTH_ABORTED = Reply(501, "5.7.0", "Authentication aborted")
AUTH_SYNTAX = Reply(501, "5.5.2", "Cannot decode the authentication response")
TOO_BIG = Reply(552, "5.3.4", "Message exceeds the size limit")
HEADER_TOO_BIG = Reply(552, "5.3.4", "Header section exceeds the size limit")
NO_RELAY = Reply(550, "5.7.1", "Relaying denied")
UNKNOWN_RECIPIENT = Reply(550, "5.1.1", "No such recipient here")
BAD_LOCAL_PART = Reply(553, "5.1.3", "Local part not allowed")
NEEDS_SMTPUTF8 = Reply(553, "5.6.7", "The address needs SMTPUTF8")
BARE_LINE_BREAK = Reply(550, "5.6.11", "The message has a bare CR or LF; lines end with CRLF")
TOO_MANY_FORGED = Reply(550, "5.7.1", "Too many Authentication-Results fields that are not the sender's to write")
TOO_MANY_HOPS = Reply(554, "5.4.6", "Too many Received fields, this looks like a loop")
