"""Address lists of header fields and arguments."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.cli.sendmail_addresses import ListError, mailboxes


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a@b", ["a@b"]),
        (" a@b , c@d ", ["a@b", "c@d"]),
        ("Ann <a@b>", ["a@b"]),
        ('"Smith, John" <a@b>, c@d', ["a@b", "c@d"]),
        ("Ann (of (the) hill, no x@y) <a@b> (home)", ["a@b"]),
        (r"a@b (a \) x@y)", ["a@b"]),
        ("=?utf-8?q?M=C3=BCller?= <a@b>", ["a@b"]),
        ("=?utf-8?q?M=C3=BCller,_x@y?= <a@b>, c@d", ["a@b", "c@d"]),
        ("Müller <a@b>", ["a@b"]),
        ("friends: a@b, Ann <c@d>;, e@f", ["a@b", "c@d", "e@f"]),
        ("undisclosed-recipients:;", []),
        ("a: b@c;, d: e@f;", ["b@c", "e@f"]),
        ("", []),
        (" , ,", []),
        ("<>", []),
        ("root", ["root"]),
        ('"a b"@c', ['"a b"@c']),
        ('"a,b"@c, d@e', ['"a,b"@c', "d@e"]),
        ("a @ b . c", ["a@b.c"]),
        ("<@x,@y:a@b>", ["a@b"]),
        ("a@[IPv6:2001:db8::1], b@[192.0.2.1]", ["a@[IPv6:2001:db8::1]", "b@[192.0.2.1]"]),
        ("Ann\r\n <a@b>,\r\n\tc@d", ["a@b", "c@d"]),
        ("John Doe", ["John Doe"]),
    ],
)
def test_lists(text, found):
    """Names, comments, groups, routes and folds are taken off."""
    assert mailboxes(text) == found


@pytest.mark.parametrize(
    "text", ['"a@b', "a@b (c", "<a@b", "a@b>", "<<a@b>>", "a@b)", "<a@b> c", "[x", "a@b]", "<a@b><c@d>"]
)
def test_what_has_no_other_half_is_refused(text):
    """Guessing would send mail to somebody."""
    with pytest.raises(ListError):
        mailboxes(text)


LOCAL = st.text("abcdefgh0123456789.+-_=", min_size=1, max_size=12)
DOMAIN = st.sampled_from(["example.org", "b", "[192.0.2.1]", "[IPv6:::1]", "münchen.example"])
ADDRESS = st.builds(lambda local, domain: f"{local.strip('.') or 'x'}@{domain}", LOCAL, DOMAIN)
NAME = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)


def quoted(name):
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def comment(name):
    return "(" + "".join("\\" + c if c in "()\\" else c for c in name) + ")"


MAILBOX = st.one_of(
    ADDRESS.map(lambda address: (address, [address])),
    st.builds(lambda name, address: (f"{quoted(name)} <{address}>", [address]), NAME, ADDRESS),
    st.builds(lambda name, address: (f"{address} {comment(name)}", [address]), NAME, ADDRESS),
    st.builds(lambda name, address: (f"{comment(name)}{quoted(name)}<{address}>", [address]), NAME, ADDRESS),
)
GROUP = st.builds(
    lambda name, members: (f"{quoted(name)}: {', '.join(m for m, _ in members)};", [a for _, f in members for a in f]),
    NAME,
    st.lists(MAILBOX, max_size=3),
)


@given(st.lists(st.one_of(MAILBOX, GROUP), max_size=6))
def test_any_list_gives_the_addresses_that_it_was_made_of(made):
    """Whatever stands in names and comments."""
    assert mailboxes(", ".join(text for text, _ in made)) == [address for _, found in made for address in found]


@given(st.text(max_size=60))
def test_no_text_does_more_than_fail(text):
    """Addresses, or `ListError`."""
    try:
        found = mailboxes(text)
    except ListError:
        return
    assert all(found)
