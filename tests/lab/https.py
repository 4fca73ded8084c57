"""A policy host for many domains on a loopback address, in threads of its own; it answers as told, or misbehaves.

server = PolicyServer("127.0.0.61", 443, ca)
server.serve("good.test", policy("mx.good.test"))
server.serve("away.test", status="301 Moved", headers=["Location: https://elsewhere.test/"])
"""

import os
import socket
import ssl
import time
import warnings

import attrs
import pytest

from tests.lab.ca import HostFiles
from tests.threaded import ThreadedServer


def policy(*mx, mode="enforce", max_age=86400, end="\r\n"):
    """The text of a policy."""
    lines = ["version: STSv1", f"mode: {mode}", *(f"mx: {pattern}" for pattern in mx), f"max_age: {max_age}"]
    return "".join(line + end for line in lines).encode()


@attrs.define(kw_only=True)
class Page:
    """What is served for one domain."""

    body: bytes = b""
    status: str = "200 OK"
    headers: list[str] = attrs.field(factory=list)
    media_type: str | None = "text/plain; charset=utf-8"
    files: HostFiles | None = None
    """A certificate of its own; None: a good one of the server's CA."""
    framing: str = "length"
    """`length`, `chunked`, `close` (close_notify tells the end) or `cut` (the connection just ends)."""
    raw: bytes | None = None
    """The whole response, in place of all above."""
    drip: float = 0.0
    """Seconds before each octet."""
    silent: bool = False
    """It never answers."""

    def octets(self) -> bytes:
        """The response."""
        if self.raw is not None:
            return self.raw
        head = [f"HTTP/1.1 {self.status}", *self.headers]
        body = self.body
        if self.media_type is not None:
            head.append(f"Content-Type: {self.media_type}")
        if self.framing == "length":
            head.append(f"Content-Length: {len(body)}")
        elif self.framing == "chunked":
            head.append("Transfer-Encoding: chunked")
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        return "\r\n".join([*head, "", ""]).encode() + body


class PolicyServer(ThreadedServer):
    """Listens at once; `requests` keeps (name asked for in SNI, octets of the request)."""

    def __init__(self, address, port, ca):
        self.ca, self.requests = ca, []
        self.only = None  # the only TLS version, if not any good one
        self._pages, self._contexts = {}, {}
        super().__init__(address, port)

    def serve(self, domain, body=b"", **options):
        """Serve a page at mta-sts.DOMAIN, from now on."""
        host = f"mta-sts.{domain}"
        page = Page(body=body, **options)
        files = page.files or self.ca.host(host)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.chain, files.key)
        self._pages[host], self._contexts[host] = page, context

    def count(self, domain):
        """How often that domain's policy was asked for."""
        return sum(name == f"mta-sts.{domain}" for name, _ in self.requests)

    def talk(self, connection):
        """One request."""
        connection.settimeout(10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        asked = []

        def choose(tls, name, _):
            asked.append(name)
            if name not in self._contexts:
                return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
            tls.context = self._contexts[name]
            return None

        first = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if self.only is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                first.minimum_version = first.maximum_version = self.only
            first.set_ciphers("ALL:@SECLEVEL=0")
        first.sni_callback = choose
        with first.wrap_socket(connection, server_side=True) as tls:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                octets = tls.recv(4096)
                if not octets:
                    return
                request += octets
            self.requests.append((asked[-1], request))
            page = self._pages[asked[-1]]
            if page.silent:
                self.over.wait(10)
            elif page.drip:
                for octet in page.octets():
                    if self.over.wait(page.drip):
                        return
                    tls.sendall(bytes([octet]))
            else:
                tls.sendall(page.octets())
            if page.framing == "close":
                tls.unwrap()
            elif page.framing != "cut":
                time.sleep(0.05)


def policy_server(ca):
    """A `PolicyServer` at a loopback address of its own where the world looks for one, port 443; else a skip."""
    for number in range(1, 255):
        try:
            return PolicyServer(f"127.0.44.{number}", 443, ca)
        except PermissionError:
            why = "port 443 needs root or CAP_NET_BIND_SERVICE"
            pytest.fail(f"{why}, and REQUIRE_ALL=1") if os.environ.get("REQUIRE_ALL") == "1" else pytest.skip(why)
        except OSError:
            continue
    raise RuntimeError("port 443 is taken at all of 127.0.44.0/24")
