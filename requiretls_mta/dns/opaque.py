"""TLSA records as they came: whoever asked judges them, so no reader of DNS messages may refuse them before.

dnspython takes a digest of another length for a malformed message. But by RFC 6698 4.1 and RFC 7671 9 such a record is
unusable, and the others of its RRset count.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import dns.rdata
import dns.rdataclass
import dns.rdatatype

TYPE = dns.rdatatype.RdataType.make(65280)
"""From the range for private use (RFC 6895 3.1): nobody has a reader for it."""
_COUNTS = struct.Struct("!4x4H")
_RECORD = struct.Struct("!HHIH")


def hide(wire: bytes) -> bytes:
    """The same reply, its TLSA records under `TYPE`. Raises IndexError or struct.error for octets that are no reply."""
    octets, at = bytearray(wire), 12
    questions, *sections = _COUNTS.unpack_from(wire)
    for _ in range(questions):
        at = _behind_name(wire, at) + 4
    for _ in range(sum(sections)):
        at = _behind_name(wire, at)
        rdtype, _, _, length = _RECORD.unpack_from(wire, at)
        if rdtype == dns.rdatatype.TLSA:
            octets[at : at + 2] = TYPE.to_bytes(2, "big")
        at += _RECORD.size + length
    return bytes(octets)


def shown(records: Iterable[dns.rdata.Rdata]) -> tuple[dns.rdata.Rdata, ...]:
    """Records of `TYPE` as TLSA again, their data unread."""
    return tuple(
        dns.rdata.GenericRdata(dns.rdataclass.IN, dns.rdatatype.TLSA, record.to_wire() or b"") for record in records
    )


def _behind_name(wire: bytes, at: int) -> int:
    while wire[at] & 0xC0 == 0 and wire[at] != 0:
        at += 1 + wire[at]
    return at + (2 if wire[at] else 1)  # a pointer ends a name as the root does (RFC 1035 4.1.4)
