"""A network's predictions over a whole data set."""

from __future__ import annotations

from contextlib import AbstractContextManager, closing, nullcontext

import torch
from mixfast_kernels import augment
from torch import Tensor

from mixfast.data import Images
from mixfast.data.sources.interface import Request
from mixfast.methods import Network
from mixfast.training.team import ALONE, Team


@torch.no_grad()
def predict_logits(
    network: Network,
    data: Images,
    batch_size: int,
    precision: AbstractContextManager | None = None,
    team: Team = ALONE,
) -> Tensor:
    """Every subnetwork's logits for every image, float32 ``[N, M, K]`` on the device.

    Args:
        network: put into evaluation mode, and back after.
        data: its pixels come to the network's device; not augmented, only normalised.
        batch_size: images at a time.
        precision: an autocast context to predict in.
        team: processes that share the batches; each gets all logits, the very ones that one process alone would.
    """
    training = network.training
    network.eval()
    logits = []
    batches = torch.arange(len(data)).split(batch_size)
    rounds = -(-len(batches) // team.count)
    # Who has no batch left in the last round repeats the last batch.
    wanted = [batches[min(turn * team.count + team.ranks.rank, len(batches) - 1)] for turn in range(rounds)]
    with closing(data.stream(lambda turn: Request(wanted[turn]), range(rounds), batch_size)) as stream:
        for index, pixels in zip(wanted, stream, strict=True):
            place = pixels.locate(index.to(data.device))
            images = augment(pixels.images, index=place, mean=data.mean, std=data.std)
            with precision or nullcontext():
                logits.append(network.predict(images).float())
    network.train(training)
    return _everybodys(logits, batch_size, team)[: len(data)]


def _everybodys(logits: list[Tensor], batch_size: int, team: Team) -> Tensor:
    """Puts the batches of all processes, dealt out one by one, in order again: ``[at least N, M, K]``."""
    if team.count == 1:
        return torch.cat(logits)
    padded = logits[0].new_zeros(len(logits), batch_size, *logits[0].shape[1:])
    for place, batch in zip(padded, logits, strict=True):
        place[: len(batch)] = batch
    return team.gather(padded).transpose(0, 1).flatten(0, 2)
