"""A contender as the device alone sees it: its launches recorded once as a CUDA graph, its inputs in memory and in no cache."""

from __future__ import annotations

import torch

from mixfast_bench.measure import UNTIMED, Contender, Mark, no_mark
from mixfast_bench.runs import WARM_UP_RUNS


class Cold:
    """Overwrites what the second-level cache holds: twice its size."""

    def __init__(self, device: torch.device) -> None:
        size = 2 * torch.cuda.get_device_properties(device).L2_cache_size
        self._elsewhere = torch.empty(size, dtype=torch.uint8, device=device)

    def __call__(self) -> None:
        self._elsewhere.zero_()


class Captured:
    """Replays one run of ``contender``, which must be one phase that always does the same.

    What waits for the host, as the copy of a list of numbers to the device does, cannot be captured: that is launched each
    time (``is_captured``).

    Without a graph a small operator would take as long as the host needs to launch it, which is neither its own nor its
    opponents' merit; in a training they are captured, or launched ahead of a busy device.
    """

    def __init__(self, contender: Contender, cold: Cold) -> None:
        self.name = contender.name
        self._contender, self._cold, self._graph = contender, cold, torch.cuda.CUDAGraph()
        # What compiles, tunes or makes handles must be over before the capture, and off the default stream.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_RUNS):
                contender.run(no_mark)
        torch.cuda.current_stream().wait_stream(side)
        self.is_captured = True
        try:
            with torch.cuda.stream(side), torch.cuda.graph(self._graph, stream=side):
                contender.run(no_mark)
        except RuntimeError:
            self.is_captured = False

    def run(self, mark: Mark) -> None:
        self._cold()
        mark(UNTIMED)
        if self.is_captured:
            self._graph.replay()
            mark("pass")
        else:
            self._contender.run(mark)
