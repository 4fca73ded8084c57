"""rbldnsd, the server that most lists run on, with a whitelist of the test's own."""

import contextlib
import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import dns.exception
import dns.message
import dns.query

from tests.lab.require import need

SOA = "$SOA 300 ns.test hostmaster.test 0 600 300 86400 300\n$NS 300 ns.test\n"


class RBL:
    """One server with some zones; each is a pair of IPv4 and IPv6 entries, `ADDRESS :CODE:text`."""

    def __init__(self, zones):
        self._rbldnsd = need("rbldnsd")
        # It leaves root, and must be able to read its files then.
        self._folder = tempfile.TemporaryDirectory(prefix="rbl-")
        self.folder = Path(self._folder.name)
        self.folder.chmod(0o755)
        self.zones = zones
        self.process = None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = probe.getsockname()

    def __enter__(self):
        specs = []
        for zone, (v4, v6) in self.zones.items():
            for kind, entries in (("ip4trie", v4), ("ip6trie", v6)):
                (self.folder / f"{zone}.{kind}").write_text(SOA + "\n".join(entries) + "\n")
                specs.append(f"{zone}:{kind}:{zone}.{kind}")
        user = ["-u", "rbldns"] if os.getuid() == 0 else []
        address, port = self.address
        command = [self._rbldnsd, "-n", *user, "-w", str(self.folder), "-b", f"{address}/{port}", *specs]
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + 5
        while not self._answers(next(iter(self.zones))):
            assert self.process.poll() is None and time.monotonic() < end, (self.folder / "log").read_text()
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(5)
        self._folder.cleanup()

    def _answers(self, zone):
        query = dns.message.make_query(f"2.0.0.127.{zone}.", "A")
        with contextlib.suppress(dns.exception.DNSException, OSError):
            dns.query.udp(query, self.address[0], port=self.address[1], timeout=0.2)
            return True
        time.sleep(0.05)
        return False
