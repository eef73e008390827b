"""Floating-point operations of a step, counted by running the real network on the meta device."""

from __future__ import annotations

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

from mixfast.methods import Network
from mixfast.mixing import sum_mixing


def training_flops(network: Network, image_size: tuple[int, int], batch_size: int) -> int:
    """Operations (two a multiply-add) of the forward and backward pass of one training step."""
    twin = copy.deepcopy(network).to("meta").train()
    channels = network.encoder.weight.shape[2]
    slots = torch.empty(batch_size, network.num_inputs, dtype=torch.int64, device="meta")
    images = torch.empty(batch_size * network.num_inputs, channels, *image_size, device="meta")
    mixing = sum_mixing(batch_size, network.num_inputs, network.core.stem.grid(image_size), "meta")
    counter = FlopCounterMode(display=False)
    with counter:
        twin(images, mixing, slots).sum().backward()
    return counter.get_total_flops()


def inference_flops(network: Network, image_size: tuple[int, int], batch_size: int) -> int:
    """Operations (two a multiply-add) of the predictions of all subnetworks for one batch."""
    twin = copy.deepcopy(network).to("meta").eval().requires_grad_(False)
    images = torch.empty(batch_size, network.encoder.weight.shape[2], *image_size, device="meta")
    counter = FlopCounterMode(display=False)
    with counter:
        twin.predict(images)
    return counter.get_total_flops()
