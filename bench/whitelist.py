"""A list that hangs: what messages of other clients take beside 200 sessions whose list does not answer.

    python bench/whitelist.py

Prints median and 99th percentile in milliseconds, from the connection to the reply at the end of the message, for
clients about whom the list answers at once: alone, and beside the sessions that hang.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import dns.message
import dns.rcode
import dns.rrset

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.lab.mta import MTA, free_port

ADDRESS, ZONE = "127.0.0.53", "wl.bench.test"


class List(asyncio.DatagramProtocol):
    """Answers NXDOMAIN at once, but nothing about 198.51.100.0/24."""

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, octets, peer):
        reply = dns.message.make_response(dns.message.from_wire(octets), recursion_available=True)
        name = reply.question[0].name.to_text().lower()
        if name.endswith(f".100.51.198.{ZONE}."):
            return
        if name == f"2.0.0.127.{ZONE}.":
            reply.answer.append(dns.rrset.from_text(name, 60, "IN", "A", "127.0.0.2"))
        else:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        self.transport.sendto(reply.to_wire(), peer)


async def message(port, client):
    """Seconds that one message of a client takes."""
    begun = time.perf_counter()
    reader, writer = await asyncio.open_connection(ADDRESS, port)
    writer.write(f"PROXY TCP4 {client} {ADDRESS} 40000 25\r\n".encode())
    for command in (
        "", "EHLO c.test\r\n", "MAIL FROM:<s@far.test>\r\n", "RCPT TO:<r@here.test>\r\n", "DATA\r\n",
        "A: b\r\n\r\n.\r\n",
    ):  # fmt: skip
        writer.write(command.encode())
        while (line := await reader.readline())[3:4] == b"-":
            pass
        assert line[:1] in b"23", line
    writer.close()
    return time.perf_counter() - begun


async def measure(port, count):
    taken = sorted([await message(port, f"203.0.113.{n % 250 + 1}") for n in range(count)])
    return statistics.median(taken) * 1000, taken[int(len(taken) * 0.99)] * 1000


async def main(hanging, count):
    loop = asyncio.get_running_loop()
    resolver, _ = await loop.create_datagram_endpoint(List, local_addr=("127.0.0.1", 0))
    mx, plain = free_port(ADDRESS), free_port(ADDRESS)
    with tempfile.TemporaryDirectory() as folder:
        mta = MTA(
            Path(folder) / "mta",
            f"""hostname = "mx.here.test"
[listen.mx]
endpoint = ["haproxy:tcp:{mx}:interface={ADDRESS}", "tcp:{plain}:interface={ADDRESS}"]
service = "mx"
[domains]
local = ["here.test"]
[delivery]
maildir = "{folder}/mail/{{domain}}/{{local}}"
[dns]
servers = ["127.0.0.1:{resolver.get_extra_info("sockname")[1]}"]
[[dnswl]]
zone = "{ZONE}"
""",
            (ADDRESS, plain),
        )
        await loop.run_in_executor(None, mta.start)
        try:
            await measure(mx, 20)
            print("alone           median {:6.1f}   p99 {:6.1f}".format(*await measure(mx, count)))
            others = [asyncio.ensure_future(message(mx, f"198.51.100.{n + 1}")) for n in range(hanging)]
            await asyncio.sleep(0.5)
            print("beside {:4} hung median {:6.1f}   p99 {:6.1f}".format(hanging, *await measure(mx, count)))
            slowest = max(await asyncio.gather(*others))
            print(f"the slowest of those that hung took {slowest:.1f} s")
        finally:
            await loop.run_in_executor(None, mta.stop)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hanging", type=int, default=200)
    parser.add_argument("--messages", type=int, default=200)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.hanging, arguments.messages))
