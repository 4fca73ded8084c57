"""Bounds of the embedded queue."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class QueueSettings:
    """Where bodies are kept, and how much memory they may take while they arrive."""

    row_limit: int = 128 * 1024
    """Octets up to which a body is kept in the database; larger ones are files."""
    memory: int = 64 * 1024 * 1024
    """Octets of all bodies that are arriving, together; beyond it even small ones go to files."""
    fresh: int = 16 * 1024
    """Octets up to which the body of a message that is handed out at once stays in memory until it is settled."""
