"""The CUDA unmix_pool and its backward pass, their kernels run on the host, against float64."""

from __future__ import annotations

import hosted
import pytest
import test_native_unmix_pool as native
import torch
from drawing import draw_mixing
from guards import poison, surrounded
from hosted import displaced
from mixfast_kernels import Mixing
from test_native_unmix_pool import CHANNELS_LAST, CONTIGUOUS, FEATURES, ZONES, check, randn

LAYOUTS = {"contiguous": CONTIGUOUS, "channels_last": CHANNELS_LAST}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

pytestmark = pytest.mark.usefixtures("poisoned_checks")


def test_checks_on_the_host():
    hosted.run_checks(__file__)


@pytest.mark.long
def test_long_checks_on_the_host():
    hosted.run_checks(__file__, "-m", "long")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", FEATURES)
def check_shapes_and_layouts(shape, layout):
    for with_affine in (False, True):
        native.test_shapes_and_layouts(shape, LAYOUTS[layout], with_affine)


# Past what a block holds at a time: 512 (64) positions, 256 (32) channels; rows that are and are not whole vectors.
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(2, 40, 23, 31), (1, 264, 9, 8), (2, 36, 8, 8), (1, 1, 30, 30), (3, 300, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def check_several_tiles(size, layout, dtype):
    features = randn(*size, seed=1).to(dtype).contiguous(memory_format=LAYOUTS[layout])
    affine = tuple(randn(size[1], seed=seed).float() for seed in (2, 3))
    check(features, draw_mixing("box", size[0], 2, size[2:]), affine)
    check(features, draw_mixing("bitmap", size[0], 2, (7, 9)))


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("inputs", [1, 2, 3, 4])
@pytest.mark.parametrize("grid", [(6, 7), (24, 14), (13, 4), (2, 3)])
def check_zones_and_grids(zone, inputs, grid):
    native.test_zones_and_grids(zone, inputs, grid)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [0, 19, 45])
def check_dtypes_and_partial_unmixing(dtype, layout, channels):
    native.test_dtypes_and_partial_unmixing(dtype, LAYOUTS[layout], channels)


def check_any_shape_and_layout():
    native.test_any_shape_and_layout()


@pytest.mark.parametrize("place", [surrounded, displaced])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zone", ZONES)
def check_reads_nothing_beside_its_tensors(layout, dtype, zone, place):
    features = randn(3, 24, 5, 8, seed=1).to(dtype).contiguous(memory_format=LAYOUTS[layout])
    affine = tuple(place(randn(24, seed=seed).float()) for seed in (2, 3))
    drawn = draw_mixing(zone, 3, 2, (5, 8))
    around = (drawn.inside, drawn.outside, drawn.box, drawn.bitmap)
    inside, outside, box, bitmap = (None if value is None else place(value) for value in around)
    check(place(features), Mixing(inside, outside, (5, 8), box, bitmap), affine)


def check_the_rest_of_what_the_native_operators_promise():
    native.test_training_does_not_ask_for_gradients_of_the_mix()
    native.test_nan_and_infinity_never_disappear()
    native.test_boxes_beyond_the_grid_end_at_its_border()


@pytest.mark.parametrize("layout", LAYOUTS)
def check_opcheck_of_both_layouts(layout):
    poison(False)  # what opcheck compares, it may have left unfilled
    native.test_opcheck_of_both_layouts(LAYOUTS[layout])


def check_the_bare_operator_refuses_what_it_would_read_out_of_bounds():
    marks = native.test_the_bare_operator_refuses_what_it_would_read_out_of_bounds.pytestmark
    for arguments in next(mark.args[1] for mark in marks if mark.name == "parametrize"):
        native.test_the_bare_operator_refuses_what_it_would_read_out_of_bounds(arguments)
    native.test_a_gradient_of_the_wrong_shape_is_refused()


@pytest.mark.long
def check_more_than_two_thousand_million_features():
    poison(False)  # 5 GB would be filled twice
    native.test_more_than_two_thousand_million_features()
