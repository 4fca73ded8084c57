"""PROXY headers, written by hand."""

import ipaddress
import struct

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def v1(source, port=40000):
    """The line of a proxied TCP connection."""
    family = "TCP6" if ":" in source else "TCP4"
    target = "2001:db8::25" if family == "TCP6" else "192.0.2.25"
    return f"PROXY {family} {source} {target} {port} 25\r\n".encode()


def v2(source=None, port=40000, *, command=0x21, family=None, tlvs=b"", block=None):
    """A header of version 2; without a source and block one without addresses."""
    if block is None and source is None:
        block, family = b"", family or 0
    elif block is None:
        ip = ipaddress.ip_address(source)
        family = family or (0x11 if ip.version == 4 else 0x21)
        block = ip.packed * 2 + struct.pack(">HH", port, 25)
    block += tlvs
    return SIGNATURE + struct.pack(">BBH", command, family, len(block)) + block


def tlv(kind, value):
    return struct.pack(">BH", kind, len(value)) + value


def with_checksum(source, tlvs=b"", *, behind=b""):
    """A header of version 2 with its CRC32c among the TLVs."""
    zeroed = v2(source, tlvs=tlvs + tlv(3, bytes(4)) + behind)
    at = len(zeroed) - len(behind) - 4
    return zeroed[:at] + struct.pack(">I", crc32c(zeroed)) + zeroed[at + 4 :]


def crc32c(octets):
    """Bit by bit."""
    crc = 0xFFFFFFFF
    for octet in octets:
        crc ^= octet
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


assert crc32c(b"123456789") == 0xE3069283
