"""UNIX sockets: paths longer than the 107 octets that the kernel takes, and sockets that were left behind."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

LIMIT = 107
TRY_OUT = Path("var") / "submit.sock"
"""Where the embedded default takes mail of its own user, in the folder in which it was started."""


@contextlib.contextmanager
def socket_path(path: Path) -> Iterator[str]:
    """A path to the same socket that is short enough, valid inside the `with`."""
    if len(os.fsencode(path)) <= LIMIT:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def remove_dead(path: str) -> None:
    """Remove a socket on which nobody listens any more; what else is there stays."""
    with contextlib.suppress(FileNotFoundError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            if Path(path).is_socket():
                Path(path).unlink()
        except BlockingIOError:  # somebody listens, and has much to do
            pass
