"""Why `sendmail` ends without success: the statuses of <sysexits.h>, and which one a server's reply means."""

from __future__ import annotations

from requiretls_mta.cli.submission import Refusal
from requiretls_mta.message.reply import Reply

USAGE, DATA, NO_USER, UNAVAILABLE, TEMPORARY, NO_PERMISSION, CONFIG = 64, 65, 67, 69, 75, 77, 78
"""What each means to callers: EX_USAGE, EX_DATAERR, EX_NOUSER, EX_UNAVAILABLE, EX_TEMPFAIL, EX_NOPERM, EX_CONFIG."""


class Trouble(Exception):
    """The program ends with this status and this line on standard error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def of_refusal(refusal: Refusal) -> Trouble:
    """What the server's word, or want of an extension, means to the caller."""
    if refusal.reply is None:
        return Trouble(UNAVAILABLE, str(refusal))
    return Trouble(status_of(refusal.command, refusal.reply), str(refusal))


def status_of(command: str, reply: Reply) -> int:
    """The status for a refusal; `command` is what was refused."""
    if reply.is_temporary:
        return TEMPORARY
    subject = (reply.enhanced or "5.0.0")[2:]
    if subject.startswith("7."):
        return NO_PERMISSION
    if subject.startswith("1."):
        return NO_USER if command == "RCPT" else DATA
    # Too big, or not what a message has to look like.
    if subject == "3.4" or subject.startswith("6."):
        return DATA
    return UNAVAILABLE
