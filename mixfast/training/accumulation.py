"""A batch in parts whose gradients add up to the batch's."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mixfast.training.feed import Batch


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """Equal parts of the samples, in order; every part keeps all views, and says which rows of the whole batch it has."""
    if parts == 1:
        return [batch]
    samples = len(batch.target)
    return [_part(batch, rows) for rows in torch.arange(samples, device=batch.target.device).chunk(parts)]


def _part(batch: Batch, rows: Tensor) -> Batch:
    def own(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[rows]

    return replace(
        batch,
        index=batch.index[rows],
        mixing=batch.mixing.rows(rows),
        target=batch.target[rows],
        weight=batch.weight[rows],
        other=own(batch.other),
        share=own(batch.share),
        hidden_mix=None if batch.hidden_mix is None else batch.hidden_mix.rows(rows),
        rows=rows if batch.rows is None else batch.rows[rows],
    )
