"""Policies over HTTPS (RFC 8461 3.3): one GET to the policy host, which must be who it says before it hears it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from OpenSSL import SSL
from twisted.internet.defer import Deferred, DeferredSemaphore

from requiretls_mta.dns.answer import Resolver
from requiretls_mta.message.reply import quote
from requiretls_mta.tls.https import HTTPS, HTTPSError, Request
from requiretls_mta.tls.mta_sts import HOST, MOST_OCTETS

FETCH_ERROR = "sts-policy-fetch-error"
WEBPKI_INVALID = "sts-webpki-invalid"
DEADLINE = 60.0
"""Seconds for a whole fetch (RFC 8461 3.3), and at most as many to wait for its turn."""
MOST_FETCHES = 50
"""Under way at once; the others wait for their turn."""
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


class PolicyHosts:
    """Fetches what policy hosts serve."""

    def __init__(
        self, reactor: Any, resolver: Resolver, context: Callable[[], SSL.Context], *, port: int = 443
    ) -> None:
        """`context` is `tls.client.client_context`'s, with the roots for policy hosts."""
        self._reactor = reactor
        self._https = HTTPS(reactor, resolver, context)
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
            return await Deferred.fromCoroutine(self._get(host)).addTimeout(DEADLINE, self._reactor, lambda _, __: late)
        finally:
            self._turns.release()

    async def _get(self, host: str) -> bytes | FetchFailure:
        asked = Request(method=b"GET", uri=f"https://{host}{_PATH}", host=host, port=self._port, limit=MOST_OCTETS)
        try:
            response = await self._https.request(asked)
        except HTTPSError as error:
            result = WEBPKI_INVALID if error.untrusted else FETCH_ERROR
            return FetchFailure(result=result, detail=str(error))
        types = response.headers.getRawHeaders(b"Content-Type", [])
        if response.code != 200:
            why = f"{host} answered with HTTP status {response.code}"
        elif len(types) != 1 or types[0].partition(b";")[0].strip(b" \t").lower() != b"text/plain":
            # RFC 8461 3.2, 10.3: whoever may put pages there may not put policies.
            why = f"the media type is {quote(b', '.join(types)) or 'missing'}, not text/plain"
        elif len(response.body) > MOST_OCTETS:
            why = f"the policy has more than {MOST_OCTETS} octets"
        else:
            return response.body
        return FetchFailure(result=FETCH_ERROR, detail=why)
