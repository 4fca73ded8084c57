"""Plus-addressing and catch-alls: whose mail it is when nobody bears the whole name."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from requiretls_mta.message.address import Address
from requiretls_mta.message.envelope import Notify, Recipient
from requiretls_mta.receive.lists import MailingList
from requiretls_mta.receive.recipients import MAX_EXPANSION, expand, refusal
from requiretls_mta.receive.settings import Settings

HERE = "here.test"


def settings(aliases=None, known=None, delimiter="+", **more):
    return Settings(
        hostname="mx.here.test",
        local_domains=frozenset([HERE]),
        aliases={key: tuple(map(address, targets.split())) for key, targets in (aliases or {}).items()},
        recipients=None if known is None else frozenset(f"{name}@{HERE}" for name in known.split()),
        recipient_delimiter=delimiter,
        strips_detail=bool(delimiter),
        **more,
    )


def address(text):
    local, _, domain = text.rpartition("@")
    return Address(local, domain)


def behind(text, found):
    return " ".join(str(r.address) for r in expand((Recipient(address(text)),), found).recipients)


SALES = {"sales@here.test": "anna@here.test bob@else.test"}
CATCH = {"@here.test": "anna@here.test"}


@pytest.mark.parametrize(
    ("aliases", "known", "delimiter", "to", "goes_to"),
    [
        ({}, None, "+", "anna+news@here.test", "anna@here.test"),
        ({}, None, "+", "Anna+a+b@HERE.test", "Anna@HERE.test"),
        ({}, None, "-", "anna-news@here.test", "anna@here.test"),
        ({}, None, "-", "anna+news@here.test", "anna+news@here.test"),
        ({}, None, "", "anna+news@here.test", "anna+news@here.test"),
        ({}, None, "+", "+news@here.test", "+news@here.test"),
        ({}, None, "+", "anna+news@else.test", "anna+news@else.test"),
        ({}, "anna anna+news", "+", "anna+news@here.test", "anna+news@here.test"),
        ({}, "anna anna+news", "+", "anna+other@here.test", "anna@here.test"),
        (SALES, None, "+", "sales+x@here.test", "anna@here.test bob@else.test"),
        (SALES | {"sales+x@here.test": "carl@here.test"}, None, "+", "sales+x@here.test", "carl@here.test"),
        (SALES, None, "", "sales+x@here.test", "sales+x@here.test"),
        (CATCH, None, "+", "whoever@here.test", "anna@here.test"),
        (CATCH, None, "", "whoever@HERE.test", "anna@here.test"),
        (CATCH, None, "+", "anna@here.test", "anna@here.test"),
        (CATCH | SALES, None, "+", "sales@here.test", "anna@here.test bob@else.test"),
        (CATCH, "anna bob", "+", "bob@here.test", "bob@here.test"),
        (CATCH, "anna bob", "+", "bob+x@here.test", "bob@here.test"),
        (CATCH, "anna bob", "+", "carl@here.test", "anna@here.test"),
        (CATCH | {"bob@here.test": "bob@here.test"}, None, "+", "bob@here.test", "bob@here.test"),
        (CATCH, None, "+", "whoever@sub.here.test", "whoever@sub.here.test"),
        ({"@here.test": "x@else.test", "@else.test": "y@here.test"}, None, "+", "z@here.test", "y@here.test"),
    ],
)
def test_whose_mail_it_is(aliases, known, delimiter, to, goes_to):
    """By the whole name, then without its detail, then the catch-all's."""
    assert behind(to, settings(aliases, known, delimiter)) == goes_to


@pytest.mark.parametrize(
    ("aliases", "known", "to", "code"),
    [
        ({}, "anna", "anna+x@here.test", None),
        ({}, "anna", "bob+x@here.test", 550),
        ({}, "anna", "anna@here.test", None),
        (CATCH, "anna", "whoever@here.test", None),
        (CATCH, "anna", "..@here.test", 553),
        ({"@virtual.test": "anna@here.test"}, "anna", "whoever@virtual.test", None),
        ({"@virtual.test": "anna@here.test"}, "anna", "whoever@other.test", 550),
    ],
)
def test_who_is_taken_at_rcpt(aliases, known, to, code):
    """Who has a mailbox has it with every detail; where there is a catch-all nobody is unknown; nothing else relays."""
    answer = refusal(address(to), settings(aliases, known), relay=False)
    assert (answer and answer.code) == code


def test_a_list_is_not_caught():
    """The catch-all is for those who are nothing else."""
    team = MailingList(address=address("team@here.test"), owner=address("ann@else.test"))
    found = settings(CATCH, lists={"team@here.test": team})
    assert behind("team@here.test", found) == "team@here.test"


def test_reports_name_the_address_that_was_written_to():
    """RFC 3461 5.2.1 (d); two ways into one mailbox are one delivery, and nobody's wish is lost."""
    one = Recipient(address("anna+a@here.test"), frozenset({Notify.NEVER}))
    two = Recipient(address("anna+b@here.test"), frozenset({Notify.SUCCESS}))
    (recipient,) = expand((one, two), settings()).recipients
    assert recipient.orcpt == "rfc822;anna+2Ba@here.test"
    assert recipient.notify == frozenset({Notify.SUCCESS})


names = st.sampled_from(["a", "b", "a+b", "b+a+a", "+a", "+"])
addresses = st.builds("{}@{}".format, names, st.sampled_from(["here.test", "else.test"]))
keys = addresses | st.sampled_from(["@here.test", "@else.test"])


@given(
    st.dictionaries(keys, st.lists(addresses, min_size=1, max_size=3).map(" ".join), max_size=6),
    st.none() | st.lists(names, max_size=3).map(" ".join),
    st.lists(addresses, min_size=1, max_size=3),
)
def test_it_always_ends_with_somebody(aliases, known, to):
    """Whatever leads to whatever: at least one recipient for each, each once, and never more than there may be."""
    found = settings(aliases, known)
    recipients = expand(tuple(Recipient(address(one)) for one in to), found).recipients
    assert 1 <= len(recipients) <= MAX_EXPANSION
    assert len({recipient.address.key for recipient in recipients}) == len(recipients)


def test_without_the_key_nothing_is_taken_off():
    """The default is that of Postfix."""
    found = attrs.evolve(settings(), recipient_delimiter="", strips_detail=False)
    assert behind("anna+x@here.test", found) == "anna+x@here.test"
