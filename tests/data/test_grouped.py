"""Chains run in groups against the same operations run one chain after the other."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfast.data.grouped import plan_steps

NUM_CODES = 6


@settings(max_examples=80, deadline=None)
@given(
    kinds=st.lists(st.integers(0, 3), min_size=NUM_CODES, max_size=NUM_CODES),
    depth=st.integers(1, 4),
    width=st.integers(1, 3),
    batch=st.integers(0, 9),
    seed=st.integers(0, 1000),
)
def test_groups_change_nothing(kinds: list[int], depth: int, width: int, batch: int, seed: int) -> None:
    """Operation k of kind j maps x to 3 x + 7 k + j, modulo 256: no two of them commute."""
    rng = np.random.default_rng(seed)
    kind_of_code = np.array(kinds)
    codes_DN = rng.integers(NUM_CODES, size=(depth, width * batch))
    images = torch.from_numpy(rng.integers(0, 256, (batch, 1, 2, 3), dtype=np.uint8))
    steps = plan_steps(codes_DN, kind_of_code, batch, torch.device("cpu"))
    called = []

    def kernel(kind: int):
        def run(pixels, place):
            assert len(pixels) == len(steps.codes[place]) > 0
            assert (kind_of_code[steps.codes[place].numpy()] == kind).all()
            assert (steps.codes[place].numpy() == codes_DN[place[0]][steps.order[place].numpy()]).all()
            called.append((place[0], kind))
            return (3 * pixels.int() + 7 * steps.codes[place][:, None, None, None] + kind).to(torch.uint8)

        return run

    actual = steps.run(images, [kernel(kind) for kind in range(kind_of_code.max() + 1)])
    assert actual.shape == (width * batch, 1, 2, 3) and actual.dtype == torch.uint8
    assert len(called) == len(set(called))  # a kernel once a step
    for n in range(width * batch):
        expected = images[n % batch].int()
        for code in codes_DN[:, n]:
            expected = (3 * expected + 7 * int(code) + kinds[code]) % 256
        assert torch.equal(actual[n].int(), expected)
