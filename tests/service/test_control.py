"""The control socket: tool and service in two threads, over a real socket."""

import json
import os
import shutil
import socket
import stat
import tempfile
from pathlib import Path

import attrs
import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from requiretls_mta import __version__
from requiretls_mta.message.address import parse_mailbox
from requiretls_mta.message.content import Content
from requiretls_mta.message.envelope import Envelope, Recipient, Tag
from requiretls_mta.message.stored import BytesBody, Message
from requiretls_mta.queue.store import Entry, Row
from requiretls_mta.service.control import BACKLOG, REQUEST_LIMIT, Controls, ControlSocket
from requiretls_mta.service.control_client import ControlClient, NotRunning, ServiceError
from tests.receive.fakes import RecordedEvents

ID = "0123456789abcdef"
RECIPIENT = Recipient(parse_mailbox("b@example.net"))
HEADER = b"From: a\r\nSubject: \x1b[31m\r\n"


def row(number=0):
    """A queued message with one recipient of each state."""
    return Row(
        id=ID if not number else f"{number:016}",
        sender="a@example.org",
        size=1234,
        received=1_700_000_000.0,
        tag="required",
        held=False,
        entries=(
            Entry(number=0, recipient=RECIPIENT, attempts=2, next_attempt=1_700_000_060.5, last_reply="451 4.7.1 no"),
            Entry(number=1, recipient=RECIPIENT, state="failed"),
        ),
    )


class Store:
    """A queue with some rows, that remembers what it was asked."""

    def __init__(self):
        self.all = (row(),)
        self.asked = []

    def rows(self):
        return succeed(self.all)

    def message(self, message_id):
        envelope = Envelope(sender=parse_mailbox("a@example.org"), recipients=(RECIPIENT,), tag=Tag.REQUIRED)
        body = BytesBody(HEADER + b"\r\ntext\r\n")
        content = Content(size=body.size, header_end=len(HEADER))
        return succeed(
            Message(id=ID, envelope=envelope, body=body, content=content, prepend=b"Received: x\r\n")
            if message_id == ID
            else None
        )

    def retry(self, message_id, now):
        self.asked.append(("retry", message_id, now))
        return succeed(len(self.all))

    def hold(self, message_id, held):
        self.asked.append(("hold", message_id, held))
        return succeed(message_id == ID)

    def remove(self, message_id):
        self.asked.append(("remove", message_id))
        if message_id == "broken":
            return fail(RuntimeError("disk I/O"))
        return succeed(message_id == ID)


class Control(TestCase):
    """The service's end in the reactor, the tool's in a thread."""

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.store, self.woken, self.reloads = Store(), [], []
        self.reloading = lambda: succeed(None)
        self.events, self.flushed = RecordedEvents(), []
        controls = Controls(
            events=self.events,
            give_up=lambda message_id: succeed(message_id == ID),
            flush=lambda: succeed(self.flushed.append(1)),
            counters=lambda: "requiretls 1\n",
            store=self.store,
            wall=lambda: 5.0,
            reload=lambda: self.reloading(),
            wake=lambda: self.woken.append(1),
        )
        self.control = ControlSocket(reactor, self.folder, controls)
        self.control.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.control.stop()))

    def tool(self, work):
        def run():
            with ControlClient(self.folder, timeout=10) as client:
                return work(client)

        return deferToThread(run)

    def raw(self, octets, lines=1):
        def run():
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(10)
                client.connect(str(self.folder / "control"))
                try:
                    client.sendall(octets)
                    answers = client.makefile("rb")
                    return [answers.readline() for _ in range(lines)]
                except (ConnectionResetError, BrokenPipeError):
                    return [b""]

        return deferToThread(run)

    def test_only_its_owner_may_speak(self):
        """Mode 0600."""
        assert stat.S_IMODE((self.folder / "control").stat().st_mode) == 0o600

    async def test_what_the_operator_does_is_told(self):
        """To log and trace, once it is done."""
        for verb in ("hold", "release", "retry", "remove", "bounce"):
            await self.tool(lambda client, verb=verb: client.ask(verb, ID))
            await self.tool(lambda client, verb=verb: verb == "retry" or client.ask(verb, "0" * 16))
        told = [(fields["queue_id"], fields["action"]) for fields in self.events.of("operator")]
        assert told == [(ID, "hold"), (ID, "release"), (ID, "retry"), (ID, "remove"), (ID, "bounce")]

    async def test_the_trace_is_written_when_somebody_wants_to_read_it(self):
        """The latest second of it waits in memory otherwise."""
        assert await self.tool(lambda client: client.ask("flush")) is True
        assert self.flushed == [1]
        assert await self.tool(lambda client: client.ask("counters")) == "requiretls 1\n"

    async def test_rows_come_as_documented(self):
        """The JSON of `queue list`."""
        (found,) = await self.tool(lambda client: list(client.rows()))
        assert found == {
            "id": ID,
            "sender": "a@example.org",
            "size": 1234,
            "received": "2023-11-14T22:13:20.000Z",
            "requiretls": "required",
            "held": False,
            "recipients": [
                {
                    "address": "b@example.net",
                    "state": "queued",
                    "attempts": 2,
                    "next_attempt": "2023-11-14T22:14:20.500Z",
                    "last_reply": "451 4.7.1 no",
                },
                {
                    "address": "b@example.net",
                    "state": "failed",
                    "attempts": 0,
                    "next_attempt": None,
                    "last_reply": None,
                },
            ],
        }

    async def test_a_long_queue_is_listed_as_fast_as_it_is_read(self):
        """Ten thousand rows, every one once, in order."""
        self.store.all = tuple(map(row, range(1, 10_001)))
        found = await self.tool(lambda client: [r["id"] for r in client.rows()])
        assert found == [f"{n:016}" for n in range(1, 10_001)]

    async def test_a_reader_who_leaves_in_the_middle_harms_nobody(self):
        """The next one is served."""
        self.store.all = tuple(map(row, range(1, 10_001)))
        await self.tool(lambda client: next(client.rows()))
        assert await self.tool(lambda client: client.ask("version")) == __version__

    async def test_the_queue_verbs(self):
        """Each does one thing, says whether there was such a message, and wakes the schedule where it matters."""
        assert await self.tool(lambda c: c.ask("retry")) == 1
        assert await self.tool(lambda c: c.ask("retry", ID)) == 1
        assert await self.tool(lambda c: c.ask("hold", ID)) is True
        assert await self.tool(lambda c: c.ask("release", "other")) is False
        assert await self.tool(lambda c: c.ask("remove", ID)) is True
        assert self.store.asked == [
            ("retry", None, 5.0),
            ("retry", ID, 5.0),
            ("hold", ID, True),
            ("hold", "other", False),
            ("remove", ID),
        ]
        assert len(self.woken) == 4

    async def test_show_tells_envelope_and_header(self):
        """With our trace fields, without the body."""
        found = await self.tool(lambda c: c.ask("show", ID))
        assert found["header"] == "Received: x\nFrom: a\nSubject: \x1b[31m\n"
        assert found["requiretls"] == "required"
        assert await self.tool(lambda c: c.ask("show", "other")) is None

    async def test_a_reload_that_fails_says_why(self):
        """The reason reaches whoever asked."""
        assert await self.tool(lambda c: c.ask("reload")) is True
        self.reloading = lambda: fail(ValueError("no such key"))
        with pytest.raises(ServiceError, match="no such key"):
            await self.tool(lambda c: c.ask("reload"))

    async def test_a_store_that_fails_is_reported(self):
        """And logged; the connection goes on."""
        with pytest.raises(ServiceError, match="disk I/O"):
            await self.tool(lambda c: c.ask("remove", "broken"))
        assert len(self.flushLoggedErrors(RuntimeError)) == 1

    async def test_nonsense_is_answered_or_cut_off(self):
        """Whatever comes, the service lives; nobody sends without limit."""
        for line in [
            b"",
            b"x",
            b"[]",
            b"{}",
            b'{"verb":5}',
            b'{"verb":"show"}',
            b'{"verb":"no"}',
            b'{"verb":"hold","id":[]}',
        ]:
            answer = json.loads((await self.raw(line + b"\n"))[0])
            assert answer["ok"] is False, line
        assert await self.raw(b"x" * (REQUEST_LIMIT + 100)) == [b""]
        await self.raw(b'{"verb":"version"}\n' * (BACKLOG * 100))
        assert await self.tool(lambda client: client.ask("version")) == __version__

    async def test_requests_are_answered_in_order(self):
        """Several in one write."""
        answers = await self.raw(b'{"verb":"version"}\n{"verb":"retry"}\n', 2)
        assert [json.loads(line)["result"] for line in answers] == [__version__, 1]

    async def test_after_the_stop_nobody_answers(self):
        """The socket is gone, and a stale one is told from a living one."""
        await self.control.stop()
        with pytest.raises(NotRunning):
            await self.tool(lambda client: None)
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(self.folder / "control"))
        with pytest.raises(NotRunning):
            await self.tool(lambda client: None)
        self.control.start()
        assert await self.tool(lambda client: client.ask("version")) == __version__

    async def test_a_path_too_long_for_a_socket_works(self):
        """State folders may lie deep."""
        self.folder = self.folder / ("d" * 100) / ("e" * 100)
        os.makedirs(self.folder)
        control = ControlSocket(reactor, self.folder, attrs.evolve(self.control._factory.controls))
        control.start()
        assert (self.folder / "control").exists()
        assert await self.tool(lambda client: client.ask("version")) == __version__
        await control.stop()
        assert not (self.folder / "control").exists()
