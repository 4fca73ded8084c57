"""The machine's own name, without asking DNS: a start with dead name servers takes no longer."""

from __future__ import annotations

import socket
from pathlib import Path

from requiretls_mta.message.address import AddressError, ascii_domain, check_domain

HOSTS = Path("/etc/hosts")


def machine_name(name: str | None = None, hosts: Path = HOSTS) -> str:
    """The fully qualified name of this machine where the system's files tell it, else its short name."""
    name = socket.gethostname() if name is None else name
    if "." not in name:
        name = next((full for full in _names_of(name, hosts) if "." in full), name)
    try:
        check_domain(name)
        return ascii_domain(name)
    except AddressError:
        return "localhost"


def _names_of(name: str, hosts: Path) -> list[str]:
    try:
        lines = hosts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    entries = [line.partition("#")[0].split()[1:] for line in lines]
    return next((names for names in entries if name in names), [])
