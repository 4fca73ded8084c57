"""A report as JSON, field by field against RFC 8460 4.4 and appendix B, and the message that carries it."""

import email
import email.policy
import gzip
import json
import re

import pytest

from requiretls_mta.message.address import Address
from requiretls_mta.message.header import TLSRequired, tls_required
from requiretls_mta.message.profile import Profile
from requiretls_mta.report.tlsrpt_format import PolicyCounts, TLSReport, as_json, as_message, compressed
from requiretls_mta.report.tlsrpt_session import Failure, Policy

STS = Policy(
    "sts",
    "company-y.example",
    ("version: STSv1", "mode: testing", "mx: *.mail.company-y.example", "max_age: 86400"),
    ("*.mail.company-y.example",),
)
EXPIRED = Failure("certificate-expired", "2001:db8:abcd:12::1", "mx1.mail.company-y.example")
REPORT = TLSReport(
    domain="company-y.example",
    day=16_892,  # 2016-04-01
    unique="5065427c23d347ca",
    contact=Address("sts-reporting", "company-x.example"),
    policies=[
        PolicyCounts(
            policy=STS,
            successful=5326,
            failed=303,
            failures={
                EXPIRED: 100,
                Failure(
                    "starttls-not-supported", "2001:db8:abcd:13::1", "mx2.mail.company-y.example", "203.0.113.56"
                ): 200,
                Failure(
                    "validation-failure",
                    "198.51.100.62",
                    "mx-backup.mail.company-y.example",
                    "203.0.113.58",
                    "X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED",
                ): 3,
            },
        ),
        PolicyCounts(policy=Policy("tlsa", "mx1.mail.company-y.example", ("3 1 1 1F85",)), successful=1, failed=0),
        PolicyCounts(policy=Policy("no-policy-found", "company-y.example"), successful=0, failed=0),
    ],
)
TO = [Address("reports", "company-y.example"), Address("a!b", "third.example")]


def test_the_json_is_that_of_appendix_b():
    """Every name and value of the example, but for the URI that we have not, and the array that 4.4 asks for."""
    assert as_json(REPORT) == {
        "organization-name": "company-x.example",
        "date-range": {"start-datetime": "2016-04-01T00:00:00Z", "end-datetime": "2016-04-01T23:59:59Z"},
        "contact-info": "sts-reporting@company-x.example",
        "report-id": "2016-04-01.5065427c23d347ca@company-x.example",
        "policies": [
            {
                "policy": {
                    "policy-type": "sts",
                    "policy-string": [
                        "version: STSv1",
                        "mode: testing",
                        "mx: *.mail.company-y.example",
                        "max_age: 86400",
                    ],
                    "policy-domain": "company-y.example",
                    "mx-host": ["*.mail.company-y.example"],
                },
                "summary": {"total-successful-session-count": 5326, "total-failure-session-count": 303},
                "failure-details": [
                    {
                        "result-type": "certificate-expired",
                        "sending-mta-ip": "2001:db8:abcd:12::1",
                        "receiving-mx-hostname": "mx1.mail.company-y.example",
                        "failed-session-count": 100,
                    },
                    {
                        "result-type": "starttls-not-supported",
                        "sending-mta-ip": "2001:db8:abcd:13::1",
                        "receiving-mx-hostname": "mx2.mail.company-y.example",
                        "receiving-ip": "203.0.113.56",
                        "failed-session-count": 200,
                    },
                    {
                        "result-type": "validation-failure",
                        "sending-mta-ip": "198.51.100.62",
                        "receiving-mx-hostname": "mx-backup.mail.company-y.example",
                        "receiving-ip": "203.0.113.58",
                        "failed-session-count": 3,
                        "failure-reason-code": "X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED",
                    },
                ],
            },
            {
                "policy": {
                    "policy-type": "tlsa",
                    "policy-string": ["3 1 1 1F85"],
                    "policy-domain": "mx1.mail.company-y.example",
                },
                "summary": {"total-successful-session-count": 1, "total-failure-session-count": 0},
                "failure-details": [],
            },
            {
                "policy": {"policy-type": "no-policy-found", "policy-domain": "company-y.example"},
                "summary": {"total-successful-session-count": 0, "total-failure-session-count": 0},
                "failure-details": [],
            },
        ],
    }


def test_the_file():
    """RFC 8460 5.1 and 5.2: its name, and gzip of the JSON; the same octets each time."""
    assert REPORT.filename == ("company-x.example!company-y.example!1459468800!1459555199!5065427c23d347ca.json.gz")
    assert json.loads(gzip.decompress(compressed(REPORT))) == as_json(REPORT)
    assert compressed(REPORT) == compressed(REPORT)


def message(profile=Profile.RFC8689):
    octets = as_message(
        REPORT,
        compressed(REPORT),
        to=TO,
        date="Sat, 2 Apr 2016 01:02:03 +0000",
        message_id="q@mta.company-x.example",
        profile=profile,
    )
    return octets, email.message_from_bytes(octets, policy=email.policy.default)


def test_the_message():
    """RFC 8460 5.3: type, parts, fields and file, as Python's email package reads them."""
    _, parsed = message()
    assert parsed.get_content_type() == "multipart/report"
    assert parsed.get_param("report-type") == "tlsrpt"
    assert parsed["From"].addresses[0].addr_spec == "sts-reporting@company-x.example"
    assert [a.addr_spec for a in parsed["To"].addresses] == ["reports@company-y.example", "a!b@third.example"]
    assert parsed["TLS-Report-Domain"] == "company-y.example"
    assert parsed["TLS-Report-Submitter"] == "company-x.example"
    assert parsed["Message-ID"] == "<q@mta.company-x.example>"
    assert parsed["Auto-Submitted"] == "auto-generated"
    text, file = parsed.iter_parts()
    assert text.get_content_type() == "text/plain"
    assert "5327 sessions were as secure as policies ask, 303 were not." in text.get_content()
    assert file.get_content_type() == "application/tlsrpt+gzip"
    assert file.get_filename() == REPORT.filename
    assert file.get_content_disposition() == "attachment"
    assert json.loads(gzip.decompress(file.get_content())) == as_json(REPORT)
    assert not parsed.defects and not text.defects and not file.defects


def test_the_subject_has_its_grammar():
    """RFC 8460 5.3."""
    _, parsed = message()
    assert re.fullmatch(
        r"Report\s+Domain:\s+company-y\.example\s+Submitter:\s+company-x\.example\s+"
        r"Report-ID:\s+<2016-04-01\.5065427c23d347ca@company-x\.example>",
        parsed["Subject"],
    )


def test_the_message_is_what_every_server_takes():
    """7-bit, CRLF, short lines, a date."""
    octets, parsed = message()
    assert octets.isascii()
    assert octets.count(b"\r\n") == octets.count(b"\n") == octets.count(b"\r")
    assert max(map(len, octets.split(b"\r\n"))) < 200
    assert parsed["Date"].datetime.year == 2016


@pytest.mark.parametrize("profile", Profile)
def test_broken_tls_does_not_keep_it(profile):
    """RFC 8460 5.3.1 by means of RFC 8689 5."""
    octets, _ = message(profile)
    assert f"\r\n{profile.optional_field}\r\n".encode() in octets
    assert tls_required(octets.partition(b"\r\n\r\n")[0]) is TLSRequired.NO


def test_long_names_are_no_trouble():
    """Domains of 255 octets."""
    long = ".".join(["x" * 62] * 4)
    report = TLSReport(domain=long, day=1, unique="a", contact=Address("c", long), policies=[])
    octets = as_message(report, b"", to=TO, date="x", message_id="q", profile=Profile.RFC8689)
    assert max(map(len, octets.split(b"\r\n"))) < 998
