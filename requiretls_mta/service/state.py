"""The state folder: created privately, checked before anything in it is opened."""

from __future__ import annotations

import os
import stat
from pathlib import Path


class StateError(Exception):
    """The state folder cannot be used; the message names it and says why."""


def shard(state: Path) -> Path:
    """The folder of this process's part of the queue."""
    return state / "shards" / "0"


def prepare_state(state: Path) -> None:
    """Create what is missing (0700) and check that it is ours; raises `StateError`."""
    try:
        for folder in (state, state / "shards", shard(state), state / "shared"):
            folder.mkdir(mode=0o700, parents=folder == state, exist_ok=True)
            facts = folder.stat()
            if facts.st_uid != os.geteuid():
                raise StateError(f"{folder}: belongs to user {facts.st_uid}, the service runs as {os.geteuid()}")
            if not stat.S_ISDIR(facts.st_mode) or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise StateError(
                    f"{folder}: others may write there (mode {stat.S_IMODE(facts.st_mode):04o}); 0700 is needed"
                )
    except OSError as error:
        raise StateError(f"{error.filename or state}: {error.strerror}") from error
