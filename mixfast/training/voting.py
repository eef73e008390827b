"""Decisions that all processes must take alike, at the same step, though only one of them may have a reason."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist

from mixfast.training.team import Team


@dataclass(frozen=True)
class Decision:
    """What some process wished for."""

    stop: bool = False
    save: bool = False


class Votes:
    """One vote a step, on the CPU: decided at once by one process, among several one step later.

    So the vote travels while the next step is under way, and no process waits for it.
    """

    def __init__(self, team: Team) -> None:
        self._team = team
        self._pending: tuple[dist.Work, torch.Tensor] | None = None

    def cast(self, stop: bool, save: bool) -> Decision:
        """Says what this process wishes after a step; returns what holds after that step, in all processes."""
        if self._team.count == 1:
            return Decision(stop, save)
        wishes = torch.tensor([stop, save], dtype=torch.uint8)
        work = dist.all_reduce(wishes, dist.ReduceOp.MAX, async_op=True)
        decision = self.close()
        self._pending = (work, wishes)
        return decision

    def close(self) -> Decision:
        """Waits for the vote that is still under way."""
        if self._pending is None:
            return Decision()
        work, wishes = self._pending
        self._pending = None
        work.wait()
        stop, save = wishes.tolist()
        return Decision(bool(stop), bool(save))
