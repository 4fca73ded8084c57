"""TLS reports over HTTPS (RFC 8460 5.4): one POST to a server that has proved its name; redirects are refusals.

The address may be any, private ones too: who is inside a company's network gets its reports there, and a server that
a stranger's record points to must have a certificate of `relay.trust` for that very name.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from requiretls_mta.report.tlsrpt_format import MEDIA_TYPE
from requiretls_mta.report.tlsrpt_record import Post
from requiretls_mta.tls.https import HTTPS, HTTPSError, Request

DEADLINE = 60.0
"""Seconds for all of it."""


class Poster:
    """Posts files. `clock` provides IReactorTime."""

    def __init__(self, clock: Any, https: HTTPS) -> None:
        self._clock = clock
        self._https = https

    def __call__(self, target: Post, file: bytes) -> Deferred[str]:
        """Fires with the trouble, empty when the file was taken. Fails only when it is cancelled."""
        late = f"{target.host} did not answer within {DEADLINE:g} s"
        posting = Deferred.fromCoroutine(self._post(target, file))
        return posting.addTimeout(DEADLINE, self._clock, lambda _, __: late)

    async def _post(self, target: Post, file: bytes) -> str:
        try:
            response = await self._https.request(
                Request(
                    method=b"POST",
                    uri=target.uri,
                    host=target.host,
                    port=target.port,
                    headers={b"Content-Type": MEDIA_TYPE.encode("ascii")},
                    body=file,
                    limit=0,
                )
            )
        except HTTPSError as error:
            return str(error)
        return "" if 200 <= response.code < 300 else f"{target.host} answered with HTTP status {response.code}"
