"""Optimisers and the learning rate as a function of the step (METHODS 4 and 7)."""

from __future__ import annotations

from typing import Any

import torch

from mixfast.config import Config
from mixfast.errors import UnavailableError
from mixfast.methods import Network


def make_optimiser(config: Config, network: Network, device: torch.device) -> torch.optim.Optimizer:
    """torch's fused optimiser, or NVIDIA apex's where ``optimizer.implementation`` asks for it, of the network's parameters.

    Raises:
        UnavailableError: apex is asked for and cannot run here.
    """
    settings = config.optimizer
    parameters = _groups(network, settings.decay_vectors)
    common = {"lr": config.learning_rate(), "weight_decay": settings.weight_decay}
    momentum = {"momentum": settings.momentum, "nesterov": settings.nesterov}
    if settings.implementation == "apex":
        apex = _apex_optimisers()
        if settings.name == "sgd":
            return apex.FusedSGD(parameters, **common, **momentum)
        return apex.FusedAdam(parameters, betas=settings.betas, adam_w_mode=True, **common)
    fused = device.type in ("cpu", "cuda")
    if settings.name == "sgd":
        return torch.optim.SGD(parameters, fused=fused, **common, **momentum)
    return torch.optim.AdamW(parameters, betas=settings.betas, fused=fused, **common)


def _groups(network: Network, decay_vectors: bool) -> list[dict[str, Any]]:
    """All parameters, or apart from them, without weight decay, those that are no matrices or kernels."""
    names = set() if decay_vectors else network.undecayed()
    decayed = [value for name, value in network.named_parameters() if name not in names]
    spared = [value for name, value in network.named_parameters() if name in names]
    return [{"params": decayed}, *([{"params": spared, "weight_decay": 0.0}] if spared else [])]


def _apex_optimisers():
    """apex imports without its kernels and fails only at use, and another package has its name: look for ``amp_C``."""
    try:
        import amp_C  # noqa: F401
        from apex import optimizers
    except ImportError as error:
        raise UnavailableError(
            "optimizer.implementation=apex needs NVIDIA apex built from source with its CUDA kernels (module amp_C); "
            f"here: {error}. Use optimizer.implementation=torch, which is fused too."
        ) from error
    return optimizers


def learning_rate_at(config: Config, step: int, steps_per_epoch: int) -> float:
    """The learning rate of global step ``step`` (from 0).

    Rises linearly over the steps of the warm-up epochs, step ``n`` of ``W`` having ``n / W`` of it; multiplied by
    ``schedule.decay`` each time another of ``schedule.decay_epochs`` epochs is completed.
    """
    schedule = config.schedule
    rate = config.learning_rate()
    warmup_steps = round(schedule.warmup_epochs * steps_per_epoch)
    if step < warmup_steps:
        return rate * (step + 1) / warmup_steps
    completed = step // steps_per_epoch
    return rate * schedule.decay ** sum(completed >= epoch for epoch in schedule.decay_epochs)
