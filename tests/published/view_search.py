"""Which images, crops and flips could a training view have been made of? Answered by trying all of them.

Images are random pixels without black ones, so a position tells its image, and black tells the border.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from restatement import denormalised, is_rectangle, legal_views, normalised

from mixfast.data import ImageSet

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
NUM_CLASSES = 7


def random_image_set(count: int, side: int = 8, seed: int = 0) -> ImageSet:
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(rng.integers(1, 256, (count, side, side, 3), dtype=np.uint8)).permute(0, 3, 1, 2)
    labels = torch.from_numpy(rng.integers(0, NUM_CLASSES, count))
    return ImageSet(pixels, labels, tuple("abcdefg"), MEAN, STD, "random", "train")


@dataclass(frozen=True)
class Origin:
    """One way to explain a view: where the main image and where its partner must be, and where both fit (black)."""

    partner_label: int | None  # None: the view is all main image
    main: np.ndarray
    other: np.ndarray
    either: np.ndarray

    def share_bounds(self, shown: np.ndarray) -> tuple[float, float]:
        """Least and greatest visible share of the main image, positions that fit both counted either way."""
        main, either = (shown * self.main).sum(), (shown * self.either).sum()
        return main / shown.sum(), (main + either) / shown.sum()


class ViewSearch:
    """All legal views of all images of a set."""

    def __init__(self, data: ImageSet, pad: int, flip: bool) -> None:
        self.data = data
        self.views = [legal_views(image, pad, flip) for image in data.images.numpy()]
        self.of_all = np.concatenate(self.views)
        self.owner = np.repeat(np.arange(len(data)), [len(views) for views in self.views])

    def pixels(self, view: torch.Tensor) -> np.ndarray:
        """The uint8 pixels of a normalised view ``[c, H, W]``; refuses one that is not made of whole numbers."""
        values = denormalised(view.double().numpy(), MEAN, STD)
        pixels = values.round()
        again = normalised(pixels, MEAN, STD)
        np.testing.assert_allclose(view.numpy(), again, rtol=0, atol=2e-6)
        return pixels.astype(np.uint8)

    def images_like(self, view: torch.Tensor) -> set[int]:
        """The images of which some crop and flip is exactly this view."""
        same = (self.of_all == self.pixels(view)).all((1, 2, 3))
        return set(self.owner[same].tolist())

    def cut_origins(self, view: torch.Tensor, main: int) -> list[Origin]:
        """Every way to see a view as image ``main`` inside a rectangle, or outside one, and a partner elsewhere."""
        pixels = self.pixels(view)
        fits_main = np.unique((self.views[main] == pixels).all(1), axis=0)
        fits_other = (self.of_all == pixels).all(1)
        origins: dict[tuple[int | None, bytes, bytes], Origin] = {}
        for is_main in fits_main:
            if is_main.all():
                nowhere = np.zeros_like(is_main)
                origins[None, is_main.tobytes(), b""] = Origin(None, is_main, nowhere, nowhere)
            for k in np.nonzero((is_main | fits_other).all((1, 2)) & fits_other.any((1, 2)))[0]:
                label = int(self.data.labels[self.owner[k]])
                key = (label, is_main.tobytes(), fits_other[k].tobytes())
                either = is_main & fits_other[k]
                only_main, only_other = is_main & ~either, fits_other[k] & ~either
                if key not in origins and (is_rectangle(only_main, either) or is_rectangle(only_other, either)):
                    origins[key] = Origin(label, only_main, only_other, either)
        return list(origins.values())

    def blends(self, view: torch.Tensor, main: int, share: float) -> set[int]:
        """The images k such that the view is ``share * main + (1 - share) * k`` for some crops and flips."""
        pixels = denormalised(view.double().numpy(), MEAN, STD)
        partners = set()
        for candidate in self.views[main]:
            rest = pixels - share * candidate
            fits = (np.abs((1 - share) * self.of_all - rest) < 1e-2).all((1, 2, 3))
            partners |= set(self.owner[fits].tolist())
        return partners
