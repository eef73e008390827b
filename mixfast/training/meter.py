"""The training loss of an epoch."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mixfast.training.team import Team


@dataclass
class LossMeter:
    """The mean loss since the epoch began, and the first step whose loss was not finite; stays on the device."""

    device: torch.device
    total: Tensor = field(init=False)  # of every sample of every process, in float64: exact, in whatever order
    count: int = 0  # steps
    first_bad: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.total = torch.zeros((), dtype=torch.float64, device=self.device)
        self.first_bad = torch.full((), -1, dtype=torch.int64, device=self.device)

    def add(self, loss: Tensor, step: int, samples: int) -> None:
        """The mean loss of some samples in this process."""
        self.total += loss.double() * samples
        self.count += 1
        fine = torch.isfinite(loss) | (self.first_bad >= 0)
        self.first_bad = torch.where(fine, self.first_bad, step)

    def read(self, team: Team) -> tuple[float, int]:
        """The summed loss of all processes' samples, and the first bad step or -1; waits for the device."""
        totals, bad_steps = team.gather(torch.stack((self.total, self.first_bad.double()))).unbind(1)
        bad = [int(step) for step in bad_steps.tolist() if step >= 0]
        return totals.sum().item(), min(bad, default=-1)
