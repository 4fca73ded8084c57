"""Memory: what 1,000 idle TLS connections cost, and what a 50 MiB message costs on its way in and out again.

    python bench/memory.py

Prints MiB of the server's processes (PSS for the connections, the peaks of RSS for the message) above what they have
when idle. The message is relayed on to a second instance, which delivers it into a Maildir.
"""

import argparse
import asyncio
import re
import smtplib
import ssl
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.lab.mta import MTA, free_port

ADDRESS, NEXT = "127.0.0.51", "127.0.0.52"
MIB = 1024 * 1024


def family(pid):
    """The process and its children."""
    children = [text for path in Path(f"/proc/{pid}/task").glob("*/children") for text in path.read_text().split()]
    return [pid, *map(int, children)]


def pss(pid):
    """Proportional set size in MiB, of the process and its children."""
    texts = [Path(f"/proc/{one}/smaps_rollup").read_text() for one in family(pid)]
    return sum(int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE).group(1)) for text in texts) / 1024


def peak(pid):
    """The most that was ever resident, in MiB, of the process and its children each."""
    texts = [Path(f"/proc/{one}/status").read_text() for one in family(pid)]
    return sum(int(re.search(r"^VmHWM:\s+(\d+)", text, re.MULTILINE).group(1)) for text in texts) / 1024


async def idle(port, count, look):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    writers = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection(ADDRESS, port)
        for command in (b"", b"EHLO bench.example\r\n", b"STARTTLS\r\n"):
            writer.write(command)
            while (await reader.readline())[3:4] == b"-":
                pass
        await writer.start_tls(context)
        writer.write(b"EHLO bench.example\r\n")
        while (await reader.readline())[3:4] == b"-":
            pass
        writers.append(writer)
    found = look()
    for writer in writers:
        writer.transport.abort()
    return found


def config(folder, port, address, more):
    return f"""hostname = "{folder.name}.bench.test"
[listen.mx]
endpoint = "tcp:{port}:interface={address}"
service = "mx"
max_connections_per_client = 10000
[limits]
message_size = "100M"
{more}
"""


def send(port, size):
    with smtplib.SMTP(ADDRESS, port, timeout=120) as client:
        client.ehlo("bench.example")
        client.sendmail("s@x.test", ["r@next.test"], b"Subject: x\r\n\r\n" + (b"x" * 70 + b"\r\n") * (size // 72))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--size", type=int, default=50, help="MiB of the message")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="memory-"))
    port = free_port(ADDRESS, NEXT)
    route = f'[domains]\nrelay = ["next.test"]\n[relay.routes]\n"next.test" = "smtp:[{NEXT}]:{port}"'
    box = f'[domains]\nlocal = ["next.test"]\n[delivery]\nmaildir = "{folder}/mail/{{domain}}/{{local}}"'
    ours = MTA(folder / "ours", config(folder / "ours", port, ADDRESS, route), (ADDRESS, port))
    following = MTA(folder / "next", config(folder / "next", port, NEXT, box), (NEXT, port))
    following.start()
    ours.start()
    try:
        pid = ours.process.pid
        before = peak(pid)
        began = time.monotonic()
        send(port, options.size * MIB)
        taken = time.monotonic() - began
        while not list(folder.glob("mail/next.test/r/new/*")):
            time.sleep(0.05)
        print(
            f"{options.size} MiB: peak {peak(pid) - before:.1f} MiB above idle ({before:.1f}); "
            f"the next hop's {peak(following.process.pid) - before:.1f}; taken in {taken:.2f} s"
        )
        before = pss(pid)
        after = asyncio.run(idle(port, options.connections, lambda: pss(pid)))
        print(f"{options.connections} idle TLS connections: PSS {after:.1f} MiB, {after - before:.1f} above none")
    finally:
        ours.stop()
        following.stop()


if __name__ == "__main__":
    main()
