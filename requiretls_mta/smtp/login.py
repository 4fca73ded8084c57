"""Logging in at a server (RFC 4954), as its client. Only ever inside TLS that authenticated the server."""

from __future__ import annotations

import base64

import attrs

from requiretls_mta.message.reply import Reply
from requiretls_mta.smtp.client import ClientSession
from requiretls_mta.smtp.transcript import HIDDEN

_LINE = 510
"""Octets of a command line without its CRLF (RFC 5321 4.5.3.1.4); longer responses wait for the server's word."""
_NO_MECHANISM = Reply(504, "5.5.4", "the host offers neither AUTH PLAIN nor AUTH LOGIN")


@attrs.frozen
class Login:
    """Who we are to a host."""

    user: str
    password: bytes = attrs.field(repr=False)


async def log_in(session: ClientSession, login: Login, timeout: float) -> Reply:
    """Say who we are; 235 when the host agrees. Raises `SessionLostError`.

    The caller has seen to it that the session's TLS authenticated the host.
    """
    mechanisms = {word.upper() for word in session.offers.get("AUTH", ())}
    if "PLAIN" in mechanisms:
        return _discreet(await _plain(session, login, timeout), login)
    if "LOGIN" in mechanisms:
        return _discreet(await _by_prompts(session, login, timeout), login)
    return _NO_MECHANISM


def _discreet(reply: Reply, login: Login) -> Reply:
    """The reply, which goes into log and report, without a text that repeats the password in one of its forms."""
    forms = (login.password, base64.b64encode(login.password), _response(login))
    if any(form.decode("utf-8", "backslashreplace") in reply.text for form in forms if form):
        return reply.with_text("(its text repeats what it was told)")
    return reply


async def _plain(session: ClientSession, login: Login, timeout: float) -> Reply:
    """RFC 4616."""
    response = _response(login)
    line = b"AUTH PLAIN " + response
    if len(line) <= _LINE:
        return await session.confide(line, timeout, b"AUTH PLAIN " + HIDDEN)
    reply = await session.command(b"AUTH PLAIN", timeout)
    return await session.confide(response, timeout) if reply.code == 334 else reply


def _response(login: Login) -> bytes:
    return base64.b64encode(b"\0" + login.user.encode("utf-8") + b"\0" + login.password)


async def _by_prompts(session: ClientSession, login: Login, timeout: float) -> Reply:
    """AUTH LOGIN: user and password, each asked for; what the prompts say does not matter."""
    reply = await session.command(b"AUTH LOGIN", timeout)
    for answer in (login.user.encode("utf-8"), login.password):
        if reply.code != 334:
            return reply
        reply = await session.confide(base64.b64encode(answer), timeout)
    return reply
