"""Signing: whatever a message is like, two verifiers find its signatures good, and it never lies in memory."""

import base64
import hashlib
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, maybeDeferred

from requiretls_mta.message.content import ContentScanner
from requiretls_mta.message.header import fields
from requiretls_mta.message.stored import BytesBody
from requiretls_mta.receive.signing import Signer, sign
from requiretls_mta.receive.signing_keys import SigningKey, keys_of
from requiretls_mta.receive.signing_rules import (
    ALWAYS,
    MOST_FIELDS,
    Unsigned,
    author_domain,
    names_to_sign,
    write_field,
)
from tests.receive.signatures import BOTH, ED25519, NOW, verdicts

SIGNER = Signer(in_thread=maybeDeferred, wall=lambda: NOW + 0.9)
FROM = b"From: Anna <anna@example.org>\r\n"
ALL = ["pass"] * 4


def signatures(octets, keys=BOTH):
    """What is put in front of a message, or why nothing is."""
    scanner = ContentScanner(1 << 24)
    scanner.feed(octets)
    content, found = scanner.finish(), []
    header = octets[: content.header_end]
    SIGNER.sign(header, BytesBody(octets), content.header_end + 2, keys).addCallback(found.append)
    return found[0]


MESSAGES = {
    "plain": FROM + b"Subject: x\r\n\r\nbody\r\n",
    "header only": FROM,
    "empty body": FROM + b"\r\n",
    "blank lines": FROM + b"\r\nbody\r\n\r\n\r\n",
    "nothing but blank lines": FROM + b"\r\n\r\n\r\n",
    "blanks": FROM + b"\r\n a \t b\t\r\n \r\n",
    "dots": FROM + b"\r\n.\r\n..\r\n.x\r\n",
    "no last line end": FROM + b"\r\nbody",
    "8-bit": "From: Änna <anna@example.org>\r\nSubject: ü\r\n\r\nß\r\n".encode() + b"\xff\xfe\r\n",
    "folded": b"From:\r\n Anna\r\n\t<anna@example.org>\r\nSubject:  a  test\r\n of\t folding \r\n\r\nx\r\n",
    "repeated": FROM + b"To: a@x.example\r\nTo: b@x.example\r\nSubject: 1\r\nsubject: 2\r\n\r\nx\r\n",
    "long lines": FROM + b"Subject: " + b"x" * 5000 + b"\r\n\r\n" + b"y" * 100_000 + b"\r\n",
    "a list's": FROM + b"List-Id: <x.example.org>\r\nList-Unsubscribe: <mailto:x@example.org>\r\n\r\nx\r\n",
    "signed before": b"DKIM-Signature: v=1; garbage\r\n" + FROM + b"\r\nx\r\n",
}


@pytest.mark.parametrize("octets", MESSAGES.values(), ids=MESSAGES)
def test_both_verifiers_accept(octets):
    """RSA and Ed25519, on whatever a session takes."""
    found = signatures(octets)
    assert found.count(b"DKIM-Signature:") == 2
    if octets.startswith(b"DKIM-Signature"):
        octets = octets.partition(b"\r\n")[2]
    assert verdicts(found + octets) == ALL


# dkimpy strips other controls than blanks, and takes blanks at the end of the last line for text if it lacks its CRLF.
NAMES = st.sampled_from([b"To", b"subject", b"Sender", b"X-Any", b"List-Id", b"MIME-Version", b"TLS-Required", b"cc"])
OCTETS = st.binary(max_size=30).map(lambda octets: re.sub(rb"[\x00\r\n\x0b\x0c\x1c-\x1f]", b"", octets))
TEXT = st.lists(st.one_of(OCTETS, st.sampled_from([b" ", b"\t", b"  ", b"\r\n ", b"\r\n\t"])), max_size=8).map(b"".join)
FIELDS = st.lists(st.tuples(NAMES, TEXT).map(lambda f: f[0] + b":" + f[1] + b"\r\n"), max_size=8).map(b"".join)
TEXT_LINE = st.lists(st.one_of(OCTETS, st.sampled_from([b" ", b"\t", b".", b"From x"])), max_size=5).map(b"".join)
BODY = st.lists(TEXT_LINE.map(lambda line: line + b"\r\n"), max_size=12).map(b"".join)


@given(FIELDS, FIELDS, BODY)
@example(b"X:\r\n \r\n \r\n", b"", b"\r\n")
def test_both_verifiers_accept_whatever_stands_in_it(before, behind, body):
    """Any fields around From, any body."""
    octets = before + FROM + behind + b"\r\n" + body
    assert verdicts(signatures(octets) + octets) == ALL


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"body", b"bodies"),
        (b"body\r\n", b"body\r\nmore\r\n"),
        (b"Subject: x", b"Subject: y"),
        *((b"Subject:", name.encode() + b": another\r\nSubject:") for name in ALWAYS if name != "from"),
    ],
)
def test_nothing_can_be_changed_or_added(old, new):
    """Oversigned: another field of a name, above or below, breaks the signature; there need not have been one."""
    octets = FROM + b"Subject: x\r\n\r\nbody\r\n"
    signed = signatures(octets) + octets.replace(old, new, 1)
    assert verdicts(signed) == ["fail"] * 4


def test_what_is_added_on_the_way_does_not_matter():
    """Trace fields, and those of mailing lists; blanks and case as relays change them."""
    octets = FROM + b"Subject: a  test\r\n of folding\r\nReceived: from x\r\n\r\nbody\t\r\n"
    signed = signatures(octets) + octets.replace(b"Subject: a  test\r\n of", b"SUBJECT:  a test of")
    top = b"Return-Path: <x@y>\r\nAuthentication-Results: x; none\r\nReceived: from y\r\nList-Id: <l.example>\r\n"
    assert verdicts(top + signed + b"\r\n\r\n") == ALL


def test_no_signature_covers_what_relays_change():
    """RFC 6376 5.4.1; a list's fields only where they are there, and then all there may be."""
    octets = b"".join(
        name + b": x\r\n"
        for name in (b"Return-Path", b"Received", b"Authentication-Results", b"DKIM-Signature", b"List-Post", b"To")
    )
    names = names_to_sign(fields(octets + FROM))
    assert names[:4] == ("from", "from", "sender", "reply-to")
    assert [name for name in names if names.count(name) == 2] == ["from"] * 2 + ["to"] * 2 + ["list-post"] * 2
    assert set(names) == {*ALWAYS, "list-post"}


def test_how_a_field_is_written():
    """Under 78 characters a line; no l=, x= or i=; the time is that of signing."""
    octets = FROM + b"List-Id: <x>\r\n\r\nbody\r\n"
    found = signatures(octets)
    assert max(map(len, found.split(b"\r\n"))) <= 77
    assert found.startswith(
        b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.org; s=r1;\r\n\tt=1700000000; h=from:from:"
    )
    tags = [part.partition(b"=")[0].strip() for part in found.partition(b"\r\nDKIM")[0].partition(b":")[2].split(b";")]
    assert tags == [b"v", b"a", b"c", b"d", b"s", b"t", b"h", b"bh", b"b"]


@given(st.integers(1, 60), st.integers(1, 240), st.integers(0, 9))
def test_lines_are_short_where_names_are(selector, domain, more):
    """A name of the DNS is not folded."""
    key = SigningKey(domain="d" * domain, selector="s" * selector, key=ED25519)
    field = write_field(key, ("from",) * (more + 1), b"x" * 32, NOW)
    assert all(len(line) <= 77 or b"d=d" in line for line in field.split(b"\r\n"))
    assert field.translate(None, b"\r\n\t").count(b"from") == more + 1


# --- who signs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "domain"),
    [
        ("anna@example.org", "example.org"),
        ("Anna <anna@Example.ORG>", "example.org"),
        ('"bob@other.example" <anna@example.org>', "example.org"),
        ("anna@bücher.example", "xn--bcher-kva.example"),
        ("=?utf-8?q?=C3=BC?= <anna@example.org> (a comment <x@y>)", "example.org"),
        ("a@example.org, b@example.org", None),
        ("Group: a@example.org;", "example.org"),
        ("undisclosed:;", None),
        ("anna", None),
        ("anna@[192.0.2.1]", "[192.0.2.1]"),
        ("anna@-..", None),
        ("", None),
        ("<a@example.org> <b@example.org>", None),
    ],
)
def test_who_is_the_author(value, domain):
    """Exactly one mailbox, whatever its name pretends."""
    assert author_domain(f"Subject: x\r\nFrom: {value}\r\n".encode()) == domain


@pytest.mark.parametrize("header", [b"", b"To: a@example.org\r\n", FROM * 2, b"From: a@" + b"x." * 9000 + b"\r\n"])
def test_without_one_from_there_is_no_author(header):
    """Nobody signs what others may read in another way."""
    assert author_domain(header) is None
    assert isinstance(signatures(header + b"\r\nx\r\n"), Unsigned)


def test_the_closest_domain_signs():
    """The author's own, or the next one above; never one below, beside, or one that only ends alike."""
    keys = {"example.org": "parent", "sub.example.org": "sub"}
    for domain, found in {
        "example.org": "parent",
        "sub.example.org": "sub",
        "a.sub.example.org": "sub",
        "other.example.org": "parent",
        "myexample.org": (),
        "org": (),
        "": (),
        "[192.0.2.1]": (),
    }.items():
        assert keys_of(domain, keys) == found, domain
    assert signatures(b"From: a@else.example\r\n\r\nx\r\n") == b""


@pytest.mark.parametrize(
    "octets",
    [
        b" begins folded\r\n" + FROM + b"\r\n",
        b"From anna Mon Jan 1\r\n" + FROM + b"\r\n",
        FROM + b"no field\r\n\r\n",
        FROM + b"Sub ject: x\r\n\r\n",
        FROM + "Sübject: x\r\n\r\n".encode(),
        FROM + b"To: x\r\n" * MOST_FIELDS + b"\r\n",
    ],
)
def test_what_others_would_read_otherwise_is_not_signed(octets):
    """RFC 6376 3.8."""
    assert isinstance(signatures(octets), Unsigned)


# --- size -------------------------------------------------------------------------------------------------------------


LINE = b"0123456789" * 7
LINES = 700_000


class Huge:
    """A body of 50 MB that nobody holds; notes in what pieces it is read."""

    size = len(FROM) + 2 + LINES * len(LINE + b" \r\n")

    def __init__(self):
        self.read_up_to, self.longest = 0, 0

    def read(self, offset, length):
        self.read_up_to, self.longest = max(self.read_up_to, offset + length), max(self.longest, length)
        line = LINE + b" \r\n"
        start = (offset - len(FROM) - 2) % len(line)
        length = min(length, self.size - offset)
        return (line * (length // len(line) + 2))[start : start + length]


def test_a_large_body_streams():
    """Read once for all keys, in small pieces; what is signed is the hash of the whole."""
    huge, whole = Huge(), hashlib.sha256()
    found = sign(BOTH["example.org"], FROM, huge, len(FROM) + 2, NOW)
    for _ in range(0, LINES, 1000):
        whole.update((LINE + b"\r\n") * 1000)
    assert found.count(b"bh=" + base64.b64encode(whole.digest()) + b";") == 2
    assert huge.longest <= 256 * 1024 and huge.read_up_to >= huge.size > 50_000_000


def test_nothing_is_read_where_others_wait():
    """Keys and body are the thread's matter."""
    jobs = []
    signer = Signer(in_thread=lambda *job: jobs.append(job) or Deferred(), wall=lambda: NOW)
    assert not signer.sign(FROM, None, len(FROM) + 2, BOTH).called
    assert jobs == [(sign, BOTH["example.org"], FROM, None, len(FROM) + 2, NOW)]


def test_a_body_that_ends_early_is_no_message():
    """A file that was cut off is not signed as it is."""
    body = Huge()
    body.read = lambda offset, length: b""
    with pytest.raises(EOFError):
        sign(BOTH["example.org"], FROM, body, len(FROM) + 2, NOW)
