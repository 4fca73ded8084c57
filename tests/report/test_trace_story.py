"""What the trace tells of a message, as its documentation promises."""

import pytest

from requiretls_mta.report.trace_story import stories, transcript

ONE, TWO = "0000000000000001", "0000000000000002"


def record(event, queue_id=ONE, **fields):
    return {"time": "2027-01-15T08:00:00.000Z", "event": event, "queue_id": queue_id, **fields}


BIRTH = record(
    "queued",
    sender="a@x.example",
    recipients=["b@y.example", "c@y.example"],
    count=2,
    size=10,
    origin="smtp",
    requiretls="required",
    message_id="<1@x>",
    rule="requiretls.rule[0]",
    effect="required",
    session={"id": "s1", "client": "192.0.2.1", "protocol": "ESMTPS", "transcript": "[0]\nS220 mx\r\n"},
    checks=[{"method": "spf", "result": "pass", "text": "spf=pass"}],
    transcript="[5, 6, 7]\nCMAIL\nS250-ok\r\nS250 ok\r\n*bye\n",
)


def one(*records):
    (story,) = stories({ONE: list(records)})
    return story


def test_a_birth_is_two_events():
    """How it came, with what was said, and whom it is for."""
    story = one(BIRTH)
    accepted, queued = story["events"]
    assert accepted == {
        "time": BIRTH["time"],
        "event": "accepted",
        "queue_id": ONE,
        "message_id": "<1@x>",
        "session": "s1",
        "client": "192.0.2.1",
        "protocol": "ESMTPS",
        "checks": BIRTH["checks"],
        "transcript": [
            {"at": 0.0, "from": "server", "text": "220 mx"},
            {"at": 0.005, "from": "client", "text": "MAIL"},
            {"at": 0.006, "from": "server", "text": "250-ok"},
            {"at": 0.006, "from": "server", "text": "250 ok"},
            {"at": 0.007, "from": None, "text": "bye"},
        ],
    }
    assert queued["rule"] == "requiretls.rule[0]" and "transcript" not in queued and "session" not in queued
    assert {name: story[name] for name in ("id", "message_id", "sender", "requiretls", "size", "parent", "born")} == {
        "id": ONE,
        "message_id": "<1@x>",
        "sender": "a@x.example",
        "requiretls": "required",
        "size": 10,
        "parent": None,
        "born": [],
    }


@pytest.mark.parametrize(
    ("events", "states", "finished"),
    [
        ([], ["queued", "queued"], False),
        (["deferred"], ["queued", "queued"], False),
        (["deferred", "delivered"], ["delivered", "queued"], False),
        (["bounced"], ["failed", "queued"], False),
        (["expired", "remove"], ["failed", "removed"], True),
        (["remove"], ["removed", "removed"], True),
    ],
)
def test_how_each_recipient_stands(events, states, finished):
    """By its latest event; an operator who removes a message ends it for all who are left."""
    records = [
        record("operator", action="remove") if event == "remove" else record(event, recipient="b@y.example", reply="r")
        for event in events
    ]
    story = one(BIRTH, *records)
    assert [recipient["state"] for recipient in story["recipients"]] == states
    assert story["finished"] is finished


def test_recipients_that_were_not_named_are_learned_from_their_events():
    """Of many only some are named at the birth, and of a birth that is deleted already none."""
    story = one(record("delivered", recipient="z@y.example", sender="a@x.example", reply="250 ok", attempts=2))
    assert story["recipients"] == [
        {"address": "z@y.example", "state": "delivered", "attempts": 2, "last_reply": "250 ok"}
    ]
    assert story["sender"] == "a@x.example" and story["received"] is None


def test_parents_and_what_they_brought_forth():
    """By the births of the others."""
    parent, child = stories({ONE: [BIRTH], TWO: [record("queued", TWO, parent=ONE, origin="report", recipients=[])]})
    assert parent["born"] == [TWO] and child["parent"] == ONE and child["born"] == []


def test_the_sessions_of_an_attempt_are_taken_apart():
    """Host by host."""
    story = one(record("attempt", hosts=[{"host": "mx", "transcript": "[1500]\nCQUIT\n"}, {"host": "none"}]))
    (attempt,) = story["events"]
    assert attempt["hosts"] == [
        {"host": "mx", "transcript": [{"at": 1.5, "from": "client", "text": "QUIT"}]},
        {"host": "none"},
    ]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("[]\n", []),
        ("nonsense\nCx\n", [(0.0, "client", "x")]),
        ('["x"]\nCx\n', [(0.0, "client", "x")]),
        ("[1]\nCx\nCy\n", [(0.001, "client", "x"), (0.001, "client", "y")]),
        ("[1, 2]\nS250-cut...\nCx\n", [(0.001, "server", "250-cut..."), (0.002, "client", "x")]),
        ("[1]\nC\x1b[31m\x85\n", [(0.001, "client", "\\x1b[31m\\x85")]),
        ("~[1,2]\n", []),
        (
            "~[1,2]\nmail from:<a>\nRCPT TO:<\x1b>\n>550-a\n>550 b\n*note\nRSET\n>250 2.0.0 Ok",
            [
                (0.001, "client", "mail from:<a>"),
                (None, "server", "250 2.1.0 Sender ok"),
                (None, "client", "RCPT TO:<\\x1b>"),
                (None, "server", "550-a"),
                (None, "server", "550 b"),
                (None, None, "note"),
                (None, "client", "RSET"),
                (0.002, "server", "250 2.0.0 Ok"),
            ],
        ),
    ],
)
def test_whatever_is_in_a_transcript_it_can_be_shown(text, lines):
    """Missing times, cut replies, controls; of a client's transaction the replies that go without saying."""
    assert [(line["at"], line["from"], line["text"]) for line in transcript(text)] == lines
