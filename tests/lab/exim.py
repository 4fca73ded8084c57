"""An exim of its own: Debian's, installed or only unpacked, on a loopback port, started and stopped by its user.

As packages exim4 and postfix conflict, so that `.ci/run` unpacks the one and installs the other. What exim then lacks
is the user that it was built for: where there is none, it gets one in a mount namespace of its own, and nowhere else.
"""

import contextlib
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.lab.ca import HostFiles
from tests.lab.require import do_without, need, need_root

USER = "Debian-exim"
UID = 27_825
"""Of a user that the machine does not have; any number that nobody has."""

_CONFIG = """\
exim_path = {program}
primary_hostname = {hostname}
spool_directory = {folder}/spool
log_file_path = {folder}/log/%slog
pid_file_path = {folder}/log/pid
keep_environment =
local_interfaces = {address}
daemon_smtp_ports = {port}
disable_ipv6
host_lookup =
rfc1413_hosts = :
dsn_advertise_hosts = *
tls_advertise_hosts = *
tls_certificate = {files.chain}
tls_privatekey = {files.key}
acl_smtp_rcpt = at_rcpt
deliver_drop_privilege
domainlist own = {domains}
begin acl
at_rcpt:
  deny domains = +own
       local_parts = nobody
       message = 5.1.1 no such user
  accept
begin routers
mailboxes:
  driver = accept
  domains = +own
  local_parts = {boxes}
  transport = mailbox
others:
  driver = manualroute
  domains = ! +own
  route_list = * {smarthost}
  self = send
  transport = smtp
begin transports
mailbox:
  driver = appendfile
  maildir_format
  create_directory
  directory = {folder}/mail/$local_part_data
  return_path_add
  user = Debian-exim
smtp:
  driver = smtp
  interface = {address}
  port = {port}
begin retry
* * F,1h,1s
"""


@contextlib.contextmanager
def exim(
    folder: Path,
    port: int,
    *,
    address: str,
    hostname: str,
    files: HostFiles,
    domains: Sequence[str],
    boxes: Sequence[str],
    smarthost: str,
):
    """A running exim that listens on `address:port`. Its `boxes` exist in each of its `domains`.

    `nobody` it refuses at RCPT; all others it takes, and fails to deliver. What is not its own goes to `smarthost`, at
    the same port. Yields its folder, which all may enter: `mail` has the mailboxes, `log` tells what went on.
    """
    need_root("exim becomes its own user")
    folder.mkdir(parents=True, exist_ok=True)
    # exim starts itself anew as its user, who need not be able to enter where it was unpacked.
    program = shutil.copy(need("exim4"), folder / "exim4")
    prefix = _as_its_user(folder)
    for name in ("spool", "log", "mail"):
        (folder / name).mkdir()
        os.chown(folder / name, *_ids())
    folder.chmod(0o755)
    config = folder / "exim.conf"
    for path in (files.key, files.chain):
        path.chmod(0o644)
    config.write_text(
        _CONFIG.format(
            program=program,
            folder=folder,
            address=address,
            port=port,
            hostname=hostname,
            files=files,
            domains=" : ".join(domains),
            boxes=" : ".join(boxes),
            smarthost=smarthost,
        )
    )
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(
            [*prefix, str(program), "-C", str(config), "-bdf", "-q1s"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,  # what it started goes with it
        )
    try:
        _wait(process, address, port, folder)
        yield folder
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)


def _ids() -> tuple[int, int]:
    """User and group."""
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        return UID, UID
    return user.pw_uid, user.pw_gid


def _as_its_user(folder: Path) -> list[str]:
    """What to put in front of the command, so that there is the user."""
    if _ids() != (UID, UID):
        return []
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        do_without(f"there is no user {USER}, and no mount namespace to have one in")
    # The accounts of this machine, and one more.
    mounts = ""
    for name, line in (("passwd", f"{USER}:x:{UID}:{UID}::/:/usr/sbin/nologin\n"), ("group", f"{USER}:x:{UID}:\n")):
        (folder / name).write_text(Path("/etc", name).read_text() + line)
        mounts += f"mount --bind {shlex.quote(str(folder / name))} /etc/{name} && "
    return ["unshare", "--mount", "sh", "-c", f'{mounts}exec "$0" "$@"']


def log(folder: Path) -> str:
    """What exim wrote last."""
    return "".join(path.read_text()[-4000:] for path in (folder / "out", *sorted((folder / "log").glob("*log"))))


def _wait(process: subprocess.Popen, address: str, port: int, folder: Path) -> None:
    end = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((address, port), 5) as connection:
            connection.settimeout(5)
            if connection.recv(3) == b"220":
                return
        time.sleep(0.05)
    raise RuntimeError(f"exim does not answer: {log(folder)}")
