"""Mailboxes: what is one, what it means, and that writing and reading it again changes nothing."""

import time
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from requiretls_mta.message.address import (
    Address,
    AddressError,
    AddressNeedsUTF8,
    ascii_domain,
    check_domain,
    literal_address,
    names_mailbox,
    parse_mailbox,
)

UTF8 = st.characters(min_codepoint=0xA0, exclude_categories=["Cs"])
LOCALS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E) | UTF8, min_size=1, max_size=16)
DOMAINS = st.sampled_from(
    ["x.test", "X.Test", "a-b.c_d.test", "bücher.test", "xn--bcher-kva.test", "例え.テスト", "[192.0.2.1]",
     "[IPv6:2001:db8::1]", "[ipv6:::1]"]
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "local", "domain"),
    [
        ("a@x.test", "a", "x.test"),
        ("A.b+c=d/e@X.Test", "A.b+c=d/e", "X.Test"),
        ('"a b"@x.test', "a b", "x.test"),
        ('"a@b"@x.test', "a@b", "x.test"),
        (r'"a\"b\\c"@x.test', r'a"b\c', "x.test"),
        (r'"\a"@x.test', "a", "x.test"),
        ('"plain"@x.test', "plain", "x.test"),
        ('".a..b."@x.test', ".a..b.", "x.test"),
        ("a@localhost", "a", "localhost"),
        ("a@[192.0.2.1]", "a", "[192.0.2.1]"),
        ("a@[IPv6:2001:db8::1]", "a", "[IPv6:2001:db8::1]"),
        ("x" * 64 + "@x.test", "x" * 64, "x.test"),
        ("a@" + ".".join(["x" * 63] * 3 + ["y" * 61]), "a", ".".join(["x" * 63] * 3 + ["y" * 61])),
    ],
)
def test_a_mailbox_is_read_for_its_meaning(text, local, domain):
    """Quotes and escapes are the grammar's, not the name's."""
    address = parse_mailbox(text)
    assert (address.local, address.domain) == (local, domain)
    assert address.is_ascii
    assert parse_mailbox(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "", "@", "a", "a@", "@x.test", "a@@x.test", "a@b@x.test", ".a@x.test", "a.@x.test", "a..b@x.test", "a b@x.test",
        "a\r\n@x.test", "a@x.test\r\n", "a@x.test\n", '"a\n"@x.test', '"a\x00"@x.test', '"a"b"@x.test', '"a\\"@x.test',
        '""@x.test', "<a@x.test>", "a@x..test", "a@.x.test", "a@x.test.", "a@-x.test", "a@x-.test", "a@x y.test",
        "a@x/y", "a@" + "x" * 64 + ".test", "a@" + "x." * 127 + "yz", "x" * 65 + "@x.test", "a@[192.0.2]",
        "a@[192.0.2.1", "a@[192.0.2.1]x", "a@[::1]", "a@[IPv6:192.0.2.1]", "a@[IPv6:fe80::1%eth0]", "a@[]",
        "a@[tag:x]", "a(comment)@x.test", "a,b@x.test",
    ],
)  # fmt: skip
def test_what_is_no_mailbox_is_refused(text):
    """With words for the person who typed it, never anything else than AddressError."""
    with pytest.raises(AddressError) as refused:
        parse_mailbox(text)
    assert not isinstance(refused.value, AddressNeedsUTF8)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("text", ["ä@x.test", "a@bücher.test", '"ä b"@x.test'])
def test_beyond_ascii_smtputf8_is_needed(text):
    """RFC 6531 3.5: a reply of its own tells the client so."""
    with pytest.raises(AddressNeedsUTF8):
        parse_mailbox(text)
    address = parse_mailbox(text, utf8=True)
    assert not address.is_ascii
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["a\x85b@x.test", '"a\x9fb"@x.test', "a\ud800@x.test", "a@b\x85.test", "a@b\udcff.test"]
)
def test_controls_and_surrogates_are_in_no_mailbox(text):
    """C1 controls could break a line for some readers, surrogates could not be written."""
    with pytest.raises(AddressError):
        parse_mailbox(text, utf8=True)


@given(LOCALS, DOMAINS)
@example("a.b", "x.test")
@example("\\", "x.test")
@example('"', "x.test")
@example("@", "x.test")
@example(" ", "x.test")
def test_writing_and_reading_again_changes_nothing(local, domain):
    """parse(str(address)) == address, for any name of at most 64 octets."""
    address = Address(local, domain)
    if len(local.encode()) > 64:
        with pytest.raises(AddressError):
            parse_mailbox(str(address), utf8=True)
    else:
        assert parse_mailbox(str(address), utf8=True) == address


@given(st.text(st.characters(), max_size=40) | st.text('a.@"\\[]:ä IPv6ß\u200d\u3002', max_size=40), st.booleans())
@example("a@[１９２.0.2.1]", True)
@example("a@ｘ．test", True)
@example("a@xn--.test", True)
@example("a@\u200d", True)
@example("a@" + "ä" * 300, True)
def test_any_text_is_a_mailbox_or_an_address_error(text, bare):
    """Nothing from the network raises anything else; what is taken can be written, compared and read again."""
    try:
        address = parse_mailbox(text, utf8=True, bare=bare)
    except AddressError:
        return
    assert str(address).encode()
    assert address.key == address.key.lower()
    assert ascii_domain(address.domain).isascii()
    if address.domain:
        assert parse_mailbox(str(address), utf8=True) == address


@pytest.mark.parametrize(
    "text",
    [".a" * 8000, "a." * 8000, "a" * 16000, '"' * 16000, '"' + "\\a" * 8000, "a@" * 8000, "a@" + "x." * 8000,
     "a@" + "-" * 16000, "a@[" + ":" * 16000 + "]", "a@[IPv6:" + "1:" * 8000 + "]", "a@[" + "1" * 16000 + "]",
     "a@" + "ä" * 16000, "a@" + "ä." * 8000, "ä" * 16000 + "@x.test"],
    ids=range(14),
)  # fmt: skip
def test_reading_takes_time_by_the_length_only(text):
    """16 KB made to make regular expressions backtrack are refused at once."""
    start = time.perf_counter()
    for tail in ("", "@x.test", "!"):
        with pytest.raises(AddressError):
            parse_mailbox(text + tail, utf8=True)
    assert time.perf_counter() - start < 0.1


def test_only_bare_takes_a_name_without_a_domain():
    """RFC 5321 4.1.1.3: RCPT TO:<Postmaster>."""
    assert parse_mailbox("Postmaster", bare=True) == Address("Postmaster", "")
    assert str(Address("Postmaster", "")) == "Postmaster"
    with pytest.raises(AddressError, match="no domain"):
        parse_mailbox("Postmaster")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A@X.test", "a@x.TEST"),
        ('"a"@x.test', "a@x.test"),
        ("a@bücher.test", "a@xn--bcher-kva.test"),
        ("a@BÜCHER.test", "a@XN--BCHER-KVA.test"),
        ("MÜLLER@x.test", "müller@x.test"),
        ("straße@x.test", "STRASSE@x.test"),
        ("ｘ@bu\u0308cher.test", "ｘ@b\u00fccher.test"),
    ],
)
def test_equal_mailboxes_have_equal_keys(one, other):
    """Case, quotes, A- and U-labels make no other mailbox."""
    assert parse_mailbox(one, utf8=True).key == parse_mailbox(other, utf8=True).key


@given(st.text(UTF8, min_size=1, max_size=12))
def test_composed_and_decomposed_names_are_the_same(local):
    """NFC and NFD of a name look alike and are one mailbox (RFC 6532 3.1)."""
    keys = {Address(unicodedata.normalize(form, local), "x.test").key for form in ("NFC", "NFD")}
    assert len(keys) == 1


def test_domains_and_literals():
    """What counts as a domain elsewhere, in configuration and EHLO."""
    for good in ("x", "x.test", "_a.x.test", "1.2.3.4", "[192.0.2.1]", "bücher.test"):
        check_domain(good)
    for bad in ("", ".", "x..y", "[x]", "x:25", "x\n", "*.test", "x" * 64):
        with pytest.raises(AddressError):
            check_domain(bad)
    assert ascii_domain("BÜCHER.Test") == "xn--bcher-kva.test"
    assert str(literal_address("[IPv6:2001:DB8:0::1]")) == "2001:db8::1"
    assert str(literal_address("[192.0.2.1]")) == "192.0.2.1"
    assert Address("a", "[192.0.2.1]").is_literal
    assert not Address("a", "x.test").is_literal


@pytest.mark.parametrize(
    ("local", "fine"),
    [("a", True), ("a.b+c", True), ("ä", True), ("a b", True), ("x" * 64, True), ("a\\b", True),
     ("", False), (".", False), ("..", False), (".a", False), ("a/b", False), ("/", False), ("a\0b", False),
     ("a\x1bb", False), ("a\u2028b", False), ("x" * 65, False), ("ä" * 33, False), ("a\u202eb", False)],
)  # fmt: skip
def test_which_local_parts_can_name_a_mailbox_here(local, fine):
    """Nothing that could be taken for a path or fool a reader of listings."""
    assert names_mailbox(local) is fine
