"""The session on a clock of the test: time, order, limits, draining, and that borders of segments mean nothing."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher

from requiretls_mta.message import reply
from requiretls_mta.message.reply import Reply
from requiretls_mta.smtp.limits import ConnectionCount, Peer, peer_of
from tests.smtp.memory import Memory

SCRIPT = (
    b"EHLO x.example\r\nNOOP\r\nFOO\r\n\xff\r\n" + b"x" * 600 + b"\r\n"
    b"MAIL FROM:<a@b.example> SIZE=10\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<>\r\nDATA\r\n"
    b"Subject: x\r\n\r\n..\r\n.x\r\n.\r\n"
    b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 5\r\na\r\nb\rBDAT 3 LAST\r\n\nc\r"
    b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 7\r\n.\r\n.\r\n.BDAT 0 LAST\r\n"
    b"BDAT 3\r\n\r\n.RSET\r\nHELP\r\nQUIT\r\nNOOP\r\n"
)


@contextlib.contextmanager
def failures():
    """What is logged as a failure meanwhile, each with the session's name."""
    logged, sessions = [], []

    def observe(event):
        if "log_failure" in event:
            sessions.append(event["session"])
            logged.append(event["log_failure"])

    globalLogPublisher.addObserver(observe)
    try:
        yield logged
    finally:
        globalLogPublisher.removeObserver(observe)
    assert all(sessions)


def play(pieces):
    memory = Memory()
    line = memory.connect()
    said = line.said() + b"".join(line.ask(piece) for piece in pieces)
    return said, [(t.envelope, t.octets, t.content, t.header) for t in memory.answers.accepted]


WHOLE = play([SCRIPT])


def test_the_script_says_what_it_should():
    """The codes of the dialogue that the next tests cut into pieces."""
    codes = [line[:3] for line in WHOLE[0].split(b"\r\n") if line[3:4] == b" "]
    expected = "220 250 250 500 500 500 250 250 553 354 250 250 250 250 550 250 250 250 250 503 250 214 221"
    assert b" ".join(codes).decode() == expected
    assert [octets for _, octets, _, _ in WHOLE[1]] == [b"Subject: x\r\n\r\n.\r\nx\r\n", b".\r\n.\r\n."]


def test_octet_by_octet():
    """The same dialogue, the same messages."""
    assert play([bytes([octet]) for octet in SCRIPT]) == WHOLE


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, len(SCRIPT)), max_size=12).map(sorted))
def test_any_split(cuts):
    """Where segments end means nothing."""
    assert play([SCRIPT[a:b] for a, b in zip([0, *cuts], [*cuts, len(SCRIPT)], strict=True)]) == WHOLE


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.sampled_from(
                [
                    b"EHLO x\r\n",
                    b"HELO x\r\n",
                    b"MAIL FROM:<a@b>\r\n",
                    b"RCPT TO:<c@d>\r\n",
                    b"DATA\r\n",
                    b".\r\n",
                    b"\r\n",
                ]
            ),
            st.sampled_from(
                [b"BDAT 3\r\n", b"BDAT 0 LAST\r\n", b"RSET\r\n", b"STARTTLS\r\n", b"AUTH\r\n", b"AUTH PLAIN =\r\n"]
            ),
        ),
        max_size=20,
    )
)
def test_no_octets_break_the_session(pieces):
    """Whatever is sent: well-formed replies, an open or an orderly closed connection, nothing raised or logged."""
    line = Memory(settings={"max_errors": 1000}).connect()
    with failures() as logged:
        said = line.said() + b"".join(line.ask(piece) for piece in pieces)
    assert not logged
    assert said.endswith(b"\r\n")
    for text in said.split(b"\r\n")[:-1]:
        assert text[:3].isdigit() and text[3:4] in (b" ", b"-"), text


# --- time -------------------------------------------------------------------------------------------------------------


def test_our_own_slowness_is_not_the_clients():
    """An answer that takes longer than the time-out still comes, once; then the client has its full time again."""
    memory = Memory(settings={"timeout": 300})
    memory.answers.end_reply = Deferred()
    line = memory.connect().ready()
    line.ask("DATA\r\nx\r\n.\r\n")
    memory.clock.pump([299, 299, 299])
    assert line.is_open and line.said() == b""
    memory.answers.end_reply.callback(reply.queued("q"))
    assert line.said() == b"250 2.0.0 Ok: queued as q\r\n"
    memory.clock.advance(299)
    assert line.is_open
    memory.clock.advance(2)
    assert line.said().startswith(b"421 4.4.2")


def test_a_silent_client_is_sent_away():
    """421 4.4.2; octets of an unfinished line do not extend its time."""
    memory = Memory(settings={"timeout": 300})
    line = memory.connect()
    line.said()
    for _ in range(3):
        memory.clock.advance(90)
        line.ask("N")
    memory.clock.advance(31)
    assert line.said().startswith(b"421 4.4.2")
    assert not line.is_open


@pytest.mark.parametrize("command", ["DATA\r\n", "BDAT 100000000\r\n", "RSET\r\nBDAT 100000000\r\n"])
def test_a_drip_ends(command):
    """An octet a minute is progress, but no message: DATA, BDAT, and a chunk that is refused anyhow."""
    memory = Memory(settings={"timeout": 300})
    line = memory.connect().ready()
    line.ask(command)
    for minute in range(7):
        assert line.is_open == (minute < 6)
        memory.clock.advance(60)
        if line.is_open:
            line.session.dataReceived(b"x")
    assert line.said().startswith(b"421 4.4.2")
    assert all(transaction.aborted for transaction in memory.answers.begun)


def test_a_message_that_ends_too_late_is_not_accepted_behind_the_421():
    """The last octets come when the session has already given up."""
    memory = Memory(settings={"timeout": 300})
    line = memory.connect().ready()
    line.ask("DATA\r\n")
    for _ in range(3):
        memory.clock.advance(120)
        said = line.ask("x" if memory.clock.seconds() < 300 else "\r\n.\r\n")
    assert said.startswith(b"421 4.4.2")
    assert memory.answers.accepted == []


def test_a_slow_but_steady_message_is_taken():
    """100 octets a second are enough, for as long as it takes, and not for days."""
    memory = Memory(settings={"timeout": 300, "session_time": 3600})
    line = memory.connect().ready()
    line.ask("DATA\r\n")
    for _ in range(59):
        memory.clock.advance(60)
        line.ask(b"x" * 6000)
    assert line.is_open
    memory.clock.advance(120)
    assert line.ask(b"x" * 6000).startswith(b"421 4.4.2")


def test_no_session_lasts_for_ever():
    """A NOOP a minute is ended at the session's time."""
    memory = Memory(settings={"session_time": 3600})
    line = memory.connect()
    for _ in range(60):
        memory.clock.advance(60)
        assert line.is_open
        said = line.ask("NOOP\r\n")
        memory.clock.advance(0.1)
    assert said.startswith(b"421 4.4.2")


# --- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["mail", "rcpt", "data", "end"])
def test_nothing_overtakes_an_answer(step):
    """While one is being worked out, the session only listens; then everything follows in order."""
    memory = Memory()
    later = Deferred()
    answers = {"mail": reply.SENDER_OK, "rcpt": reply.RECIPIENT_OK, "data": None, "end": reply.queued("q")}
    if step == "mail":
        memory.answers.mail_reply = lambda: later
    elif step == "rcpt":
        memory.answers.rcpt_replies["c"] = later
    else:
        setattr(memory.answers, f"{step}_reply", later)
    line = memory.connect()
    line.said()
    script = "EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nx\r\n.\r\nNOOP\r\nQUIT\r\n"
    before = line.ask(script)
    assert (
        b"221" not in before and before.count(b"\r\n250 ") + before.count(b"\r\n354 ") == list(answers).index(step) + 1
    )
    later.callback(answers[step])
    codes = [text[:3] for text in (before + line.said()).split(b"\r\n") if text[3:4] == b" "]
    assert codes == [b"250", b"250", b"250", b"354", b"250", b"250", b"221"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [(None, b"250 2.0.0 Ok: queued as 0000000000000001\r\n"), (reply.STORE_FULL, reply.STORE_FULL.wire)],
)
@pytest.mark.parametrize("data", [b"BDAT 3 LAST\r\nx\r\n", b"BDAT 0 LAST\r\n", b"BDAT 1 LAST\r\n\n"])
def test_a_chunk_that_waits_for_an_answer(data, answer, said):
    """Its octets have all come before the transaction answers: they are read then, and the next command after them."""
    memory = Memory()
    memory.answers.data_reply = later = Deferred()
    line = memory.connect().ready()
    assert line.ask(data + b"NOOP\r\n") == b""
    later.callback(answer)
    if answer is None and data.endswith(b"\r\n\n"):
        said = reply.BARE_LINE_BREAK.wire
    assert line.said() == said + reply.OK.wire


@pytest.mark.parametrize("step", ["mail", "rcpt", "data", "end"])
@pytest.mark.parametrize("how", ["raises", "fails"])
def test_a_failing_station_is_a_temporary_error(step, how):
    """451 4.3.0, the failure in the log, the session goes on."""
    memory = Memory()

    def fail(*arguments):
        if how == "raises":
            raise RuntimeError("boom")
        broken = Deferred()
        broken.errback(RuntimeError("boom"))
        return broken

    begin = memory.answers.begin

    def begin_broken(session):
        transaction = begin(session)
        setattr(transaction, step, fail)
        return transaction

    memory.answers.begin = begin_broken
    line = memory.connect()
    line.said()
    with failures() as logged:
        said = line.ask("EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
        if step == "end":
            said += line.ask("x\r\n.\r\n")
    assert b"451 4.3.0" in said
    assert line.ask("RSET\r\nNOOP\r\n") == b"250 2.0.0 Ok\r\n" * 2
    assert len(logged) == 1


def test_a_station_may_end_the_session():
    """A 421 from inside is the last word, whatever was pipelined behind it."""
    memory = Memory()
    later = Deferred()
    memory.answers.mail_reply = lambda: later
    line = memory.connect()
    line.ask("EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nNOOP\r\n")
    later.callback(Reply(421, "4.3.2", "Going away"))
    assert line.said() == b"421 4.3.2 Going away\r\n"
    assert not line.is_open


def test_a_lost_connection_ends_its_transaction():
    """Aborted, and an answer that comes later goes nowhere."""
    memory = Memory()
    later = Deferred()
    memory.answers.rcpt_replies["c0"] = later
    line = memory.connect().ready()
    line.transport.loseConnection()
    assert memory.answers.begun[0].aborted
    later.callback(reply.RECIPIENT_OK)
    assert line.said() == b""


def test_a_message_being_accepted_is_not_aborted():
    """The client left between its dot and our 250: the message is ours all the same."""
    memory = Memory()
    memory.answers.end_reply = Deferred()
    line = memory.connect().ready()
    line.ask("DATA\r\nx\r\n.\r\n")
    line.transport.loseConnection()
    assert not memory.answers.begun[0].aborted
    memory.answers.end_reply.callback(reply.queued("q"))
    assert memory.factory.sessions == set()


def test_a_write_that_fails_is_said_at_the_end():
    """451 4.3.0 behind the dot, and the rest of the message is no command."""
    memory = Memory()
    line = memory.connect().ready()

    def write(chunk):
        raise RuntimeError("boom")

    memory.answers.begun[0].write = write
    line.ask("DATA\r\n")
    assert line.ask("x\r\nNOOP\r\n.\r\n").startswith(b"451 4.3.0")
    assert memory.answers.begun[0].aborted
    assert line.ask("NOOP\r\n") == b"250 2.0.0 Ok\r\n"


# --- limits -----------------------------------------------------------------------------------------------------------


def test_memory_has_a_bound_while_an_answer_is_awaited():
    """The session tells the network to wait."""
    memory = Memory()
    memory.answers.mail_reply = Deferred
    line = memory.connect()
    line.ask("EHLO x\r\nMAIL FROM:<a@b.example>\r\n")
    sent = 0
    while line.transport.producerState == "producing":
        line.session.dataReceived(b"NOOP\r\n" * 1000)
        sent += 6000
        assert sent < 200_000
    assert len(line.session._pending) < 128 * 1024


def test_reading_goes_on_when_the_answer_has_come():
    """Everything that had to wait is answered."""
    memory = Memory()
    later = Deferred()
    memory.answers.mail_reply = lambda: later
    line = memory.connect()
    line.ask("EHLO x\r\nMAIL FROM:<a@b.example>\r\n" + "NOOP\r\n" * 12000)
    assert line.transport.producerState == "paused"
    later.callback(reply.SENDER_OK)
    assert line.transport.producerState == "producing"
    assert line.said().count(b"250 2.0.0 Ok\r\n") == 12000


def test_each_error_of_the_session_counts():
    """Policy's 5xx and syntax alike; 4xx do not."""
    memory = Memory(settings={"max_errors": 4, "max_recipients": 1})
    memory.answers.rcpt_replies["no"] = reply.NO_RELAY
    line = memory.connect().ready(recipients=0)
    assert line.ask("RCPT TO:<no@x.example>\r\nRCPT TO:<>\r\n").count(b"\r\n") == 2
    line.ask("RCPT TO:<c@d.example>\r\n")
    assert line.ask("RCPT TO:<c@d.example>\r\n" * 5).count(b"452 4.5.3") == 5
    assert line.ask("FOO\r\nFOO\r\nNOOP\r\n") == reply.UNKNOWN_COMMAND.wire + reply.TOO_MANY_ERRORS.wire
    assert not line.is_open


def test_connections_are_counted_per_client_and_in_total():
    """421 4.7.0 in the place of the greeting; a place is free again when its session ends."""
    memory = Memory(settings={"max_connections": 3, "max_connections_per_client": 2})
    first, second = memory.connect(), memory.connect()
    assert memory.connect().said().startswith(b"421 4.7.0")
    assert memory.connect("192.0.2.2").said().startswith(b"220 ")
    assert memory.connect("192.0.2.3").said().startswith(b"421 4.7.0")
    first.transport.loseConnection()
    assert memory.connect("192.0.2.3").said().startswith(b"220 ")
    assert second.ask("NOOP\r\n").endswith(b"250 2.0.0 Ok\r\n")
    assert len(memory.events.of("rejected")) == 2


def test_an_ipv6_site_is_one_client():
    """Counted by /64."""
    count = ConnectionCount(100, 1)
    assert count.enter(Peer(address="2001:db8::1"))
    assert not count.enter(Peer(address="2001:db8::2:3"))
    assert count.enter(Peer(address="2001:db8:0:1::1"))
    assert count.enter(Peer(address=None))
    count.leave(Peer(address="2001:db8::ffff"))
    assert count.enter(Peer(address="2001:db8::2"))


def test_who_a_peer_is():
    """Mapped IPv4 is IPv4; scope ids are not part of an address; a UNIX socket has none."""
    from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

    assert peer_of(IPv4Address("TCP", "192.0.2.1", 25), "mx") == Peer(address="192.0.2.1", port=25, listener="mx")
    assert peer_of(IPv6Address("TCP", "::ffff:192.0.2.1", 25), "").address == "192.0.2.1"
    assert peer_of(IPv6Address("TCP", "fe80::1%eth0", 25), "").address == "fe80::1"
    assert peer_of(UNIXAddress("/x"), "").address is None


@pytest.mark.parametrize(
    ("peer", "literal"),
    [
        (Peer(address="192.0.2.1"), "[192.0.2.1]"),
        (Peer(address="2001:db8::1", via_proxy=True), "[IPv6:2001:db8::1]"),
        (Peer(address=None), "unix"),
        (Peer(address=None, via_proxy=True), "unknown"),
    ],
)
def test_how_a_peer_is_written(peer, literal):
    """What a Received field says of it."""
    assert peer.literal == literal


# --- draining ---------------------------------------------------------------------------------------------------------


def test_draining_ends_the_idle_and_waits_for_messages():
    """421 4.3.2 at once, or behind the reply to the message; nothing that was pipelined behind it is begun."""
    memory = Memory()
    idle, open_, busy, late = (
        memory.connect(),
        memory.connect().ready(),
        memory.connect().ready(),
        memory.connect().ready(),
    )
    idle.said()
    memory.answers.end_reply = Deferred()
    busy.ask("DATA\r\nx\r\n.\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
    late.ask("BDAT 3\r\nabc")
    drained = memory.factory.drain()
    assert idle.said() == open_.said() == reply.SHUTTING_DOWN.wire
    assert not drained.called
    memory.answers.end_reply.callback(reply.queued("q"))
    assert busy.said() == reply.queued("q").wire + reply.SHUTTING_DOWN.wire
    assert not drained.called
    memory.answers.end_reply = None
    assert late.ask("BDAT 1\r\nx") == reply.CHUNK_OK.wire
    assert late.ask("BDAT 1 LAST\r\ny").endswith(reply.SHUTTING_DOWN.wire)
    assert drained.called
    assert len(memory.answers.accepted) == 2


def test_nobody_new_while_draining():
    """421 4.3.2 in the place of the greeting; draining twice is the same as once."""
    memory = Memory()
    drained = memory.factory.drain()
    assert drained.called
    late = memory.connect()
    assert late.said() == reply.SHUTTING_DOWN.wire and not late.is_open
    assert memory.factory.drain().called


# --- what is told -----------------------------------------------------------------------------------------------------


def test_surplus_recipients_do_not_fill_the_log():
    """One line a transaction, however many more are named."""
    memory = Memory(settings={"max_recipients": 1})
    line = memory.connect()
    for _ in range(2):
        line.ask("EHLO x\r\nMAIL FROM:<a@b.example>\r\n")
        assert line.ask("RCPT TO:<c@d.example>\r\n" * 50).count(b"452 4.5.3") == 49
    assert len(memory.events.of("rejected")) == 2


def test_mail_that_is_put_off_over_and_over_does_not_fill_the_log():
    """One line for one answer; what is said for good is told each time."""
    memory = Memory()
    line = memory.connect()
    line.ask("EHLO x\r\n")
    for answer, told in ((reply.TOO_OFTEN, 1), (reply.LOCAL_ERROR, 2), (reply.NO_RELAY, 7)):
        memory.answers.mail_reply = answer
        assert line.ask("MAIL FROM:<a@b.example>\r\n" * 5) == answer.wire * 5
        assert len(memory.events.of("rejected")) == told


def test_events_name_the_session_and_the_reply():
    """One for the connection; one for each refusal of policy, with sender and recipient where there are any."""
    memory = Memory(listener="mx", settings={"message_size": 100})
    memory.answers.rcpt_replies["no"] = reply.NO_RELAY
    line = memory.connect().ready()
    line.ask("RCPT TO:<no@x.example>\r\n")
    line.ask(b"DATA\r\n" + b"x" * 200 + b"\r\n.\r\n")
    (connected,) = memory.events.of("connected")
    assert connected == {"session": line.session.id, "client": "192.0.2.1", "listener": "mx"}
    refused, too_big = memory.events.of("rejected")
    assert refused["recipient"] == "no@x.example" and refused["session"] == line.session.id
    assert refused["sender"] == too_big["sender"] == "a@b.example"
    assert refused["reply"] == "550 5.7.1 Relaying denied"
    assert too_big["reply"].startswith("552 5.3.4")
