"""Random sort keys that are a pure function of (seed, stream).

torch's CPU generator starts from the low 32 bits of its seed only, so seed and epoch packed into one 64-bit number
would collide. Philox is keyed by 128 bits: seed and stream are its two 64-bit halves, different pairs are different
keys, and no two (seed, epoch) share a sequence. Its raw 64-bit output is defined by the algorithm, not by a library
version, so a run can be resumed, or repeated years later, from the two numbers alone.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

# An epoch's plan draws from the stream of its number; all else draws from streams that no epoch reaches. Those of a step
# are these numbers plus the step's: what is drawn on the device for the batch, and in the network; and on the host for
# AugMix and Manifold MixUp, and for what came after them (apart, because Manifold MixUp may meet them in one step).
STEP_STREAM = 2**62
NETWORK_STREAM = 2**62 + 2**61
HOST_STREAM = 2**63
IMAGE_STREAM = 2**63 + 2**62
HOLDOUT_STREAM = 2**64 - 1


def random_keys(shape: tuple[int, ...], *, seed: int, stream: int) -> Tensor:
    """Uniform int64 keys in 0..2^63-1 of the given shape; sorting by them is a uniform shuffle.

    Raises ValueError when seed or stream is outside 0..2^64-1.
    """
    for argument, value in (("seed", seed), ("stream", stream)):
        if not 0 <= value < 2**64:
            raise ValueError(f"{argument} is {value}, expected 0..2**64-1")
    generator = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64))
    raw = generator.random_raw(math.prod(shape)) >> np.uint64(1)  # the sign bit stays clear
    return torch.from_numpy(raw.view(np.int64)).view(shape)


def host_generator(*, seed: int, stream: int) -> np.random.Generator:
    """A generator for draws on the host that is a pure function of (seed, stream), each in 0..2^64-1."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)))
