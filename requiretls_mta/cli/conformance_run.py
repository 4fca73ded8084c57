"""Running the checks: a fresh connection for each dialogue, few of them, and none in haste."""

from __future__ import annotations

import base64
import ipaddress
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs
from OpenSSL import SSL

from requiretls_mta.cli.conformance_rules import (
    Answer,
    Check,
    Finding,
    Kind,
    Say,
    Seen,
    Start,
    Verdict,
)
from requiretls_mta.cli.conformance_wire import Broken, Wire
from requiretls_mta.cli.message import prepare
from requiretls_mta.message.profile import Profile
from requiretls_mta.message.reply import quote
from requiretls_mta.smtp.client_replies import Heard
from requiretls_mta.tls.client import Handshake
from requiretls_mta.tls.facts import ClientTLS

PAUSES = (5.0, 20.0, 60.0)
"""Seconds to wait when the server wants no more connections now; each once in a run."""
_BUDGET = 40
"""The whole run takes no longer than so many time limits of one reply."""
_REASONS = {
    "implicit": "TLS comes first here: nothing is said in the clear",
    "lmtp": "LMTP has no HELO",
    "quiet": "no message is sent without --deliver",
}
_TEXT = b"""\
Subject: REQUIRETLS conformance test

This message was sent to %s by requiretls-mta conformance (--deliver).
Its MAIL command said REQUIRETLS, and its header says TLS-Required: No.
RFC 8689 4.1: the field is ignored then, and TLS is required on every hop.
"""


class Unreachable(Exception):
    """There is no connection to be had; the text says why."""


@attrs.frozen(kw_only=True)
class Target:
    """The server, and how to talk to it."""

    host: str
    port: int
    helo: str
    sender: str
    recipient: str
    context: SSL.Context
    """With the trusted roots."""
    name: str
    """The name that the certificate should bear: A-labels, an IP address or a literal."""
    deliver: str | None = None
    """Whom to send a message; None: none is sent."""
    lmtp: bool = False
    implicit: bool = False
    login: tuple[str, str] | None = attrs.field(default=None, repr=False)
    """User and password."""
    timeout: float = 30.0
    """Seconds for one reply."""


class Run:
    """One run against one server; dialogues that several checks judge are held once."""

    def __init__(
        self,
        target: Target,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._target, self._monotonic, self._sleep = target, monotonic, sleep
        self._end = monotonic() + _BUDGET * target.timeout
        self._pauses = list(PAUSES)
        self._names = _names(target, wall())
        self._dialogues: dict[tuple[Start, tuple[Say, ...]], Seen] = {}
        self._address: tuple[str, int] | None = None
        self._found: dict[str, tuple[Check, Finding]] = {}

    def checks(self, checks: Sequence[Check]) -> Iterator[Finding]:
        """Make the checks in their order; raises `Unreachable` when the very first connection fails."""
        for check in checks:
            finding = self._finding(check)
            self._found[check.id] = (check, finding)
            yield finding

    def _finding(self, check: Check) -> Finding:
        for circumstance, holds in (
            ("implicit", self._target.implicit),
            ("lmtp", self._target.lmtp),
            ("quiet", self._target.deliver is None),
        ):
            if holds and circumstance in check.unless:
                return Finding(Verdict.NOT_TESTED, _REASONS[circumstance])
        for need in check.needs:
            needed, found = self._found[need]
            if found.verdict is Verdict.FAIL:
                return Finding(Verdict.NOT_TESTED, f"it needs what failed: {needed.title}")
            if found.verdict is Verdict.NOT_TESTED:
                return found
        key = (check.start, check.script)
        if key not in self._dialogues:
            self._dialogues[key] = self._patiently(*key)
        seen = self._dialogues[key]
        # A start that did not come about is judged only by checks that have nothing else to judge.
        if not seen.started and check.script and check.start is not Start.GREETED:
            return Finding(Verdict.NOT_TESTED, seen.why)
        return check.judge(seen)

    def _patiently(self, start: Start, script: tuple[Say, ...]) -> Seen:
        """Hold a dialogue; again after a pause where the server wants no more connections now."""
        while True:
            seen = self._hold(start, script)
            busy = not seen.started and seen.trouble is not None and seen.trouble.kind is Kind.BUSY
            if not (busy and self._pauses) or self._monotonic() + self._pauses[0] > self._end:
                return seen
            self._sleep(self._pauses.pop(0))

    def _hold(self, start: Start, script: tuple[Say, ...]) -> Seen:
        answers: list[Answer] = []
        dialogue: _Dialogue | None = None
        started = False
        try:
            dialogue = _Dialogue(self._target, self._connect())
            dialogue.begin(start, self._names)
            started = True
            for say in script:
                if say.only_after and not str(answers[-1].code).startswith(say.only_after):
                    break
                answers.append(dialogue.say(say, self._names))
                if say.starts_tls:
                    if answers[-1].code != 220:
                        break
                    dialogue.shake_hands()
        except Broken as broken:
            tls = dialogue.tls if dialogue else None
            return Seen(answers=tuple(answers), started=started, tls=tls, trouble=broken.trouble)
        else:
            # Behind 220 comes a handshake, behind 354 a message, behind 221 nothing.
            if not answers or answers[-1].code not in (220, 221, 354):
                dialogue.wire.quit()
            return Seen(answers=tuple(answers), tls=dialogue.tls)
        finally:
            if dialogue is not None:
                dialogue.wire.close()

    def _connect(self) -> Wire:
        if self._monotonic() >= self._end:
            raise Broken(Kind.BUSY, "the time for this run is over")
        target = self._target
        try:
            connection = socket.create_connection(self._address or (target.host, target.port), target.timeout)
            # All checks are of one server, whatever else its name leads to.
            self._address = connection.getpeername()[:2]
        except OSError as error:
            reason = error.strerror or str(error) or type(error).__name__
            if self._address is None:
                raise Unreachable(f"{target.host}:{target.port}: {reason}") from error
            raise Broken(Kind.BUSY, f"no further connection: {reason}") from error
        return Wire(connection, timeout=target.timeout, end=self._end, monotonic=self._monotonic)


class _Dialogue:
    """One connection, from its greeting on."""

    def __init__(self, target: Target, wire: Wire) -> None:
        self._target, self.wire = target, wire
        self.tls: ClientTLS | None = None

    def begin(self, start: Start, names: Mapping[str, str]) -> None:
        """Bring the connection to where the script begins; raises `Broken`."""
        context = _old_context() if start is Start.OLD_TLS else self._target.context
        if self._target.implicit:
            self.shake_hands(context)
        _wanted(220, self.wire.hear(), "greeting")
        if start is Start.GREETED:
            return
        if not self._target.implicit:
            _wanted(250, self.say(Say("{ehlo}"), names).heard, names["ehlo"])
            heard = self.say(Say("STARTTLS"), names).heard
            if heard.reply.code != 220:
                kind = Kind.REFUSED if heard.reply.is_temporary else Kind.NO_TLS
                raise Broken(kind, f"STARTTLS: {heard.reply}")
            self.shake_hands(context)
        if start is Start.READY:
            _wanted(250, self.say(Say("{ehlo}"), names).heard, names["ehlo"])
            if self._target.login is not None:
                self._log_in(*self._target.login)

    def say(self, say: Say, names: Mapping[str, str]) -> Answer:
        """Say it and hear the reply; raises `Broken`."""
        self.wire.send(say.line(names))
        shown = say.text.partition("\r\n")[0].format_map({**names, "message": "the message"})
        return Answer(quote(shown), self.wire.hear())

    def shake_hands(self, context: SSL.Context | None = None) -> None:
        """TLS from here on."""
        self.tls = self.wire.start_tls(Handshake(context or self._target.context, self._target.name))

    def _log_in(self, user: str, password: str) -> None:
        assert self.tls is not None
        if self.tls.pkix.auth is None and not _is_loopback(self._target.host):
            raise Broken(Kind.REFUSED, f"no password is sent to who is not authenticated: {self.tls.pkix.detail}")
        token = base64.b64encode(f"\0{user}\0{password}".encode())
        self.wire.send(b"AUTH PLAIN " + token + b"\r\n")
        heard = self.wire.hear()
        if heard.reply.code != 235:
            raise Broken(Kind.REFUSED, f"AUTH PLAIN: {heard.reply}")


def _wanted(code: int, heard: Heard, what: str) -> None:
    if heard.reply.code != code:
        raise Broken(Kind.BUSY if heard.reply.is_temporary else Kind.REFUSED, f"{what}: {heard.reply}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _old_context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_VERSION)
    context.set_max_proto_version(SSL.TLS1_1_VERSION)
    # OpenSSL 3 signs nothing so old at its ordinary level.
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    return context


def _names(target: Target, now: float) -> dict[str, str]:
    names = {
        "ehlo": f"{'LHLO' if target.lmtp else 'EHLO'} {target.helo}",
        "name": target.helo,
        "mail": f"MAIL FROM:<{target.sender}>",
        "rcpt": f"RCPT TO:<{target.recipient}>",
    }
    if target.deliver is not None:
        message = prepare(
            _TEXT % target.deliver.encode("ascii"),
            sender=target.sender,
            recipients=[target.deliver],
            now=now,
            tls_optional=Profile.RFC8689,
        )
        names["deliver"] = f"RCPT TO:<{target.deliver}>"
        # The script puts the last line break and the dot behind it; no line of this text begins with one.
        names["message"] = message.decode("ascii").removesuffix("\r\n")
    return names
