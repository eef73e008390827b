"""pytest-benchmark over the operators: ``pytest bench/test_kernels.py -k "unmix_pool and mixfast"``."""

from __future__ import annotations

import pytest
import torch
from mixfast_bench.kernel_cases import KERNEL_CASES
from mixfast_bench.kernels import contenders_of
from mixfast_bench.measure import time_turn
from mixfast_bench.runs import WARM_UP_RUNS

from mixfast.training.compiling import missing_compiler


@pytest.mark.parametrize("way", ("mixfast", "eager", "compiled"))
@pytest.mark.parametrize("case", KERNEL_CASES, ids=lambda case: case.title)
def test_kernel(benchmark, device, case, way):
    missing = missing_compiler(device) if way == "compiled" else None
    if missing:
        pytest.skip(missing)
    torch._dynamo.reset()
    contenders = contenders_of(case.build(device, torch.float32), compiled=way == "compiled")
    # The last direction that there is: forward and backward, where there is a backward pass.
    contender = [contender for (its_way, _), contender in contenders.items() if its_way == way][-1]
    time_turn(contender, WARM_UP_RUNS, device)
    benchmark.pedantic(time_turn, args=(contender, 10, device), rounds=10)
