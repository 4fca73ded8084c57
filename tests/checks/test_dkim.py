"""DKIM: what others signed holds here, what was changed does not, and nothing that a stranger sends costs much."""

import base64
import contextlib
import hashlib
import itertools
import re
import time

import attrs
import dkim as dkimpy
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from requiretls_mta.checks.dkim import MOST_WAITING, PATIENCE, DKIMCheck, Job, verify
from requiretls_mta.checks.dkim_canon import BodyKey, hash_body
from requiretls_mta.checks.dkim_rules import Unusable, parse_key, parse_signature
from requiretls_mta.checks.interfaces import Client, Subject, Tools
from requiretls_mta.message.authres import show_result
from requiretls_mta.message.header import Field, fields
from requiretls_mta.message.stored import BytesBody
from tests.checks.answers import answer, failure
from tests.checks.fakes import FakeResolver, RecordedEvents
from tests.checks.signing import KEY, MESSAGE, NAME, RSA, ed25519_signed, in_strings

CLIENT = Client(session="s1", address="192.0.2.1")


class Bench:
    """The check, with a resolver that knows one key."""

    def __init__(self, record=KEY.record, on=True, in_thread=None):
        self.clock, self.resolver = Clock(), FakeResolver()
        self.resolver.on(NAME, "TXT", answer("TXT", in_strings(record)))
        options = {"in_thread": in_thread} if in_thread else {}
        tools = Tools(
            clock=self.clock,
            resolver=self.resolver,
            events=RecordedEvents(),
            settings={"dkim": on or None}.get,
            **options,
        )
        self.now = time.time()
        self.check = DKIMCheck(tools, wall=lambda: self.now)

    def begin(self, message, client=CLIENT):
        end = message.find(b"\r\n\r\n")
        header = message[: end + 2] if end >= 0 else message
        return self.check.begin(Subject(client=client, header=header, body=BytesBody(message)))

    def results(self, message):
        begun = self.begin(message)
        verdict = begun.result if isinstance(begun, Deferred) else begun
        return [re.sub(r"header.b=\S+", "header.b=X", show_result(result)) for result in verdict.results]


GOOD = "dkim=pass header.d=far.example header.s=s1 header.a=rsa-sha256 header.b=X"
BODIES = [
    b"",
    b"\r\n",
    b"\r\n\r\n",
    b"x",
    b" \r\n",
    b"a \t b\t\r\n \r\n\r\n",
    b".\r\n" * 3,
    b"x " * 40000 + b"\r\n" * 9000,
]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
@pytest.mark.parametrize("canon", [(a, b) for a in ("simple", "relaxed") for b in ("simple", "relaxed")], ids="/".join)
def test_what_dkimpy_signs_holds(canon, body):
    """Every canonicalization, every kind of end that a body can have."""
    head = MESSAGE.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    assert Bench().results(KEY.sign(head + body, canon=canon)) == [GOOD]


def test_a_message_without_a_signature_has_none():
    """And where it is off, nothing is said."""
    assert Bench().results(MESSAGE) == ["dkim=none"]
    assert Bench(on=False).begin(MESSAGE) is None


def test_ed25519():
    """RFC 8463."""
    message, record = ed25519_signed(MESSAGE.replace(b" \t\r\n\r\n\r\n", b"\r\n"))
    assert Bench(record).results(message) == [
        "dkim=pass header.d=far.example header.s=s1 header.a=ed25519-sha256 header.b=X"
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ((b"Hello", b"Hallo"), "body hash did not verify"),
        ((b"a  test", b"another test"), "signature did not verify"),
        ((b"From: Anna", b"From: Eve <e@x.example>\r\nFrom: Anna"), "signature did not verify"),
        ((b"h=", b"h=to : "), "signature did not verify"),
    ],
    ids=["body", "subject", "a second From", "its own tags"],
)
def test_what_was_changed_fails(change, reason):
    """One octet is enough; dkimpy signs From twice, so that no other can be put above it."""
    (result,) = Bench().results(KEY.sign().replace(*change, 1))
    assert result.startswith(f'dkim=fail reason="{reason}" header.d=far.example')


def test_blanks_may_change_where_relaxed():
    """RFC 6376 3.4: what mail systems do on the way does not matter."""
    message = KEY.sign().replace(b"Subject:  a  test\r\n of", b"SUBJECT: a test of").replace(b"Hello \t", b"Hello")
    assert Bench().results(message + b"\r\n\r\n") == [GOOD]


@pytest.mark.parametrize(
    ("edit", "result"),
    [
        (lambda r: b"", 'permerror reason="no key for signature"'),
        (lambda r: b"v=DKIM1; p=", 'permerror reason="key revoked"'),
        (lambda r: b"v=DKIM1; p=AAAA", 'permerror reason="bad key"'),
        (lambda r: r.replace(b"DKIM1", b"DKIM2"), 'permerror reason="key of another kind"'),
        (lambda r: r.replace(b"k=rsa", b"k=ed25519"), 'permerror reason="key of another kind"'),
        (lambda r: r + b"; h=sha1", 'permerror reason="key for another hash"'),
        (lambda r: r + b"; s=tlsrpt", 'permerror reason="key for another service"'),
        (lambda r: r + b"; k=rsa", 'permerror reason="tag k stands there twice"'),
        (lambda r: r + b"; t=y:s; n=note; s=email; h=sha1:sha256", "pass"),
        (lambda r: RSA(1024).record, 'fail reason="signature did not verify"'),
    ],
)
def test_keys(edit, result):
    """RFC 6376 3.6.1, 6.1.2."""
    (found,) = Bench(edit(KEY.record)).results(KEY.sign())
    assert found.startswith(f"dkim={result} header.d=far.example")


def test_a_short_key_is_none():
    """RFC 8301 3.2: 1024 bits at least; a huge modulus is refused before anything is computed with it."""
    for n in (2**511 + 1, 2**16383 + 1):
        der = RSAPublicNumbers(65537, n).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        (found,) = Bench(b"p=" + base64.b64encode(der)).results(KEY.sign())
        assert found.startswith('dkim=permerror reason="key too short or too long"')


def test_two_keys_under_one_name_are_none():
    """RFC 6376 3.6.2.2: undefined; better none than one by chance."""
    bench = Bench()
    bench.resolver.on(NAME, "TXT", answer("TXT", in_strings(KEY.record), in_strings(RSA(1024).record)))
    assert bench.results(KEY.sign())[0].startswith('dkim=permerror reason="several keys for signature"')


def test_a_key_that_is_not_to_be_had_now():
    """temperror, and not for ever."""
    bench = Bench()
    bench.resolver.on(NAME, "TXT", failure("SERVFAIL"))
    assert bench.results(KEY.sign())[0].startswith('dkim=temperror reason="key not available"')
    bench.resolver.on(NAME, "TXT", None)
    waiting = bench.begin(KEY.sign())
    bench.clock.advance(PATIENCE)
    assert show_result(waiting.result.results[0]).startswith("dkim=temperror reason=timeout")
    assert bench.clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("old", "new", "result"),
    [
        (b"v=1", b"v=2", 'neutral reason="unknown version"'),
        (b"a=rsa-sha256", b"a=rsa-sha1", 'neutral reason="algorithm not in use"'),
        (b"h=from", b"h=x-from", 'neutral reason="From is not signed"'),
        (b"d=far.example", b"d=", 'neutral reason="tag d is missing"'),
        (b"d=far.example", b"d=evil..x", 'neutral reason="not a domain"'),
        (b"i=@far.example", b"i=@other.example", 'neutral reason="i= is not within d="'),
        (b"q=dns/txt", b"q=http", 'neutral reason="key not in the DNS"'),
        (b"c=relaxed/relaxed", b"c=other", 'neutral reason="unknown canonicalization"'),
        (b"; t=", b"; x=1; t=", 'neutral reason="x= lies before t="'),
        (b"; t=", b"; l=-1; t=", 'neutral reason="l= is not a number"'),
        (b"; t=", b"; v=1; t=", 'neutral reason="tag v stands there twice"'),
        (b"; t=", b"; \xff; t=", 'neutral reason="not UTF-8"'),
    ],
)
def test_signatures_that_are_none(old, new, result):
    """Told, with nothing of what they claim."""
    message = KEY.sign()
    names = b"h=" + re.search(rb"h=([^;]*);", message).group(1)
    message = message.replace(names, b"h=from", 1)
    assert old in message
    assert Bench().results(message.replace(old, new, 1)) == [f"dkim={result}"]


def test_what_holds_but_says_too_little():
    """RFC 6376 8.2: octets behind l= are anybody's. An expired one was good once."""
    message = KEY.sign(length=True)
    assert Bench().results(message) == [GOOD]
    (found,) = Bench().results(message + b"Buy now\r\n")
    assert found.startswith('dkim=policy reason="part of the body is not signed" header.d=')


def test_eight_signatures_at_most():
    """More are not looked at; each key is asked for once."""
    message = MESSAGE
    for _ in range(12):
        message = KEY.sign(message)
    bench = Bench()
    assert bench.results(message) == [GOOD] * 8
    assert bench.resolver.asked == [(NAME, "TXT")]


def test_the_octets_that_came_are_what_counts():
    """76: a field in our name that is taken out later was signed too."""
    forged = b"Authentication-Results: mx.example.org; spf=pass\r\n" + MESSAGE
    signed = KEY.sign(forged, include_headers=[b"from", b"authentication-results"])
    assert Bench().results(signed) == [GOOD]


def test_more_than_can_be_done_at_once_is_told():
    """The waiting is bounded; whoever leaves makes room."""
    waiting = []
    bench = Bench(in_thread=lambda *_: waiting.append(Deferred()) or waiting[-1])
    message = KEY.sign()
    begun = [bench.begin(message) for _ in range(MOST_WAITING // 2)]
    assert show_result(bench.begin(message).results[0]).startswith('dkim=temperror reason="too busy"')
    assert isinstance(bench.begin(message, attrs.evolve(CLIENT, address="192.0.2.2")), Deferred), "others are heard"
    begun[0].addErrback(lambda _: None)
    begun[0].cancel()
    assert isinstance(bench.begin(message), Deferred)


def hashed(pieces, relaxed, length=None):
    key = BodyKey(relaxed, length)
    return hash_body(pieces, [key])[key]


LINES = st.lists(st.sampled_from([b" ", b"\t", b"\r\n", b"a", b"  b", b"\r\n\r\n", b". "]), max_size=40).map(b"".join)


@given(LINES, st.lists(st.integers(0, 80), max_size=8), st.booleans())
def test_bodies_are_the_same_however_they_come(body, cuts, relaxed):
    """Any split gives the hash of the whole, which is dkimpy's."""
    places = sorted({0, len(body), *(c for c in cuts if c <= len(body))})
    pieces = [body[a:b] for a, b in itertools.pairwise(places)]
    found = hashed(pieces, relaxed)
    policy = dkimpy.CanonicalizationPolicy.from_c_value(b"relaxed/relaxed" if relaxed else b"simple/simple")
    expected = policy.canonicalize_body(body)
    if relaxed and not body.strip(b" \t\r\n"):
        expected = b""
    elif relaxed and not body.endswith(b"\r\n"):
        # RFC 6376 3.4.4: blanks at the end of a line go, though this one lacks its CRLF.
        expected = policy.canonicalize_body(body + b"\r\n")
    assert found.digest == hashlib.sha256(expected).digest()


@pytest.mark.parametrize("body", [b"x" + b" " * 2**21 + b"y", b"\r\n" * 2**20 + b"x", b" \t" * 2**20, b"a " * 2**20])
def test_no_body_takes_long(body):
    """Runs of blanks or of empty lines are read once."""
    before = time.perf_counter()
    for relaxed in (True, False):
        hashed([body[i : i + 65536] for i in range(0, len(body), 65536)], relaxed)
    assert time.perf_counter() - before < 2


@given(st.text(st.sampled_from("vabhdscilqtx=;:/1@. \r\n\t\x00üA+"), max_size=200))
def test_any_field_is_read_or_refused(text):
    """Whatever stands in it."""
    raw = b"DKIM-Signature:" + text.encode()
    with contextlib.suppress(Unusable):
        parse_signature(Field(b"dkim-signature", text.encode(), 0, len(raw)))


@given(st.binary(max_size=300))
def test_any_key_record_is_read_or_refused(octets):
    """Likewise."""
    with contextlib.suppress(Unusable):
        parse_key(answer("TXT", in_strings(b"p=" + octets)), "rsa-sha256")


def placed(message):
    """The header section of a signed message, and its signature."""
    header = message[: message.index(b"\r\n\r\n") + 2]
    return header, parse_signature(next(fields(header)))


def job(signature, header, body):
    """One signature to be verified."""
    keys = {NAME: answer("TXT", in_strings(KEY.record))}
    return Job(signatures=[signature], keys=keys, header=header, body=body)


def test_an_expired_signature_is_told_from_a_bad_one():
    """RFC 6376 3.5."""
    message = KEY.sign()
    header, signature = placed(message)
    for now, result in ((100, "pass"), (101, "policy")):
        (found,) = verify(job(attrs.evolve(signature, expires=100), header, BytesBody(message)), now)
        assert found.result == result


def test_nothing_is_read_for_nobody():
    """A message that waited for its thread until the time was over."""
    header, signature = placed(KEY.sign())
    (found,) = verify(job(signature, header, BytesBody(b"")), 0, lambda: True)
    assert (found.result, found.reason) == ("temperror", "timeout")


def test_a_body_that_is_gone_is_an_error_of_ours():
    """It is logged by the pipeline, and counts for nothing."""

    class Gone:
        size = 1000

        def read(self, offset, length):
            return b""

    header, signature = placed(KEY.sign())
    with pytest.raises(EOFError):
        verify(job(signature, header, Gone()), 0)
