"""What a network costs, counted by running it on the meta device, where no number is computed and no memory taken."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from mixfast_kernels import mixed_cross_entropy
from torch import Tensor

from mixfast.flops.meter import Meter
from mixfast.flops.parts import parameters_by_part, whole
from mixfast.methods import Network
from mixfast.mixing import sum_mixing


@dataclass(frozen=True)
class Tally:
    """A figure of a network: ``parts`` by name, and their sum."""

    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        parameters: how many.
        inference: multiply-adds of the predictions of all subnetworks for one image.
        forward, backward: multiply-adds of a training step for one sample of M inputs. Where it depends on what is drawn how
            many encoders work, as many as at most do.
        activations: bytes that autograd keeps from the forward to the backward pass of a whole batch, in float32 and
            without ``torch.compile``, which may keep less.
        batch_size: of that batch.
        work: multiply-adds and bytes of each operator of a step of that batch, in float32.
    """

    parameters: Tally
    inference: Tally
    forward: Tally
    backward: Tally
    activations: Tally
    batch_size: int
    work: Sequence[tuple[int, int]] = ()

    @property
    def step(self) -> int:
        """Multiply-adds of both passes for one sample."""
        return self.forward.total + self.backward.total


def count(network: Network, visible: int, image_shape: tuple[int, int], batch_size: int) -> Cost:
    """Counts everything.

    Args:
        network: on any device; it is not run and not changed.
        visible: the most inputs that a position of a drawn mix shows (``Method.visible_inputs``).
        image_shape: ``(H, W)`` in pixels.
        batch_size: samples of a training step.
    """
    step = _run_step(network, visible, image_shape, batch_size)
    parameters = {part: sum(map(Tensor.numel, values)) for part, values in parameters_by_part(network).items()}
    return Cost(
        parameters=Tally(parameters),
        inference=Tally(_run_inference(network, image_shape, 1).forward),
        forward=_per_sample(step.forward, batch_size),
        backward=_per_sample(step.backward, batch_size),
        activations=Tally(step.kept),
        batch_size=batch_size,
        work=step.work,
    )


def training_flops(network: Network, visible: int, image_shape: tuple[int, int], batch_size: int) -> int:
    """Floating-point operations (two a multiply-add) of the forward and backward pass of one step; see ``count``."""
    meter = _run_step(network, visible, image_shape, batch_size)
    return 2 * (meter.forward.total() + meter.backward.total())


def inference_flops(network: Network, image_shape: tuple[int, int], batch_size: int) -> int:
    """Floating-point operations (two a multiply-add) of the predictions of all subnetworks for one batch."""
    return 2 * _run_inference(network, image_shape, batch_size).forward.total()


def _run_step(network: Network, visible: int, image_shape: tuple[int, int], batch_size: int) -> Meter:
    twin = copy.deepcopy(network).to("meta").train()
    inputs = network.num_inputs
    images = torch.empty(batch_size * inputs, twin.encoder.weight.shape[2], *image_shape, device="meta")
    index, target = (torch.empty(batch_size, inputs, dtype=torch.int64, device="meta") for _ in range(2))
    weight = torch.empty(batch_size, inputs, device="meta")
    # Any mix has the same tensors, as far as sizes go: how much of it is seen, ``visible`` says.
    mixing = sum_mixing(batch_size, inputs, twin.core.stem.grid(image_shape), "meta")
    batch = (images, index, target, weight, mixing.inside, mixing.outside)
    with Meter(twin, whole(twin), visible, batch).counting() as meter:
        logits = twin(images, mixing, index)
        with meter.part("loss"):
            loss = mixed_cross_entropy(logits.expand(batch_size, inputs, -1), target, weight)
        loss.backward()
    return meter


def _run_inference(network: Network, image_shape: tuple[int, int], batch_size: int) -> Meter:
    twin = copy.deepcopy(network).to("meta").eval().requires_grad_(False)
    images = torch.empty(batch_size, twin.encoder.weight.shape[2], *image_shape, device="meta")
    # Whatever a network's inference mixes, it shows one input at a time.
    with Meter(twin, whole(twin), visible=1).counting() as meter:
        twin.predict(images)
    return meter


def _per_sample(products: Mapping[str, int], batch_size: int) -> Tally:
    return Tally({part: count // batch_size for part, count in products.items()})
