"""What kernels that read images share: numbers of each channel that are known when a kernel is compiled."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def of_channel(constants: tl.constexpr, channel, CHANNELS: tl.constexpr, SUMS: tl.constexpr):
    """For each element of ``channel`` its channel's number out of the tuple ``constants``, in the dtype SUMS."""
    values = tl.full(channel.shape, constants[0], SUMS)
    for c in tl.static_range(1, CHANNELS):
        values = tl.where(channel == c, tl.full(channel.shape, constants[c], SUMS), values)
    return values
