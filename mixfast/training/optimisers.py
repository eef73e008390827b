"""Optimisers and the learning rate as a function of the step (METHODS 4 and 7)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from mixfast.config import Config
from mixfast.errors import UnavailableError


def make_optimiser(config: Config, parameters: Iterable[nn.Parameter], device: torch.device) -> torch.optim.Optimizer:
    """torch's fused optimiser, or NVIDIA apex's where ``optimizer.implementation`` asks for it.

    Raises:
        UnavailableError: apex is asked for and cannot run here.
    """
    settings = config.optimizer
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
