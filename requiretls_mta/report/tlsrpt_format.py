"""A TLS report as octets: the JSON of RFC 8460 4.4, its file name, and the message that carries it (RFC 8460 5)."""

from __future__ import annotations

import base64
import gzip
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from requiretls_mta.message.address import Address
from requiretls_mta.message.profile import Profile
from requiretls_mta.report.tlsrpt_session import DAY, Failure, Policy

MEDIA_TYPE = "application/tlsrpt+gzip"


@attrs.frozen(kw_only=True)
class PolicyCounts:
    """What sessions under one policy came to."""

    policy: Policy
    successful: int
    failed: int
    failures: Mapping[Failure, int] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class TLSReport:
    """One domain's report of one day."""

    domain: str
    """Whom it is about, and who gets it; A-labels."""
    day: int
    """Days since 1970, UTC."""
    unique: str
    """Letters and digits; the same in every attempt, so that a receiver may notice repetitions."""
    contact: Address
    """Of who is responsible for the report; ASCII."""
    policies: Sequence[PolicyCounts]

    @property
    def submitter(self) -> str:
        """RFC 8460 5.3: the domain of the contact."""
        return self.contact.domain

    @property
    def id(self) -> str:
        """The report-id, `id-left@id-right` (RFC 8460 5.3)."""
        return f"{time.strftime('%Y-%m-%d', time.gmtime(self.day * DAY))}.{self.unique}@{self.submitter}"

    @property
    def filename(self) -> str:
        """RFC 8460 5.1."""
        begin = self.day * DAY
        return f"{self.submitter}!{self.domain}!{begin}!{begin + DAY - 1}!{self.unique}.json.gz"


def as_json(report: TLSReport) -> dict[str, Any]:
    """RFC 8460 4.4, in the order of appendix B."""
    begin = report.day * DAY
    return {
        "organization-name": report.submitter,
        "date-range": {"start-datetime": _date_time(begin), "end-datetime": _date_time(begin + DAY - 1)},
        "contact-info": str(report.contact),
        "report-id": report.id,
        "policies": [_policy(counts) for counts in report.policies],
    }


def compressed(report: TLSReport) -> bytes:
    """The report as a file (RFC 8460 5.2)."""
    return gzip.compress(json.dumps(as_json(report), indent=1).encode("ascii"), mtime=0)


def as_message(
    report: TLSReport, file: bytes, *, to: Sequence[Address], date: str, message_id: str, profile: Profile
) -> bytes:
    """The message with the file, CRLF line ends, 7-bit. `date` is an RFC 5322 date-time, `message_id` without <>."""
    boundary = f"=_{secrets.token_hex(16)}"
    lines = [
        f"From: <{report.contact}>",
        "To: " + ",\r\n\t".join(f"<{address}>" for address in to),
        # RFC 8460 5.3 has the grammar of it.
        f"Subject: Report Domain: {report.domain}\r\n\tSubmitter: {report.submitter}\r\n\tReport-ID: <{report.id}>",
        f"Date: {date}",
        f"Message-ID: <{message_id}>",
        f"TLS-Report-Domain: {report.domain}",
        f"TLS-Report-Submitter: {report.submitter}",
        # RFC 8460 5.3.1: what is wrong with the domain's TLS must not keep it from hearing of it.
        profile.optional_field,
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type="tlsrpt";\r\n\tboundary="{boundary}"',
        "",
        f"--{boundary}",
        "Content-Type: text/plain; charset=us-ascii",
        "Content-Transfer-Encoding: 7bit",
        "",
        *_text(report),
        "",
        f"--{boundary}",
        f"Content-Type: {MEDIA_TYPE}",
        "Content-Transfer-Encoding: base64",
        f'Content-Disposition: attachment;\r\n\tfilename="{report.filename}"',
        "",
        *base64.encodebytes(file).decode("ascii").splitlines(),
        f"--{boundary}--",
        "",
    ]
    return "\r\n".join(lines).encode("ascii")


def _text(report: TLSReport) -> list[str]:
    """What a person may want to know without unpacking the file."""
    successful, failed = (sum(getattr(p, name) for p in report.policies) for name in ("successful", "failed"))
    day = time.strftime("%Y-%m-%d", time.gmtime(report.day * DAY))
    return [
        "This is an aggregate TLS report (RFC 8460) about mail sent to",
        f"{report.domain}",
        f"on {day} (UTC), from {report.submitter}:",
        f"{successful} sessions were as secure as policies ask, {failed} were not.",
    ]


def _policy(counts: PolicyCounts) -> dict[str, Any]:
    policy: dict[str, Any] = {"policy-type": counts.policy.kind}
    if counts.policy.strings:
        policy["policy-string"] = list(counts.policy.strings)
    policy["policy-domain"] = counts.policy.domain
    if counts.policy.mx:
        # An array, as 4.4 says; appendix B shows a string.
        policy["mx-host"] = list(counts.policy.mx)
    return {
        "policy": policy,
        "summary": {
            "total-successful-session-count": counts.successful,
            "total-failure-session-count": counts.failed,
        },
        "failure-details": [_failure(failure, count) for failure, count in counts.failures.items()],
    }


def _failure(failure: Failure, count: int) -> dict[str, Any]:
    details = {
        "result-type": failure.result,
        "sending-mta-ip": failure.sending_ip,
        "receiving-mx-hostname": failure.mx,
        "receiving-ip": failure.receiving_ip,
        "failed-session-count": count,
        "failure-reason-code": failure.reason,
    }
    return {name: value for name, value in details.items() if value}


def _date_time(when: int) -> str:
    """RFC 3339 5.6."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
