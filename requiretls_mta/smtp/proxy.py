"""The PROXY header, versions 1 and 2, in which a proxy says for whom it connects: octets in, an address out.

After HAProxy's `proxy-protocol.txt`. What a header tells of TLS on the far side of the proxy is not read: a promise
is kept in our own TLS or not at all.
"""

from __future__ import annotations

import ipaddress

import attrs
from twisted.internet.interfaces import IAddress
from zope.interface import implementer

_V1, _V2 = b"PROXY ", b"\r\n\r\n\x00\r\nQUIT\n"
_V1_LIMIT = 107
"""Octets of a line with its CRLF."""
_V2_FIXED = 16
"""Octets of signature, command, family and length."""
_V2_LIMIT = 4096
"""Octets behind those; with addresses and all the TLVs that are in use a header has a few hundred."""
_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6, _UNIX = 0x11, 0x21, 0x31
_ADDRESSES = {_TCP4: 12, _TCP6: 36, _UNIX: 216}
"""Octets of the addresses and ports of each family."""
_CRC32C = 0x03


@implementer(IAddress)
@attrs.frozen
class ProxiedAddress:
    """Where a client is, by a PROXY header's claim."""

    host: str | None = None
    """Its IP address; None: nobody that is known (the proxy itself, a UNIX socket, a family that we do not take)."""
    port: int | None = None


@attrs.frozen
class Header:
    """A complete header."""

    address: ProxiedAddress
    size: int
    """Its octets; what stands behind them is the client's."""


@attrs.frozen
class Malformed:
    """No header, whatever may follow."""

    reason: str


def parse_header(octets: bytes | bytearray) -> Header | Malformed | None:
    """What the first octets of a connection say; None: more are needed, at most some 4,000."""
    if octets.startswith(_V1):
        return _version_1(octets)
    if octets.startswith(_V2):
        return _version_2(octets)
    if _V1.startswith(octets) or _V2.startswith(octets):
        return None
    return Malformed("no PROXY header")


def _version_1(octets: bytes | bytearray) -> Header | Malformed | None:
    end = octets.find(b"\r\n", 0, _V1_LIMIT)
    if end < 0:
        return None if len(octets) < _V1_LIMIT else Malformed("a PROXY line without an end")
    line = octets[:end].decode("latin-1")
    # A lone CR or LF must not pass for the end, nor hide commands in what UNKNOWN has us ignore.
    if not (line.isascii() and line.isprintable()):
        return Malformed("controls in a PROXY line")
    _, family, *rest = line.split(" ")
    if family == "UNKNOWN":
        return Header(ProxiedAddress(), end + 2)
    if family not in ("TCP4", "TCP6") or len(rest) != 4:
        return Malformed("a PROXY line of another form")
    parse = ipaddress.IPv4Address if family == "TCP4" else ipaddress.IPv6Address
    try:
        source, _ = map(parse, rest[:2])
        port, _ = map(_port, rest[2:])
    except ValueError:
        return Malformed("a PROXY line with a bad address or port")
    return Header(ProxiedAddress(str(source), port), end + 2)


def _port(text: str) -> int:
    number = int(text)
    if str(number) != text or not 0 <= number < 65536:  # no sign, blank, underscore or leading zero
        raise ValueError(text)
    return number


def _version_2(octets: bytes | bytearray) -> Header | Malformed | None:
    if len(octets) < _V2_FIXED:
        return None
    command, family, length = octets[12], octets[13], int.from_bytes(octets[14:16])
    size = _V2_FIXED + length
    if command not in (_LOCAL, _PROXY):
        return Malformed("a PROXY header with another version or command")
    if length > _V2_LIMIT:
        return Malformed("a PROXY header of excessive length")
    if len(octets) < size:
        return None
    if command == _LOCAL:
        return Header(ProxiedAddress(), size)
    if family >> 4 > 3 or family & 15 > 2:
        return Malformed("a PROXY header with an unassigned family")
    if family not in _ADDRESSES:  # unspecified, or datagrams: taken, and the block ignored
        return Header(ProxiedAddress(), size)
    block = bytes(octets[:size])
    addresses_end = _V2_FIXED + _ADDRESSES[family]
    if size < addresses_end:
        return Malformed("a PROXY header too short for its addresses")
    if not _is_sound(block, addresses_end):
        return Malformed("a PROXY header with broken TLVs, or a wrong checksum")
    if family == _TCP4:
        address = ProxiedAddress(str(ipaddress.IPv4Address(block[16:20])), int.from_bytes(block[24:26]))
    elif family == _TCP6:
        address = ProxiedAddress(str(ipaddress.IPv6Address(block[16:32])), int.from_bytes(block[48:50]))
    else:
        address = ProxiedAddress()
    return Header(address, size)


def _is_sound(block: bytes, at: int) -> bool:
    """Whether the TLVs from `at` fill the block, and the checksum, if one of them is it, is right."""
    checksums = []
    while at < len(block):
        kind, value = block[at], at + 3
        at = value + int.from_bytes(block[at + 1 : value])
        if kind == _CRC32C:
            checksums.append((value, at))
    if at != len(block) or len(checksums) > 1:
        return False
    return all(
        end - start == 4 and int.from_bytes(block[start:end]) == _crc32c(block[:start] + bytes(4) + block[end:])
        for start, end in checksums
    )


def _crc32c(octets: bytes) -> int:
    """RFC 9260 appendix A."""
    crc = 0xFFFFFFFF
    for octet in octets:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ octet) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _crc_of_octet(octet: int) -> int:
    for _ in range(8):
        octet = octet >> 1 ^ (0x82F63B78 if octet & 1 else 0)
    return octet


_CRC_TABLE = tuple(map(_crc_of_octet, range(256)))
