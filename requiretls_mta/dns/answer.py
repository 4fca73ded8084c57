"""What a look-up answers: records, and how far they can be believed (RFC 4035 4.9.3, RFC 7672 2.1)."""

from __future__ import annotations

import enum
from typing import Protocol

import attrs
import dns.rdata
from twisted.internet.defer import Deferred


class Status(enum.Enum):
    """How an answer stands with DNSSEC."""

    SECURE = "secure"
    """AD was set by a server whose AD we believe."""
    INSECURE = "insecure"
    """An answer, but nobody vouches for it."""
    BOGUS = "bogus"
    """The validating server refused data that do not verify. To be treated as a temporary failure."""
    FAILURE = "failure"
    """No usable answer: time-out, SERVFAIL, REFUSED, malformed. Temporary."""


@attrs.frozen(kw_only=True)
class Answer:
    """One answer. NXDOMAIN and NODATA are answers too: secure or insecure ones without records."""

    name: str
    """The name asked for, absolute, in lower case, with its last dot."""
    rdtype: str
    """`MX`, `A`, `AAAA`, `TLSA`, `TXT`, ..."""
    status: Status
    rcode: str
    """`NOERROR`, `NXDOMAIN`, `SERVFAIL`, ...; `TIMEOUT`, `NETWORK` or `MALFORMED` where no reply could be used."""
    records: tuple[dns.rdata.Rdata, ...] = ()
    """Records of the asked type at the end of the CNAME chain; those of TLSA with their data unread (`to_wire`)."""
    canonical: str = ""
    """The owner of `records` after CNAMEs (absolute, lower case); equal to `name` without any."""
    ttl: int = 0
    """Seconds that the answer may be kept: the least TTL of the chain, or the negative TTL of RFC 2308."""
    ede: tuple[int, ...] = ()
    """Extended DNS error codes (RFC 8914)."""
    server: str = ""
    """`address:port` that answered."""
    detail: str = ""
    """Why it failed, for a person."""

    @property
    def is_failure(self) -> bool:
        """Whether asking again later may answer otherwise."""
        return self.status in (Status.BOGUS, Status.FAILURE)

    @property
    def is_secure(self) -> bool:
        """Whether the answer, also an empty one, is secure."""
        return self.status is Status.SECURE

    @property
    def exists(self) -> bool:
        """Whether there are records."""
        return bool(self.records)


class Resolver(Protocol):
    """What the other stations need of the DNS."""

    def resolve(self, name: str, rdtype: str) -> Deferred[Answer]:
        """Look up. Never fails: every trouble is an `Answer`. Cancelling gives up the waiting, not the shared query."""
