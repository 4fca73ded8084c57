"""Opening a session with a host at one of its addresses, with as much TLS as there is."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet import error as network
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, UNIXClientEndpoint
from twisted.internet.protocol import Factory

from requiretls_mta.message.outcome import Cause, Step
from requiretls_mta.message.reply import Reply
from requiretls_mta.relay.route import Host
from requiretls_mta.relay.settings import RelaySettings
from requiretls_mta.smtp.client import ClientSession, HandshakeError, SessionLostError
from requiretls_mta.smtp.login import log_in
from requiretls_mta.smtp.transcript import Transcript
from requiretls_mta.tls.client import Handshake
from requiretls_mta.tls.dane import authenticate
from requiretls_mta.tls.elements import DANE, Proved, TLSState

Connect = Callable[[Host, str, RelaySettings], Deferred[ClientSession]]
"""Opens a connection to a host's address; fails with Twisted's connection errors."""


@attrs.define
class Line:
    """An open session and what is known of it."""

    session: ClientSession
    host: Host
    address: str
    tls: TLSState
    source: str | None = None
    """Our own IP address in the session."""
    detail: str = ""
    """Why there is no TLS, or no authentication."""
    generation: int = 0
    logged_in: bool = False
    delays: tuple[float, float] = (0.0, 0.0)
    """Seconds that connecting and TLS took."""

    @property
    def proved(self) -> Proved | None:
        """What the host's certificate came to; None without TLS."""
        return self.proves(self.host)

    @property
    def auth(self) -> str | None:
        """How the host was authenticated: `dane-ee`, `dane-ta`, `pkix`, or not at all."""
        return self.proved.auth if self.proved else None

    def proves(self, host: Host) -> Proved | None:
        """What the certificate is worth to whoever wants this host as it was found just now; None without TLS.

        The same host may have been found for another domain, or with other TLSA records, since the session began.
        """
        facts = self.session.tls
        if facts is None or self.tls is not TLSState.ESTABLISHED:
            return None
        if host.tlsa.state is DANE.USABLE and not facts.resumed:
            return authenticate(host.tlsa, facts.chain, host.names)
        return facts.pkix

    @property
    def keyword(self) -> bool:
        """Whether the EHLO inside TLS listed REQUIRETLS."""
        return self.session.tls is not None and "REQUIRETLS" in self.session.offers


def connector(reactor: Any) -> Connect:
    """Connections over this reactor."""

    def connect(host: Host, address: str, settings: RelaySettings) -> Deferred[ClientSession]:
        timeout = settings.timeouts.connect
        if host.is_socket:
            endpoint: Any = UNIXClientEndpoint(reactor, address, timeout)
        elif ipaddress.ip_address(address).version == 6:
            bind = (settings.source_ipv6, 0) if settings.source_ipv6 else None
            endpoint = TCP6ClientEndpoint(reactor, address, host.port, timeout, bind)
        else:
            bind = (settings.source_ipv4, 0) if settings.source_ipv4 else None
            endpoint = TCP4ClientEndpoint(reactor, address, host.port, timeout, bind)
        factory = Factory.forProtocol(lambda: ClientSession(reactor))
        factory.noisy = False
        connected: Deferred[ClientSession] = endpoint.connect(factory)
        return connected

    return connect


async def dial(
    connect: Connect,
    clock: Any,
    host: Host,
    address: str,
    settings: RelaySettings,
    *,
    use_tls: bool,
    use_helo: bool,
    transcript: Transcript | None = None,
) -> Line | Cause:
    """Greeting, EHLO, and if `use_tls` STARTTLS and EHLO again; HELO where EHLO is refused only if `use_helo`.

    What stops TLS is told in the line's state; its session may have ended over it.
    """
    start = clock.seconds()
    try:
        session = await connect(host, address, settings)
    except (network.ConnectError, OSError) as error:
        return _cause(host, address, _connect_text(error))
    except Exception as error:
        return _cause(host, address, f"the connection failed: {type(error).__name__}")
    session.transcript = transcript
    source = getattr(session.transport.getHost(), "host", None)  # a UNIX socket has none
    line = Line(session, host, address, TLSState.NOT_OFFERED, source, generation=settings.generation)
    try:
        trouble = await _converse(line, settings, clock, start, use_tls=use_tls, use_helo=use_helo)
    except SessionLostError as error:
        return _cause(host, address, str(error))
    except BaseException:
        session.abort("the attempt broke off")
        raise
    if trouble is not None:
        session.quit(settings.timeouts.quit)
    return trouble or line


async def identify(line: Line, settings: RelaySettings) -> Cause | None:
    """Log in where the configuration says so; why the host cannot be used, or None when it can.

    All of it is temporary: a wrong password or certificate is for the operator to mend, and no reason to lose mail.
    """
    login = settings.logins.get(line.host.name)
    if login is None or line.logged_in:
        return None
    barred = bars_login(line, settings)
    if barred is not None:
        return barred
    try:
        reply = await log_in(line.session, login, settings.timeouts.mail)
    except SessionLostError as error:
        return _cause(line.host, line.address, f"lost while logging in: {error}")
    if reply.code != 235:
        # RFC 4954 6: whatever the code, ours is the temporary trouble of not getting in.
        meant = reply if reply.is_temporary else Reply(454, "4.7.0", reply.text)
        return _cause(line.host, line.address, f"the login was answered {reply}", meant)
    line.logged_in = True
    return None


def bars_login(line: Line, settings: RelaySettings) -> Cause | None:
    """Why the login that the configuration wants here may not even be tried; None when it may, or none is wanted."""
    if line.host.name not in settings.logins or line.auth is not None:
        return None
    return attrs.evolve(
        _cause(line.host, line.address, f"no login without authenticated TLS: {line.detail or line.tls.value}"),
        step=Step.AUTHENTICATE,
        clause="RFC 4954 4",
    )


async def _converse(
    line: Line, settings: RelaySettings, clock: Any, start: float, *, use_tls: bool, use_helo: bool
) -> Cause | None:
    session, host, timeouts = line.session, line.host, settings.timeouts
    verb = "LHLO" if host.protocol == "lmtp" else "EHLO"
    if host.protocol == "smtps" and not await _secure(line, settings):
        return None
    greeting = await session.greeting(timeouts.greeting)
    connected = clock.seconds()
    if greeting.code != 220:
        return _replied(line, greeting, "the greeting was")
    hello = await session.hello(verb, settings.hostname, timeouts.hello)
    # RFC 3207 4.2: whoever lists STARTTLS inside TLS is not believed.
    if use_tls and session.tls is None and "STARTTLS" in session.offers:
        try:
            reply = await session.command(b"STARTTLS", timeouts.hello)
        except SessionLostError as error:
            line.tls, line.detail = TLSState.UNAVAILABLE, f"STARTTLS was not answered: {error}"
            return None
        if reply.code == 220:
            if not await _secure(line, settings):
                return None
            hello = await session.hello(verb, settings.hostname, timeouts.hello)
        else:
            line.tls = TLSState.REFUSED if reply.is_permanent else TLSState.UNAVAILABLE
            line.detail = f"STARTTLS was answered {reply}"
    line.delays = (connected - start, clock.seconds() - connected)
    if hello.is_positive or hello.is_temporary:
        return None if hello.is_positive else _replied(line, hello, f"{verb} was answered")
    if verb == "LHLO":
        return _replied(line, hello, "LHLO was answered")
    if not use_helo:
        # RFC 8689 4.2.1 (3) wants EHLO; who knows only HELO promises nothing, and the judge will say so.
        line.detail = line.detail or f"EHLO was answered {hello}"
        return None
    hello = await session.hello("HELO", settings.hostname, timeouts.hello)
    return None if hello.is_positive else _replied(line, hello, "HELO was answered")


async def _secure(line: Line, settings: RelaySettings) -> bool:
    """The handshake; False when it came to nothing and the connection is gone."""
    try:
        handshake = Handshake(settings.context, line.host.name, line.host.server_name)
        await line.session.start_tls(handshake, settings.timeouts.handshake)
    except HandshakeError as error:
        line.tls, line.detail = TLSState.HANDSHAKE_FAILED, str(error)
        if line.session.transcript is not None:
            line.session.transcript.note(f"the TLS handshake failed: {error}")
        return False
    except SessionLostError as error:
        # It took too long: that may be the network's fault, so a tagged message is not given up for it.
        line.tls, line.detail = TLSState.UNAVAILABLE, str(error)
        return False
    line.tls = TLSState.ESTABLISHED
    line.detail = line.proved.detail if line.proved and line.auth is None else ""
    if line.session.transcript is not None:
        line.session.transcript.note(f"authenticated: {line.auth or f'no, {line.detail}'}")
    return True


def _replied(line: Line, reply: Reply, what: str) -> Cause:
    detail = f"{what} {reply}"
    return _cause(line.host, line.address, detail, reply, temporary=not reply.is_permanent)


def _cause(host: Host, address: str, detail: str, reply: Reply | None = None, *, temporary: bool = True) -> Cause:
    return Cause(
        host=host.name,
        address=None if host.is_socket else f"{address}:{host.port}",
        step=Step.CONNECT,
        detail=detail,
        temporary=temporary,
        reply=reply,
        clause="RFC 5321 5.1",
    )


def _connect_text(error: Exception) -> str:
    if isinstance(error, network.ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, network.TimeoutError):
        return "the connection timed out"
    reason = getattr(error, "osError", None) or getattr(error, "string", None) or error
    return f"the connection failed: {reason}"
