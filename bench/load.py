"""An SMTP load generator: as many messages as asked for, over as many connections, and what that took.

    python bench/load.py --port 2525 --connections 10 --messages 5000 --size 10240
    python bench/load.py --port 2525 --connections 50 --messages 2000 --per-connection 1 --tls

Only messages that got their final 250 count. The result is one JSON object on standard output: messages a second over
the whole run, connecting included, and the seconds from MAIL to 250 (median, 99th percentile, largest).
"""

import argparse
import asyncio
import json
import ssl
import sys
import time


class Client(asyncio.Protocol):
    """One connection: sends its share of messages, one transaction at a time, commands pipelined."""

    def __init__(self, run):
        self.run, self.buffer, self.steps, self.sent = run, b"", [], 0
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, exc):
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data):
        lines = (self.buffer + data).split(b"\r\n")
        self.buffer = lines.pop()
        for line in lines:
            if line[3:4] == b" ":
                self.reply(line)

    def reply(self, line):
        if not self.steps:
            self.steps = [self.greeted]
        self.steps.pop(0)(line)

    def greeted(self, line):
        self.steps = [self.starttls if self.run.tls else self.next_message]
        self.transport.write(b"EHLO load.example\r\n")

    def starttls(self, line):
        self.steps = [lambda line: asyncio.ensure_future(self.handshake())]
        self.transport.write(b"STARTTLS\r\n")

    async def handshake(self):
        loop = asyncio.get_running_loop()
        self.transport = await loop.start_tls(self.transport, self, self.run.tls)
        self.steps = [self.next_message]
        self.transport.write(b"EHLO load.example\r\n")

    def next_message(self, line):
        if self.sent == self.run.per_connection or not self.run.take():
            self.steps = [lambda line: self.transport.close()]
            self.transport.write(b"QUIT\r\n")
            return
        self.sent += 1
        self.began = time.perf_counter()
        self.steps = [self.expect(b"250"), self.expect(b"250"), self.data]
        self.transport.write(self.run.envelope)

    def expect(self, code):
        def check(line):
            if line[:3] != code:
                self.run.refuse(line)

        return check

    def data(self, line):
        if line[:3] != b"354":
            self.run.refuse(line)
            return self.next_message(line)
        self.steps = [self.done]
        return self.transport.write(self.run.body)

    def done(self, line):
        if line[:3] == b"250":
            self.run.latencies.append(time.perf_counter() - self.began)
        else:
            self.run.refuse(line)
        self.next_message(line)


class Run:
    """What all connections share."""

    def __init__(self, options):
        self.options, self.left, self.latencies, self.refused = options, options.messages, [], []
        self.per_connection = options.per_connection or sys.maxsize
        parameter = " REQUIRETLS" if options.requiretls else ""
        self.envelope = f"MAIL FROM:<{options.sender}>{parameter}\r\nRCPT TO:<{options.recipient}>\r\nDATA\r\n".encode()
        head = f"From: <{options.sender}>\r\nTo: <{options.recipient}>\r\nSubject: load\r\n\r\n".encode()
        line = b"0123456789abcdef" * 4 + b"\r\n"
        lines = max(options.size - len(head), 0) // len(line) + 1
        self.body = (head + line * lines)[: max(options.size - 2, len(head))] + b"\r\n.\r\n"
        self.tls = None
        if options.tls or options.requiretls:
            self.tls = ssl.create_default_context()
            self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE

    def take(self):
        self.left -= 1
        return self.left >= 0

    def refuse(self, line):
        self.refused.append(line.decode("utf-8", "replace"))

    async def connection(self):
        loop = asyncio.get_running_loop()
        while self.left > 0:
            _, client = await loop.create_connection(lambda: Client(self), self.options.host, self.options.port)
            await client.closed

    async def go(self):
        start = time.perf_counter()
        await asyncio.gather(*(self.connection() for _ in range(self.options.connections)))
        return time.perf_counter() - start


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=10)
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--per-connection", type=int, default=0, help="messages on a connection; 0 is no limit")
    parser.add_argument("--size", type=int, default=10240, help="octets of a message")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--requiretls", action="store_true", help="the MAIL parameter, in TLS")
    parser.add_argument("--sender", default="sender@load.example")
    parser.add_argument("--recipient", default="recipient@sink.example")
    return parser.parse_args(arguments)


def main():
    run = Run(parse())
    seconds = asyncio.run(run.go())
    took = sorted(run.latencies) or [0.0]
    print(
        json.dumps(
            {
                "messages": len(run.latencies),
                "seconds": round(seconds, 3),
                "rate": round(len(run.latencies) / seconds, 1),
                "p50": round(took[len(took) // 2], 5),
                "p99": round(took[len(took) * 99 // 100], 5),
                "max": round(took[-1], 5),
                "refused": run.refused[:5],
            }
        )
    )
    return 0 if len(run.latencies) == run.options.messages else 1


if __name__ == "__main__":
    sys.exit(main())
