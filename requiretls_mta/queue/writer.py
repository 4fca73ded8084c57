"""The process that writes the queue, as the service sees it: groups of changes go out, one at a time, answers come."""

from __future__ import annotations

import marshal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from requiretls_mta.queue import writing

READY = writing.pack("")
_PATIENCE = 10.0
"""Seconds for the process to be there, and to end."""


class WriterLost(Exception):
    """The process is gone; whether it wrote the group that it had, the tables tell."""


class Writer:
    """Runs `queue.writing` as a process. It ends when this one does, however that ends.

    `reactor` provides IReactorSocket.
    """

    _log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._answers: _Answers | None = None
        self._gone: Deferred[None] = Deferred()
        self._ending = False

    def start(self, path: Path, lock: int) -> None:
        """Start the process on the tables at `path`, and wait until it is ready. Blocks.

        It holds the lock as well: whoever takes the queue over after a crash waits until the last group is written.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603  # our own program
                    [sys.executable, "-I", "-S", writing.__file__, str(path)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    pass_fds=(lock,),
                    # What is typed on the terminal, or sent to the service's group, is not for it.
                    start_new_session=True,
                )
            ours.settimeout(_PATIENCE)
            if not ours.recv(len(READY)):
                raise OSError("it ended at once")
        except OSError as error:
            # Python may lie where the service's user cannot go.
            ours.close()
            self._log.warn("no process writes the queue ({error}): a thread does, more slowly", error=str(error))
            return
        self._socket = ours

    def adopt(self) -> None:
        """Go on with it in the reactor."""
        ours, self._socket = self._socket, None
        if ours is None:
            return
        with ours:
            ours.setblocking(False)
            factory = Factory.forProtocol(lambda: _Answers(self))
            factory.noisy = False
            self._reactor.adoptStreamConnection(ours.fileno(), ours.family, factory)

    @property
    def is_there(self) -> bool:
        """Whether a group can be given to it."""
        return self._answers is not None and not self._ending

    def write(self, changes: writing.Changes) -> Deferred[str]:
        """Have a group written: empty once it is durable, else why not. Fails with `WriterLost`."""
        assert self._answers is not None and self._answers.waiting is None
        self._answers.waiting = done = Deferred[str]()
        self._answers.transport.write(writing.pack(changes))
        return done

    def stop(self) -> Deferred[None]:
        """Hang up, once the group under way is written."""
        self._ending = True
        if self._answers is None:
            return succeed(None)
        if self._answers.waiting is None:
            self._answers.transport.loseConnection()
        return self._gone

    def reap(self) -> None:
        """Wait for the end of the process. Blocks."""
        if self._process is None:
            return
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def found(self, answers: _Answers) -> None:
        """The connection is there."""
        self._answers = answers

    def answered(self) -> None:
        """The group under way has its answer."""
        if self._ending and self._answers is not None:
            self._answers.transport.loseConnection()

    def lost(self) -> None:
        """The connection is gone."""
        self._answers = None
        if not self._ending:
            self._log.critical("the process that writes the queue is gone; a thread does it now, more slowly")
        self._gone.callback(None)


class _Answers(Protocol):
    """The socket: one answer for each group."""

    transport: Any

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._received = b""
        self.waiting: Deferred[str] | None = None

    def connectionMade(self) -> None:
        """Groups may come."""
        self._writer.found(self)

    def dataReceived(self, data: bytes) -> None:
        """What became of the group under way."""
        self._received += data
        length = int.from_bytes(self._received[: writing.LENGTH], "big")
        if len(self._received) < writing.LENGTH + length:
            return
        answer, self._received = self._received[writing.LENGTH :], b""
        waiting, self.waiting = self.waiting, None
        self._writer.answered()
        if waiting is not None:
            waiting.callback(marshal.loads(answer))  # noqa: S302  # from our own process

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The process has ended."""
        waiting, self.waiting = self.waiting, None
        self._writer.lost()
        if waiting is not None:
            waiting.errback(WriterLost("the process that writes the queue is gone"))
