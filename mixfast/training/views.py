"""Views: training images as a network sees them, made on the device without a Python call per image.

Legend: V views, S sources each (1, or 2 where pixels are mixed), N = V * S sources in all.
"""

from __future__ import annotations

import numpy as np
import torch
from mixfast_kernels import Mixing, augment
from torch import Tensor

from mixfast.config import Config
from mixfast.config.sections import DataSection
from mixfast.data import Images
from mixfast.data.augmix import augmix
from mixfast.data.autoaugment import AutoAugment
from mixfast.data.erasing import random_erasing
from mixfast.data.image_operations import ImageOperations
from mixfast.data.kept import Kept
from mixfast.data.randaugment import RandAugment
from mixfast.data.randomness import HOST_STREAM, IMAGE_STREAM, host_generator
from mixfast.data.resized_crop import resized_crop

Windows = dict[str, Tensor | int | None]
"""What sources show of which images: the arguments index, crop, flip and pad of ``augment``."""


class ViewMaker:
    """Makes the views of a step: crop or cut regions, flip, image operations, normalise, erase, blend.

    Args:
        data: whose images they will be; gives their size, mean and deviation.
        config: the section ``data``, and the seed.
        generator: on that device; whenever views are made, its state must be the step's own.
        dtype: of the views.
    """

    def __init__(self, data: Images, config: Config, generator: torch.Generator, dtype: torch.dtype) -> None:
        self.data, self.settings, self.seed = data, config.data, config.seed
        self.generator, self.dtype = generator, dtype
        self.operations = _operations(config.data, data)

    def __call__(
        self,
        images: Tensor,
        index: Tensor,
        mixing: Mixing | None,
        global_step: int,
        kept: Kept | None = None,
        regions: Tensor | None = None,
    ) -> Tensor:
        """``index`` int64 ``[V, S]`` into ``images`` (uint8), and how S > 1 sources are blended, to float ``[V, c, H, W]``.

        With ``kept`` only those of the V views are made, of the same draws. ``regions``, int64 ``[V, S, 4]``, are what
        sources show of their images; where they come from files, ``images`` are those of the made views, one after the other.
        """
        settings = self.settings
        windows = self._windows(index)
        if kept is not None:
            index, windows = index[kept.device], _some(windows, kept)
            mixing = None if mixing is None else mixing.rows(kept.device)
            regions = None if regions is None else regions[kept.device]
        if regions is not None:
            if settings.regions == "images":
                images = resized_crop(images, index.flatten(), regions.flatten(0, 1), self.data.image_shape)
            windows["index"] = torch.arange(len(images), device=images.device).view(index.shape)
        sources = None if kept is None else kept.each(index.shape[1])
        if not (settings.augmix or self.operations or settings.random_erasing > 0):
            return self._normalised(images, mixing=mixing, **windows)
        # What works on whole images takes every source by itself, and the sources are blended last.
        image_rng = host_generator(seed=self.seed, stream=IMAGE_STREAM + global_step)
        made = self._sources(images, _one_by_one(windows), image_rng, global_step, sources)
        if settings.random_erasing > 0:
            made = random_erasing(
                made, settings.random_erasing, host_rng=image_rng, generator=self.generator, kept=sources
            )
        return made if mixing is None else _blended(made.unflatten(0, index.shape), mixing)

    def _windows(self, index: Tensor) -> Windows:
        """Draws a crop and a flip for every source, ``[V, S, ...]``."""
        pad, device = self.settings.pad, index.device
        crop = flip = None
        if pad > 0:
            crop = torch.randint(2 * pad + 1, (*index.shape, 2), generator=self.generator, device=device)
        if self.settings.flip:
            flip = torch.rand(index.shape, generator=self.generator, device=device) < 0.5
        return {"index": index, "crop": crop, "flip": flip, "pad": pad}

    def _sources(
        self, images: Tensor, windows: Windows, image_rng: np.random.Generator, global_step: int, kept: Kept | None
    ) -> Tensor:
        """Crops, flips, operates on and normalises sources that stand alone: float ``[N, c, H, W]``."""
        if self.settings.augmix:
            pixels = augment(images, dtype=torch.uint8, **windows)
            host_rng = host_generator(seed=self.seed, stream=HOST_STREAM + global_step)
            statistics = {"mean": self.data.mean, "std": self.data.std}
            return augmix(pixels, host_rng=host_rng, generator=self.generator, kept=kept, **statistics).to(self.dtype)
        if self.operations:
            pixels = augment(images, dtype=torch.uint8, **windows)
            return self._normalised(self.operations(pixels, host_rng=image_rng, kept=kept))
        return self._normalised(images, **windows)

    def _normalised(self, images: Tensor, **arguments: Mixing | Tensor | int | None) -> Tensor:
        return augment(images, mean=self.data.mean, std=self.data.std, dtype=self.dtype, **arguments)


def _operations(settings: DataSection, data: Images) -> ImageOperations | None:
    """AutoAugment, RandAugment or neither."""
    if settings.autoaugment != "none":
        return AutoAugment(settings.autoaugment, data.image_shape, data.device)
    if settings.randaugment:
        return RandAugment(settings.randaugment, settings.randaugment_magnitude, data.image_shape, data.device)
    return None


def _some(windows: Windows, kept: Kept) -> Windows:
    """Those of some views."""
    return {name: value[kept.device] if isinstance(value, Tensor) else value for name, value in windows.items()}


def _one_by_one(windows: Windows) -> Windows:
    """``[V, S, ...]`` to ``[N, 1, ...]``: every source a view of its own."""

    def alone(value: Tensor | int | None) -> Tensor | int | None:
        return value.flatten(0, 1)[:, None] if isinstance(value, Tensor) else value

    return {name: alone(value) for name, value in windows.items()}


def _blended(sources: Tensor, mixing: Mixing) -> Tensor:
    """``[V, 2, c, H, W]``, source 0 the main image and source 1 its partner, to ``[V, c, H, W]``."""
    main, partner = sources.unbind(1)
    return partner + mixing.weights()[:, :1].to(sources.dtype) * (main - partner)
