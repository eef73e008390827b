"""How much memory is free, so that a data set that cannot fit is refused before it is decoded."""

from __future__ import annotations

import os
from pathlib import Path

from mixfast.data.errors import OutOfMemoryError


def require_memory(needed: int, what: str) -> None:
    """Raises OutOfMemoryError, with both numbers, if `needed` bytes for `what` are more than are free.

    Says nothing where the system does not tell what is free.
    """
    free = available_memory()
    if free is not None and needed > free:
        raise OutOfMemoryError(
            f"{what} would take {format_bytes(needed)} of memory once decoded, but only {format_bytes(free)} is free; "
            "give a smaller image_size or use a machine with more memory"
        )


def available_memory() -> int | None:
    """Bytes that this process can still take: the machine's, or its container's if that is less; None if unknown."""
    limits = [limit for limit in (_machine_memory(), _container_memory()) if limit is not None]
    return min(limits, default=None)


def format_bytes(count: float) -> str:
    """A count of bytes for people: "1.5 GiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _machine_memory() -> int | None:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not every system has these names
        return None


def _container_memory() -> int | None:
    """What cgroup v2 still allows. Cached file pages count as used there, but are given back under pressure."""
    group = Path("/sys/fs/cgroup")
    limit, used = _lines(group / "memory.max"), _lines(group / "memory.current")
    if not limit or not used or limit[0] == "max":
        return None
    reclaimable = [int(line.split()[1]) for line in _lines(group / "memory.stat") if line.startswith("inactive_file ")]
    return int(limit[0]) - int(used[0]) + sum(reclaimable)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
