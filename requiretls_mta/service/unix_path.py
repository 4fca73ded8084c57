"""UNIX sockets whose path is longer than the 107 octets that the kernel takes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

LIMIT = 107


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
