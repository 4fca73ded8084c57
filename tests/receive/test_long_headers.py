"""Headers of a megabyte and lines without end, through a session: the verdict is right and comes in time (S26)."""

import time

import attrs
import pytest

from requiretls_mta.message.envelope import Tag
from tests.receive.test_reception import SETTINGS, Bench
from tests.smtp.memory import Memory

MEGABYTE = 1 << 20
VERDICT = b"TLS-Required: No\r\n"
FILLERS = {
    "one line": lambda size: b"A: ".ljust(size - 2, b"x") + b"\r\n",
    "999 octets each": lambda size: (b"A: ".ljust(997, b"x") + b"\r\n") * (size // 999),
    "folded": lambda size: b"A: b\r\n" + b" \r\n" * (size // 3 - 2),
    "many fields": lambda size: b"A: b\r\n" * (size // 6),
    "Received in their values": lambda size: b"A: received\r\n" * (size // 13),
    "colons": lambda size: b":" * (size - 2) + b"\r\n",
}


def message(line, octets, segment=1400):
    """The reply to a message that comes as networks bring it."""
    assert line.ask("MAIL FROM:<a@b.example>\r\nRCPT TO:<anna@example.org>\r\nDATA\r\n").endswith(
        b"with <CR><LF>.<CR><LF>\r\n"
    )
    for start in range(0, len(octets), segment):
        line.session.dataReceived(octets[start : start + segment])
    return line.said()


@pytest.mark.parametrize("filler", FILLERS)
def test_s26_the_last_field_of_a_megabyte_counts(filler):
    """Exactly `headers_size` octets are taken and read to the end."""
    bench = Bench(attrs.evolve(SETTINGS, received_hops=5))
    line = Memory(station=bench.station, settings={"headers_size": MEGABYTE}).connect()
    line.ask("EHLO x.example\r\n")
    header = FILLERS[filler](MEGABYTE - 100) + VERDICT
    header = b"B: ".ljust(MEGABYTE - len(header) - 2, b"y") + b"\r\n" + header
    start = time.perf_counter()
    assert message(line, header + b"\r\nbody\r\n.\r\n").startswith(b"250 2.0.0 Ok: queued as ")
    assert time.perf_counter() - start < 5
    (stored,) = bench.store.accepted
    assert stored.envelope.tag is Tag.OPTIONAL
    assert stored.body.data == header + b"\r\nbody\r\n"


@pytest.mark.parametrize("filler", FILLERS)
def test_s26_one_octet_more_is_too_much(filler):
    """552 5.3.4 at the end of the data, nothing kept; the session goes on."""
    bench = Bench()
    line = Memory(station=bench.station, settings={"headers_size": 9999}).connect()
    line.ask("EHLO x.example\r\n")
    header = FILLERS[filler](MEGABYTE) + VERDICT
    assert message(line, header + b"\r\nbody\r\n.\r\n").startswith(b"552 5.3.4 ")
    assert bench.store.accepted == [] and bench.store.writers[0].aborted
    assert message(line, b"A: ".ljust(9997, b"x") + b"\r\n\r\n.\r\n").startswith(b"250 ")
    assert message(line, b"A: ".ljust(9998, b"x") + b"\r\n\r\n.\r\n").startswith(b"552 5.3.4 ")
