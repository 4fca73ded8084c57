"""Durable ingest beside Debian's Postfix: both take the same messages in turn, five rounds, medians and their ratio.

    python bench/ingest.py                # 10 KiB at 10 and 100 connections
    python bench/ingest.py --rounds 3 --tls

Both sync every message to disk before their 250, and both only queue: the next hop takes connections and never says
a word. So what is measured is taking mail. Postfix runs with its defaults, and once more with 200 processes; the better
of both counts. Needs root (Postfix's own demand) and Debian's postfix.
"""

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.lab.ca import CA
from tests.lab.mta import MTA, free_port
from tests.lab.postfix import postfix

ADDRESS = "127.0.0.1"
LOAD = Path(__file__).with_name("load.py")


def load(port, connections, messages, size, tls):
    command = [
        sys.executable,
        LOAD,
        "--port",
        port,
        "--connections",
        connections,
        "--messages",
        messages,
        "--size",
        size,
    ]
    done = subprocess.run(
        [*map(str, command), *(["--tls"] if tls else [])], capture_output=True, text=True, check=False, timeout=300
    )
    result = json.loads(done.stdout)
    if done.returncode:
        raise SystemExit(f"not all messages were taken: {result}")
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=3000)
    parser.add_argument("--size", type=int, default=10240)
    parser.add_argument("--connections", type=int, nargs="*", default=[10, 100])
    parser.add_argument("--tls", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ingest-"))
    folder.chmod(0o755)
    files = CA(folder / "ca").host("mx.bench.test")
    files.key.chmod(0o644)
    silent = socket.create_server((ADDRESS, 0), backlog=1000)
    ports = [free_port(ADDRESS) for _ in range(3)]
    ours = MTA(
        folder / "ours",
        f"""hostname = "mx.bench.test"
[tls]
certificate = "{files.chain}"
key = "{files.key}"
[listen.mx]
endpoint = "tcp:{ports[0]}:interface={ADDRESS}"
service = "mx"
[domains]
relay = ["sink.example"]
[relay]
retry = ["1h"]
[relay.routes]
"sink.example" = "smtp:[127.0.0.1]:{silent.getsockname()[1]}"
""",
        (ADDRESS, ports[0]),
        options=["--reactor=epoll"],
    )
    settings = {
        "relay_domains": "sink.example",
        "transport_maps": f"inline:{{sink.example=smtp:[127.0.0.1]:{silent.getsockname()[1]}}}",
        # Its own brake for mail that comes faster than it goes would make the comparison one with a clock.
        "in_flow_delay": "0s",
        "smtpd_tls_security_level": "may",
        "smtpd_tls_chain_files": f"{files.key} {files.chain}",
    }
    more = settings | {"default_process_limit": "200"}
    with (
        postfix(folder / "postfix", ports[1], settings),
        postfix(folder / "postfix200", ports[2], more, processes="200"),
    ):
        ours.start()
        try:
            names = dict(zip(("ours", "postfix", "postfix-200"), ports, strict=True))
            for connections in options.connections:
                rounds = {name: [] for name in names}
                for number in range(options.rounds + 1):
                    for name, port in names.items():
                        result = load(port, connections, options.messages, options.size, options.tls)
                        if number:  # the first round warms up
                            rounds[name].append(result)
                rates = {name: statistics.median(r["rate"] for r in results) for name, results in rounds.items()}
                p99 = {name: statistics.median(r["p99"] for r in results) for name, results in rounds.items()}
                best = max(rates["postfix"], rates["postfix-200"])
                print(
                    f"{options.size} octets, {connections} connections{', TLS' if options.tls else ''}: "
                    + ", ".join(f"{n} {rates[n]:.0f}/s (p99 {1000 * p99[n]:.0f} ms)" for n in names)
                    + f"; ratio {rates['ours'] / best:.2f}",
                    flush=True,
                )
        finally:
            ours.stop()


if __name__ == "__main__":
    main()
