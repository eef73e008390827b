"""The C++ mask_mix_encode against the reference in float64: shapes, layouts, dtypes, threads, instruction sets, bounds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from drawing import draw_mixing, laid_out
from guards import surrounded
from hypothesis import given, settings
from hypothesis import strategies as st
from mixfast_kernels import Mixing
from mixfast_kernels.mask_mix_encode import mask_mix_encode_backward_reference, mask_mix_encode_reference
from running import needs_native

pytestmark = needs_native

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
ZONES = ("none", "box", "bitmap", "coverage")
NAMES = ("images", "weight", "inside", "outside", "bias", "position")

# What a result may be off by, as a share of its largest element: sums in float32 (float64) and one rounding to the dtype.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 5e-3, torch.float16: 7e-4}


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_input_each(mixing):
    """Weights of 0 and 1: the first input inside, the last one outside."""
    inside, outside = torch.zeros_like(mixing.inside), torch.zeros_like(mixing.outside)
    inside[:, 0], outside[:, -1] = 1, 1
    return Mixing(inside, outside, mixing.grid, mixing.box, mixing.bitmap)


class Case:
    """Arguments of one call in some dtype, and the same call in float64 on the same (rounded) values."""

    def __init__(
        self, *, batch=3, inputs=2, encoders=None, unique=4, image=(3, 9, 10), channels=16, kernel=3, stride=1, padding=1,
        zone="box", binary=False, dtype=torch.float32, image_dtype=None, layout="channels_last", extras=True, index=True, seed=0,
    ):  # fmt: skip
        unique = unique if index else batch
        image_dtype = image_dtype or dtype
        colours, *size = image
        self.grid = [(side + 2 * padding - kernel) // stride + 1 for side in size]
        mixing_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        mixing = draw_mixing(zone, batch, inputs, tuple(self.grid), mixing_dtype, seed)
        self.mixing = one_input_each(mixing) if binary else mixing
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

    def arguments(self, dtype=None):
        def cast(tensor):
            return tensor.to(dtype) if dtype and tensor is not None and tensor.is_floating_point() else tensor

        mixing = self.mixing
        zone = (mixing.inside, mixing.outside, mixing.box, mixing.bitmap, self.index, self.bias, self.position)
        return tuple(cast(tensor) for tensor in (self.images, self.weight, *zone)) + self.settings

    def run(self):
        return torch.ops.mixfast.mask_mix_encode(*self.arguments())

    def run_backward(self, wanted):
        return torch.ops.mixfast.mask_mix_encode_backward(self.grad, *self.arguments(), wanted)

    def check(self, wanted=(True, True)):
        wanted = [wanted[0] and self.images.is_floating_point(), wanted[1]]
        result = self.run()
        assert result.dtype == self.weight.dtype
        assert result.is_contiguous(memory_format=torch.channels_last)
        assert_close(result, mask_mix_encode_reference(*self.arguments(torch.float64)), "result")
        exact = mask_mix_encode_backward_reference(self.grad.double(), *self.arguments(torch.float64), wanted)
        mixing = self.mixing
        likes = (self.images, self.weight, mixing.inside, mixing.outside, self.bias, self.position)
        for name, got, want, like in zip(NAMES, self.run_backward(wanted), exact, likes, strict=True):
            assert got.shape == want.shape, name
            if want.numel():
                assert got.dtype == like.dtype, name
            assert_close(got, want, name, TOLERANCE[self.weight.dtype])


def assert_close(got, want, name, at_least=0.0):
    if want.numel():
        share = max(TOLERANCE[got.dtype], at_least)
        torch.testing.assert_close(
            got.double(), want, rtol=0, atol=share * want.abs().max().item(), msg=lambda m: f"{name}: {m}"
        )


def test_the_operators_are_the_native_ones():
    for name in ("mask_mix_encode", "mask_mix_encode_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"mixfast::{name}", "CPU")


# Each line is a place of its own in the kernels: full and partial vectors of channels, one and several panels of them, tiles of
# one and many positions, strides with and without a build of their own, patches, windows that overlap a lot, gaps between them.
SHAPES = {
    "cifar": dict(image=(3, 32, 32), channels=16),
    "tiny-imagenet": dict(image=(3, 64, 64), channels=64, stride=2, batch=2),
    "imagenet": dict(image=(3, 56, 50), channels=64, kernel=7, stride=2, padding=3, batch=2),
    "patch-4": dict(image=(3, 32, 32), channels=96, kernel=4, stride=4, padding=0, encoders=1),
    "patch-16": dict(image=(3, 64, 48), channels=40, kernel=16, stride=16, padding=0, encoders=1),
    "several-bands": dict(image=(3, 100, 200), channels=24, batch=2),
    "grey": dict(image=(1, 12, 13), channels=16),
    "two-colours": dict(image=(2, 11, 35), channels=32, inputs=3),
    "four-colours": dict(image=(4, 9, 40), channels=17, inputs=4),
    "one-channel": dict(channels=1, inputs=1),
    "odd": dict(image=(5, 7, 6), channels=70, kernel=5, stride=3, padding=2),
    "gaps": dict(image=(3, 11, 12), kernel=2, stride=3, padding=1),
    "one-position": dict(image=(3, 3, 3), padding=0),
    "wide-border": dict(image=(3, 2, 4), padding=3),
    "pixels": dict(image=(3, 6, 7), kernel=1, padding=0, channels=33),
}


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("name", SHAPES)
def test_values_and_gradients(name, zone):
    Case(zone=zone, **SHAPES[name]).check()


@pytest.mark.parametrize("name", SHAPES)
def test_values_and_gradients_of_a_binary_mask(name):
    Case(zone="box", binary=True, extras=False, **SHAPES[name]).check(wanted=(False, False))
    Case(zone="bitmap", binary=True, **SHAPES[name]).check(wanted=(True, True))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "expanded"])
@pytest.mark.parametrize("image_dtype", [torch.uint8, *FLOATS])
@pytest.mark.parametrize("dtype", FLOATS)
def test_dtypes_and_layouts(dtype, image_dtype, layout):
    types = {"dtype": dtype, "image_dtype": image_dtype, "layout": layout}
    Case(image=(3, 20, 24), channels=24, **types).check()
    Case(image=(3, 20, 24), channels=24, kernel=4, stride=4, padding=0, **types).check()
    # Without statistics: other images are read as they are, uint8 ones as 0..1 all the same.
    Case(image=(3, 8, 8), extras=False, **types).check()


@settings(max_examples=60, deadline=None)
@given(
    shape=st.fixed_dictionaries(
        {
            "batch": st.integers(0, 5),
            "inputs": st.integers(1, 4),
            "unique": st.integers(1, 3),
            "image": st.tuples(st.integers(1, 6), st.integers(7, 20), st.integers(7, 40)),
            "channels": st.integers(1, 80),
            "kernel": st.integers(1, 7),
            "stride": st.integers(1, 5),
            "padding": st.integers(0, 3),
            "zone": st.sampled_from(ZONES),
            "binary": st.booleans(),
            "extras": st.booleans(),
            "index": st.booleans(),
            "layout": st.sampled_from(["contiguous", "channels_last", "strided"]),
            "seed": st.integers(0, 1000),
        }
    ),
    shared=st.booleans(),
    wanted=st.tuples(st.booleans(), st.booleans()),
)
def test_any_shape(shape, shared, wanted):
    Case(**shape, encoders=1 if shared else None).check(wanted)


@pytest.mark.parametrize("name", ["cifar", "patch-4", "several-bands", "odd"])
def test_bits_do_not_depend_on_the_number_of_threads(name):
    case = Case(batch=9, unique=5, **{key: value for key, value in SHAPES[name].items() if key != "batch"})
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            results.append((case.run(), *case.run_backward([True, True])))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for first, again in zip(results[0], other, strict=True):
            assert torch.equal(first, again)


def test_what_a_mask_hides_is_not_read():
    """Pixels under no visible window are NaN; they come out nowhere, forward or backward."""
    case = Case(batch=2, unique=4, image=(3, 16, 16), binary=True, extras=False)
    box = torch.tensor([[4, 5, 9, 12]] * 2, dtype=torch.int32)
    case.mixing = Mixing(case.mixing.inside, case.mixing.outside, (16, 16), box)
    case.index = torch.tensor([[0, 1], [2, 3]])
    seen = torch.zeros(16, 16, dtype=torch.bool)
    seen[3:10, 4:13] = True  # the box and one pixel around it
    under = torch.zeros(16, 16, dtype=torch.bool)
    under[5:8, 6:11] = True  # further inside the box than a window reaches
    visible = case.images.clone()
    visible[0::2, :, ~seen] = 0
    visible[1::2, :, under] = 0
    hidden = visible.clone()
    hidden[0::2, :, ~seen] = torch.nan
    hidden[1::2, :, under] = torch.nan
    case.images = visible
    expected = (case.run(), *case.run_backward([True, False]))
    case.images = hidden
    for got, want in zip((case.run(), *case.run_backward([True, False])), expected, strict=True):
        assert got.isfinite().all() and torch.equal(got, want)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", ["cifar", "patch-4", "odd", "gaps", "grey"])
def test_nothing_around_an_input_is_read(name, layout, dtype):
    """Every floating-point input lies between NaNs in a larger buffer."""
    case = Case(dtype=dtype, **SHAPES[name])
    mixing = case.mixing
    expected = (case.run(), *case.run_backward([True, True]))
    case.images, case.grad = (surrounded(laid_out(tensor, layout)) for tensor in (case.images, case.grad))
    case.weight, case.bias, case.position = (surrounded(tensor) for tensor in (case.weight, case.bias, case.position))
    case.mixing = Mixing(surrounded(mixing.inside), surrounded(mixing.outside), mixing.grid, mixing.box, mixing.bitmap)
    for got, want in zip((case.run(), *case.run_backward([True, True])), expected, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("bad", [-1, 4])
def test_an_index_outside_the_images_is_an_error(bad):
    case = Case(unique=4)
    case.index[1, 1] = bad
    with pytest.raises(IndexError, match="index must lie between 0 and 3"):
        case.run()
    with pytest.raises(IndexError, match="index must lie between 0 and 3"):
        case.run_backward([True, True])


def test_images_beyond_four_gigabytes():
    """Only the pages that are read are ever backed by memory."""
    case = Case(batch=2, unique=2, image=(3, 32, 32), image_dtype=torch.uint8, layout="contiguous")
    expected = case.run()
    many = torch.empty(1_500_000, 3, 32, 32, dtype=torch.uint8)
    many[-2:] = case.images
    case.images, case.index = many, case.index + len(many) - 2
    assert many[-2:].storage_offset() > 2**32
    assert torch.equal(case.run(), expected)


def test_boxes_beyond_the_grid_are_cut_and_empty_ones_are_empty():
    case = Case(batch=3, extras=False)
    box = torch.tensor([[-5, -3, 100, 4], [3, 3, 3, 8], [6, 2, 4, 8]], dtype=torch.int32)
    mixing = case.mixing
    case.mixing = Mixing(mixing.inside, mixing.outside, mixing.grid, box)
    case.check()


def test_positions_that_see_no_input_are_the_position_embedding_alone():
    case = Case(zone="box", encoders=2)
    nothing = torch.zeros_like(case.mixing.inside)
    case.mixing = Mixing(nothing, nothing, case.mixing.grid, case.mixing.box)
    assert torch.equal(case.run(), case.position.expand(3, -1, -1, -1))
    case.check()


def test_shapes_that_do_not_fit_are_refused():
    """The raw operators, which the public function's checks do not guard."""
    case = Case()
    for position, broken in ((0, case.images[:, :2]), (1, case.weight[:, :, :, :2]), (2, case.mixing.inside[:2])):
        arguments = list(case.arguments())
        arguments[position] = broken
        with pytest.raises(RuntimeError, match="mask_mix_encode"):
            torch.ops.mixfast.mask_mix_encode(*arguments)
    with pytest.raises(RuntimeError, match="grad"):
        torch.ops.mixfast.mask_mix_encode_backward(case.grad[:2], *case.arguments(), [False, False])


@pytest.mark.parametrize("capability", ["avx2", "default"])
def test_other_instruction_sets(capability):
    """The builds for older processors, which torch's own variable chooses."""
    code = "import test_native_mask_mix_encode as tests; tests.check_some_shapes()"
    folders = (Path(__file__).parent, *sys.path)
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def check_some_shapes():
    for name, shape in SHAPES.items():
        Case(zone="box", **shape).check()
        Case(zone="coverage", dtype=torch.float64, **shape).check()
        Case(zone="bitmap", dtype=torch.float16, image_dtype=torch.uint8, binary=True, **shape).check()
        Case(zone="box", dtype=torch.bfloat16, extras=False, **shape).check(wanted=(name != "imagenet", False))
