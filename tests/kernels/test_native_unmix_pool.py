"""The C++ unmix_pool against float64 arithmetic written apart from it, over shapes, layouts and dtypes that it treats apart."""

from __future__ import annotations

import os

import mixfast_kernels as mk
import pytest
import torch
from drawing import draw_mixing
from guards import surrounded
from hypothesis import given, settings
from hypothesis import strategies as st
from mixfast_kernels import Mixing
from running import needs_native, run_pytest

pytestmark = needs_native

CONTIGUOUS, CHANNELS_LAST = torch.contiguous_format, torch.channels_last
FEATURES = {
    "cifar-wrn28-2": (4, 128, 8, 8),
    "tiny-imagenet": (3, 512, 8, 8),
    "imagenet-resnet": (2, 512, 7, 7),  # positions are no multiple of any vector
    "long-sums": (2, 20, 33, 31),  # more positions than one block of a sum, odd rows
    "narrow": (3, 3, 5, 4),  # fewer channels than lanes
    "one-channel": (2, 1, 9, 9),  # contiguous and channels-last at once
    "one-position": (5, 37, 1, 1),
    "streamed": (41, 513, 8, 8),  # past the size from which results bypass the caches, rows not aligned
}
GRIDS = {"cifar-wrn28-2": (32, 32), "tiny-imagenet": (64, 64), "imagenet-resnet": (56, 56), "narrow": (7, 3)}
ZONES = ("none", "box", "bitmap", "coverage")


def randn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense_weights(mixing, size):
    """The mix's weights on a grid of another size, [B, M, h, w] in float64: blow up to a common multiple, then average."""
    weights = mixing.weights().double()
    batch, inputs, height, width = weights.shape
    fine = weights.repeat_interleave(size[0], 2).repeat_interleave(size[1], 3)
    return fine.view(batch, inputs, size[0], height, size[1], width).mean((3, 5))


def expected_pool(features, weights, affine, channels):
    """[B, M, C] in float64, differentiable."""
    if affine is not None:
        features = (features * affine[0][:, None, None] + affine[1][:, None, None]).clamp(min=0)
    unmixed = (weights[:, :, None] * features[:, None, :channels]).mean((3, 4))
    averaged = features[:, None, channels:].mean((3, 4)).expand(-1, weights.shape[1], -1)
    return torch.cat((unmixed, averaged), 2)


def gradients_of(pool, leaves, mixing, with_affine, cotangent):
    """A pooled result and the gradients of its leaves: features, perhaps the mix's two weights, perhaps the affine's two."""
    grad_zones = len(leaves) - 2 * with_affine > 1
    zone = leaves[1:3] if grad_zones else (mixing.inside.to(leaves[0].dtype), mixing.outside.to(leaves[0].dtype))
    result = pool(
        leaves[0], Mixing(*zone, mixing.grid, mixing.box, mixing.bitmap), leaves[-2:] if with_affine else None
    )
    grads = torch.autograd.grad(result, leaves, cotangent.to(result.dtype), allow_unused=True)
    return [
        result.detach(),
        *(torch.zeros_like(leaf) if grad is None else grad for grad, leaf in zip(grads, leaves, strict=True)),
    ]


def check(features, mixing, affine=None, channels=None, grad_zones=True):
    """Values and all gradients of one call against float64: the error may be eight roundings of the sum of magnitudes that a number
    is made of, in the dtype that sums are taken in, and one of the result. Returns the gradient of the features."""
    channels = features.shape[1] if channels is None else channels
    zone = (mixing.inside, mixing.outside) if grad_zones else ()
    leaves = [leaf.detach().requires_grad_() for leaf in (features, *zone, *(affine or ()))]
    cotangent = randn(features.shape[0], mixing.num_inputs, features.shape[1], seed=9).to(features.dtype)

    def native(features, mixing, affine):
        return mk.unmix_pool(features, mixing, affine=affine, channels=channels)

    def exact(features, mixing, affine):
        return expected_pool(features, dense_weights(mixing, features.shape[2:]), affine, channels)

    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    sizes = [leaf.detach().double().abs().requires_grad_() for leaf in leaves]
    got = gradients_of(native, leaves, mixing, affine is not None, cotangent)
    want = gradients_of(exact, doubles, mixing, affine is not None, cotangent)
    magnitudes = gradients_of(exact, sizes, mixing, affine is not None, cotangent.abs())
    sums = torch.finfo(torch.promote_types(features.dtype, torch.float32)).eps
    for value, right, magnitude, leaf in zip(got, want, magnitudes, (features, *leaves), strict=True):
        assert value.dtype == leaf.dtype and value.shape == right.shape and value.isfinite().all()
        allowed = 8 * sums * magnitude + torch.finfo(leaf.dtype).eps * right.abs() + torch.finfo(leaf.dtype).tiny
        assert ((value.double() - right).abs() <= allowed).all()
    return got[1]


@pytest.mark.parametrize("layout", [CONTIGUOUS, CHANNELS_LAST], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", FEATURES)
@pytest.mark.parametrize("with_affine", [False, True], ids=["plain", "affine"])
def test_shapes_and_layouts(shape, layout, with_affine):
    batch, channels, height, width = FEATURES[shape]
    features = randn(batch, channels, height, width, seed=1).float().contiguous(memory_format=layout)
    affine = (randn(channels, seed=2).float(), randn(channels, seed=3).float()) if with_affine else None
    mixing = draw_mixing("box", batch, 2, GRIDS.get(shape, (height, width)))
    grad = check(features, mixing, affine)
    simplest = CONTIGUOUS if features.is_contiguous() else layout
    assert grad.is_contiguous(memory_format=simplest)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("inputs", [1, 2, 3, 4])
@pytest.mark.parametrize("grid", [(6, 7), (24, 14), (13, 4)], ids=["same-grid", "finer-grid", "uneven-grid"])
def test_zones_and_grids(zone, inputs, grid):
    features = randn(3, 21, 6, 7, seed=1).float().contiguous(memory_format=CHANNELS_LAST)
    check(features, draw_mixing(zone, 3, inputs, grid), channels=8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [CONTIGUOUS, CHANNELS_LAST], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("channels", [0, 19, 45])
def test_dtypes_and_partial_unmixing(dtype, layout, channels):
    features = randn(3, 45, 5, 7, seed=1).to(dtype).contiguous(memory_format=layout)
    affine = (randn(45, seed=2).float(), randn(45, seed=3).to(dtype))
    zone_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    check(features, draw_mixing("coverage", 3, 3, (5, 7), zone_dtype), affine, channels)


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9)),
    grid=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    zone=st.sampled_from(ZONES),
    layout=st.sampled_from(["contiguous", "channels_last", "strided", "expanded"]),
    seed=st.integers(0, 99),
)
def test_any_shape_and_layout(shape, grid, zone, layout, seed):
    features = randn(*shape, seed=seed).float()
    if layout == "channels_last":
        features = features.contiguous(memory_format=CHANNELS_LAST)
    elif layout == "strided":
        features = torch.stack((features, features), -1)[..., 0].transpose(2, 3)
    elif layout == "expanded":
        features = features[:1].expand(shape).detach()
    check(features, draw_mixing(zone, shape[0], 2, grid, seed=seed))


@pytest.mark.parametrize("layout", [CONTIGUOUS, CHANNELS_LAST], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("zone", ZONES)
def test_reads_and_writes_nothing_beside_its_tensors(layout, dtype, zone, poisoned_outputs):
    features = surrounded(randn(3, 23, 5, 7, seed=1).to(dtype).contiguous(memory_format=layout))
    affine = tuple(surrounded(randn(23, seed=seed).float()) for seed in (2, 3))
    drawn = draw_mixing(zone, 3, 2, (5, 7))
    box = None if drawn.box is None else surrounded(drawn.box)
    bitmap = None if drawn.bitmap is None else surrounded(drawn.bitmap)
    check(features, Mixing(surrounded(drawn.inside), surrounded(drawn.outside), (5, 7), box, bitmap), affine)


@pytest.mark.parametrize("layout", [CONTIGUOUS, CHANNELS_LAST], ids=["contiguous", "channels_last"])
def test_same_bits_for_any_number_of_threads(layout):
    features = randn(24, 96, 8, 8, seed=1).float().contiguous(memory_format=layout).requires_grad_()
    affine = (randn(96, seed=2).float().requires_grad_(), randn(96, seed=3).float().requires_grad_())
    mixing = draw_mixing("box", 24, 2, (32, 32))
    leaves = (features, *affine, mixing.inside.requires_grad_(), mixing.outside.requires_grad_())

    def run():
        result = mk.unmix_pool(features, mixing, affine=affine)
        return result.detach(), *torch.autograd.grad(result.square().sum(), leaves)

    threads, results = torch.get_num_threads(), []
    for count in (1, 2, 3, 2):
        torch.set_num_threads(count)
        results.append(run())
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_training_does_not_ask_for_gradients_of_the_mix():
    features, mixing = randn(2, 5, 4, 4, seed=1).float(), draw_mixing("box", 2, 2, (8, 8))
    check(features, mixing, grad_zones=False)
    zone = (mixing.inside.detach(), mixing.outside.detach(), mixing.box, None)
    grads = torch.ops.mixfast.unmix_pool_backward(
        torch.ones(2, 2, 5), features.detach(), *zone, None, None, 5, [8, 8], False
    )
    assert [grad.numel() for grad in grads] == [features.numel(), 0, 0, 0, 0]


def test_nan_and_infinity_never_disappear():
    features = torch.zeros(1, 3, 2, 2)
    features[0, 0, 0, 0], features[0, 1, 0, 0] = float("nan"), float("inf")
    everything = Mixing(torch.ones(1, 2), torch.ones(1, 2), (2, 2))
    for layout in (CONTIGUOUS, CHANNELS_LAST):
        pooled = mk.unmix_pool(
            features.contiguous(memory_format=layout), everything, affine=(torch.ones(3), torch.zeros(3))
        )
        assert pooled[0, :, 0].isnan().all() and not pooled[0, :, 1].isfinite().any() and (pooled[0, :, 2] == 0).all()


def test_boxes_beyond_the_grid_end_at_its_border():
    features = randn(2, 4, 3, 3, seed=1).float()
    weights = (torch.rand(2, 2), torch.rand(2, 2))
    wide = Mixing(*weights, (6, 6), box=torch.tensor([[-5, 2, 90, 7], [4, 3, 2, 1]], dtype=torch.int32))
    cut = Mixing(*weights, (6, 6), box=torch.tensor([[0, 2, 6, 6], [0, 0, 0, 0]], dtype=torch.int32))
    torch.testing.assert_close(mk.unmix_pool(features, wide), mk.unmix_pool(features, cut), rtol=0, atol=0)


@pytest.mark.parametrize("layout", [CONTIGUOUS, CHANNELS_LAST], ids=["contiguous", "channels_last"])
def test_opcheck_of_both_layouts(layout):
    features = randn(2, 5, 4, 3, seed=1).float().contiguous(memory_format=layout)
    mixing = draw_mixing("box", 2, 2, (8, 6))
    zone = (mixing.inside, mixing.outside, mixing.box, None)
    torch.library.opcheck(torch.ops.mixfast.unmix_pool.default, (features, *zone, None, None, 5, [8, 6]))
    backward = (torch.ones(2, 2, 5), features, *zone, torch.ones(5), torch.ones(5).double(), 3, [8, 6])
    for zones in (False, True):
        torch.library.opcheck(torch.ops.mixfast.unmix_pool_backward.default, (*backward, zones))


@pytest.mark.long
def test_more_than_two_thousand_million_features():
    features = torch.zeros(2**19, 64, 8, 9, dtype=torch.bfloat16)
    features[-1] = randn(64, 8, 9, seed=1)
    weights = torch.ones(2**19, 1)
    mixing = Mixing(weights, 2 * weights, (8, 9), box=torch.tensor([[1, 2, 5, 6]], dtype=torch.int32).expand(2**19, 4))
    last = Mixing(weights[-1:], 2 * weights[-1:], (8, 9), box=mixing.box[-1:])
    pooled = mk.unmix_pool(features, mixing)
    torch.testing.assert_close(pooled[-1:], mk.unmix_pool(features[-1:], last), rtol=0, atol=0)
    zone = (mixing.inside, mixing.outside, mixing.box, None)
    grad = torch.ops.mixfast.unmix_pool_backward(pooled, features, *zone, None, None, 64, [8, 9], False)[0]
    alone = (last.inside, last.outside, last.box, None)
    expected = torch.ops.mixfast.unmix_pool_backward(pooled[-1:], features[-1:], *alone, None, None, 64, [8, 9], False)[
        0
    ]
    torch.testing.assert_close(grad[-1:], expected, rtol=0, atol=0)


F, W, Z = torch.randn(2, 5, 4, 3), torch.ones(2, 2), torch.zeros(2, 4, dtype=torch.int32)


@pytest.mark.parametrize(
    "arguments",
    [
        (F[0], W, W, None, None, None, None, 5, [4, 3]),
        (F, W[:1], W, None, None, None, None, 5, [4, 3]),
        (F, W, W[:, :1], None, None, None, None, 5, [4, 3]),
        (F, W, W, Z[:1], None, None, None, 5, [4, 3]),
        (F, W, W, None, torch.ones(2, 4, 4, dtype=torch.bool), None, None, 5, [4, 3]),
        (F, W, W, None, torch.ones(2, 4, 3, dtype=torch.int32), None, None, 5, [4, 3]),
        (F, W, W, None, None, torch.ones(5), torch.ones(4), 5, [4, 3]),
        (F, W, W, None, None, torch.ones(5), None, 5, [4, 3]),
        (F, W, W, None, None, None, None, 6, [4, 3]),
        (F, W, W, None, None, None, None, 5, [4]),
        (F, W, W, None, None, None, None, 5, [0, 3]),
        (F.int(), W, W, None, None, None, None, 5, [4, 3]),
    ],
)
def test_the_bare_operator_refuses_what_it_would_read_out_of_bounds(arguments):
    with pytest.raises(RuntimeError):
        torch.ops.mixfast.unmix_pool(*arguments)
    with pytest.raises(RuntimeError):
        torch.ops.mixfast.unmix_pool_backward(torch.ones(2, 2, 5), *arguments, False)


def test_a_gradient_of_the_wrong_shape_is_refused():
    with pytest.raises(RuntimeError, match="grad"):
        torch.ops.mixfast.unmix_pool_backward(torch.ones(2, 2, 4), F, W, W, None, None, None, None, 5, [4, 3], False)


@pytest.mark.parametrize("instructions", ["default", "avx2"])
def test_other_instruction_sets(instructions):
    """The same tests again in a process that is held to older instructions."""
    if os.environ.get("ATEN_CPU_CAPABILITY"):
        pytest.skip("already held to one instruction set")
    chosen = "shapes_and_layouts or dtypes or beside_its_tensors or nan_and_infinity"
    run_pytest(__file__, {"ATEN_CPU_CAPABILITY": instructions}, "-k", chosen)
