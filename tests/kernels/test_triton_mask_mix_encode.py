"""The Triton mask_mix_encode against the reference in float64: shapes, layouts, dtypes, zones, guards and offsets."""

from __future__ import annotations

import pytest
import torch
from drawing import draw_mixing, laid_out
from guards import assert_within_twice, doubled, raised, summands_of
from mixfast_kernels import Mixing
from mixfast_kernels.mask_mix_encode import (
    mask_mix_encode_backward_reference,
    mask_mix_encode_reference,
    normalised_images,
)
from triton_cases import INTERPRETED, interpreted_only, needs_triton, on_device

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
ZONES = ("none", "box", "bitmap", "coverage")
NAMES = ("images", "weight", "inside", "outside", "bias", "position")
LAYOUTS = ("contiguous", "channels_last", "strided", "expanded")

pytestmark = needs_triton


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Case:
    """Arguments of one call, and what the launchers and the reference make of them."""

    def __init__(
        self, *, batch=3, inputs=2, encoders=None, image=(3, 5, 6), channels=7, kernel=3, stride=1, padding=1, zone="box",
        binary=False, dtype=torch.float32, image_dtype=None, layout="channels_last", extras=True, index=True, seed=0,
    ):  # fmt: skip
        unique, image_dtype = 4 if index else batch, image_dtype or dtype
        colours, *size = image
        self.grid = [(side + 2 * padding - kernel) // stride + 1 for side in size]
        mixing_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        self.mixing = draw_mixing(zone, batch, inputs, tuple(self.grid), mixing_dtype, seed)
        if binary:
            inside, outside = torch.zeros(batch, inputs), torch.zeros(batch, inputs)
            inside[:, 0], outside[:, -1] = 1, 1
            self.mixing = Mixing(inside, outside, tuple(self.grid), self.mixing.box, self.mixing.bitmap)
        images = draw(seed + 1, unique, *image)
        images = (images * 60 + 128).clamp(0, 255).byte() if image_dtype == torch.uint8 else images.to(image_dtype)
        self.images = laid_out(images, layout)
        self.weight = draw(seed + 2, encoders or inputs, channels, colours, kernel, kernel).to(dtype)
        self.bias = draw(seed + 3, encoders or inputs, channels).to(dtype) if extras else None
        self.position = draw(seed + 4, channels, *self.grid).to(dtype) if extras else None
        self.grad = laid_out(draw(seed + 5, batch, channels, *self.grid).to(dtype), layout)
        generator = torch.Generator().manual_seed(seed + 6)
        self.index = torch.randint(unique, (batch, inputs), generator=generator) if index else None
        statistics = ([0.3 + 0.1 * c for c in range(colours)], [0.2 + 0.05 * c for c in range(colours)])
        self.settings = (self.grid, stride, padding, 1.75, *(statistics if extras else (None, None)))

    def tensors(self):
        mixing = self.mixing
        return (
            self.images, self.weight, mixing.inside, mixing.outside, mixing.box, mixing.bitmap, self.index, self.bias,
            self.position,
        )  # fmt: skip

    def run(self, wanted=(False, False), guarded=False):
        """Result and gradients from the launchers."""
        from mixfast_kernels._triton.mask_mix_encode import mask_mix_encode, mask_mix_encode_backward

        def launch(grad, *arguments):
            backward = mask_mix_encode_backward(grad, *arguments, list(wanted))
            return mask_mix_encode(*arguments), *backward

        return on_device(launch, self.grad, *self.tensors(), *self.settings, guarded=guarded)

    def reference(self, wanted=(False, False), change=lambda tensor: tensor):
        grad, *tensors = (change(tensor) for tensor in (self.grad, *self.tensors()))
        backward = mask_mix_encode_backward_reference(grad, *tensors, *self.settings, list(wanted))
        return mask_mix_encode_reference(*tensors, *self.settings), *backward

    def summands(self, wanted):
        *geometry, scale, mean, std = self.settings
        grad, images, *tensors = self.grad, *self.tensors()
        # A normalised pixel is a difference itself, which float32 and float64 round; 16 bits round what it is.
        below = None if mean is None else [-value for value in mean]
        pixels = {
            1: normalised_images(images.abs(), below, std, torch.float64),
            2: normalised_images(images, mean, std, torch.float64).square(),
        }

        def results_of(power):
            deviations = None if std is None else [value**power for value in std]  # without means, of the gradient only
            settings = (*geometry, scale**power, None, deviations)
            arguments = (pixels[power], *(raised(tensor, power) for tensor in tensors), *settings)
            backward = mask_mix_encode_backward_reference(raised(grad, power), *arguments, list(wanted))
            return mask_mix_encode_reference(*arguments), *backward

        return summands_of(self.weight.dtype, results_of)

    def check(self, wanted=None):
        """Holds the launchers' results, which it returns, to the reference."""
        wanted = wanted or (self.images.is_floating_point(), False)
        results = self.run(wanted, guarded=True)
        assert results[0].is_contiguous(memory_format=torch.channels_last)
        by_kernels = self.weight.dtype != torch.float64
        assert not (wanted[0] and by_kernels) or results[1].stride() == torch.empty_like(self.images).stride()
        assert all(gradient.is_contiguous() for gradient in results[2:])
        self.hold(results, wanted)
        return results

    def hold(self, results, wanted):
        names, references = ("result", *NAMES), (self.reference(wanted), self.reference(wanted, doubled))
        for name, got, plain, exact, summands in zip(names, results, *references, self.summands(wanted), strict=True):
            assert_within_twice(got, plain, exact, name, summands=summands)


BYTES = torch.uint8  # these have no gradient, which takes the interpreter long
# Each line is a place of its own in the kernels.
SHAPES = {
    "small-stem": dict(image=(3, 4, 5), batch=2),
    "stem": dict(image=(3, 7, 8), channels=16, batch=2),
    "stem-stride-2": dict(image=(3, 7, 8), stride=2),
    "many-positions": dict(image=(3, 23, 25), channels=3, batch=2, image_dtype=BYTES),  # tiles inside a sample
    "many-channels": dict(image=(2, 3, 3), channels=150, batch=2, image_dtype=BYTES),  # several tiles of channels
    "patch": dict(image=(3, 4, 6), kernel=2, stride=2, padding=0, batch=2),
    "patch-shared": dict(image=(3, 4, 6), kernel=2, stride=2, padding=0, batch=2, encoders=1),
    "patch-many-taps": dict(image=(3, 14, 21), kernel=7, stride=7, padding=0),  # several tiles of taps
    "patch-in-order": dict(image=(1, 12, 12), kernel=2, stride=2, padding=0, batch=4, binary=True),
    "patch-shared-blocks": dict(image=(1, 12, 12), kernel=2, stride=2, padding=0, batch=4, encoders=1, image_dtype=BYTES),
    "patch-full-blocks": dict(image=(1, 3, 6), kernel=1, stride=1, padding=0, batch=70, channels=3, binary=True, image_dtype=BYTES),
    # Two chunks of samples.
    "patch-many-samples": dict(image=(1, 2, 2), kernel=2, stride=2, padding=0, batch=1030, channels=2, image_dtype=BYTES),
    "stem-chunks": dict(image=(1, 12, 12), batch=5, channels=3, image_dtype=BYTES),  # samples in chunks
    "grey": dict(image=(1, 6, 7)),
    "four-colours": dict(image=(4, 5, 6), inputs=4),
    "three-inputs": dict(inputs=3, encoders=1),
    "one-input": dict(inputs=1, channels=1),
    "seven": dict(image=(3, 9, 8), kernel=7, stride=2, padding=3),
    "gaps": dict(image=(3, 7, 8), kernel=2, stride=3, padding=1),
    "pixels": dict(kernel=1, padding=0),
    "no-index": dict(index=False),
    "bare": dict(extras=False),
}  # fmt: skip


# Windows that overlap; those that do not, sorted by the input they show; and with one encoder for all, which need no order.
KINDS = ("small-stem", "patch", "patch-shared")


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name):
    Case(**SHAPES[name]).check()


@pytest.mark.parametrize("zone", ZONES)
def test_zones(zone):
    for name in KINDS:
        Case(zone=zone, dtype=torch.bfloat16, **SHAPES[name]).check()
        Case(zone=zone, binary=True, image_dtype=BYTES, **SHAPES[name]).check()


@pytest.mark.parametrize("image_dtype", [BYTES, *FLOATS])
@pytest.mark.parametrize("dtype", FLOATS)
def test_dtypes(dtype, image_dtype):
    # Without statistics floating-point images are read as they are, uint8 ones as 0..1 all the same.
    case = Case(dtype=dtype, image_dtype=image_dtype, extras=dtype != torch.float16, **SHAPES["small-stem"])
    # The images' gradient is summed as the encoders' dtype says: any other dtype is that of the store.
    case.check((image_dtype in (dtype, torch.float32, torch.float16), False))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["small-stem", "patch"])
def test_layouts(name, layout):
    case = Case(layout=layout, **SHAPES[name])
    mixing = case.mixing
    strided = (laid_out(weights[..., None], "strided")[..., 0] for weights in (mixing.inside, mixing.outside))
    case.mixing = Mixing(*strided, mixing.grid, mixing.box)
    case.weight = laid_out(case.weight, "strided")
    case.index = case.index[:, :1].expand(-1, 2)
    case.bias = case.bias[:1].expand(2, -1)
    case.check()


@pytest.mark.long
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", ["small-stem", "patch"])
def test_layouts_and_dtypes(name, dtype, layout):
    for image_dtype in (BYTES, *FLOATS):
        Case(dtype=dtype, image_dtype=image_dtype, layout=layout, **SHAPES[name]).check()


# As it ships only large batches leave a program several blocks, or several samples of one.
FEW = ("stem-chunks", "patch-in-order", "patch-shared-blocks", "patch-full-blocks", "patch-many-samples")


@pytest.mark.parametrize("name", FEW)
def test_few_programs_that_take_many_blocks(name, monkeypatch):
    from mixfast_kernels._triton import encode_gradients

    seen, added = [], encode_gradients._added
    monkeypatch.setattr(encode_gradients, "_added", lambda parts, *a: seen.append(len(parts)) or added(parts, *a))
    for cut in ("_stem_blocks", "_patch_blocks"):
        blocks_of = getattr(encode_gradients, cut)
        monkeypatch.setattr(encode_gradients, cut, lambda *a, of=blocks_of: seen.append(of(*a).count) or of(*a))
    monkeypatch.setattr(encode_gradients, "LEAST_PROGRAMS", 1)
    monkeypatch.setattr(encode_gradients, "SHARE", 0.0)
    Case(**SHAPES[name]).check((False, False))
    blocks, splits, *_ = seen
    assert splits == 1 < blocks


@interpreted_only
@pytest.mark.parametrize("which", ["forward", "backward"])
def test_a_binary_mask_costs_one_product(which, monkeypatch):
    """Tiles of the product: one for each tile of positions, and one more where a group goes on to its next input."""
    from mixfast_kernels._triton import encode_gradients
    from mixfast_kernels._triton import mask_mix_encode as launchers
    from triton.runtime.interpreter import InterpreterBuilder

    inputs = 3
    case = Case(
        batch=48, inputs=inputs, image=(1, 8, 8), kernel=2, stride=2, padding=0, channels=4, zone="bitmap", extras=False
    )
    shown = torch.randint(inputs, (2, 48), generator=torch.Generator().manual_seed(1))
    inside, outside = torch.nn.functional.one_hot(shown, inputs).float()
    case.mixing = Mixing(inside, outside, case.mixing.grid, bitmap=case.mixing.bitmap)
    products, create_dot = [], InterpreterBuilder.create_dot
    monkeypatch.setattr(InterpreterBuilder, "create_dot", lambda *a: products.append(1) or create_dot(*a))
    if which == "forward":
        launchers.mask_mix_encode(*case.tensors(), *case.settings)
        tile, groups = launchers.FORWARD[4][0], 1
    else:
        launchers.mask_mix_encode_backward(case.grad, *case.tensors(), *case.settings, [False, False])
        tile, groups = encode_gradients.TILE[4][0], 1
    tiles = 48 * 16 // tile
    assert tiles <= len(products) <= tiles + groups * (inputs - 1) < inputs * tiles


@pytest.mark.parametrize("name", KINDS)
def test_positions_that_no_input_shows_have_their_gradient(name):
    case = Case(**SHAPES[name])
    nothing = torch.zeros_like(case.mixing.inside)
    case.mixing = Mixing(nothing, nothing, case.mixing.grid, case.mixing.box)
    assert case.check()[-1].abs().max() > 0


@pytest.mark.parametrize(("kernel", "stride", "padding", "edges"), [(3, 1, 1, (3, 7)), (2, 2, 0, (1, 4))])
def test_what_a_mask_hides_is_not_read(kernel, stride, padding, edges):
    """Pixels under no visible window are NaN; they come out nowhere, forward or backward."""
    case = Case(batch=2, image=(3, 10, 10), kernel=kernel, stride=stride, padding=padding, binary=True)
    case.index = torch.tensor([[0, 1], [2, 3]])
    low, high = edges
    box = torch.tensor([[low, low, high, high]] * 2, dtype=torch.int32)
    case.mixing = Mixing(case.mixing.inside, case.mixing.outside, tuple(case.grid), box)
    shown = torch.zeros(1, 1, *case.grid)
    shown[:, :, low:high, low:high] = 1
    window = torch.ones(1, 1, kernel, kernel)
    results = []
    for fill in (0.0, torch.nan):
        for slot, zone in enumerate((shown, 1 - shown)):
            hidden = torch.nn.functional.conv_transpose2d(zone, window, stride=stride, padding=padding)[0, 0] == 0
            assert hidden.any()
            case.images[slot::2, :, hidden] = fill
        results.append(case.run())
    for want, got in zip(*results, strict=True):
        assert got.isfinite().all() and torch.equal(got, want)


def test_an_image_that_is_none_is_0_and_reads_nothing():
    case = Case(extras=False)
    got = []
    for bad in (-1, 4, 2**40):
        case.index[1, 0] = bad
        got.append(case.run(guarded=True))
    weightless = case.mixing.inside.clone(), case.mixing.outside.clone()
    for weights in weightless:
        weights[1, 0] = 0
    case.mixing = Mixing(*weightless, case.mixing.grid, case.mixing.box)
    case.index[1, 0] = 0
    expected = case.run()
    for results in got:
        for value, want in zip(results, expected, strict=True):
            assert torch.equal(value, want)


def test_an_encoder_under_no_weight_may_hold_anything():
    """Infinite bias and gradients of what an input does not show meet no 0."""
    case = Case(zone="box", binary=True)
    case.bias[0] = torch.inf
    box = torch.tensor([[0, 0, 0, 0]] * 3, dtype=torch.int32)
    case.mixing = Mixing(case.mixing.inside, case.mixing.outside, case.mixing.grid, box)
    case.grad[1, :, 2, 3] = torch.inf
    case.weight[0] = torch.inf
    result, grad_images, grad_weight, _, _, grad_bias, grad_position = case.run((True, False))
    assert result.isfinite().all() and (grad_weight[0] == 0).all() and (grad_bias[0] == 0).all()
    reached = torch.zeros(case.grid, dtype=torch.bool)
    reached[2, 3] = True
    assert torch.equal(grad_position.isinf(), reached.expand_as(grad_position))
    window = torch.zeros(case.images.shape[2:], dtype=torch.bool)
    window[1:4, 2:5] = True
    assert not grad_images[..., ~window].isnan().any() and not grad_images[..., ~window].isinf().any()


@pytest.mark.parametrize("name", KINDS)
def test_each_gradient_comes_with_and_without_the_others(name):
    case = Case(**SHAPES[name])
    everything = case.check((True, True))
    for wanted in ((False, True), (True, False), (False, False)):
        present = [True, wanted[0], True, wanted[1], wanted[1], True, True]
        for got, want, there in zip(case.run(wanted, guarded=True), everything, present, strict=True):
            assert torch.equal(got, want) if there else got.numel() == 0


@pytest.mark.parametrize("name", ["small-stem", "patch", "gaps"])
def test_images_taken_often_and_never_sum_in_a_fixed_order(name):
    case = Case(**SHAPES[name])
    case.index = torch.tensor([[2, 2], [0, 2], [2, 2]])[: case.index.shape[0]]
    grad = case.check()[1]
    assert (grad[[1, 3]] == 0).all() and grad[2].abs().max() > 0
    assert torch.equal(grad, case.run((True, False))[1])


def test_images_of_many_channels_and_empty_batches_are_the_reference_s():
    for case in (Case(image=(17, 4, 4)), Case(batch=0)):
        results = case.run()
        if INTERPRETED:
            assert all(torch.equal(*pair) for pair in zip(results, case.reference(), strict=True))
        else:  # on a GPU PyTorch has other convolutions than here
            case.hold(results, (False, False))


def test_boxes_beyond_the_grid_and_upside_down():
    case = Case()
    box = torch.tensor([[-5, -3, 100, 4], [3, 3, 3, 8], [4, 2, 2, 5]], dtype=torch.int32)
    case.mixing = Mixing(case.mixing.inside, case.mixing.outside, case.mixing.grid, box)
    case.check()


@interpreted_only
def test_images_beyond_four_gigabytes():
    """Only the pages that are read are ever backed by memory."""
    case = Case(
        batch=2, image=(3, 32, 32), channels=2, stride=4, image_dtype=torch.uint8, layout="contiguous", extras=False
    )
    expected = case.run()
    many = torch.empty(1_500_000, 3, 32, 32, dtype=torch.uint8)
    many[-4:] = case.images
    case.images, case.index = many, case.index + len(many) - 4
    assert many[-4:].storage_offset() > 2**32
    for got, want in zip(case.run(), expected, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("name", ["small-stem", "patch-in-order"])
def test_the_same_bits_twice_and_by_the_operators(name):
    case = Case(**SHAPES[name])
    first = case.run()
    operators, arguments = torch.ops.mixfast, (*case.tensors(), *case.settings)
    backward = on_device(operators.mask_mix_encode_backward, case.grad, *arguments, [False, False])
    again = (on_device(operators.mask_mix_encode, *arguments), *backward)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
