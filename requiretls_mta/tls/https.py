"""HTTPS towards strangers: one request to a host that must prove its name before it hears it.

Nothing is followed, kept or sent along: no redirect, no cache, no cookie, no proxy. Addresses come from our resolver.
Whatever the host does, a request holds little memory; time is the caller's to bound, by cancelling.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred, gatherResults, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError, ConnectionClosed, ConnectionDone
from twisted.internet.interfaces import IConsumer, IHandshakeListener, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.client import Agent, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer
from zope.interface import implementer

from requiretls_mta.dns.answer import Answer, Resolver
from requiretls_mta.message.reply import quote
from requiretls_mta.tls.client import Handshake
from requiretls_mta.tls.elements import Proof, Proved

CONNECT_TIMEOUT = 10.0
"""Seconds for one address."""
MOST_ADDRESSES = 3
"""Of each family that are tried."""


class HTTPSError(Exception):
    """There is no response; the message says why, escaped."""

    def __init__(self, detail: str, *, untrusted: bool = False) -> None:
        super().__init__(detail)
        self.untrusted = untrusted
        """Whether the host could not prove its name."""


@attrs.frozen(kw_only=True)
class Request:
    """What is asked of whom."""

    method: bytes
    uri: str
    """The whole of it; ASCII, without a fragment."""
    host: str
    """The name in it."""
    port: int = 443
    headers: Mapping[bytes, bytes] = attrs.field(factory=dict)
    body: bytes | None = None
    limit: int
    """Octets of the response's body. Zero: it is not waited for."""


@attrs.frozen(kw_only=True)
class Response:
    """What was answered."""

    code: int
    headers: Headers
    body: bytes
    """At most the request's limit, and one octet where there is more."""


class HTTPS:
    """A client. `context` is `tls.client.client_context`'s, with the roots to go by."""

    def __init__(self, reactor: Any, resolver: Resolver, context: Callable[[], SSL.Context]) -> None:
        self._reactor = reactor
        self._resolver = resolver
        self._context = context

    def request(self, request: Request) -> Deferred[Response]:
        """The response; fails with `HTTPSError`, or with CancelledError when it is cancelled."""
        exchange = _Exchange(self._reactor, self._resolver, self._context(), request)
        return Deferred.fromCoroutine(exchange.run())


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class _Exchange:
    """One request; also the endpoint by which the agent reaches the host."""

    def __init__(self, reactor: Any, resolver: Resolver, context: SSL.Context, request: Request) -> None:
        self._reactor = reactor
        self._resolver = resolver
        self._context = context
        self._request = request
        self._connection: _Connection | None = None

    async def run(self) -> Response:
        try:
            return await self._exchange()
        except (HTTPSError, CancelledError):
            raise
        except Exception as error:
            # The agent wraps what went wrong, and its parsers raise what they like about hostile octets.
            if any(reason.check(CancelledError) for reason in getattr(error, "reasons", ())):
                raise CancelledError from error
            connection = self._connection
            why = (connection and connection.trouble) or f"the response cannot be read ({type(error).__name__})"
            raise HTTPSError(why) from error
        finally:
            if self._connection is not None:
                self._connection.abort()

    async def _exchange(self) -> Response:
        asked = self._request
        agent = Agent.usingEndpointFactory(self._reactor, self)
        headers = Headers({b"User-Agent": [b"requiretls-mta"]})
        for name, value in asked.headers.items():
            headers.setRawHeaders(name, [value])
        body = None if asked.body is None else _Octets(asked.body)
        response: Any = await agent.request(asked.method, asked.uri.encode("ascii"), headers, body)
        octets = b""
        if asked.limit:
            collected = _Body()
            response.deliverBody(collected)
            octets = await collected.whole
            if collected.until_close and self._connection is not None and not self._connection.ended_well:
                raise HTTPSError("the response broke off")
        return Response(code=response.code, headers=response.headers, body=octets[: asked.limit + 1])

    # --- the agent's endpoint

    def endpointForURI(self, uri: Any) -> _Exchange:
        return self

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: Any) -> Any:
        last = "no address answers"
        for address in await self._addresses():
            handshake = Handshake(self._context, self._request.host)
            connection = _Connection(handshake, self._request.host, factory, 2 * self._request.limit + 65536)
            try:
                wrapped = TLSMemoryBIOFactory(handshake, True, _once(connection))
                wrapped.noisy = False
                await self._endpoint(address).connect(wrapped)
            except (ConnectError, OSError) as error:
                last = f"{address}: {quote(str(error))}"
                continue
            self._connection = connection
            return await connection.secured
        raise HTTPSError(f"{self._request.host} cannot be reached: {last}")

    def _endpoint(self, address: str) -> TCP4ClientEndpoint | TCP6ClientEndpoint:
        six = ipaddress.ip_address(address).version == 6
        kind = TCP6ClientEndpoint if six else TCP4ClientEndpoint
        return kind(self._reactor, address, self._request.port, CONNECT_TIMEOUT)

    async def _addresses(self) -> list[str]:
        answers: list[Answer] = await gatherResults(
            [self._resolver.resolve(self._request.host, rdtype) for rdtype in ("AAAA", "A")], consumeErrors=True
        )
        records: list[Any] = [record for answer in answers for record in answer.records[:MOST_ADDRESSES]]
        found: list[str] = [record.address for record in records]
        if not found:
            failed = next((answer for answer in answers if answer.is_failure), None)
            why = f"cannot be looked up: {failed.detail or failed.rcode}" if failed else "has no address"
            raise HTTPSError(f"{self._request.host} {why}")
        return found


@implementer(IHandshakeListener)
class _Connection(Protocol):
    """Stands between TLS and HTTP: HTTP begins when the certificate is good, and ends when too much comes."""

    def __init__(self, handshake: Handshake, host: str, factory: Any, limit: int) -> None:
        self.secured: Deferred[Any] = Deferred(lambda _: self.abort())
        """Fires with the HTTP protocol, or fails with the trouble."""
        self.trouble = ""
        """Why we gave the connection up."""
        self.ended_well = False
        """Whether the host said, inside TLS, that nothing more comes: nobody cut the response short."""
        self._handshake = handshake
        self._host = host
        self._factory = factory
        self._limit = limit
        self._http: Any = None
        self._received = 0
        self._over = False

    def handshakeCompleted(self) -> None:
        transport: Any = self.transport
        try:
            proved = self._handshake.facts(transport.getHandle()).pkix
        except Exception as error:
            # Certificates are the peer's octets, and readers of them differ in what they take.
            proved = Proved(Proof.UNTRUSTED, f"it cannot be read: {quote(str(error))}")
        if proved.proof is not Proof.PKIX:
            self.abort()
            self._fail(HTTPSError(f"the certificate of {self._host}: {proved.detail}", untrusted=True))
            return
        self._http = self._factory.buildProtocol(transport.getPeer())
        self._http.makeConnection(transport)
        self.secured.callback(self._http)

    def dataReceived(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > self._limit:
            self._give_up(f"the response has more than {self._limit} octets")
        elif self._http is not None:
            try:
                self._http.dataReceived(data)
            except Exception as error:
                # twisted.web meets an unknown Transfer-Encoding with a KeyError, and so on.
                self._give_up(f"the response cannot be read: {quote(repr(error))}")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._over = True
        self.ended_well = reason.check(ConnectionDone) is not None
        if self._http is not None:
            self._http.connectionLost(reason)
            return
        why = "the connection was closed" if reason.check(ConnectionClosed) else quote(str(reason.value))
        self._fail(HTTPSError(f"the TLS handshake failed: {why}"))

    def abort(self) -> None:
        transport: Any = self.transport
        if transport is not None and not self._over:
            transport.abortConnection()

    def _give_up(self, why: str) -> None:
        self.trouble = self.trouble or why
        self.abort()

    def _fail(self, trouble: HTTPSError) -> None:
        if not self.secured.called:
            self.secured.errback(trouble)


@implementer(IBodyProducer)
class _Octets:
    """A request's body that is in memory."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self.length = len(octets)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._octets)
        return succeed(None)

    def stopProducing(self) -> None:
        pass

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass


class _Body(Protocol):
    """Collects a response's body; the connection sees to its size."""

    def __init__(self) -> None:
        self.whole: Deferred[bytes] = Deferred()
        self.until_close = False
        """Whether nothing but the connection's end told the body's."""
        self._pieces: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        self._pieces.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.until_close = reason.check(PotentialDataLoss) is not None
        if self.whole.called:
            return
        if self.until_close or reason.check(ResponseDone):
            self.whole.callback(b"".join(self._pieces))
        else:
            self.whole.errback(reason)


def _once(protocol: Protocol) -> Any:
    factory = Factory.forProtocol(lambda: protocol)
    factory.noisy = False
    return factory
