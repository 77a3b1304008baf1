"""What the server's own settings mean for the journal, from what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping


def warnings(info: Mapping[str, str]) -> list[str]:
    """A sentence for each thing that may lose what was acknowledged. ``CONFIG`` is not asked: services forbid it.

    :param info: an ``INFO``.
    """
    found = []
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and info.get("maxmemory", "0") != "0":
        found.append(
            f"Redis may evict what the journal keeps (maxmemory-policy is {policy}); it must be noeviction, so that a "
            "full server refuses instead"
        )
    if info.get("aof_enabled") != "1":
        found.append(
            "Redis keeps no append-only file (appendonly is no), so what was acknowledged may be lost when it ends; "
            "only a service that is durable by itself, such as MemoryDB, may do without"
        )
    return found
