"""What the trace costs the reactor for each accepted message: notes of the session, one line of JSON, microseconds.

    python bench/trace.py

The best of many short runs, so that other work on the machine does not count. The file is written by a thread, about
once a second, in one call.
"""

import sys
import time
import timeit
from pathlib import Path

from twisted.internet.task import Clock

sys.path.insert(0, str(Path(__file__).parent.parent))

from requiretls_mta.message import reply
from requiretls_mta.message.address import parse_mailbox
from requiretls_mta.message.birth import birth
from requiretls_mta.message.content import Content
from requiretls_mta.message.envelope import Envelope, Recipient
from requiretls_mta.message.stored import BytesBody, Message
from requiretls_mta.receive.traced import reception
from requiretls_mta.report.trace import Trace
from requiretls_mta.report.trace_files import TraceSettings
from requiretls_mta.smtp.incoming import Incoming
from requiretls_mta.smtp.interfaces import Peer, Session

HEADER = (
    b"From: a@load.example\r\nTo: b@sink.example\r\nSubject: a message like any other\r\n"
    b"Date: Thu, 1 Jan 2026 00:00:00 +0000\r\nMessage-ID: <1234567890.12345@load.example>\r\n\r\n"
)
QUEUED = reply.queued("0" * 16)
ONCE, RUNS = 100, 300


def main():
    transcript = Incoming(time.monotonic)
    transcript.reply(b"220 mx.example ESMTP requiretls-mta\r\n")
    transcript.command(b"EHLO load.example")
    transcript.reply(b"250-mx.example\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n250 STARTTLS\r\n")
    session = Session(
        id="0123456789ab",
        peer=Peer(address="192.0.2.1", port=40000, listener="mx"),
        service="mx",
        helo="load.example",
        protocol="ESMTP",
        transcript=transcript,
    )
    message = Message(
        id="0" * 16,
        envelope=Envelope(
            sender=parse_mailbox("a@load.example"), recipients=(Recipient(parse_mailbox("b@sink.example")),)
        ),
        body=BytesBody(HEADER + b"x" * 10_000),
        content=Content(size=len(HEADER) + 10_000, header_end=len(HEADER)),
        prepend=b"Received: by us\r\n",
        listener="mx",
    )
    trace = Trace(Clock(), Path("unused"), TraceSettings(keep=1e6), time.time)

    def dialogue():
        transcript.command(b"MAIL FROM:<a@load.example> SIZE=10240")
        transcript.reply(reply.SENDER_OK.wire)
        transcript.command(b"RCPT TO:<b@sink.example>")
        transcript.reply(reply.RECIPIENT_OK.wire)
        transcript.command(b"DATA")
        transcript.reply(reply.START_DATA.wire)
        transcript.octets(10_240)
        transcript.reply(QUEUED.wire)

    def line():
        trace.put("queued", lambda: birth(message, reception(session, HEADER, (), 1, QUEUED)))
        trace._waiting.clear()
        trace._size = 0

    for work in (dialogue, line):
        best = min(timeit.repeat(work, number=ONCE, repeat=RUNS)) / ONCE
        print(f"{work.__name__:10} {best * 1e6:5.1f} microseconds")


if __name__ == "__main__":
    main()
