"""The CUDA mask_mix_encode: stem and patch kernels run on the host, and the launcher around them, against float64."""

from __future__ import annotations

import hosted
import pytest
import test_native_mask_mix_encode as native
import torch
from guards import assert_within_twice, poison, surrounded
from hosted import displaced
from hypothesis import given, settings
from hypothesis import strategies as st
from mixfast_kernels import Mixing
from mixfast_kernels._cuda import mask_mix_encode as launchers
from mixfast_kernels.mask_mix_encode import mask_mix_encode_backward_reference, mask_mix_encode_reference
from test_native_mask_mix_encode import FLOATS, SHAPES, ZONES, Case, laid_out

PARAMETERS = (False, False)  # of images and zone weights no gradient is wanted: what the kernels are for

pytestmark = pytest.mark.usefixtures("poisoned_checks")


def test_checks_on_the_host():
    hosted.run_checks(__file__)


# Beside the shapes that the C++ operators are tested on: each tile of the stem, several blocks of channels, windows of one
# column, rows of patches that are no whole vectors, most image channels and inputs that the kernels take.
MORE = {
    "8-channels": dict(image=(3, 17, 19), channels=8),
    "200-channels": dict(image=(3, 10, 9), channels=200, stride=2),
    "12-channels": dict(image=(3, 9, 8), channels=12, stride=2),
    "eight-colours": dict(image=(8, 9, 9), channels=40, inputs=8, unique=9),
    "nine-colours": dict(image=(9, 6, 7), channels=8),
    "narrow": dict(image=(3, 40, 1), channels=16),
    "odd-patches": dict(image=(3, 15, 21), channels=20, kernel=5, stride=5, padding=2),
    "spaced-patches": dict(image=(2, 15, 21), channels=7, kernel=3, stride=4, padding=0, encoders=1),
}
ALL = {**SHAPES, **MORE}
FAST = [
    name
    for name, case in ALL.items()
    if name != "nine-colours" and not {5, 7} & {case.get("kernel")} or name == "odd-patches"
]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("name", ALL)
def check_values_and_gradients(name, zone):
    Case(zone=zone, **ALL[name]).check(PARAMETERS)


@pytest.mark.parametrize("name", ALL)
def check_values_and_gradients_of_a_binary_mask(name):
    Case(zone="box", binary=True, extras=False, **ALL[name]).check(PARAMETERS)
    Case(zone="bitmap", binary=True, **ALL[name]).check((True, True))


@pytest.mark.parametrize("name", ["cifar", "tiny-imagenet", "patch-16"])
def check_one_encoder_for_all_inputs(name):
    for binary in (False, True):
        Case(binary=binary, **{**ALL[name], "encoders": 1, "inputs": 3}).check(PARAMETERS)


def within_twice(case):
    """A patch matrix holds pixels in the dtype of the weights, as PyTorch's own form does: at most twice that one's error."""
    arguments, wanted = case.arguments(), list(PARAMETERS)
    doubles = case.arguments(torch.float64)
    plain = (mask_mix_encode_reference(*arguments), *mask_mix_encode_backward_reference(case.grad, *arguments, wanted))
    exact = (
        mask_mix_encode_reference(*doubles),
        *mask_mix_encode_backward_reference(case.grad.double(), *doubles, wanted),
    )
    names = ("result", *native.NAMES)
    for name, *values in zip(names, (case.run(), *case.run_backward(wanted)), plain, exact, strict=True):
        if values[-1].numel():
            assert_within_twice(*values, name)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided", "expanded"])
@pytest.mark.parametrize("image_dtype", [torch.uint8, *FLOATS])
@pytest.mark.parametrize("dtype", FLOATS)
def check_dtypes_and_layouts(dtype, image_dtype, layout):
    types = {"dtype": dtype, "image_dtype": image_dtype, "layout": layout}
    Case(image=(3, 20, 24), channels=24, **types).check(PARAMETERS)
    patches = Case(image=(3, 20, 24), channels=24, kernel=4, stride=4, padding=0, **types)
    within_twice(patches) if dtype.itemsize == 2 else patches.check(PARAMETERS)
    Case(image=(3, 8, 8), extras=False, **types).check(PARAMETERS)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.fixed_dictionaries(
        {
            "batch": st.integers(0, 5),
            "inputs": st.integers(1, 4),
            "unique": st.integers(1, 3),
            "image": st.tuples(st.integers(1, 6), st.integers(7, 20), st.integers(7, 40)),
            "channels": st.integers(1, 80),
            "zone": st.sampled_from(ZONES),
            "binary": st.booleans(),
            "extras": st.booleans(),
            "index": st.booleans(),
            "layout": st.sampled_from(["contiguous", "channels_last", "strided"]),
            "padding": st.integers(0, 3),
            "seed": st.integers(0, 1000),
        }
    ),
    window=st.sampled_from([(3, 1), (3, 2), (1, 1), (2, 2), (4, 5), (7, 7)]),
    shared=st.booleans(),
)
def check_any_shape(shape, window, shared):
    Case(**shape, kernel=window[0], stride=window[1], encoders=1 if shared else None).check(PARAMETERS)


def check_each_geometry_takes_its_kernel(monkeypatch):
    """The reference is for what the launcher says it is for, and nothing else."""

    def refuse(*_):
        raise AssertionError("went to the reference")

    for name, settings_of_case in ALL.items():
        case = Case(**settings_of_case)
        images, weight, inside, *rest = case.arguments()
        way = launchers._way(images, weight, inside, rest[7])
        assert (way != "reference") == (name in FAST), name
        with monkeypatch.context() as patched:
            if name in FAST:
                patched.setattr(launchers, "mask_mix_encode_reference", refuse)
                patched.setattr(launchers, "mask_mix_encode_backward_reference", refuse)
            case.run()
            case.run_backward(list(PARAMETERS))


def check_what_a_mask_hides_is_not_read():
    for image in ((3, 16, 16), (3, 32, 32)):
        kernel = {} if image[1] == 16 else {"kernel": 2, "stride": 2, "padding": 0}
        case = Case(batch=2, unique=4, image=image, binary=True, extras=False, **kernel)
        box = torch.tensor([[4, 5, 9, 12]] * 2, dtype=torch.int32)
        case.mixing = Mixing(case.mixing.inside, case.mixing.outside, (16, 16), box)
        case.index = torch.tensor([[0, 1], [2, 3]])
        step = image[1] // 16
        seen, under = torch.zeros(image[1:], dtype=torch.bool), torch.zeros(image[1:], dtype=torch.bool)
        seen[3 * step : 10 * step, 4 * step : 13 * step] = True  # the box and a bit around it
        under[5 * step : 8 * step, 6 * step : 11 * step] = True  # further inside than a window from outside reaches
        results = []
        for junk in (0.0, torch.nan):
            images = case.images.clone()
            images[0::2, :, ~seen] = junk
            images[1::2, :, under] = junk
            case.images, kept = images, case.images
            results.append((case.run(), *case.run_backward(list(PARAMETERS))))
            case.images = kept
        for got, want in zip(*results, strict=True):
            assert got.isfinite().all() and torch.equal(got, want)


@pytest.mark.parametrize("place", [surrounded, displaced])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", ["cifar", "patch-4", "grey", "spaced-patches"])
def check_nothing_around_an_input_is_read(name, layout, dtype, place):
    case = Case(dtype=dtype, **ALL[name])
    expected = (case.run(), *case.run_backward(list(PARAMETERS)))
    case.images, case.grad = (place(laid_out(tensor, layout)) for tensor in (case.images, case.grad))
    case.weight, case.bias, case.position = (place(tensor) for tensor in (case.weight, case.bias, case.position))
    case.index, mixing = place(case.index), case.mixing
    case.mixing = Mixing(place(mixing.inside), place(mixing.outside), mixing.grid, place(mixing.box))
    for got, want in zip((case.run(), *case.run_backward(list(PARAMETERS))), expected, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("name", ["cifar", "patch-4"])
@pytest.mark.parametrize("far", [-1, -(2**63), 4, 2**62])
def check_an_index_out_of_range_takes_the_nearest_image(name, far):
    case = Case(**{**ALL[name], "unique": 4})
    case.index[1, 1] = far
    got = (case.run(), *case.run_backward(list(PARAMETERS)))
    case.index[1, 1] = 0 if far < 0 else 3
    for value, want in zip(got, (case.run(), *case.run_backward(list(PARAMETERS))), strict=True):
        assert torch.equal(value, want)


def check_the_rest_of_what_the_native_operators_promise():
    native.test_boxes_beyond_the_grid_are_cut_and_empty_ones_are_empty()
    poison(False)  # the pages that are not read are never there
    native.test_images_beyond_four_gigabytes()


def check_gradients_are_those_of_float32_under_autocast():
    """Autocast around a backward pass must not make its products less exact."""
    case = Case(**ALL["patch-4"])
    want = case.run_backward(list(PARAMETERS))
    with torch.autocast("cpu", torch.bfloat16):
        got = case.run_backward(list(PARAMETERS))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("name", ["cifar", "patch-4"])
@pytest.mark.parametrize(
    ("position", "change"),
    [
        (0, lambda v: v[0]),
        (0, lambda v: v[:, :2]),
        (0, lambda v: v.int()),
        (0, lambda v: v[:0]),
        (1, lambda v: v[0]),
        (1, lambda v: v.repeat(3, 1, 1, 1, 1)),
        (2, lambda v: v[:2]),
        (3, lambda v: v[:, :1]),
        (4, lambda v: v[:2]),
        (6, lambda v: v[:2]),
        (6, lambda v: v.int()),
        (7, lambda v: v[:, :1]),
        (8, lambda v: v[:, 1:]),
        (9, lambda v: [v[0] + 1, v[1]]),
        (9, lambda v: [0, 0]),
        (11, lambda v: -1),
        (13, lambda v: [0.5]),
        (14, lambda v: None),
    ],
)
def check_the_bare_operators_refuse_what_they_would_read_out_of_bounds(name, position, change):
    case = Case(**ALL[name])
    arguments = list(case.arguments())
    arguments[position] = change(arguments[position])
    operators = [torch.ops.mixfast_cuda.encode_stem, torch.ops.mixfast_cuda.encode_patches]
    with pytest.raises(RuntimeError):
        operators[name == "patch-4"](*arguments)
    if name == "cifar":
        with pytest.raises(RuntimeError):
            torch.ops.mixfast_cuda.encode_stem_backward(case.grad, *arguments)
