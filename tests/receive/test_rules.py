"""Who requires TLS without asking: tables over sender, recipient, header, user and listener (P01 to P04)."""

import time

import attrs
import pytest

from requiretls_mta.message.address import parse_mailbox
from requiretls_mta.message.envelope import Recipient, Tag
from requiretls_mta.message.glob import glob
from requiretls_mta.receive.promise import shares
from requiretls_mta.receive.rules import (
    Decision,
    Facts,
    Rule,
    address_pattern,
    decide,
    header_pattern,
    without_suffix,
)

REQUIRED, OPTIONAL = Tag.REQUIRED, Tag.OPTIONAL
FACTS = Facts(asked=None, sender="ann@legal.example.org", header=b"Subject: x\r\n", user=None, listener="mx")


def address(text):
    return parse_mailbox(text, utf8=True)


def rule(require=True, **given):
    for name in ("sender", "recipient"):
        if name in given:
            given[name] = address_pattern(given[name])
    if "user" in given:
        given["user"] = glob(given["user"])
    if "header" in given:
        given["header"] = header_pattern(given["header"])
    return Rule(name="r", require=require, **given)


@pytest.mark.parametrize(
    ("given", "facts", "recipient", "matches"),
    [
        ({}, {}, "bob@x.example", True),
        ({"sender": "*@legal.example.org"}, {}, "bob@x.example", True),  # P01
        ({"sender": "*@LEGAL.example.ORG"}, {}, "bob@x.example", True),
        ({"sender": "*@legal.example.org"}, {"sender": "ann@sub.legal.example.org"}, "bob@x.example", False),
        ({"sender": "*@*.example.org"}, {}, "bob@x.example", True),
        ({"sender": "ann@legal.example"}, {}, "bob@x.example", False),
        ({"sender": "*@*"}, {"sender": ""}, "bob@x.example", False),
        ({"sender": "*"}, {"sender": ""}, "bob@x.example", True),
        ({"sender": "*@bücher.example"}, {"sender": "a@xn--bcher-kva.example"}, "bob@x.example", True),
        ({"sender": "a?n@*"}, {}, "bob@x.example", True),
        ({"sender": "a[n]n@*"}, {}, "bob@x.example", False),
        ({"recipient": "*@bank.example"}, {}, "Bob@Bank.Example", True),
        ({"recipient": "*@bank.example"}, {}, "bob@bank.example.org", False),
        ({"recipient": "*@[192.0.2.1]"}, {}, "bob@[192.0.2.1]", True),
        ({"user": "ann"}, {}, "bob@x.example", False),
        ({"user": "ann"}, {"user": "ann"}, "bob@x.example", True),
        ({"user": "*"}, {"user": None}, "bob@x.example", False),
        ({"listener": "mx"}, {}, "bob@x.example", True),
        ({"listener": "submission"}, {}, "bob@x.example", False),
        ({"sender": "*@legal.example.org", "recipient": "*@bank.example"}, {}, "bob@x.example", False),
        ({"header": "Subject: x"}, {}, "bob@x.example", True),
        ({"header": "subject:*X*"}, {}, "bob@x.example", True),
        ({"header": "Subject"}, {}, "bob@x.example", True),
        ({"header": "Subject: y"}, {}, "bob@x.example", False),
        ({"header": "Sensitivity: company-confidential"}, {}, "bob@x.example", False),
        (
            {"header": "Sensitivity: company-confidential"},
            {"header": b"Subject: y\r\nSENSITIVITY :\r\n Company-Confidential \r\n"},
            "bob@x.example",
            True,
        ),
        ({"header": "Sensitivity: *"}, {"header": b"Subject: Sensitivity: x\r\n"}, "bob@x.example", False),
    ],
)
def test_what_a_rule_gives_must_match(given, facts, recipient, matches):
    """All of it, in any case; `*` is anything, `?` one character, brackets are themselves."""
    decided = decide(attrs.evolve(FACTS, **facts), [rule(**given)])(address(recipient), False)
    assert decided == (Decision(REQUIRED, "r") if matches else Decision(None))


YES, NO, FLOOR = rule(), rule(require=False), rule(floor=True)


@pytest.mark.parametrize(
    ("rules", "asked", "suffixed", "expected"),
    [
        ([], None, False, Decision(None)),
        ([], REQUIRED, False, Decision(REQUIRED)),
        ([], OPTIONAL, False, Decision(OPTIONAL)),
        ([YES], None, False, Decision(REQUIRED, "r")),
        ([YES], OPTIONAL, False, Decision(OPTIONAL, "r", yields=True)),
        ([FLOOR], OPTIONAL, False, Decision(REQUIRED, "r")),  # P02
        ([NO], None, False, Decision(OPTIONAL, "r")),
        ([NO], OPTIONAL, False, Decision(OPTIONAL, "r")),
        # RFC 8689 4.1: what MAIL asked for is above all rules.
        ([NO], REQUIRED, False, Decision(REQUIRED)),
        ([YES, NO], None, False, Decision(REQUIRED, "r")),
        ([NO, FLOOR], None, False, Decision(OPTIONAL, "r")),
        ([], None, True, Decision(REQUIRED, "user+requiretls@")),  # P03
        ([], OPTIONAL, True, Decision(OPTIONAL, "user+requiretls@", yields=True)),
        ([FLOOR], OPTIONAL, True, Decision(REQUIRED, "r")),
        ([NO], None, True, Decision(REQUIRED, "user+requiretls@")),
        ([rule(recipient="*+requiretls@*", floor=True)], OPTIONAL, True, Decision(REQUIRED, "r")),
        ([rule(recipient="*+requiretls@*", floor=True)], OPTIONAL, False, Decision(OPTIONAL)),
    ],
)
def test_first_match_counts_and_nothing_lowers_what_was_asked(rules, asked, suffixed, expected):
    """A rule yields to TLS-Required: No unless it is a floor; the suffix asks, whatever a rule would do without."""
    assert decide(attrs.evolve(FACTS, asked=asked), rules)(address("bob@x.example"), suffixed) == expected


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("bob+requiretls@x.example", "bob@x.example"),
        ("bob+RequireTLS@x.example", "bob@x.example"),
        ("bob+a+requiretls@x.example", "bob+a@x.example"),
        ("bob+requiretls+a@x.example", "bob+requiretls+a@x.example"),
        ("+requiretls@x.example", "+requiretls@x.example"),
        ("bob@x.example", "bob@x.example"),
    ],
)
def test_the_suffix_is_taken_off(written, meant):
    """Only at the end, and only where a mailbox is left."""
    assert without_suffix(address(written)) == address(meant)


def test_recipients_are_parted_by_their_tags():
    """RFC 8689 4.1: the tag is the message's; whoever differs has a message of its own, in the order of RCPT."""
    to = tuple(Recipient(address(f"{name}@{domain}.example")) for name, domain in ["ab", "cd", "eb", "fg"])
    rules = [rule(recipient="*@b.example"), rule(require=False, recipient="*@g.example")]
    first, second = shares(to, {1}, FACTS, rules)
    assert (first.tag, first.recipients, first.further) == (REQUIRED, (to[0], to[1], to[2]), False)
    assert first.note == {"rule": "r, user+requiretls@", "effect": "required"}
    assert first.comment == "by r, user+requiretls@"
    assert (second.tag, second.recipients, second.further) == (OPTIONAL, (to[3],), True)
    assert second.comment == "TLS-Required: No by r"
    assert len(shares(to, (), attrs.evolve(FACTS, asked=REQUIRED), rules)) == 1


def test_one_mailbox_is_not_promised_two_things():
    """Named with the suffix and without: nothing goes to it untagged."""
    twice = (Recipient(address("a@b.example")), Recipient(address("A@B.example")))
    (share,) = shares(twice, {1}, FACTS, ())
    assert (share.tag, share.recipients) == (REQUIRED, twice)


def test_who_has_no_rules_has_one_share():
    """And nothing to tell."""
    to = (Recipient(address("a@b.example")),)
    (share,) = shares(to, (), attrs.evolve(FACTS, asked=OPTIONAL), ())
    assert (share.recipients, share.tag, share.note, share.comment) == (to, OPTIONAL, {}, "")
    (share,) = shares(to, (), attrs.evolve(FACTS, asked=OPTIONAL), [YES])
    assert (share.tag, share.note) == (OPTIONAL, {"rule": "r", "effect": "yielded"})
    assert share.comment == "r yielded to TLS-Required: No"


def test_a_hostile_header_costs_no_time():
    """A pattern of many stars over a megabyte."""
    pattern = header_pattern("Subject: *a*b*c*d*e*f")
    start = time.perf_counter()
    assert not pattern.matches(b"Subject: " + b"abcde" * 200_000 + b"\r\n")
    assert pattern.matches(b"Subject: " + b"abcde" * 200_000 + b"f\r\n")
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("text", ["", ": x", "A B: c", "Bücher: x"])
def test_a_header_needs_a_name(text):
    """Whatever is no field's name is refused."""
    with pytest.raises(ValueError, match="no field's name"):
        header_pattern(text)
