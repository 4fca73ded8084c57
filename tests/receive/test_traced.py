"""What the trace is told of a message that comes in: one line with all of it."""

import json

import attrs
import pytest

from requiretls_mta.checks.interfaces import Verdict
from requiretls_mta.message import reply
from requiretls_mta.message.authres import Property, Result
from requiretls_mta.message.envelope import Notify, Recipient
from requiretls_mta.message.header import message_id
from requiretls_mta.queue.store import StoreFull
from requiretls_mta.receive.admission import Admission
from requiretls_mta.receive.rules import Rule, address_pattern
from requiretls_mta.receive.traced import reception
from requiretls_mta.smtp.incoming import Incoming
from requiretls_mta.smtp.interfaces import Peer, Session
from tests.receive.test_reception import SETTINGS, TLS, Bench, address, send

DATA = b"From: a\r\nMessage-ID: <1@x>\r\n\r\nthe secret body\r\n"


class Told:
    """A trace that remembers."""

    def __init__(self):
        self.lines = []

    def put(self, event, write):
        self.lines.append((event, json.loads("{" + write() + "}")))

    def emit(self, event, /, **fields):
        raise AssertionError(event)


def traced(settings=SETTINGS):
    bench, told = Bench(settings), Told()
    admission = Admission(bench.store, bench.schedule, lambda: settings, bench.events, expanded=bench.tell, trace=told)
    bench.station = attrs.evolve(bench.station, admission=admission)
    return bench, told


def test_a_message_is_one_line():
    """Its envelope, its session, what was said in it; the log's own events are as ever."""
    bench, told = traced()
    transcript = Incoming(lambda: 0.0)
    transcript.command(b"MAIL FROM:<s@example.com>")
    session = {"tls": TLS, "user": None, "protocol": "ESMTPS", "transcript": transcript}
    answer = send(bench.begin(**session), DATA)
    ((event, fields),) = told.lines
    assert event == "queued" and fields == {
        "queue_id": "0" * 16,
        "sender": "s@example.com",
        "recipients": ["anna@example.org"],
        "count": 1,
        "size": fields["size"],
        "origin": "smtp",
        "message_id": "<1@x>",
        "session": {
            "id": "s1",
            "client": "203.0.113.9",
            "port": 1,
            "listener": "mx",
            "service": "mx",
            "helo": "client.example",
            "protocol": "ESMTPS",
            "tls_version": "TLSv1.3",
            "cipher": TLS.cipher,
            "transcript": "[]\n",
        },
        "transcript": f"~[0,0]\nMAIL FROM:<s@example.com>\n>{answer}",
    }
    assert [event for event, _ in bench.events.seen] == ["queued", "accepted"]
    assert "transcript" not in str(bench.events.seen) and "secret" not in str(told.lines)


def test_aliases_are_told_with_those_who_were_named():
    """Who was meant, and the report that the alias gave birth to."""
    bench, told = traced()
    send(bench.begin(), DATA, [Recipient(address("sales@example.org"), frozenset({Notify.SUCCESS}))])
    (_, fields), (_, report) = told.lines
    assert fields["named"] == ["sales@example.org"] and len(fields["recipients"]) == 3
    assert report["queue_id"] == "report"


def test_the_parts_of_a_message_name_the_first_and_their_rule():
    """What the session said is told once."""
    rule = Rule(name="requiretls.rule[0]", require=True, recipient=address_pattern("bob@*"))
    bench, told = traced(attrs.evolve(SETTINGS, rules=(rule,)))
    send(bench.begin(client="192.0.2.1"), DATA, ["anna@example.org", "bob@example.net"])
    (_, first), (_, second) = told.lines
    assert "session" in first and "rule" not in first
    assert second["parent"] == first["queue_id"] and "session" not in second
    assert (second["rule"], second["effect"], second["requiretls"]) == (rule.name, "required", "required")


def test_refused_mail_leaves_no_trace():
    """It is the sender's still."""
    bench, told = traced(attrs.evolve(SETTINGS, received_hops=1))
    assert send(bench.begin(), b"Received: x\r\nReceived: y\r\n\r\n") == reply.TOO_MANY_HOPS
    assert told.lines == []


def test_a_decision_is_told_of_a_message_that_there_is():
    """Not of one that the disk had no room for: it comes again, and is decided about then."""
    bench, told = traced()
    bench.store.error = StoreFull("no space")
    assert send(bench.begin(), b"TLS-Required: Yes\r\n\r\n") == reply.STORE_FULL
    assert told.lines == [] and bench.events.seen == []
    bench.store.error = None
    send(bench.begin(), b"TLS-Required: Yes\r\n\r\n")
    assert [event for event, _ in bench.events.seen] == ["queued", "policy", "accepted"]


def test_verdicts_are_told_as_they_are_written():
    """As in Authentication-Results."""
    result = Result("spf", "pass", properties=(Property("smtp", "mailfrom", "x.example"),))
    session = Session(id="s", peer=Peer(address=None), service="mx", helo="h", protocol="ESMTP")
    members = reception(session, b"", [Verdict(check="spf", results=(result,))], 1, reply.OK)
    assert json.loads("{" + members[1:] + "}")["checks"] == [
        {"method": "spf", "result": "pass", "text": "spf=pass smtp.mailfrom=x.example"}
    ]


def test_the_session_is_written_once_and_anew_when_it_has_changed():
    """A login between two messages is seen."""
    transcript = Incoming(lambda: 0.0)
    transcript.command(b"EHLO h")
    transcript.command(b"MAIL FROM:<>")
    session = Session(id="s", peer=Peer(address=None), service="mx", helo="h", protocol="ESMTP", transcript=transcript)
    first = reception(session, b"", (), 1, reply.OK)
    assert first == reception(session, b"", (), 1, reply.OK) and '"user"' not in first
    assert '"user":"ann"' in reception(attrs.evolve(session, user="ann"), b"", (), 1, reply.OK)


def test_by_lmtp_each_recipient_gets_an_answer():
    """RFC 2033 4.2."""
    transcript = Incoming(lambda: 0.0)
    session = Session(id="s", peer=Peer(address=None), service="lmtp", helo="h", protocol="LMTP", transcript=transcript)
    assert reception(session, b"", (), 3, reply.OK).count(">250 2.0.0 Ok") == 3


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (b"Message-ID: <1@x>\r\n", "<1@x>"),
        (b"From: a\r\nmessage-id:<1@x> (comment)\r\n", "<1@x>"),
        (b"From: a\r\nMessage-Id:\r\n <1@x>\r\n", "<1@x>"),
        (b"X-Message-ID: <1@x>\r\n", None),
        (b"From: a\r\n", None),
        (b"Message-ID: none\r\nX: <1@x>\r\n", None),
        (b"Message-ID: <\x1b\xff@x>\r\n", "<\\x1b\\xff@x>"),
        (b"Message-ID: <" + b"x" * 900 + b"@x>\r\n", "<" + "x" * 508 + "..."),
        (b"X: " + b"x" * 70_000 + b"\r\nMessage-ID: <1@x>\r\n", None),
        (b"", None),
    ],
)
def test_the_message_id_is_found_where_it_stands(header, found):
    """In any case and folding, harmless to show, and not for any price."""
    assert message_id(header) == found
