"""A report as RFC 3464, 6522 and 6533 want it, field by field; what departs from them fails the test."""

import email
import email.policy
import email.utils
import quopri
import re

import attrs

_ABOUT = ("original-envelope-id", "reporting-mta", "x-requiretls-mta-queue-id", "arrival-date")
# In the order of RFC 3464 2.3's grammar.
_RECIPIENT = (
    "original-recipient",
    "final-recipient",
    "action",
    "status",
    "remote-mta",
    "diagnostic-code",
    "last-attempt-date",
    "will-retry-until",
)
_CLASS = {"failed": "5", "delayed": "4", "delivered": "2", "relayed": "2", "expanded": "2"}
_RETURNED = {"message/rfc822", "text/rfc822-headers", "message/global", "message/global-headers"}


@attrs.frozen
class Parsed:
    """What a reader finds."""

    message: email.message.EmailMessage
    text: str
    about: email.message.EmailMessage
    recipients: list
    kind: str
    """Content type of what came back."""
    returned: bytes
    """Its octets."""

    def actions(self):
        """Of each final recipient."""
        return {block["Final-Recipient"].partition("; ")[2]: block["Action"] for block in self.recipients}


def read(octets):
    """Take a report apart; `octets` with CRLF line ends, or with LF as Maildirs have them."""
    octets = octets.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    message = email.message_from_bytes(octets, policy=email.policy.default)
    assert not message.defects
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert message["Auto-Submitted"] == "auto-replied"  # RFC 3834 5
    assert message["MIME-Version"] == "1.0"
    for name in ("From", "To", "Subject", "Date", "Message-ID"):
        assert len(message.get_all(name)) == 1, name
    first, second, third = (_part(raw) for raw in _parts(octets, message))
    assert first[0] == "text/plain"
    assert second[0] in ("message/delivery-status", "message/global-delivery-status")
    if second[0] == "message/delivery-status":
        assert second[1].isascii()
    assert third[0] in _RETURNED
    about, *recipients = [
        email.message_from_bytes(block, policy=email.policy.default.clone(utf8=True))
        for block in second[1].removesuffix(b"\r\n").split(b"\r\n\r\n")
    ]
    _check_about(about)
    for block in recipients:
        _check_recipient(block)
    return Parsed(message, first[1].decode(), about, recipients, *third)


def _parts(octets, message):
    border = b"\r\n--" + message.get_boundary().encode()
    _head, *parts, end = octets.split(border)
    assert end.startswith(b"--")
    assert len(parts) == 3
    return [part.removeprefix(b"\r\n") for part in parts]


def _part(raw):
    head, _, body = raw.partition(b"\r\n\r\n")
    fields = email.message_from_bytes(head)
    encoding = fields["Content-Transfer-Encoding"]
    assert encoding in ("7bit", "8bit", "quoted-printable")
    if encoding == "7bit":
        assert body.isascii()
    if encoding == "quoted-printable":
        # RFC 2046 5.2.1: these must not be encoded.
        assert fields.get_content_type() not in ("message/rfc822", "message/delivery-status")
        body = quopri.decodestring(body)
    return fields.get_content_type(), body


def _check_about(about):
    names = [name.lower() for name in about]
    assert set(names) <= set(_ABOUT) and len(names) == len(set(names))
    assert re.fullmatch(r"dns; [\w.-]+", about["Reporting-MTA"])
    assert email.utils.parsedate_to_datetime(about["Arrival-Date"])


def _check_recipient(block):
    names = [name.lower() for name in block]
    assert names == [name for name in _RECIPIENT if name in names], names
    assert {"final-recipient", "action", "status"} <= set(names)
    assert re.match(r"(rfc822|utf-8); \S", block["Final-Recipient"])
    if "original-recipient" in names:
        assert re.match(r"[\w-]+;\S", block["Original-Recipient"])
    assert re.fullmatch(rf"{_CLASS[block['Action']]}\.\d{{1,3}}\.\d{{1,3}}", block["Status"])
    if "remote-mta" in names:
        assert re.match(r"dns; \S", block["Remote-MTA"])
    assert re.match(r"smtp; [245]\d\d\b", block["Diagnostic-Code"] or "smtp; 250")
    assert ("diagnostic-code" in names) == ("remote-mta" in names or block["Action"] in ("failed", "delayed"))
    assert email.utils.parsedate_to_datetime(block["Last-Attempt-Date"])
    # RFC 3464 2.3.9: for delayed ones only.
    assert ("will-retry-until" in names) <= (block["Action"] == "delayed")
    if "will-retry-until" in names:
        assert email.utils.parsedate_to_datetime(block["Will-Retry-Until"])
