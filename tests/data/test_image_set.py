"""ImageSet: what it refuses, and that gathering keeps pixels and memory layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mixfast.data import DataError, ImageSet
from mixfast.data.statistics import pixel_statistics


def channels_last(*shape: int) -> torch.Tensor:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    return images.contiguous(memory_format=torch.channels_last)


def fields(**changes: object) -> dict:
    return {
        "images": channels_last(5, 3, 4, 6),
        "labels": torch.tensor([0, 1, 1, 0, 2]),
        "classes": ("a", "b", "c"),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.2, 0.2, 0.2),
        "name": "toy",
        "split": "train",
    } | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": channels_last(5, 3, 4, 6).float()}, r"toy \(train\): images must be uint8 .* got torch.float32"),
        ({"images": channels_last(5, 3, 4, 6)[0]}, r"images must be uint8 \[N, c, H, W\]"),
        ({"images": channels_last(0, 3, 4, 6), "labels": torch.zeros(0, dtype=torch.int64)}, r"empty dimension"),
        ({"images": channels_last(5, 3, 4, 6).contiguous()}, r"channels-last memory, got strides \(72, 24, 6, 1\)"),
        ({"labels": torch.tensor([0, 1, 1, 0])}, r"labels must be int64 \[5\], one per image, got torch.int64 \[4\]"),
        ({"labels": torch.tensor([0, 1, 1, 0, 2], dtype=torch.int32)}, r"labels must be int64"),
        ({"labels": torch.tensor([0, 1, 3, 0, 2])}, r"label 3 of image 2 is out of range, expected 0..2 \(3 classes\)"),
        ({"labels": torch.tensor([0, 1, 1, 0, -1])}, r"label -1 of image 4 is out of range"),
        ({"mean": (0.5,)}, r"one number per channel \(3\), got 1 and 3"),
        ({"std": (0.2, 0.0, 0.2)}, r"std positive"),
        ({"mean": (0.5, float("nan"), 0.5)}, r"mean must be finite"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ImageSet(**fields(**changes))


def test_gather_takes_the_indexed_images_and_stays_channels_last() -> None:
    image_set = ImageSet(**fields())
    index = torch.tensor([3, 3, 0])
    batch = image_set.gather(index)
    expected = np.stack([image_set.images.numpy()[i] for i in (3, 3, 0)])
    np.testing.assert_array_equal(batch.numpy(), expected)
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_subset_keeps_image_and_label_together() -> None:
    image_set = ImageSet(**fields())
    part = image_set.subset(torch.tensor([4, 1]), "some")
    assert part.labels.tolist() == [2, 1] and part.split == "some" and part.classes == image_set.classes
    np.testing.assert_array_equal(part.images[1].numpy(), image_set.images[1].numpy())
    assert (len(part), part.num_classes, part.channels, part.image_shape) == (2, 3, 3, (4, 6))


def test_to_moves_images_and_labels_and_keeps_the_layout() -> None:
    image_set = ImageSet(**fields())
    moved = image_set.to("cuda" if torch.cuda.is_available() else "cpu")
    assert moved.images.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(moved.images.cpu(), image_set.images)
    torch.testing.assert_close(moved.labels.cpu(), image_set.labels)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixel_statistics_are_the_moments_of_the_pixels(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixfast.data.statistics._PIXELS_AT_ONCE", 100)  # several chunks, the last one shorter
    images = np.random.default_rng(1).integers(0, 256, (7, 5, 6, channels), dtype=np.uint8)
    statistics = pixel_statistics(torch.from_numpy(images))
    scaled = images.astype(np.float64) / 255
    np.testing.assert_allclose(statistics.mean, scaled.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(statistics.std, scaled.std(axis=(0, 1, 2)), rtol=1e-12)


def test_a_channel_that_never_varies_can_be_divided_by() -> None:
    images = torch.zeros(4, 3, 3, 2, dtype=torch.uint8)
    images[..., 1] = 51
    statistics = pixel_statistics(images)
    assert statistics.mean == pytest.approx((0.0, 0.2)) and statistics.std == (1.0, 1.0)
