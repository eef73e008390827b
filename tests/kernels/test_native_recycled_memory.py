"""Large results lie in memory that is used again: never while somebody still holds it, and not without bound."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import mixfast_kernels as mk
import pytest
import torch
from running import needs_native

pytestmark = needs_native

MIB = 2**20


def views(value, size=64):
    """A result of size MiB, every element ``value``."""
    images = torch.full((1, 1, 1024, 1024), value, dtype=torch.uint8)
    return mk.augment(images, index=torch.zeros(size, dtype=torch.int64), dtype=torch.uint8)


def resident_bytes():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    pytest.skip("the system does not tell")


def test_memory_is_used_again_when_a_result_is_gone():
    first = views(1)
    address = first.data_ptr()
    del first
    gc.collect()
    second = views(2)
    assert second.data_ptr() == address and bool((second == 2).all())


def test_a_result_that_is_held_is_left_alone_also_through_a_view():
    held = views(3)[5:6]
    others = [views(value) for value in (4, 5)]
    assert bool((held == 3).all()) and all(bool((o == v).all()) for o, v in zip(others, (4, 5), strict=True))


def test_what_lies_idle_is_bounded():
    before = resident_bytes()
    results = [views(value) for value in range(8)]
    del results
    gc.collect()
    assert resident_bytes() - before < (256 + 64) * MIB


def test_threads_get_memory_of_their_own():
    wrong = []

    def work(value):
        for _ in range(4):
            result = views(value, 40)
            if not bool((result == value).all()):
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
