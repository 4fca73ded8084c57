"""An SMTP load generator: as many messages as asked for, over as many connections, and what that took.

    python bench/load.py --port 2525 --connections 10 --messages 5000 --size 10240
    python bench/load.py --port 2525 --connections 50 --messages 2000 --per-connection 1 --requiretls

Only messages that got their final 250 count. The result is one JSON object on standard output: messages a second over
the whole run, connecting included, the seconds from MAIL to 250 (median, 99th percentile, largest), and the processor
seconds that the generator itself took: on a small machine they come out of the server's share, so it is kept lean.
"""

import argparse
import contextlib
import json
import select
import socket
import ssl
import sys
import time


class Connection:
    """One connection without blocking. `script` yields (octets to send, replies to wait for) or `STARTTLS`."""

    def __init__(self, run):
        self.run, self.script = run, dialogue(run)
        self.socket = socket.create_connection((run.options.host, run.options.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.waiting, self.line, self.octets, self.replies, self.handshake = 0, b"", b"", [], False
        self.go(None)

    def go(self, replies):
        """On with the dialogue; False at its end."""
        try:
            step = self.script.send(replies)
        except StopIteration:
            return False
        if step is STARTTLS:
            self.run.poll.unregister(self.socket)
            self.socket = self.run.tls.wrap_socket(self.socket, do_handshake_on_connect=False)
            self.run.register(self)
            self.handshake = True
            return self.event()
        self.octets, self.waiting = step
        self.replies = []
        return self.write()

    def write(self):
        """Send what the socket takes."""
        if self.octets:
            with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                self.octets = self.octets[self.socket.send(self.octets) :]
            if self.octets:
                self.run.poll.modify(self.socket, select.EPOLLIN | select.EPOLLOUT)
        return True

    def event(self):
        """Something can be read or written; False when the connection is over."""
        if self.handshake:
            try:
                self.socket.do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return True
            self.handshake = False
            return self.go(None)
        if self.octets:
            self.write()
            if not self.octets:
                self.run.poll.modify(self.socket, select.EPOLLIN)
        try:
            data = self.socket.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        if not data:
            return False
        *lines, self.line = (self.line + data).split(b"\r\n")
        self.replies += [line for line in lines if line[3:4] == b" "]
        return self.go(self.replies) if len(self.replies) >= self.waiting else True


STARTTLS = object()


def dialogue(run):
    """What one connection says."""
    yield b"", 1
    yield b"EHLO load.example\r\n", 1
    if run.tls:
        yield b"STARTTLS\r\n", 1
        yield STARTTLS
        yield b"EHLO load.example\r\n", 1
    sent = 0
    while sent != run.options.per_connection and run.take():
        sent += 1
        began = time.perf_counter()
        for reply in (yield run.envelope, 3):
            if reply[:1] not in b"23":
                run.refused.append(reply.decode("utf-8", "replace"))
        if reply[:3] != b"354":
            continue
        (reply,) = yield run.body, 1
        if reply[:3] == b"250":
            run.latencies.append(time.perf_counter() - began)
        else:
            run.refused.append(reply.decode("utf-8", "replace"))
    yield b"QUIT\r\n", 1


class Run:
    """What all connections share."""

    def __init__(self, options):
        self.options, self.left, self.latencies, self.refused = options, options.messages, [], []
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
        self.poll, self.open = select.epoll(), {}

    def take(self):
        self.left -= 1
        return self.left >= 0

    def register(self, connection):
        self.open[connection.socket.fileno()] = connection
        self.poll.register(connection.socket, select.EPOLLIN)

    def connect(self):
        self.register(Connection(self))

    def go(self):
        start = time.perf_counter()
        for _ in range(min(self.options.connections, self.options.messages)):
            self.connect()
        while self.open:
            for fd, _ in self.poll.poll():
                connection = self.open[fd]
                if not connection.event():
                    del self.open[fd]
                    self.poll.unregister(connection.socket)
                    connection.socket.close()
                    if self.left > 0:
                        self.connect()
        return time.perf_counter() - start


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=10)
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--per-connection", type=int, default=-1, help="messages on a connection; -1 is no limit")
    parser.add_argument("--size", type=int, default=10240, help="octets of a message")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--requiretls", action="store_true", help="the MAIL parameter, in TLS")
    parser.add_argument("--sender", default="sender@load.example")
    parser.add_argument("--recipient", default="recipient@sink.example")
    return parser.parse_args(arguments)


def main():
    run = Run(parse())
    before = time.process_time()
    seconds = run.go()
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
                "processor": round(time.process_time() - before, 3),
                "refused": run.refused[:5],
            }
        )
    )
    return 0 if len(run.latencies) == run.options.messages else 1


if __name__ == "__main__":
    sys.exit(main())
