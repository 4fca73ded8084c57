"""Policies over HTTPS (RFC 8461 3.3): one GET to the policy host, which must be who it says before it hears it.

Nothing is followed, kept or sent along: no redirect, no cache, no cookie, no proxy. Addresses come from our resolver.
Whatever the host does, a fetch ends in time and holds little memory.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import attrs
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError, ConnectionClosed, ConnectionDone
from twisted.internet.interfaces import IHandshakeListener, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.client import Agent, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from requiretls_mta.dns.answer import Answer, Resolver
from requiretls_mta.message.reply import quote
from requiretls_mta.tls.client import Handshake
from requiretls_mta.tls.elements import Proof, Proved
from requiretls_mta.tls.mta_sts import HOST, MOST_OCTETS

FETCH_ERROR = "sts-policy-fetch-error"
WEBPKI_INVALID = "sts-webpki-invalid"
DEADLINE = 60.0
"""Seconds for a whole fetch (RFC 8461 3.3), and at most as many to wait for its turn."""
CONNECT_TIMEOUT = 10.0
"""Seconds for one address."""
MOST_ADDRESSES = 3
"""Of each family that are tried."""
MOST_FETCHES = 50
"""Under way at once; the others wait for their turn."""
MOST_RECEIVED = 2 * MOST_OCTETS
"""Octets of a whole response with its header."""
_PATH = "/.well-known/mta-sts.txt"


@attrs.frozen(kw_only=True)
class FetchFailure:
    """Why there is no policy."""

    result: str
    """Result type of RFC 8460 4.3."""
    detail: str
    """For a person; escaped."""
    asked: bool = True
    """False: there were so many fetches under way that the host was never asked."""


class _TroubleError(Exception):
    def __init__(self, detail: str, result: str = FETCH_ERROR) -> None:
        super().__init__(detail)
        self.result = result


class PolicyHosts:
    """Fetches what policy hosts serve."""

    def __init__(
        self, reactor: Any, resolver: Resolver, context: Callable[[], SSL.Context], *, port: int = 443
    ) -> None:
        """`context` is `tls.client.client_context`'s, with the roots for policy hosts."""
        self._reactor = reactor
        self._resolver = resolver
        self._context = context
        self._port = port
        self._turns = DeferredSemaphore(MOST_FETCHES)

    def fetch(self, domain: str) -> Deferred[bytes | FetchFailure]:
        """The octets served for a policy domain (A-labels, lower case), unread. Fails only when it is cancelled."""
        return Deferred.fromCoroutine(self._in_turn(f"{HOST}.{domain}"))

    async def _in_turn(self, host: str) -> bytes | FetchFailure:
        turn: Deferred[Any] = self._turns.acquire()
        if await turn.addTimeout(DEADLINE, self._reactor, lambda _, __: None) is None:
            detail = f"{MOST_FETCHES} fetches are under way already"
            return FetchFailure(result=FETCH_ERROR, detail=detail, asked=False)
        late = FetchFailure(result=FETCH_ERROR, detail=f"{host} did not answer within {DEADLINE:g} s")
        try:
            fetch = _Fetch(self._reactor, self._resolver, self._context, host, self._port)
            return await Deferred.fromCoroutine(fetch.run()).addTimeout(DEADLINE, self._reactor, lambda _, __: late)
        finally:
            self._turns.release()


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class _Fetch:
    """One request to one policy host; also the endpoint by which the agent reaches it."""

    def __init__(
        self, reactor: Any, resolver: Resolver, context: Callable[[], SSL.Context], host: str, port: int
    ) -> None:
        self._reactor = reactor
        self._resolver = resolver
        self._context = context
        self._host = host
        self._port = port
        self._connection: _Connection | None = None

    async def run(self) -> bytes | FetchFailure:
        try:
            return await self._get()
        except _TroubleError as trouble:
            return FetchFailure(result=trouble.result, detail=str(trouble))
        except CancelledError:
            raise
        except Exception as error:
            # The agent wraps what went wrong, and its parsers raise what they like about hostile octets.
            connection = self._connection
            why = (connection and connection.trouble) or f"the response cannot be read ({type(error).__name__})"
            return FetchFailure(result=FETCH_ERROR, detail=why)
        finally:
            if self._connection is not None:
                self._connection.abort()

    async def _get(self) -> bytes:
        agent = Agent.usingEndpointFactory(self._reactor, self)
        uri = f"https://{self._host}{_PATH}".encode("ascii")
        response: Any = await agent.request(b"GET", uri, Headers({b"User-Agent": [b"requiretls-mta"]}))
        if response.code != 200:
            raise _TroubleError(f"{self._host} answered with HTTP status {response.code}")
        types = response.headers.getRawHeaders(b"Content-Type", [])
        if len(types) != 1 or types[0].partition(b";")[0].strip(b" \t").lower() != b"text/plain":
            # RFC 8461 3.2, 10.3: whoever may put pages there may not put policies.
            raise _TroubleError(f"the media type is {quote(b', '.join(types)) or 'missing'}, not text/plain")
        body = _Body()
        response.deliverBody(body)
        octets = await body.whole
        if body.until_close and self._connection is not None and not self._connection.ended_well:
            raise _TroubleError("the policy broke off")
        if len(octets) > MOST_OCTETS:
            raise _TroubleError(f"the policy has more than {MOST_OCTETS} octets")
        return octets

    # --- the agent's endpoint

    def endpointForURI(self, uri: Any) -> _Fetch:
        return self

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: Any) -> Any:
        last = "no address answers"
        for address in await self._addresses():
            handshake = Handshake(self._context(), self._host)
            connection = _Connection(handshake, factory)
            try:
                wrapped = TLSMemoryBIOFactory(handshake, True, _once(connection))
                wrapped.noisy = False
                await self._endpoint(address).connect(wrapped)
            except (ConnectError, OSError) as error:
                last = f"{address}: {quote(str(error))}"
                continue
            self._connection = connection
            return await connection.secured
        raise _TroubleError(f"{self._host} cannot be reached: {last}")

    def _endpoint(self, address: str) -> TCP4ClientEndpoint | TCP6ClientEndpoint:
        six = ipaddress.ip_address(address).version == 6
        kind = TCP6ClientEndpoint if six else TCP4ClientEndpoint
        return kind(self._reactor, address, self._port, CONNECT_TIMEOUT)

    async def _addresses(self) -> list[str]:
        answers: list[Answer] = await gatherResults(
            [self._resolver.resolve(self._host, rdtype) for rdtype in ("AAAA", "A")], consumeErrors=True
        )
        records: list[Any] = [record for answer in answers for record in answer.records[:MOST_ADDRESSES]]
        found: list[str] = [record.address for record in records]
        if not found:
            failed = next((answer for answer in answers if answer.is_failure), None)
            why = f"cannot be looked up: {failed.detail or failed.rcode}" if failed else "has no address"
            raise _TroubleError(f"{self._host} {why}")
        return found


@implementer(IHandshakeListener)
class _Connection(Protocol):
    """Stands between TLS and HTTP: HTTP begins when the certificate is good, and ends when too much comes."""

    def __init__(self, handshake: Handshake, factory: Any) -> None:
        self.secured: Deferred[Any] = Deferred(lambda _: self.abort())
        """Fires with the HTTP protocol, or fails with the trouble."""
        self.trouble = ""
        """Why we gave the connection up."""
        self.ended_well = False
        """Whether the host said, inside TLS, that nothing more comes: nobody cut the response short."""
        self._handshake = handshake
        self._factory = factory
        self._http: Any = None
        self._received = 0
        self._over = False

    def handshakeCompleted(self) -> None:
        transport: Any = self.transport
        try:
            proved = self._handshake.facts(transport.getHandle()).pkix
        except Exception as error:
            # Certificates are the peer's octets, and readers of them differ in what they take.
            proved = Proved(Proof.UNTRUSTED, f"the certificate cannot be read: {quote(str(error))}")
        if proved.proof is not Proof.PKIX:
            self.abort()
            self._fail(_TroubleError(f"the policy host's certificate: {proved.detail}", WEBPKI_INVALID))
            return
        self._http = self._factory.buildProtocol(transport.getPeer())
        self._http.makeConnection(transport)
        self.secured.callback(self._http)

    def dataReceived(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > MOST_RECEIVED:
            self._give_up(f"the response has more than {MOST_RECEIVED} octets")
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
        self._fail(_TroubleError(f"the TLS handshake failed: {why}"))

    def abort(self) -> None:
        transport: Any = self.transport
        if transport is not None and not self._over:
            transport.abortConnection()

    def _give_up(self, why: str) -> None:
        self.trouble = self.trouble or why
        self.abort()

    def _fail(self, trouble: _TroubleError) -> None:
        if not self.secured.called:
            self.secured.errback(trouble)


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
