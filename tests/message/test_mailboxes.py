"""Address fields: every mailbox of what the grammar allows, and a refusal of what somebody could read otherwise."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.message.address import AddressError, parse_mailbox
from requiretls_mta.message.mailboxes import LONGEST, mailboxes


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("anna@example.org", ["anna@example.org"]),
        ("<anna@example.org>", ["anna@example.org"]),
        ("Anna <anna@example.org>", ["anna@example.org"]),
        ("Anna Q. Public <anna@example.org>", ["anna@example.org"]),
        ('"Public, Anna <boss@example.org>" <anna@example.org>', ["anna@example.org"]),
        ("=?utf-8?q?boss=40example.org?= <anna@example.org>", ["anna@example.org"]),
        ("Jürgen <jürgen@bücher.example>", ["jürgen@bücher.example"]),
        ("a@example.org, Bob <b@example.org>", ["a@example.org", "b@example.org"]),
        ("us: a@example.org, Bob <b@example.org>;, c@example.org", ["a@example.org", "b@example.org", "c@example.org"]),
        ("undisclosed-recipients:;", []),
        ("(boss@example.org) anna (a (b) \\)) @ (c) example.org (<d@example.org>)", ["anna@example.org"]),
        ('"anna b"@example.org', ['"anna b"@example.org']),
        ('"an\\"na" <"a@b"@example.org>', ['"a@b"@example.org']),
        ("anna@[192.0.2.1]", ["anna@[192.0.2.1]"]),
        ("anna\t@example.org", ["anna@example.org"]),
    ],
)
def test_who_is_named(value, named):
    """RFC 5322 3.4, RFC 6854, RFC 6532."""
    assert [str(address) for address in mailboxes(value.encode())] == named


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"", "something that is no address"),
        (b"anna", 'no "@"'),
        (b"anna@", "an address without a domain"),
        (b"anna@<>", "an address without a domain"),
        (b"<>", "something that is no address"),
        (b"<anna@example.org", 'no ">"'),
        (b"anna@example.org>", '">" where "," should be'),
        (b"boss@example.org <anna@example.org>", '"<" where "," should be'),
        (b"<anna@example.org> <boss@example.org>", '"<" where "," should be'),
        (b"<boss@example.org> Anna", '"Anna" where "," should be'),
        (b"anna@example.org boss@example.org", '"boss" where "," should be'),
        (b"anna@boss@example.org", '"@" where "," should be'),
        (b"anna@example.org,", "something that is no address"),
        (b"anna@example.org,,boss@example.org", "something that is no address"),
        (b"anna@example.org;boss@example.org", '";" where "," should be'),
        (b"<@relay.example:anna@example.org>", "something that is no address"),
        (b"bo ss@example.org", "something that is no address"),
        (b"bo(x)ss@example.org", "something that is no address"),
        (b".anna@example.org", "something that is no address"),
        (b"anna.@example.org", "something that is no address"),
        (b"an..na@example.org", "something that is no address"),
        (b"us: them: anna@example.org;;", '":" where "@" should be'),
        (b"us: anna@example.org", 'no ","'),
        (b"us: anna@example.org,;", "something that is no address"),
        (b": anna@example.org;", "something that is no address"),
        (b"boss@example.org:;", '":" where "," should be'),
        (b"=?utf-8?q?boss=40bank.example=20?=@example.org", "an encoded word in an address"),
        (b"anna@=?utf-8?q?bank.example?=", "the domain is not a host name"),
        (b"=?utf-8?q?M=C3=BCller,_Anna?= <anna@example.org>", '"," where "@" should be'),
        (b'anna@"example.org"', "the domain is not a host name"),
        (b"anna@example..org", '"." where "," should be'),
        (b"anna@[example.org]", "an address literal is"),
        (b"Anna (anna@example.org", "a comment without an end"),
        (b"anna@example.org (\x00)", "a comment without an end"),
        (b'"Anna <anna@example.org>', "a character that stands in no address"),
        (b"anna@example.org\\", "a character that stands in no address"),
        (b"an\x00na@example.org", "a character that stands in no address"),
        (b"an\xc2\x85na@example.org", "a character that stands in no address"),
        (b"anna@example.org\xff", "octets that are not UTF-8"),
        (b"x" * 65 + b"@example.org", "the local part must have 1 to 64 octets"),
        (b"anna@" + b"x" * 300, "the domain is not a host name"),
        (b"a@b.c," * LONGEST, f"more than {LONGEST} octets"),
    ],
)
def test_what_is_not_plain_is_refused(value, why):
    """What one reader repairs in one way, the next repairs in another."""
    with pytest.raises(AddressError) as caught:
        mailboxes(value)
    assert str(caught.value).startswith(why)


@pytest.mark.parametrize("piece", ["(", "()", "(a", "\\", '"', '\\"', "a.", "a ", "<", "a:", "a,", "ü", "["])
def test_no_field_takes_long(piece):
    """Sixteen kibibytes of anything."""
    start = time.perf_counter()
    with pytest.raises(AddressError):
        mailboxes(piece.encode() * (LONGEST // len(piece.encode())))
    assert time.perf_counter() - start < 0.5


ATOMS = st.text(st.sampled_from("abcXYZ019!#$%&'*+-/^_`{|}~üß語"), min_size=1, max_size=8)
DOTTED = st.lists(ATOMS, min_size=1, max_size=3).map(".".join)
QUOTED = st.text(st.sampled_from('ab ."\\,:;<>@()[]ü'), min_size=1, max_size=8).map(
    lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
)
DOMAINS = st.sampled_from(
    ["example.org", "xn--bcher-kva.example", "bücher.example", "[192.0.2.1]", "[IPv6:2001:db8::1]"]
)
BLANKS = st.lists(st.sampled_from([" ", "\t", "(c)", "(a@b.c, (<n>) \\) )", "(ü)"]), max_size=3).map("".join)


@st.composite
def addresses(draw):
    """A mailbox as it may be written, and the address in it."""
    local, domain = draw(DOTTED | QUOTED), draw(DOMAINS)
    blanks = [draw(BLANKS) for _ in range(6)]
    spec = f"{blanks[0]}{local}{blanks[1]}@{blanks[2]}{domain}{blanks[3]}"
    if draw(st.booleans()):
        words = draw(st.lists(DOTTED | QUOTED | st.just("=?utf-8?q?x=2Cy?="), max_size=3))
        spec = f"{' '.join(words)}{blanks[4]}<{spec}>{blanks[5]}"
    return spec, str(parse_mailbox(f"{local}@{domain}", utf8=True))


@st.composite
def fields(draw):
    """A whole field and all addresses in it."""
    texts, expected = [], []
    for _ in range(draw(st.integers(1, 4))):
        group = draw(st.sampled_from(["", "us", '"a:b" c']))
        members = draw(st.lists(addresses(), min_size=0 if group else 1, max_size=3 if group else 1))
        text = ",".join(spec for spec, _ in members)
        texts.append(f"{group}:{text};" if group else text)
        expected += [address for _, address in members]
    return ",".join(texts), expected


@given(fields())
def test_every_mailbox_is_found(field):
    """However it is written."""
    text, expected = field
    assert [str(address) for address in mailboxes(text.encode())] == expected


@given(st.binary(max_size=60) | st.text(st.sampled_from('a@.,:;<>()[]"\\ \tü=?'), max_size=40).map(str.encode))
def test_anything_is_read_or_refused(value):
    """Never another exception; what is read can be compared."""
    try:
        found = mailboxes(value)
    except AddressError:
        return
    assert all("@" in address.key for address in found)
