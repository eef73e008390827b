"""The CUDA augment, its kernel run on the host, against the reference in float64."""

from __future__ import annotations

import hosted
import pytest
import test_native_augment as native
import torch
from guards import poison, surrounded
from test_native_augment import DTYPES, NATIVE, SIZES, ZONES, draw

pytestmark = pytest.mark.usefixtures("poisoned_checks")


def test_checks_on_the_host():
    hosted.run_checks(__file__)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("channels", [1, 3, 4, 17, 33, 70])  # statistics travel 32 channels at a time
def check_every_dtype_zone_and_channel_count(dtype, zone, channels):
    for sharp in (False, True):
        native.check(draw(channels, zone=zone, sharp=sharp), dtype, (7, 6))


@pytest.mark.parametrize(("size", "out_size", "pad"), SIZES)
@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("sources", [1, 2, 3])
def check_sizes_and_numbers_of_sources(size, out_size, pad, zone, sources):
    native.check(draw(3, size, out_size, pad, sources, zone, sources == 2), torch.bfloat16, out_size)


def check_one_source_without_a_mix():
    images, index, crop, flip, *_, pad = draw(sources=1)
    for dtype in DTYPES:
        for mirrored in (flip, None):
            native.check((images, index, crop, mirrored, None, None, None, None, pad), dtype, (7, 6))


def check_exact_copies_and_the_rounding_of_bytes():
    native.test_what_a_sharp_zone_shows_is_copied_exactly()
    native.test_bytes_are_rounded_to_even_and_clamped()


@pytest.mark.parametrize("zone", ZONES)
def check_any_memory_layout_gives_the_same_bits(zone):
    native.test_any_memory_layout_gives_the_same_bits(zone)


@pytest.mark.parametrize(("channels", "width"), [(1, 5), (3, 6), (3, 32), (17, 3)])
def check_nothing_behind_the_images_is_read(channels, width):
    native.test_nothing_behind_the_images_is_read(channels, width)


@pytest.mark.parametrize("zone", ["none", "box", "blend"])
def check_sources_that_are_not_seen_are_not_read(zone):
    native.test_sources_that_are_not_seen_are_not_read(zone)


def check_images_beyond_four_gigabytes():
    poison(False)  # the pages that are not read are never there
    native.test_images_beyond_four_gigabytes()


@pytest.mark.parametrize("zone", ZONES)
def check_nothing_around_the_small_arguments_is_read(zone):
    arguments = draw(zone=zone)
    around = [surrounded(value) if isinstance(value, torch.Tensor) else value for value in arguments]
    rest = (None, None, torch.float32, [7, 6])
    assert torch.equal(NATIVE(*around, *rest), NATIVE(*arguments, *rest))


@pytest.mark.parametrize("far", [-1, -(2**63), 5, 2**62])
def check_what_is_out_of_range_is_moved_to_the_nearest(far):
    images, index, crop, *rest = draw()
    settings = (None, None, torch.float32, [7, 6])
    nearest = {"index": 0 if far < 0 else 4, "crop": 0 if far < 0 else 4}
    for name in ("index", "crop"):
        values = {"index": index.clone(), "crop": crop.clone()}
        values[name][1] = far
        got = NATIVE(images, values["index"], values["crop"], *rest, *settings)
        values[name][1] = nearest[name]
        assert torch.equal(got, NATIVE(images, values["index"], values["crop"], *rest, *settings))


def check_any_geometry():
    native.test_any_geometry()


def changed(**changes):
    names = (
        "images",
        "index",
        "crop",
        "flip",
        "inside",
        "outside",
        "box",
        "bitmap",
        "pad",
        "mean",
        "std",
        "dtype",
        "out_size",
    )
    values = dict(zip(names, (*draw(), None, None, torch.float32, [7, 6]), strict=True))
    return tuple({**values, **{name: change(values[name]) for name, change in changes.items()}}.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"images": lambda v: v[0]},
        {"images": lambda v: v.float()},
        {"images": lambda v: v[:0]},
        {"index": lambda v: v.int()},
        {"index": lambda v: v[:, 0]},
        {"crop": lambda v: v[:-1]},
        {"flip": lambda v: v[:, :1]},
        {"flip": lambda v: v.byte()},
        {"outside": lambda v: None},
        {"inside": lambda v: v[:, :1], "outside": lambda v: v[:, :1]},
        {"inside": lambda v: None, "outside": lambda v: None},
        {"box": lambda v: v[:-1]},
        {"pad": lambda v: -1},
        {"mean": lambda v: [0.5], "std": lambda v: [0.5]},
        {"out_size": lambda v: [12, 6]},
        {"out_size": lambda v: [7]},
        {"dtype": lambda v: torch.int32},
    ],
)
def check_the_bare_operator_refuses_what_it_would_read_out_of_bounds(changes):
    with pytest.raises(RuntimeError):
        NATIVE(*changed(**changes))
