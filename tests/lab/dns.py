"""Real name servers on loopback: knot with signed and unsigned zones, and a validating unbound in front of it.

    with Lab(tmp_path) as lab:
        lab.zone("good.test", ["@ MX 10 mx", "mx A 127.0.0.2"])
        lab.zone("plain.test", ["@ MX 10 mx", "mx A 127.0.0.3"], signed=False)
        lab.zone("bad.test", ["@ MX 10 mx"], bogus=True)
        lab.start()
        ... lab.resolver_address ...

All zones are below the signed zone `test.`, whose key is unbound's only trust anchor; the DS records in between are
made here, so that AD comes from a whole chain. Names outside `test.` are refused: nothing asks the Internet.
"""

import contextlib
import socket
import subprocess
import time
from pathlib import Path

import attrs
import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rdatatype

from tests.lab.mta import is_ours
from tests.lab.require import need

ROOT = "test"
TTL = 60
ALGORITHM = "ECDSAP256SHA256"

_KNOT = """\
server:
    listen: 127.0.0.1@{port}
    rundir: {folder}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 2
database:
    storage: {folder}/keys
log:
  - target: {folder}/knot.log
    any: info
policy:
  - id: lab
    manual: on
    algorithm: {algorithm}
    single-type-signing: on
    cds-cdnskey-publish: none
template:
  - id: default
    storage: {folder}
    file: "%s.zone"
    zonefile-sync: -1
    zonefile-load: whole
    journal-content: none
  - id: signed
    storage: {folder}
    file: "%s.zone"
    zonefile-sync: -1
    zonefile-load: whole
    journal-content: none
    dnssec-signing: on
    dnssec-policy: lab
zone:
"""

_UNBOUND = """\
server:
    interface: 127.0.0.1
    port: {port}
    username: ""
    chroot: ""
    directory: "{folder}"
    pidfile: ""
    logfile: "{folder}/unbound.log"
    use-syslog: no
    log-time-ascii: yes
    verbosity: 1
    val-log-level: 2
    do-daemonize: no
    num-threads: 1
    do-ip6: no
    so-reuseport: no
    outgoing-range: 256
    access-control: 127.0.0.0/8 allow
    do-not-query-localhost: no
    qname-minimisation: no
    target-fetch-policy: "0 0 0 0 0"
    minimal-responses: yes
    ede: yes
    module-config: "validator iterator"
    trust-anchor: "{anchor}"
    local-zone: "." refuse
    local-zone: "{root}." transparent
remote-control:
    control-enable: no
"""


@attrs.frozen(kw_only=True)
class Zone:
    """One zone of the lab."""

    name: str
    records: tuple[str, ...]
    signed: bool
    bogus: bool
    elsewhere: tuple[str, int] | None = None
    """Who serves it instead of knot, as far as unbound is concerned."""


class Lab:
    """Name servers of a test's own; also a context manager that stops them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "dns"
        self.zones: dict[str, Zone] = {ROOT: Zone(name=ROOT, records=(), signed=True, bogus=False)}
        self.resolver_address = ("127.0.0.1", 0)
        """Where unbound listens, after `start`."""
        self.authority_address = ("127.0.0.1", 0)
        """Where knot listens, after `start`."""
        self._knotd = need("knotd")
        self._keymgr = need("keymgr")
        self._unbound = need("unbound")
        self._processes: list[subprocess.Popen] = []

    def __enter__(self) -> "Lab":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def zone(
        self,
        name: str,
        records: list[str],
        *,
        signed: bool = True,
        bogus: bool = False,
        elsewhere: tuple[str, int] | None = None,
    ) -> None:
        """Add a zone before `start`. Records are zone file lines relative to it; SOA and NS are there already.

        `bogus`: signed, but the parent's DS record does not fit its key, so that a validating server refuses it.
        `elsewhere`: the address of another server that unbound asks for it, such as rbldnsd.
        `signed=False` below a signed parent is an insecure delegation, proved by the parent.
        """
        name = name.rstrip(".").lower()
        assert name.endswith("." + ROOT), f"{name} is not below {ROOT}."
        assert not self._processes, "the lab is running"
        self.zones[name] = Zone(
            name=name, records=tuple(records), signed=signed or bogus, bogus=bogus, elsewhere=elsewhere
        )

    def start(self) -> None:
        """Start both servers and wait until they answer (about a second)."""
        for path in (self.folder, self.folder / "keys"):
            path.mkdir(parents=True, exist_ok=True)
        config = self.folder / "knot.conf"
        self.authority_address = ("127.0.0.1", _free_port())
        config.write_text(self._knot_config())
        delegations = self._make_keys(config)
        for zone in self.zones.values():
            self._write_zone(zone, delegations)
        for attempt in range(3):
            self.resolver_address = ("127.0.0.1", _free_port())
            if self._serve(config, delegations[ROOT]):
                return
            log = self.log()
            self.stop()
            assert attempt < 2, f"the name servers do not start\n{log}"
            # Between finding a free port and using it, somebody else may have taken it.
            self.authority_address = ("127.0.0.1", _free_port())

    def _serve(self, config: Path, anchor: str) -> bool:
        config.write_text(self._knot_config())
        self._run([self._knotd, "-c", str(config)], "knotd")
        if not all(self._answers(self.authority_address, zone.name, rrsig=zone.signed) for zone in self.zones.values()):
            return False
        config = self.folder / "unbound.conf"
        config.write_text(self._unbound_config(anchor))
        self._run([self._unbound, "-d", "-c", str(config)], "unbound")
        return self._answers(self.resolver_address, ROOT, ad=True)

    def stop(self) -> None:
        """Stop the servers; any number of times."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes = []

    def log(self) -> str:
        """What the servers logged."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def _knot_config(self) -> str:
        head = _KNOT.format(port=self.authority_address[1], folder=self.folder, algorithm=ALGORITHM)
        zones = (
            f"  - domain: {z.name}.\n    template: {'signed' if z.signed else 'default'}\n" for z in self.zones.values()
        )
        return head + "".join(zones)

    def _unbound_config(self, anchor: str) -> str:
        head = _UNBOUND.format(port=self.resolver_address[1], folder=self.folder, anchor=anchor, root=ROOT)
        # Delegations name port 53: unbound is told where each zone is served instead.
        for zone in self.zones.values():
            address, port = zone.elsewhere or self.authority_address
            head += f'stub-zone:\n    name: "{zone.name}."\n    stub-addr: {address}@{port}\n'
        return head

    def _make_keys(self, config: Path) -> dict[str, str]:
        """A key for each signed zone, and its DS record."""
        records = {}
        for zone in self.zones.values():
            if zone.signed:
                self._keys(config, zone, "generate", f"algorithm={ALGORITHM}", "ksk=yes", "zsk=yes")
                lines = self._keys(config, zone, "ds").splitlines()
                record = next(line for line in lines if line.split()[-2] == "2")  # SHA-256
                records[zone.name] = (
                    record[:-4] + ("0000" if not record.endswith("0000") else "1111") if zone.bogus else record
                )
        return records

    def _keys(self, config: Path, zone: Zone, *arguments: str) -> str:
        command = [self._keymgr, "-c", str(config), f"{zone.name}.", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def _write_zone(self, zone: Zone, delegations: dict[str, str]) -> None:
        lines = [
            f"$ORIGIN {zone.name}.",
            f"$TTL {TTL}",
            f"@ SOA ns.{ROOT}. hostmaster.{ROOT}. 1 3600 900 1209600 {TTL}",
            f"@ NS ns.{ROOT}.",
            *zone.records,
        ]
        if zone.name == ROOT:
            lines.append("ns A 127.0.0.1")
        for child in self.zones.values():
            if child.name != ROOT and self._parent(child.name) == zone.name:
                lines.append(f"{child.name}. NS ns.{ROOT}.")
                if child.signed:
                    lines.append(delegations[child.name])
        (self.folder / f"{zone.name}.zone").write_text("\n".join(lines) + "\n")

    def _parent(self, name: str) -> str:
        labels = name.split(".")
        above = (".".join(labels[i:]) for i in range(1, len(labels)))
        return next(candidate for candidate in above if candidate in self.zones)

    def _run(self, command: list[str], name: str) -> None:
        with (self.folder / f"{name}.out.log").open("wb") as out:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        self._processes.append(process)

    def _answers(self, server: tuple[str, int], zone: str, *, rrsig: bool = False, ad: bool = False) -> bool:
        """Wait until the server started last serves that zone; False when it has ended, or after 5 s."""
        query = dns.message.make_query(f"{zone}.", "SOA", want_dnssec=rrsig)
        query.flags |= dns.flags.AD
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and self._processes[-1].poll() is None:
            with contextlib.suppress(dns.exception.DNSException, OSError):
                reply = dns.query.udp(query, server[0], port=server[1], timeout=0.3)
                types = {rrset.rdtype for rrset in reply.answer}
                good = dns.rdatatype.SOA in types and (not rrsig or dns.rdatatype.RRSIG in types)
                if good and (not ad or reply.flags & dns.flags.AD):
                    return True
            time.sleep(0.03)
        return False


def _free_port() -> int:
    """A port that is free for UDP and TCP."""
    while True:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        ):
            tcp.bind(("127.0.0.1", 0))
            port = tcp.getsockname()[1]
            with contextlib.suppress(OSError):
                udp.bind(("127.0.0.1", port))
                if is_ours(port):
                    return port
