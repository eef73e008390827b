"""A batch in parts whose gradients add up to the batch's."""

from __future__ import annotations

import torch

from mixfast.training.feed import Batch


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """Equal parts of the samples, in order; every part keeps all views, and says which rows of the whole batch it has."""
    if parts == 1:
        return [batch]
    samples = len(batch.target)
    return [batch.some(rows) for rows in torch.arange(samples, device=batch.target.device).chunk(parts)]
