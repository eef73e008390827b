"""What becomes of memory that the process frees: for inference it is kept for the next operator instead of handed back.

Where no gradient is wanted, every result is freed soon after it was made. The C library of Linux systems (glibc) then returns
large blocks to the system, which must clear each page of the next block when it is first touched: a twentieth of the time of a
transformer's inference, and nearly all of its variation.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

# Parameters of glibc's mallopt (malloc.h).
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
NEVER = -1
# Blocks from this size on still go back to the system; glibc before 2.35 takes the second value at most.
LARGEST_KEPT = (1 << 30, 1 << 25)


def keep_freed_memory() -> bool:
    """Tells glibc to keep what this process frees; whether it does from now on.

    Does nothing with another C library, or where the environment says itself how memory is allocated (``MALLOC_...``,
    ``GLIBC_TUNABLES``). Held for the rest of the process; call it before memory is allocated in earnest.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    mallopt = _mallopt()
    if mallopt is None:
        return False
    return any(mallopt(MMAP_THRESHOLD, size) for size in LARGEST_KEPT) and bool(mallopt(TRIM_THRESHOLD, NEVER))


def hand_back_freed_memory() -> None:
    """Gives what this process has freed, and would stay resident, back to the system, once; nothing with another C library."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _mallopt() -> Callable[[int, int], int] | None:
    """glibc's function, None with another C library."""
    return getattr(ctypes.CDLL(None), "mallopt", None)
