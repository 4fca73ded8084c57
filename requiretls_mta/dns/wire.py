"""Questions to octets, octets to replies: the rules of one DNS exchange, without any input or output.

A reply is octets of a stranger until its id, question and, where asked for, letter case are ours; whatever dnspython
cannot read is malformed and nothing more. Nothing here raises on any octets.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence

import attrs
import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from dns.rdtypes.ANY.CNAME import CNAME
from dns.rdtypes.ANY.DNAME import DNAME
from dns.rdtypes.ANY.MX import MX
from dns.rdtypes.ANY.SOA import SOA
from dns.rdtypes.nsbase import NSBase

from requiretls_mta.dns import opaque

PAYLOAD = 1232  # octets of a UDP reply that no path fragments (the figure of DNS flag day 2020)
MOST_ALIASES = 8
MOST_RECORDS = 1000  # of all sections; 64 KiB of the smallest ones would hold the reactor for half a second
LONGEST_TTL = 0x7FFFFFFF  # RFC 2181 8
HEADER = struct.Struct("!HHHHHH")
WITHOUT_QUESTION = frozenset({dns.rcode.FORMERR, dns.rcode.NOTIMP})
# RFC 8914 4.7 to 4.13: DNSSEC Bogus, and the closer descriptions of it.
EDE_BOGUS = frozenset(range(6, 13))


class Unusable(enum.Enum):
    """Why octets are not the reply to a question."""

    FOREIGN = "not the reply to our question"
    CASE = "the reply to our question in other letter case"
    MALFORMED = "malformed"


@attrs.frozen(kw_only=True)
class Query:
    """One question, ready to be sent, its name in the letter case that goes out."""

    id: int
    name: dns.name.Name
    rdtype: dns.rdatatype.RdataType
    wire: bytes


@attrs.frozen(kw_only=True)
class Reply:
    """A reply to our question; AD is only reported here, believing it is the resolver's matter."""

    rcode: str
    authentic: bool = False
    """AD=1."""
    truncated: bool = False
    """TC=1: nothing else of the reply counts, ask by TCP."""
    records: tuple[dns.rdata.Rdata, ...] = ()
    """Names inside MX and alias records are in lower case."""
    canonical: str = ""
    ttl: int = 0
    ede: tuple[int, ...] = ()
    size: int = 0
    """Octets of the reply."""
    problem: str = ""
    """Why a well-formed reply is none: an endless chain of aliases, a referral."""


def parse_name(text: str) -> dns.name.Name | None:
    """The absolute name in lower case that a text (A-labels, last dot or not) means; None when it is no DNS name."""
    # dnspython would take "" and "@" for the root, and guess at IDNA: neither is what a caller meant.
    if text in ("", "@") or not text.isascii():
        return None
    try:
        return dns.name.from_text(text, dns.name.root).canonicalize()
    except (dns.exception.DNSException, ValueError):
        return None


def show_name(name: dns.name.Name) -> str:
    """Write a name absolute and in lower case."""
    return name.canonicalize().to_text()


def mix_case(name: dns.name.Name, bits: int) -> dns.name.Name:
    """The same name with the case of its letters chosen by random bits (255 are enough for any name)."""
    labels = []
    for label in name.labels:
        mixed = bytearray(label.lower())
        for i, octet in enumerate(mixed):
            if 0x61 <= octet <= 0x7A:
                mixed[i] = octet ^ ((bits & 1) << 5)
                bits >>= 1
        labels.append(bytes(mixed))
    return dns.name.Name(labels)


def build(
    name: dns.name.Name,
    rdtype: dns.rdatatype.RdataType,
    *,
    id: int,  # noqa: A002 - the header's own word
    edns: bool = True,
    checking_disabled: bool = False,
) -> Query:
    """Write a question: RD=1, AD=1 (RFC 6840 5.7: tell me AD, without the weight of DO), CD where asked."""
    flags = dns.flags.RD | dns.flags.AD | (dns.flags.CD if checking_disabled else 0)
    message = dns.message.make_query(
        name, rdtype, id=id, flags=flags, use_edns=0 if edns else False, payload=PAYLOAD if edns else None
    )
    return Query(id=id, name=name, rdtype=rdtype, wire=message.to_wire())


def read(query: Query, wire: bytes, *, exact_case: bool = False) -> Reply | Unusable:
    """Read what came in answer to a question; `exact_case` demands the question's own letter case back."""
    if len(wire) < HEADER.size:
        return Unusable.MALFORMED
    number, flags, questions, *records = HEADER.unpack_from(wire)
    if number != query.id or not flags & dns.flags.QR or (flags >> 11) & 0xF:
        return Unusable.FOREIGN
    if questions > 1 or sum(records) > MOST_RECORDS:
        return Unusable.MALFORMED
    truncated = bool(flags & dns.flags.TC)
    try:
        if query.rdtype == dns.rdatatype.TLSA and not truncated:
            wire = opaque.hide(wire)
        # A truncated reply may end anywhere; only its question has to be whole.
        message = dns.message.from_wire(wire, ignore_trailing=True, question_only=truncated)
        unusable = _check_question(query, message, exact_case)
        if unusable is not None:
            return unusable
        if truncated:
            return Reply(rcode=dns.rcode.to_text(message.rcode()), truncated=True, size=len(wire))
        return _read(query, message, len(wire))
    except Exception:  # dnspython promises no closed set of exceptions for hostile octets
        return Unusable.MALFORMED


def _check_question(query: Query, message: dns.message.Message, exact_case: bool) -> Unusable | None:
    if not message.question:  # servers that could not read the question send none back
        return None if message.rcode() in WITHOUT_QUESTION else Unusable.FOREIGN
    asked = message.question[0]
    if asked.name != query.name or asked.rdtype != query.rdtype or asked.rdclass != dns.rdataclass.IN:
        return Unusable.FOREIGN
    if exact_case and asked.name.labels != query.name.labels:
        return Unusable.CASE
    return None


def _read(query: Query, message: dns.message.Message, size: int) -> Reply:
    rcode = message.rcode()
    bare = Reply(
        rcode=dns.rcode.to_text(rcode),
        authentic=bool(message.flags & dns.flags.AD),
        ede=tuple(int(option.code) for option in message.options if isinstance(option, dns.edns.EDEOption)),
        size=size,
    )
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return bare
    hidden = query.rdtype == dns.rdatatype.TLSA
    end = _follow(query.name, opaque.TYPE if hidden else query.rdtype, message.answer)
    if end is None:
        return attrs.evolve(bare, problem=f"a chain of more than {MOST_ALIASES} aliases")
    name, found, ttl = end
    reply = attrs.evolve(bare, canonical=show_name(name))
    if found is not None and rcode == dns.rcode.NOERROR:
        records = opaque.shown(found) if hidden else tuple(_lower(record) for record in found)
        return attrs.evolve(reply, records=records, ttl=min(ttl, found.ttl))
    # RFC 2308 2.2, 5: the SOA of the zone that denies; without one, nothing may be kept.
    soa = _denial(name, message.authority)
    if soa is not None:
        return attrs.evolve(reply, ttl=min(ttl, soa.ttl, *(r.minimum for r in soa if isinstance(r, SOA))))
    # RFC 2308 2.2.1: name servers but no SOA is a referral, from a server that does not look further for us.
    # To take it for "no such records" would turn a misconfigured server into lost mail.
    refers = any(rrset.rdtype == dns.rdatatype.NS for rrset in message.authority)
    stops = name != query.name and not message.flags & dns.flags.RA
    if rcode == dns.rcode.NOERROR and (refers or stops):
        return attrs.evolve(reply, problem="a referral: the server does not recurse")
    return reply


def _lower(record: dns.rdata.Rdata) -> dns.rdata.Rdata:
    """Write the name inside a record in lower case: compression lets the case of our question shine through."""
    if isinstance(record, MX):
        return record.replace(exchange=record.exchange.canonicalize())
    if isinstance(record, NSBase):
        return record.replace(target=record.target.canonicalize())
    return record


def _follow(
    name: dns.name.Name, rdtype: dns.rdatatype.RdataType, answer: Sequence[dns.rrset.RRset]
) -> tuple[dns.name.Name, dns.rrset.RRset | None, int] | None:
    """Walk the aliases inside the answer section: the last name, its records if any, the least TTL on the way."""
    rrsets = {(rrset.name, rrset.rdtype): rrset for rrset in answer if rrset.rdclass == dns.rdataclass.IN}
    dnames = [rrset for rrset in rrsets.values() if rrset.rdtype == dns.rdatatype.DNAME]
    ttl = LONGEST_TTL
    for _ in range(MOST_ALIASES + 1):
        found = rrsets.get((name, rdtype))
        if found is not None:
            return name, found, ttl
        alias = _alias(name, rrsets.get((name, dns.rdatatype.CNAME)), dnames)
        if alias is None:
            return name, None, ttl
        name, ttl = alias[0], min(ttl, alias[1])
    return None


def _alias(
    name: dns.name.Name, cname: dns.rrset.RRset | None, dnames: Sequence[dns.rrset.RRset]
) -> tuple[dns.name.Name, int] | None:
    if cname is not None:
        for record in cname:
            if isinstance(record, CNAME):
                return record.target, cname.ttl
    for rrset in dnames:  # RFC 6672 2.2: substitutes what is above, never the owner itself
        if name != rrset.name and name.is_subdomain(rrset.name):
            for record in rrset:
                if isinstance(record, DNAME):
                    return name.relativize(rrset.name) + record.target, rrset.ttl
    return None


def _denial(name: dns.name.Name, authority: Sequence[dns.rrset.RRset]) -> dns.rrset.RRset | None:
    for rrset in authority:
        if rrset.rdtype == dns.rdatatype.SOA and name.is_subdomain(rrset.name):
            return rrset
    return None
