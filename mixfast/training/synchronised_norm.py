"""Batch norm over the samples of all processes, on any device: the batch norm of one process with the whole batch.

Each process sends the mean and the variance of its own samples, and gets everybody's; equally many samples each give

    mean = mean of the means        variance = mean of the variances + variance of the means

which, unlike sums of squares, loses nothing to cancellation. Only this exchange is an operator of its own; all else is
left to autograd and to the compiler, which fuses it with what comes before and after. (torch's own needs CUDA.)

Legend: B samples a process, C channels, R processes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mixfast.training.team import Team


@torch.library.custom_op("mixfast::gathered", mutates_args=())
def gathered(tensor: Tensor, count: int) -> Tensor:
    """Every process's tensor, ``[R, ...]``; its gradient in each process is the sum of all processes'."""
    everybody = tensor.new_empty(count, *tensor.shape)
    dist.all_gather(list(everybody), tensor.contiguous())
    return everybody


@gathered.register_fake
def _(tensor: Tensor, count: int) -> Tensor:
    return tensor.new_empty(count, *tensor.shape)


@torch.library.custom_op("mixfast::gathered_backward", mutates_args=())
def gathered_backward(grad: Tensor) -> Tensor:
    """What all processes' losses say of this process's tensor."""
    summed = grad.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(summed)
    return summed[dist.get_rank()].clone()


@gathered_backward.register_fake
def _(grad: Tensor) -> Tensor:
    return grad.new_empty(grad.shape[1:])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return gathered_backward(grad), None


gathered.register_autograd(_backward)


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d``, in training over the samples of ``count`` processes, equally many in each."""

    def __init__(self, norm: nn.BatchNorm2d, count: int) -> None:
        """Takes over the parameters and buffers of ``norm``."""
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.count = count
        self._parameters, self._buffers = norm._parameters, norm._buffers
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, h, w]`` to the same shape and dtype; statistics are taken in float32 at least."""
        if not self.training:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(wide, (0, 2, 3), correction=0)
        means, variances = gathered(torch.stack((mean, variance)), self.count).unbind(1)
        mean, variance = means.mean(0), variances.mean(0) + means.var(0, correction=0)
        self._remember(mean.detach(), variance.detach(), self.count * (x.numel() // x.shape[1]))
        scale = torch.rsqrt(variance + self.eps) * self.weight
        normed = (wide - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]
        return normed.to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, samples: int) -> None:
        """The running statistics, as ``nn.BatchNorm2d`` keeps them: of the unbiased variance."""
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (samples / max(samples - 1, 1)), self.momentum)


def synchronise_batch_norms(network: nn.Module, count: int) -> None:
    """Puts the synchronised form in place of every batch norm, with its parameters, buffers and names."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, SynchronisedBatchNorm2d(child, count))


def average_running_statistics(network: nn.Module, team: Team) -> None:
    """Makes all processes' running statistics the mean of theirs, for norms that are not synchronised."""
    if team.count == 1:
        return
    norms = [module for module in network.modules() if type(module) is nn.BatchNorm2d]
    team.average(statistic for norm in norms for statistic in (norm.running_mean, norm.running_var))
