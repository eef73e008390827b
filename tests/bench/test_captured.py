"""Runs captured as CUDA graphs: they do the work again, and what empties the cache before them is not counted."""

from __future__ import annotations

import pytest
import torch
from mixfast_bench.captured import Captured, Cold
from mixfast_bench.kernels import Forward, ForwardBackward
from mixfast_bench.measure import no_mark, time_turn

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Count:
    name = "count"

    def __init__(self) -> None:
        self.runs = torch.zeros((), device="cuda")

    def run(self, mark):
        self.runs.add_(1)
        mark("pass")


def test_a_replay_does_the_work_again():
    count = Count()
    captured = Captured(count, Cold(torch.device("cuda")))
    before = int(count.runs)
    for _ in range(3):
        captured.run(no_mark)
    assert int(count.runs) == before + 3


def test_what_waits_for_the_host_is_launched_each_time():
    class Waits(Count):
        def run(self, mark):
            self.runs.add_(torch.tensor([1.0]).to("cuda")[0])
            mark("pass")

    waits, stream = Waits(), torch.cuda.current_stream()
    captured = Captured(waits, Cold(torch.device("cuda")))
    assert not captured.is_captured and torch.cuda.current_stream() == stream
    before = int(waits.runs)
    captured.run(no_mark)
    assert int(waits.runs) == before + 1
    assert Captured(Count(), Cold(torch.device("cuda"))).is_captured


@pytest.mark.parametrize("contender", [Forward, ForwardBackward])
def test_only_the_run_is_timed(contender):
    device = torch.device("cuda")
    x = torch.ones(8, device=device)
    captured = Captured(contender("double", lambda x: 2 * x, (x,)), Cold(device))
    time_turn(captured, 10, device)
    timings = time_turn(captured, 50, device)
    assert timings.keys() == {"pass"} and 0 < timings["pass"] < 1e-3
