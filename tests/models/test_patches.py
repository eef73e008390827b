"""Patch sizes by default, and what is resampled when a size changes."""

from __future__ import annotations

import pytest
import torch
from timm.layers import resample_abs_pos_embed
from torch.nn import functional as F

from mixfast.models import default_patch_size, resize_patch_projection
from mixfast.models.patches import resize_position


@pytest.mark.parametrize(
    ("image_size", "patch"),
    [(8, 4), (32, 4), (33, 8), (64, 8), (65, 16), (224, 16), ((32, 16), 4), ((16, 64), 8), ((224, 64), 16)],
)
def test_default_patch_goes_by_the_longer_side(image_size: int | tuple[int, int], patch: int) -> None:
    assert default_patch_size(image_size) == patch


def projections(side: int) -> torch.Tensor:
    return torch.randn(2, 5, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("factor", [2, 3])
def test_area_enlarged_projection_sees_the_averaged_image(factor: int) -> None:
    weight = projections(4)
    images = torch.randn(2, 3, 8 * factor, 8 * factor, dtype=torch.float64)
    larger = resize_patch_projection(weight, 4 * factor)
    for old, new in zip(weight, larger, strict=True):
        expected = F.conv2d(F.avg_pool2d(images, factor), old, stride=4)
        torch.testing.assert_close(F.conv2d(images, new, stride=4 * factor), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("factor", [2, 4])
def test_area_shrunk_projection_sees_each_pixel_repeated(factor: int) -> None:
    weight = projections(8)
    images = torch.randn(2, 3, 8, 16, dtype=torch.float64)
    smaller = resize_patch_projection(weight, 8 // factor)
    repeated = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    for old, new in zip(weight, smaller, strict=True):
        expected = F.conv2d(repeated, old, stride=8)
        torch.testing.assert_close(F.conv2d(images, new, stride=8 // factor), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("side", "size"), [(16, 14), (14, 16), (8, 12)])
def test_bicubic_projection_of_a_smooth_kernel_keeps_its_tokens(side: int, size: int) -> None:
    """A bell that fades out at the border integrates to the same on a finer or a coarser grid."""

    def bell(count: int) -> torch.Tensor:
        places = (torch.arange(count, dtype=torch.float64) + 0.5) / count - 0.5
        line = torch.exp(-(places * 5).square())
        return torch.outer(line, line)

    weight = bell(side).expand(1, 2, 3, side, side)
    resized = resize_patch_projection(weight, size, mode="bicubic")
    torch.testing.assert_close(resized.sum((3, 4)), weight.sum((3, 4)), rtol=0.02, atol=0)
    expected = (bell(size) * (side / size) ** 2).expand_as(resized)
    assert (resized - expected).abs().max() < 0.06 * expected.max()


@pytest.mark.parametrize("mode", ["area", "bicubic"])
def test_same_size_is_a_copy_and_low_precision_stays(mode: str) -> None:
    weight = projections(4)
    same = resize_patch_projection(weight, 4, mode)
    assert torch.equal(same, weight) and same.data_ptr() != weight.data_ptr()
    low = resize_patch_projection(weight.bfloat16(), 6, mode)
    assert low.dtype == torch.bfloat16
    high = resize_patch_projection(weight.bfloat16().double(), 6, mode)
    torch.testing.assert_close(low.double(), high, rtol=2**-8, atol=1e-6)


def test_wrong_projections_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weight: expected \[M, d, c, k, k\], got shape \(5, 3, 4, 4\)"):
        resize_patch_projection(torch.zeros(5, 3, 4, 4), 8)
    with pytest.raises(ValueError, match=r"weight: expected .* \(1, 5, 3, 4, 6\)"):
        resize_patch_projection(torch.zeros(1, 5, 3, 4, 6), 8)
    with pytest.raises(ValueError, match="size: expected a positive number of pixels, got 0"):
        resize_patch_projection(projections(4), 0)
    with pytest.raises(ValueError, match="mode: expected one of area, bicubic, got 'linear'"):
        resize_patch_projection(projections(4), 8, "linear")


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("old", "new"), [(4, 6), (6, 4), (14, 24), (4, 4)])
def test_position_is_resampled_as_timm_does(old: int, new: int, channels_last: bool) -> None:
    position = torch.randn(5, old, old, generator=torch.Generator().manual_seed(0))
    if channels_last:  # as a state of timm's lies in memory
        position = position.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    theirs = resample_abs_pos_embed(
        position.flatten(1).T[None], [new, new], num_prefix_tokens=0, interpolation="bicubic", antialias=True
    )
    resized = resize_position(position, (new, new))
    assert resized.is_contiguous() and resized.data_ptr() != position.data_ptr()
    torch.testing.assert_close(resized.flatten(1).T[None], theirs, rtol=1e-6, atol=1e-6)
