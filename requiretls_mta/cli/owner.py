"""Root becomes the owner of what the service owns, so that no file of root's is left behind in it."""

from __future__ import annotations

import os
import pwd
from pathlib import Path


def owner_of(folder: Path) -> tuple[int, int] | None:
    """User and group of a folder; None when there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_uid, found.st_gid


def become_owner_of(folder: Path) -> None:
    """Give up root for good, for the folder's owner; nothing happens to others, or when root owns it."""
    owner = owner_of(folder)
    if os.geteuid() != 0 or owner is None or owner[0] == 0:
        return
    user, group = owner
    try:
        os.initgroups(pwd.getpwuid(user).pw_name, group)
    except KeyError:  # a user without a name has no further groups
        os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
