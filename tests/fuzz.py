"""A search, led by coverage, for octets that a parser of ours cannot bear: `python -m tests.fuzz TARGET`.

Targets: dns, tlsa, sts, replies, commands; libFuzzer's options may follow. Needs Atheris (`pip install atheris`). What
is found is written to a file `crash-...`, and becomes a test beside the parser.
"""

import hashlib
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["requiretls_mta", "dns"]):
    import dns.name
    import dns.rdatatype

    from requiretls_mta.dns import wire
    from requiretls_mta.message.envelope import Envelope, Recipient
    from requiretls_mta.smtp.capabilities import capabilities
    from requiretls_mta.smtp.client_replies import ReplyReader, ReplySyntaxError
    from requiretls_mta.smtp.grammar import Command, parse_bdat, parse_command, parse_helo, parse_mail, parse_rcpt
    from requiretls_mta.tls import dane
    from requiretls_mta.tls.mta_sts import Mode, PolicyError, parse_policy, parse_record
from tests.tls.certificates import NAME, make

QUERIES = [
    wire.build(dns.name.from_text(name), dns.rdatatype.from_text(rdtype), id=0x1234)
    for name, rdtype in (("good.test.", "MX"), ("mx.test.", "TLSA"), ("a.test.", "A"), ("t.test.", "TXT"))
]
OFFERED = frozenset({"SIZE", "8BITMIME", "SMTPUTF8", "DSN", "REQUIRETLS", "AUTH"})
LEAF = make(days=(-1, 9)).der
KEY = dane.public_key_info(LEAF)
DIGESTS = {
    dane.FULL: bytes,
    dane.SHA256: lambda x: hashlib.sha256(x).digest(),
    dane.SHA512: lambda x: hashlib.sha512(x).digest(),
}


def fuzz_dns(octets):
    """A packet in answer to our question, which it repeats or not."""
    if len(octets) < 12:
        return
    query = QUERIES[octets[0] % len(QUERIES)]
    question = query.wire[12:-11] if octets[0] & 0x80 else b""  # without the OPT record behind it
    packet = query.wire[:2] + bytes([0x80 | octets[1], octets[2], 0, 1]) + octets[3:9] + question + octets[9:]
    reply = wire.read(query, packet)
    assert isinstance(reply, wire.Reply | wire.Unusable)
    assert not isinstance(reply, wire.Reply) or all(record.rdtype == query.rdtype for record in reply.records)


def fuzz_tlsa(octets):
    """Some records: whatever they are, only those that bear the certificate's very octets or digest authenticate it."""
    records = [dane.Record.read(part) for part in octets.split(b"\xfe\xfd")]
    proved = dane.authenticate(dane.published(NAME, records), [LEAF], [NAME])
    true = any(r.matching in DIGESTS and r.data in map(DIGESTS[r.matching], (LEAF, KEY)) for r in records)
    assert true or proved.auth is None


def fuzz_sts(octets):
    """Announcements and policies: nothing is announced, and no host let in, that does not stand there."""
    try:
        announced = parse_record(octets.split(b"\0"))
        assert announced is None or announced.encode() in octets
    except PolicyError as error:
        assert str(error).isprintable()
    try:
        policy = parse_policy(octets, "x")
    except PolicyError as error:
        assert str(error).isprintable()
    else:
        assert policy.mx or policy.mode is Mode.NONE
        assert all(pattern.encode() in octets.lower() for pattern in policy.mx)


def fuzz_replies(octets):
    """Replies, wherever the pieces end; a keyword is offered only where it begins a line behind the first."""
    size = octets[0] + 1 if octets else 1
    whole, pieces = _heard([octets[1:]]), _heard([octets[i : i + size] for i in range(1, len(octets), size)])
    assert whole == pieces or None in (whole, pieces)
    for heard in whole or ():
        assert str(heard.reply).isprintable()
        begins = [line.upper().split()[:1] for line in heard.lines[1:]]
        assert "REQUIRETLS" not in capabilities(heard.lines) or [b"REQUIRETLS"] in begins


def _heard(pieces):
    reader = ReplyReader()
    try:
        return [heard for piece in pieces for heard in reader.feed(piece)]
    except ReplySyntaxError:
        return None


def fuzz_commands(octets):
    """A command line; what is taken for an address reads back as the same."""
    command = parse_command(octets)
    argument = command.argument if isinstance(command, Command) else octets
    parse_helo(argument, strict=False)
    parse_bdat(argument)
    envelope = parse_mail(argument, OFFERED)
    if isinstance(envelope, Envelope):
        assert envelope.tag is None or b"REQUIRETLS" in argument.upper()
        again = parse_mail(f"FROM:<{envelope.reverse_path}> SMTPUTF8".encode(), OFFERED)
        assert isinstance(again, Envelope) and again.sender == envelope.sender
    recipient = parse_rcpt(argument, OFFERED, utf8=True)
    if isinstance(recipient, Recipient):
        again = parse_rcpt(f"TO:<{recipient.address}>".encode(), OFFERED, utf8=True)
        assert isinstance(again, Recipient) and again.address == recipient.address


SEEDS = {
    "dns": [bytes([0x80 + n, 4, 0, 0, 1, 0, 0, 0, 0]) + b"\xc0\x0c\0\x0f\0\1\0\0\0<\0\4\0\n\xc0\x0c" for n in range(4)],
    "tlsa": [
        bytes([usage, selector, 1]) + DIGESTS[dane.SHA256](x)
        for usage in (2, 3)
        for selector, x in enumerate((LEAF, KEY))
    ],
    "sts": [b"v=STSv1; id=2016;", b"version: STSv1\r\nmode: enforce\r\nmx: *.a.test\r\nmax_age: 60\r\n"],
    "replies": [b"\x05250-mx.test hi\r\n250-SIZE 100\r\n250 REQUIRETLS\r\n", b"\x02220 x\r\n354\r\n"],
    "commands": [
        b"MAIL FROM:<a@b.test> SIZE=100 BODY=8BITMIME REQUIRETLS RET=HDRS ENVID=a+2B AUTH=<> SMTPUTF8",
        b'RCPT TO:<"a b"@[IPv6:2001:db8::1]> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+40b',
        b"BDAT 100 LAST",
    ],
}

if __name__ == "__main__":
    name = sys.argv.pop(1)
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(SEEDS[name]):
            Path(corpus, str(number)).write_bytes(seed)
        atheris.Setup([*sys.argv, corpus], globals()["fuzz_" + name])
        atheris.Fuzz()
