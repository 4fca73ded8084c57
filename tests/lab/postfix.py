"""A Postfix of its own: one instance in a temporary folder, on a loopback port, started and stopped by its user."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

# chroot off everywhere: the folder has none of the files that a chroot needs.
_MASTER = """\
{listen} inet n - n - {processes} smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


@contextlib.contextmanager
def postfix(folder: Path, port: int, settings: dict[str, str], *, address: str = "127.0.0.1", processes: str = "-"):
    """A running Postfix that listens on `address:port`; `settings` are parameters of its main.cf. Yields its folder."""
    # Its daemons run as the user postfix and must be able to pass through every folder above.
    conf, spool, data = folder / "conf", folder / "spool", folder / "data"
    for path in (conf, spool, data):
        path.mkdir(parents=True, exist_ok=True)
    for path in (folder, *folder.parents):
        if path.stat().st_uid == os.getuid():
            path.chmod(path.stat().st_mode | 0o755 if path == folder else path.stat().st_mode | 0o011)
    shutil.chown(data, "postfix")
    main = {
        "compatibility_level": "3.6",
        "queue_directory": str(spool),
        "data_directory": str(data),
        "maillog_file": str(folder / "log"),
        "maillog_file_prefixes": str(folder),
        "syslog_name": "postfix-lab",
        "myhostname": "postfix.test",
        "mydestination": "",
        "mynetworks": "127.0.0.0/8",
        "inet_protocols": "ipv4",
        "alias_maps": "",
        "alias_database": "",
        "multi_instance_name": "",
        "smtpd_tls_security_level": "none",
        "smtp_tls_security_level": "none",
        "smtp_bind_address": address,
    }
    main.update(settings)
    (conf / "main.cf").write_text("".join(f"{key} = {value}\n" for key, value in main.items()))
    (conf / "master.cf").write_text(_MASTER.format(listen=f"{address}:{port}", processes=processes))
    for name in ("dynamicmaps.cf", "postfix-files"):
        if (source := Path("/etc/postfix") / name).exists():
            shutil.copy(source, conf)
    # The second folder of configurations must be named by the first, or Postfix refuses its queue commands.
    command = ["/usr/sbin/postfix", "-c", str(conf)]
    started = subprocess.run([*command, "start"], capture_output=True, text=True, timeout=60, check=False)
    if started.returncode:
        raise RuntimeError(f"postfix did not start: {started.stdout}{started.stderr}{_log(folder)}")
    try:
        _wait(address, port, folder)
        yield folder
    finally:
        subprocess.run([*command, "stop"], capture_output=True, timeout=60, check=False)


def _wait(address: str, port: int, folder: Path) -> None:
    for _ in range(100):
        try:
            with socket.create_connection((address, port), 5) as connection:
                connection.settimeout(5)
                if connection.recv(3) == b"220":
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"postfix does not answer: {_log(folder)}")


def _log(folder: Path) -> str:
    path = folder / "log"
    return path.read_text()[-2000:] if path.exists() else ""
