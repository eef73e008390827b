"""The Triton unmix_pool against float64, over the shapes, layouts and dtypes that its kernels treat differently."""

from __future__ import annotations

import pytest
import torch
from drawing import draw_mixing
from guards import doubled
from mixfast_kernels.unmix_pool import unmix_pool_backward_reference, unmix_pool_reference
from triton_cases import (
    assert_as_exact,
    beside_garbage,
    guarded_call,
    interpreted_only,
    last_program,  # noqa: F401
    needs_triton,
)

pytestmark = needs_triton

SHAPES = {
    "cifar": (3, 128, 8, 8),  # whole tiles
    "imagenet": (2, 70, 7, 7),  # positions and channels that fill no tile
    "long-sums": (1, 20, 33, 31),  # several trips over the positions, the last one short
    "narrow": (3, 3, 5, 4),
    "one-channel": (2, 1, 9, 9),  # contiguous and channels-last at once
    "one-position": (5, 37, 1, 1),
}
# shape, dtype, channels-last, zone, inputs, affine, share of the channels that are unmixed
CASES = [
    ("cifar", torch.float32, True, "box", 2, True, 1.0),
    ("cifar", torch.bfloat16, True, "bitmap", 2, True, 0.5),
    ("cifar", torch.float16, False, "coverage", 3, False, 1.0),
    ("imagenet", torch.bfloat16, True, "box", 4, True, 1.0),
    ("imagenet", torch.float32, False, "none", 2, True, 0.3),
    ("imagenet", torch.float64, False, "box", 2, True, 1.0),
    ("long-sums", torch.float32, True, "bitmap", 2, True, 1.0),
    ("long-sums", torch.float64, True, "coverage", 1, False, 0.0),
    ("long-sums", torch.bfloat16, False, "box", 2, False, 1.0),
    ("narrow", torch.float32, True, "box", 4, False, 1.0),
    ("one-channel", torch.float16, False, "bitmap", 3, True, 1.0),
    ("one-position", torch.float32, True, "none", 2, True, 0.6),
]


def randn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def launchers():
    from mixfast_kernels._triton import unmix_pool

    return unmix_pool.unmix_pool, unmix_pool.unmix_pool_backward


def arguments_of(shape, dtype, channels_last, zone, inputs, affine, share, grid=None):
    """The operator's arguments, and a gradient of its result."""
    batch, count, height, width = shape
    layout = torch.channels_last if channels_last else torch.contiguous_format
    features = randn(*shape, seed=1).to(dtype).contiguous(memory_format=layout)
    mix_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    mixing = draw_mixing(zone, batch, inputs, grid or (height, width), mix_dtype)
    scale, shift = (randn(count, seed=2).to(mix_dtype), randn(count, seed=3).to(mix_dtype)) if affine else (None, None)
    tensors = (features, mixing.inside, mixing.outside, mixing.box, mixing.bitmap, scale, shift)
    grad = randn(batch, inputs, count, seed=4).to(dtype)
    return grad, (*tensors, round(share * count), list(mixing.grid))


def check(grad, arguments, zones):
    forward, backward = launchers()
    exact_arguments = [doubled(value) for value in arguments]
    pooled = guarded_call(forward, *arguments)
    assert_as_exact(pooled, [unmix_pool_reference(*arguments)], [unmix_pool_reference(*exact_arguments)])
    grads = guarded_call(backward, grad, *arguments, zones)
    plain = unmix_pool_backward_reference(grad, *arguments, zones)
    exact = unmix_pool_backward_reference(grad.double(), *exact_arguments, zones)
    assert_as_exact(grads, plain, exact)
    assert grads[0].stride() == plain[0].stride()


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_values_and_gradients_stay_in_bounds_and_as_exact_as_the_reference(case):
    name, *options = case
    grad, arguments = arguments_of(SHAPES[name], *options)
    check(grad, arguments, zones=CASES.index(case) % 2 == 0)


@pytest.mark.parametrize("zone", ["none", "box", "bitmap", "coverage"])
@pytest.mark.parametrize("grid", [(16, 16), (3, 4), (10, 6)])
def test_a_mix_on_another_grid(zone, grid):
    grad, arguments = arguments_of((2, 6, 8, 8), torch.float32, True, zone, 2, True, 1.0, grid)
    check(grad, arguments, zones=True)


@pytest.mark.parametrize("view", ["positions", "channels", "samples", "expanded"])
def test_views_of_features(view):
    grad, arguments = arguments_of((4, 6, 5, 4), torch.float32, True, "box", 2, True, 1.0)
    features = arguments[0]
    views = {
        "positions": torch.stack((features, features), -1)[..., 0],
        "channels": torch.cat((features, features), 1).contiguous(memory_format=torch.channels_last)[:, 3:9],
        "samples": torch.cat((features, features))[::2],
        "expanded": features[:1].expand(4, -1, -1, -1),
    }
    check(grad, (views[view], *arguments[1:]), zones=False)


def test_a_nan_stays_and_stays_where_it_is():
    grad, arguments = arguments_of((2, 5, 4, 4), torch.float32, True, "box", 2, True, 1.0)
    arguments[0][1, 2, 3, 3] = float("nan")
    pooled = launchers()[0](*(beside_garbage(v) if isinstance(v, torch.Tensor) else v for v in arguments)).cpu()
    assert torch.equal(pooled.isnan(), unmix_pool_reference(*arguments).isnan()) and pooled.isnan().sum() == 2


@interpreted_only
@pytest.mark.usefixtures("last_program")
def test_offsets_beyond_32_bits():
    """2^31 elements and a sample more; memory that is never touched costs nothing."""
    count, side = 64, 8
    batch = 2**31 // (count * side * side) + 1
    features = torch.empty(batch, count, side, side, dtype=torch.float16)
    mixing = draw_mixing("box", batch, 2, (side, side))
    features[-1] = randn(count, side, side, seed=1)
    scale, shift = randn(count, seed=2).float(), randn(count, seed=3).float()
    arguments = (features, mixing.inside, mixing.outside, mixing.box, None, scale, shift, count, [side, side])
    last = (*(value[-1:] for value in arguments[:4]), *arguments[4:])
    forward, backward = launchers()
    torch.testing.assert_close(forward(*arguments)[-1:], unmix_pool_reference(*last))
    grad = torch.empty(batch, 2, count, dtype=torch.float16)
    grad[-1] = randn(2, count, seed=4)
    # The sums over all samples are no concern here: of the parts, the last program writes its own only.
    grad_features = backward(grad, *arguments, False)[0]
    torch.testing.assert_close(grad_features[-1:], unmix_pool_backward_reference(grad[-1:], *last, False)[0])


def test_surrounding_garbage_is_there():
    """The guards of these tests would see a read or a write outside."""
    values = beside_garbage(torch.ones(3))
    assert values.as_strided((1,), (1,), values.storage_offset() - 1).isnan().all()
