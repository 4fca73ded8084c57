"""One look-up: which server is asked when, and whose word counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import attrs
import dns.edns
import dns.name
import dns.rdatatype
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from requiretls_mta.dns import wire
from requiretls_mta.dns.answer import Answer, Status
from requiretls_mta.dns.exchange import Exchanges, Trouble
from requiretls_mta.dns.settings import Server, Settings, show_server

FEWEST_SLICES = 3  # a silent server gets at most a third of the time before the next one is asked
# Of several failures the one that is told: REFUSED only where nobody had anything better to say, for it alone
# is no temporary condition to some callers (RFC 8904 2).
WORTH = {"REFUSED": 0, "NETWORK": 1, "TIMEOUT": 2, "MALFORMED": 3}

ANSWERS = frozenset({"NOERROR", "NXDOMAIN"})

log = Logger()
T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Result:
    """What a look-up ends with."""

    answer: Answer
    size: int = 0
    """Octets of the reply behind it."""


class Lookup:
    """Asks the servers in turn until one gives a usable answer or the time is over.

    A silent server is not given up when the next one is asked: its reply still counts when it comes, and with no other
    server left it is asked again.
    """

    def __init__(
        self,
        exchanges: Exchanges,
        clock: IReactorTime,
        settings: Settings,
        *,
        servers: Sequence[Server],
        name: dns.name.Name,
        rdtype: dns.rdatatype.RdataType,
        note: Callable[[Server, wire.Unusable | None], None],
    ) -> None:
        """`note` hears of each unusable packet of a server, and None for a server that kept silent."""
        self.done: Deferred[Result] = Deferred(lambda _: self._stop())
        self._exchanges = exchanges
        self._clock = clock
        self._settings = settings
        self._servers = tuple(servers)
        self._name = name
        self._rdtype = rdtype
        self._note = note
        self._turn = 0
        self._failed: dict[Server, wire.Reply | Trouble] = {}
        self._under_way: dict[Deferred[Any], Server] = {}
        self._malformed: set[Server] = set()
        self._over = False
        self._slice: IDelayedCall | None = None
        self._end: IDelayedCall | None = None

    def start(self) -> None:
        """Ask the first server."""
        self._end = self._clock.callLater(self._settings.timeout, self._out_of_time)
        self._ask_next()

    def _ask_next(self) -> None:
        for _ in self._servers:
            server = self._servers[self._turn % len(self._servers)]
            self._turn += 1
            if server not in self._failed:
                break
        else:
            return
        self._cancel(self._slice)
        share = self._settings.timeout / max(FEWEST_SLICES, len(self._servers))
        self._slice = self._clock.callLater(share, self._silent, server)
        self._begin(server, self._asked, unchecked=False)

    def _silent(self, server: Server) -> None:
        self._note(server, None)
        self._ask_next()

    def _begin(
        self, server: Server, then: Callable[[wire.Reply | Trouble | None, Server], None], unchecked: bool
    ) -> None:
        running = Deferred.fromCoroutine(
            self._exchanges.ask(
                server,
                self._name,
                self._rdtype,
                checking_disabled=unchecked,
                note=lambda why: self._heard(server, why),
            )
        )
        self._under_way[running] = server
        running.addBoth(self._gone, running).addErrback(_no_reply).addCallback(then, server)
        running.addErrback(lambda failure: log.failure("DNS look-up: a mistake of ours", failure=failure))

    def _gone(self, result: T, running: Deferred[Any]) -> T:
        self._under_way.pop(running, None)
        return result

    def _asked(self, reply: wire.Reply | Trouble | None, server: Server) -> None:
        if reply is None or self._over:
            return
        if isinstance(reply, wire.Reply) and not reply.problem:
            if reply.rcode in ANSWERS:
                self._finish(self._answer(server, reply), reply.size)
                return
            if wire.EDE_BOGUS.intersection(reply.ede):
                # Data that do not verify: asking a server that verifies less could only hide it.
                self._finish(self._failure(server, reply, bogus=True))
                return
        self._fail(server, reply)

    def _heard(self, server: Server, why: wire.Unusable) -> None:
        self._note(server, why)
        if why is wire.Unusable.MALFORMED:
            self._malformed.add(server)

    def _fail(self, server: Server, reply: wire.Reply | Trouble) -> None:
        self._failed[server] = reply
        for running in [d for d, asked in self._under_way.items() if asked == server]:
            running.cancel()
        if any(s not in self._failed and s not in self._under_way.values() for s in self._servers):
            self._ask_next()
        elif all(s in self._failed for s in self._servers):
            self._conclude()

    def _conclude(self) -> None:
        """Every server has failed: look closer at a SERVFAIL, or tell the worst."""
        self._cancel(self._slice)
        refuser = next((s for s, reply in self._failed.items() if reply.rcode == "SERVFAIL"), None)
        if refuser is None:
            self._finish_with_failure()
        else:
            self._begin(refuser, self._asked_unchecked, unchecked=True)

    def _asked_unchecked(self, reply: wire.Reply | Trouble | None, server: Server) -> None:
        """RFC 4035 3.2.2: with CD=1 a validating server hands out what it would refuse; then it was bogus."""
        if reply is None or self._over:
            return
        if isinstance(reply, wire.Reply) and not reply.problem and reply.rcode in ANSWERS:
            self._finish(self._failure(server, self._failed[server], bogus=True))
        else:
            self._finish_with_failure()

    def _out_of_time(self) -> None:
        for server in self._servers:
            if server in self._failed:
                continue
            if server in self._malformed:
                trouble = Trouble(rcode="MALFORMED", detail=f"only malformed replies of {show_server(server)}")
            else:
                trouble = Trouble(
                    rcode="TIMEOUT", detail=f"no reply of {show_server(server)} within {self._settings.timeout:g} s"
                )
            self._failed[server] = trouble
        self._finish_with_failure()

    def _finish_with_failure(self) -> None:
        server, reply = max(self._failed.items(), key=lambda item: WORTH.get(_rcode(item[1]), 4))
        self._finish(self._failure(server, reply))

    def _answer(self, server: Server, reply: wire.Reply) -> Answer:
        return Answer(
            name=wire.show_name(self._name),
            rdtype=dns.rdatatype.to_text(self._rdtype),
            status=Status.SECURE if reply.authentic and self._settings.trust_ad else Status.INSECURE,
            rcode=reply.rcode,
            records=reply.records,
            canonical=reply.canonical,
            ttl=reply.ttl,
            ede=reply.ede,
            server=show_server(server),
        )

    def _failure(self, server: Server, reply: wire.Reply | Trouble, *, bogus: bool = False) -> Answer:
        name = wire.show_name(self._name)
        if isinstance(reply, Trouble):
            ede: tuple[int, ...] = ()
            detail = reply.detail
        else:
            ede = reply.ede
            said = ", ".join(_describe(code) for code in ede)
            detail = f"{show_server(server)}: {reply.problem or reply.rcode}" + (f" ({said})" if said else "")
            if bogus:
                detail += ": the data do not verify"
        return Answer(
            name=name,
            rdtype=dns.rdatatype.to_text(self._rdtype),
            status=Status.BOGUS if bogus else Status.FAILURE,
            rcode=_rcode(reply),
            canonical=name,
            ede=ede,
            server=show_server(server),
            detail=detail,
        )

    def _finish(self, answer: Answer, size: int = 0) -> None:
        if not self._over:
            self._stop()
            self.done.callback(Result(answer=answer, size=size))

    def _stop(self) -> None:
        self._over = True
        self._cancel(self._slice)
        self._cancel(self._end)
        for running in list(self._under_way):
            running.cancel()

    @staticmethod
    def _cancel(call: IDelayedCall | None) -> None:
        if call is not None and call.active():
            call.cancel()


def _no_reply(failure: Failure) -> Trouble | None:
    """A cancelled exchange has nothing to say; any other exception is ours, and must not hang the look-up."""
    if failure.check(CancelledError) is not None:
        return None
    log.failure("DNS exchange: a mistake of ours", failure=failure)
    return Trouble(rcode="MALFORMED", detail="internal error")


def _rcode(reply: wire.Reply | Trouble) -> str:
    return "MALFORMED" if isinstance(reply, wire.Reply) and reply.problem else reply.rcode


def _describe(code: int) -> str:
    try:
        return dns.edns.EDECode(code).name.replace("_", " ").capitalize()
    except ValueError:
        return f"EDE {code}"
