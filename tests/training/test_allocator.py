"""Freed memory is kept: seen by the pages that the system must hand out again."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

WORK = """
import resource, torch
from mixfast.allocator import keep_freed_memory
kept = keep_freed_memory() if {keep} else None
def use():
    torch.zeros(16 << 20).add_(1)  # 64 MiB
for _ in range(3):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
GLIBC = hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


def run(keep: bool, **given: str) -> list[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"
    }
    command = [sys.executable, "-c", WORK.format(keep=keep)]
    return subprocess.run(command, env=environment | given, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.skipif(not GLIBC, reason="mallopt is glibc's")
def test_kept_memory_is_not_asked_for_again():
    """Ten blocks, of which hardly one is new; without it all are."""
    kept, faults = run(keep=True)
    assert kept == "True" and 5 * int(faults) < int(run(keep=False)[1])


@pytest.mark.parametrize("given", [{"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}])
def test_what_the_environment_says_goes_first(given):
    assert run(keep=True, **given)[0] == "False"
