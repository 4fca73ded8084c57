"""What checks found on top of a message, and what others say in our name taken out of it."""

import attrs
import pytest
from twisted.internet.defer import succeed

from requiretls_mta.checks.interfaces import Verdict
from requiretls_mta.message import reply
from requiretls_mta.message.authres import Property, Result
from requiretls_mta.message.reply import Reply
from tests.receive.test_reception import SETTINGS, Bench, send

DNSWL = Result("dnswl", "pass", properties=(Property("policy", "txt", "bücher.example", in_ascii="xn--bcher-kva"),))
SPAM = Result("x-spam", "fail")
NO = Reply(550, "5.7.1", "No")


@attrs.define
class Checks:
    """The checks of a transaction, with their verdicts."""

    verdicts: tuple = ()
    seen: list = attrs.field(factory=list)

    def message(self, header, body):
        self.seen.append((header, body.read(0, body.size)))
        return succeed(self.verdicts)


def stored(bench):
    (message,) = bench.store.accepted
    return b"".join(message.pieces())


def test_one_field_for_all_checks_above_all_other_trace():
    """interface.md's order: Authentication-Results, then Received, then what came."""
    bench = Bench(attrs.evolve(SETTINGS, authserv_id="mail.example.org"))
    checks = Checks((Verdict(check="dnswl", results=(DNSWL,)), Verdict(check="x"), Verdict(check="y", results=(SPAM,))))
    data = b"Subject: x\r\n\r\nbody\r\n"
    assert send(bench.begin(checks=checks), data).code == 250
    octets = stored(bench)
    assert octets.startswith(
        b"Authentication-Results: mail.example.org;\r\n dnswl=pass policy.txt=xn--bcher-kva;\r\n x-spam=fail\r\n"
        b"Received: "
    )
    assert octets.endswith(b"\r\n" + data)
    assert checks.seen == [(b"Subject: x\r\n", data)]


@pytest.mark.parametrize(
    ("header", "recipient", "utf8"),
    [("Subject: ü", "anna@example.org", True), ("Subject: x", "jürgen@example.org", False)],
)
def test_outside_ascii_only_where_smtputf8_is_needed_anyway(header, recipient, utf8):
    """38, 39: what we add is no reason for the next hop to refuse a message that it could have had."""
    bench = Bench()
    transaction = bench.begin(checks=Checks((Verdict(check="dnswl", results=(DNSWL,)),)))
    send(transaction, f"{header}\r\n\r\n".encode(), recipients=[recipient], smtputf8=True)
    assert ("bücher.example".encode() in stored(bench)) == utf8


@pytest.mark.parametrize(
    ("checks", "field"),
    [(None, b""), (Checks(), b""), (Checks((Verdict(check="dnswl"),)), b"mx.example.org; none\r\n")],
)
def test_a_field_only_where_something_was_checked(checks, field):
    """70: checked, with nothing to report, is `none`; unchecked is no field."""
    bench = Bench()
    send(bench.begin(checks=checks), b"\r\n")
    assert stored(bench).startswith(b"Authentication-Results: " + field if field else b"Received:")


def test_a_check_refuses():
    """At the end of the message; nothing is left of it."""
    bench = Bench()
    checks = Checks((Verdict(check="a"), Verdict(check="b", refusal=NO)))
    assert send(bench.begin(checks=checks), b"\r\n") == NO
    assert bench.store.accepted == []
    assert bench.store.writers[0].aborted


FORGED = b"Authentication-Results: MX.Example.org (c);\r\n dnswl=pass\r\n"
FOREIGN = b"Authentication-Results: other.example; spf=pass\r\n"
MESSAGE = b"A: b\r\n" + FORGED + FOREIGN + b"C: d\r\n" + FORGED + b"\r\n" + FORGED


def test_what_others_say_in_our_name_is_taken_out():
    """72, 73: whole fields, of everybody at every kind of listener; the body and the stored octets stay."""
    submissions = ({"user": "anna", "service": service} for service in ("submission", "submissions"))
    for session in ({}, {"client": "192.0.2.7"}, *submissions, {"service": "lmtp"}):
        bench = Bench()
        checks = Checks()
        assert send(bench.begin(checks=checks, **session), MESSAGE).code == 250
        assert stored(bench).endswith(b"\r\nA: b\r\n" + FOREIGN + b"C: d\r\n\r\n" + FORGED)
        (message,) = bench.store.accepted
        assert message.body.data == MESSAGE
        assert checks.seen[0][1] == MESSAGE  # 76: the octets that a signature covers


def test_who_brings_more_than_a_few_is_refused():
    """Each is a cut to be made at each sending; a hundred are enough."""
    bench = Bench()
    assert send(bench.begin(), b"A: b\r\n" + FORGED * 101 + b"\r\n") == reply.TOO_MANY_FORGED
    assert bench.store.writers[0].aborted
    assert send(bench.begin(), b"A: b\r\n" + FORGED * 100 + b"\r\n").code == 250


def test_what_we_said_ourselves_stays():
    """A trusted listener is for what stands beside us: what it brings in our name is ours."""
    bench = Bench(trusted=True)
    send(bench.begin(), MESSAGE)
    assert stored(bench).endswith(MESSAGE)


def test_the_postmaster_hears_from_everybody():
    """RFC 5321 4.5.1: what is refused to all others is taken for him alone."""
    checks = Checks((Verdict(check="a", refusal=NO),))
    for recipients, taken in ((["postmaster@example.org"], True), (["postmaster@example.org", "b@example.org"], False)):
        bench = Bench()
        answer = send(bench.begin(checks=checks), b"\r\n", recipients=recipients)
        assert (answer.code == 250) == taken


def test_fields_of_the_checks_stand_below_their_results():
    """interface.md's order: Authentication-Results, Received-SPF, Received; foreign text in ASCII."""
    bench = Bench()
    verdict = Verdict(check="spf", results=(Result("spf", "none"),), trace=("Received-SPF: none\r\n (ü)",))
    send(bench.begin(checks=Checks((verdict,))), b"\r\n")
    assert stored(bench).startswith(
        b"Authentication-Results: mx.example.org;\r\n spf=none\r\nReceived-SPF: none\r\n (\\xfc)\r\nReceived: "
    )
