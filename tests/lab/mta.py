"""Instances of ours as processes, as an operator starts them: `twistd requiretls-mta` with a configuration file."""

import email
import email.policy
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.threaded import ThreadedServer

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parent.parent.parent


def is_ours(port):
    """Whether the other processes that run tests beside this one (pytest-xdist) will leave this port to it."""
    count, number = os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"), os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    # Linux prefers odd ports where one is asked for.
    return port // 2 % int(count) == int(number.removeprefix("gw"))


def free_port(*addresses):
    """A TCP port that is free on all these loopback addresses."""
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind((addresses[0], 0))
            port = probe.getsockname()[1]
        if not is_ours(port):
            continue
        try:
            for address in addresses:
                with socket.socket() as other:
                    other.bind((address, port))
        except OSError:
            continue
        return port
    raise RuntimeError(f"no port is free on {addresses}")


class MTA:
    """One instance in a folder of its own; `config` is the text of its TOML file, without `state` and `log`."""

    twistd = (BIN / "twistd",)

    def __init__(self, folder, config, probe, *, options=()):
        self.folder, self.probe = folder, probe
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "config.toml"
        self.file.write_text(f'state = "{folder}/state"\n{config}\n[log]\nformat = "json"\n[web]\nendpoint = ""\n')
        self.options = options
        self.process = None
        self.log = folder / "log"

    def start(self, *, wait=True):
        """Start it; returns when it answers."""
        command = [*self.twistd, "-n", "--pidfile=", *self.options, "requiretls-mta", "--config", self.file]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT)
        if wait:
            self.wait()
        return self

    def wait(self, seconds=20):
        """Until the greeting comes."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            try:
                with socket.create_connection(self.probe, 1) as connection:
                    connection.settimeout(5)
                    if connection.recv(3) == b"220":
                        return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"the instance does not answer: {self.log.read_text()[-3000:]}")

    def kill(self):
        """SIGKILL: the machine lost power, as far as the process knows."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self):
        """SIGTERM; returns the exit status."""
        if self.process is None or self.process.poll() is not None:
            return None
        self.process.terminate()
        try:
            return self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
            raise

    def tool(self, *arguments, check=True, **options):
        """Run the tool on this instance's configuration; its standard output."""
        done = subprocess.run(
            [BIN / "requiretls-mta", *arguments, "--config", self.file],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            **options,
        )
        if check and done.returncode:
            raise AssertionError(f"{arguments}: exit {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def events(self, name=None):
        """The events logged so far."""
        found = []
        for line in self.log.read_text().splitlines() if self.log.exists() else ():
            if name is not None and name not in line:
                continue
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if name is None or event.get("event") == name:
                found.append(event)
        return found

    def told(self, name, count=1, seconds=20, **fields):
        """Wait for that many events with these fields: outcomes are told when they are on disk."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = [event for event in self.events(name) if fields.items() <= event.items()]
            if len(found) >= count:
                return found
            time.sleep(0.05)
        raise AssertionError(f"no {count} {name} {fields}: {self.log.read_text()[-4000:]}")

    def mailbox(self, address):
        """The files in a mailbox of this instance."""
        local, _, domain = address.partition("@")
        folder = self.folder / "mail" / domain / local / "new"
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def mail(self, address, count=1, seconds=20):
        """Wait for that many messages in a mailbox; their octets."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            files = self.mailbox(address)
            if len(files) >= count:
                return [file.read_bytes() for file in files]
            time.sleep(0.05)
        raise AssertionError(
            f"{len(self.mailbox(address))} of {count} messages for {address}: {self.log.read_text()[-4000:]}"
        )


class Report:
    """A non-delivery report, taken apart."""

    def __init__(self, octets):
        self.octets = octets
        self.message = email.message_from_bytes(octets, policy=email.policy.default)
        assert self.message.get_content_type() == "multipart/report", octets
        text, status, self.quoted = self.message.iter_parts()
        self.text = text.get_content()
        self.about, *self.recipients = status.get_payload()

    @property
    def status(self):
        (recipient,) = self.recipients
        return recipient["Status"]

    @property
    def diagnostic(self):
        (recipient,) = self.recipients
        return recipient["Diagnostic-Code"]


class Recorder(ThreadedServer):
    """A mail server without STARTTLS that keeps every octet it is sent, and takes any message."""

    def __init__(self, address, port, keywords=()):
        self.octets = b""
        self._keywords = keywords
        super().__init__(address, port)

    def talk(self, connection):
        """One session."""
        connection.sendall(b"220 plain.test ESMTP\r\n")
        data = False
        for line in connection.makefile("rb"):
            self.octets += line
            if data:
                data = line != b".\r\n"
                if not data:
                    connection.sendall(b"250 2.0.0 taken\r\n")
            elif line.upper().startswith(b"EHLO"):
                lines = [b"plain.test", *self._keywords]
                connection.sendall(b"".join(b"250-%s\r\n" % k for k in lines[:-1]) + b"250 %s\r\n" % lines[-1])
            elif line.upper().startswith(b"DATA"):
                data = True
                connection.sendall(b"354 go\r\n")
            elif line.upper().startswith(b"QUIT"):
                connection.sendall(b"221 bye\r\n")
                return
            else:
                connection.sendall(b"250 ok\r\n")


def user_file(path, name, password):
    """A users file as the tool writes it."""
    from requiretls_mta.service.users_file import UsersFile

    UsersFile(path).add(name, password)


__all__ = ["MTA", "Recorder", "Report", "free_port", "user_file"]
