"""Batches: everything random about a training step, drawn on the device, without a Python call per sample.

A batch is a pure function of the data, the configuration, the seed and the step, so a resumed run needs no state of it,
and which images a later step needs can be told, and they be decoded, before that step begins.

Legend: B samples, M inputs each, V augmented views (B * M with independent views, fewer with shared ones), S sources a view.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace

import torch
from mixfast_kernels import Mixing
from torch import Tensor

from mixfast.config import Config
from mixfast.data import Images
from mixfast.data.kept import Kept
from mixfast.data.randomness import HOST_STREAM, STEP_STREAM, host_generator, random_keys
from mixfast.data.regions import draw_regions
from mixfast.data.sampler import BatchPart, BatchPlan, EpochPlan, plan_epoch
from mixfast.data.sources.interface import Pixels, Request
from mixfast.methods import HiddenMix, Method, Moment
from mixfast.mixing import draw_pixel_mixing, draw_ratios, keep_main_predominant, visible_share
from mixfast.training.ranks import ONE_PROCESS, Ranks
from mixfast.training.views import ViewMaker


@dataclass(frozen=True)
class Batch:
    """What one training step consumes."""

    images: Tensor  # float [V, c, H, W], augmented and normalised
    index: Tensor  # int64 [B, M] into images
    mixing: Mixing  # on the stem's output grid
    target: Tensor  # int64 [B, M], the label each head learns
    weight: Tensor  # float32 [B, M], each head's loss weight
    other: Tensor | None = None  # int64 [B, M], second labels (CutMix, MixUp)
    share: Tensor | None = None  # float32 [B, M], mass of the first label
    hidden_mix: HiddenMix | None = None
    rows: Tensor | None = None  # int64 [B], the places of these samples in the whole batch; None: they are all of it

    def some(self, index: Tensor) -> Batch:
        """Some of the samples, int64 ``[B']``, in that order, with all the views."""

        def own(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[index]

        return replace(
            self,
            index=self.index[index],
            mixing=self.mixing.rows(index),
            target=self.target[index],
            weight=self.weight[index],
            other=own(self.other),
            share=own(self.share),
            hidden_mix=None if self.hidden_mix is None else self.hidden_mix.rows(index),
            rows=index if self.rows is None else self.rows[index],
        )


@dataclass(frozen=True)
class Views:
    """The augmented images of a step, with what their second labels need."""

    images: Tensor
    other: Tensor | None = None  # int64 [V]
    share: Tensor | None = None  # float32 [B, M]


class Feed:
    """Draws the batches of a training set.

    Args:
        data: the training split; its pixels come to the device it is on.
        method: draws the mix.
        config: the sections ``data``, ``msda`` and ``training.batch_size``, and the seed.
        grid: the stem's output grid for these images.
        dtype: of the augmented images.
        ranks: the processes that share each batch: ``batch`` gives this one's samples of it.
    """

    def __init__(
        self,
        data: Images,
        method: Method,
        config: Config,
        grid: tuple[int, int],
        dtype: torch.dtype = torch.float32,
        ranks: Ranks = ONE_PROCESS,
    ) -> None:
        self.data, self.method, self.config, self.grid, self.ranks = data, method, config, grid, ranks
        self.device = data.device
        self.generator = torch.Generator(self.device)
        self.batch_size = config.training.batch_size
        self.make_views = ViewMaker(data, config, self.generator, dtype)
        self._has_partners = config.msda.kind not in ("none", "manifold-mixup")
        self._from_files = config.data.regions == "files"

    @property
    def steps_per_epoch(self) -> int:
        return len(self.data) // (self.batch_size // self.config.data.repetition)

    def plan(self, epoch: int) -> EpochPlan:
        """Which images every step of an epoch takes, on the device."""
        settings = self.config.data
        plan = plan_epoch(
            len(self.data),
            batch_size=self.batch_size,
            num_inputs=self.method.num_inputs,
            repetition=settings.repetition,
            input_repetition=settings.input_repetition,
            groups=settings.groups,
            seed=self.config.seed,
            epoch=epoch,
        )
        return plan.to(self.device)

    def batches(self, plan: EpochPlan, moment: Moment, first: int = 0) -> Iterator[Batch]:
        """The steps of the epoch ``moment.epoch`` from ``first`` (from 0) on; what must be decoded is decoded ahead.

        Raises:
            DataError: a file cannot be decoded; the message names it.
        """
        pixels = self._pixels(plan, moment, range(first, len(plan)))
        with closing(pixels):
            for step, pixels_of_step in enumerate(pixels, first):
                yield self.batch(plan, step, moment, pixels_of_step)

    def batch(self, plan: EpochPlan, step: int, moment: Moment, pixels: Pixels | None = None) -> Batch:
        """Step ``step`` (from 0) of the epoch ``moment.epoch``, of ``pixels``; by default they are fetched, and waited for."""
        if pixels is None:
            with closing(self._pixels(plan, moment, range(step, step + 1))) as alone:
                pixels = next(alone)
        global_step = self._begin(plan, step, moment)
        mixing = self.method.draw(self.batch_size, self.grid, moment, generator=self.generator, device=self.device)
        slots = plan.batch(step, self.config.data.views)
        part = self._part(plan, step)
        views = self._views(pixels, slots, mixing, global_step, None if part is None else part.views)
        target = self.data.labels[slots.images][slots.slots]
        weight = self.method.loss_weights(mixing)
        other = None if views.other is None else views.other[slots.slots]
        share, hidden_mix = views.share, None
        if self.config.msda.kind == "manifold-mixup":
            hidden_mix, other, share = self._manifold_mixup(target, global_step)
        order = self.method.target_order(mixing, generator=self.generator)
        if order is not None:
            target, weight = target.gather(1, order), weight.gather(1, order)
            other = None if other is None else other.gather(1, order)
            share = None if share is None else share.gather(1, order)
        whole = Batch(views.images, slots.slots, mixing, target, weight, other, share, hidden_mix)
        # Only the part's own views were made: its slots count among those.
        return whole if part is None else replace(whole.some(part.rows.device), index=part.slots)

    def _part(self, plan: EpochPlan, step: int) -> BatchPart | None:
        """What this process makes of the step; None: all of it."""
        if self.ranks.count == 1:
            return None
        return plan.part(step, self.config.data.views, self.ranks.rank, self.ranks.count)

    def _begin(self, plan: EpochPlan, step: int, moment: Moment) -> int:
        """Puts the generator where the step begins; the step's number in the run."""
        global_step = (moment.epoch - 1) * len(plan) + step
        self.generator.manual_seed(int(random_keys((1,), seed=self.config.seed, stream=STEP_STREAM + global_step)))
        return global_step

    def _pixels(self, plan: EpochPlan, moment: Moment, steps: range) -> Iterator[Pixels]:
        """The pixels of every one of ``steps``: of the images in the views that this process makes."""
        on_host = plan.to("cpu")

        def request(step: int) -> Request:
            shown, regions = on_host.batch(step, self.config.data.views).images[:, None], None
            if self._has_partners or self._from_files:
                partner, regions = self._sources_ahead(plan, step, moment, len(shown))
                shown = shown if partner is None else torch.stack((shown[:, 0], partner), 1)
            part = self._part(on_host, step)
            own = slice(None) if part is None else part.views.device
            if not self._from_files:
                return Request(shown[own].unique())
            return Request(shown[own].flatten(), regions[own].flatten(0, 1))

        views = plan.slots[0].numel() if self.config.data.views == "independent" else plan.images.shape[1]
        if self._from_files:
            return self.data.stream(request, steps, views * (1 + self._has_partners))
        largest = plan.images.shape[1] + (views if self._has_partners else 0)
        return self.data.stream(request, steps, min(largest, len(self.data)))

    def _sources_ahead(
        self, plan: EpochPlan, step: int, moment: Moment, views: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """What must be known before anything is decoded, on the host: the step's ``_draw_sources``, as it itself will draw.

        On CUDA on a stream of its own, so that the host does not wait for the steps that are under way.
        """
        with self._aside():
            self._begin(plan, step, moment)
            self.method.draw(self.batch_size, self.grid, moment, generator=self.generator, device=self.device)
            partner, regions = self._draw_sources(views)
            return None if partner is None else partner.cpu(), None if regions is None else regions.cpu()

    def _aside(self) -> AbstractContextManager:
        return torch.cuda.stream(torch.cuda.Stream(self.device)) if self.device.type == "cuda" else nullcontext()

    def _draw_sources(self, views: int) -> tuple[Tensor | None, Tensor | None]:
        """The image that each view is mixed with, int64 ``[V]``, and the regions of all sources, ``[V, S, 4]``; None: none."""
        partner, regions, area = None, None, self.config.data.crop_area
        if self._has_partners:
            partner = torch.randint(len(self.data), (views,), generator=self.generator, device=self.device)
        if area is not None:
            sources = 1 + self._has_partners
            regions = draw_regions(views * sources, area, self.data.image_shape, generator=self.generator)
            regions = regions.view(views, sources, 4)
        return partner, regions

    def _views(self, pixels: Pixels, slots: BatchPlan, mixing: Mixing, global_step: int, kept: Kept | None) -> Views:
        # Of images in views that other processes make there are no pixels here, nor is their place looked at.
        main = pixels.locate(slots.images)
        partner, regions = self._draw_sources(len(main))
        if partner is None:
            return Views(self.make_views(pixels.images, main[:, None], None, global_step, kept, regions))
        pixel_mixing, share = self._pixel_mixing(slots, mixing)
        sources = torch.stack((main, pixels.locate(partner)), 1)
        images = self.make_views(pixels.images, sources, pixel_mixing, global_step, kept, regions)
        return Views(images, self.data.labels[partner], share)

    def _pixel_mixing(self, slots: BatchPlan, mixing: Mixing) -> tuple[Mixing, Tensor]:
        """The mix of each view with its partner, and the first label's share in every slot (METHODS 2 and 7)."""
        settings = self.config.msda
        drawn = draw_pixel_mixing(
            settings.kind,
            len(slots.images),
            self.data.image_shape,
            settings.alpha,
            settings.probability,
            mixup_alpha=settings.mixup_alpha,
            generator=self.generator,
            device=self.device,
        )
        if self.method.num_inputs == 1:
            return drawn, drawn.ratios()[slots.slots, 0]
        slot_weights = mixing.weights().flatten(0, 1)
        if self.config.data.views == "independent":
            drawn, share = keep_main_predominant(drawn, slot_weights)
            return drawn, share.view(slots.slots.shape)
        # A shared view stands in several slots, each with a mask of its own: the label follows each slot's mask, but
        # the pixels cannot be swapped for one slot alone.
        spread = drawn.rows(slots.slots.flatten())
        return drawn, visible_share(spread, slot_weights).view(slots.slots.shape)

    def _manifold_mixup(
        self, target: Tensor, global_step: int
    ) -> tuple[HiddenMix | None, Tensor | None, Tensor | None]:
        """Manifold MixUp (Verma 2019): one depth a batch, partners inside the group; ``(None, None, None)`` for plain batches.

        Depth 0 mixes what enters the first stage. Where the stem is followed by nothing else (WRN, PreActResNet) that is
        the paper's input layer, since the stem is linear; in ResNet-18 it lies behind the max pool. The depth is drawn
        on the host because it chooses which code runs.
        """
        settings = self.config.msda
        host_rng = host_generator(seed=self.config.seed, stream=HOST_STREAM + global_step)
        if host_rng.random() >= settings.probability:
            return None, None, None
        depth = int(host_rng.integers(MANIFOLD_DEPTHS))
        groups = self.config.data.groups
        keys = torch.rand(self.batch_size, generator=self.generator, device=self.device).view(groups, -1)
        first_of_group = torch.arange(0, self.batch_size, keys.shape[1], device=self.device)
        partner = (first_of_group[:, None] + keys.argsort()).flatten()
        ratios = draw_ratios(1, 2, settings.alpha, generator=self.generator, device=self.device)
        share = ratios[:, 0].expand(self.batch_size)
        return HiddenMix(depth, partner, share), target[partner], share[:, None]


# Before stages 0, 1 and 2: the input and the first two residual groups, as Manifold MixUp's authors mix.
MANIFOLD_DEPTHS = 3
