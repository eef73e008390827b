"""Processes that train one network together, one a device: what they tell one another.

``Team()`` is one process alone. Everything here is then free, so nothing that uses it asks how many there are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mixfast.errors import EXPECTED
from mixfast.training.board import Board
from mixfast.training.ranks import ONE_PROCESS, Ranks

Result = TypeVar("Result")


class Team:
    """The processes of torch's default group, which must exist where ``ranks`` has several.

    Every method is a collective: all processes call it, in the same order.
    """

    def __init__(self, ranks: Ranks = ONE_PROCESS, board: Board | None = None) -> None:
        self.ranks, self.board = ranks, board
        self.advice = ""  # how a run that ended goes on, for people
        self._turns = 0

    @property
    def count(self) -> int:
        return self.ranks.count

    @property
    def is_first(self) -> bool:
        return self.ranks.is_first

    def console(self, console: Console) -> Console:
        """Where this process says what is news to people: nowhere, but in the first one."""
        return console if self.is_first else Console(quiet=True)

    def on_first(self, function: Callable[[], Result]) -> Result:
        """What ``function`` gives, or raises for a person to mend, in the first process: in all of them."""
        if self.count == 1:
            return function()
        outcome: list[object] = [None, None]
        if self.is_first:
            try:
                outcome[0] = function()
            except EXPECTED as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0, device=torch.device("cpu"))
        result, error = outcome
        if isinstance(error, Exception):
            raise error
        return result  # type: ignore[return-value]

    @contextmanager
    def first_on_machine(self) -> Iterator[None]:
        """What is inside is done by one process of each machine, then by the others there: it finds, or fills, a cache."""
        self._turns += 1
        key = f"turn {self._turns} of the machine of {self.ranks.rank - self.ranks.local_rank}"
        if self.ranks.local_rank > 0:
            self.board.wait_for(key)
        yield
        if self.ranks.local_rank == 0 and self.board is not None:
            self.board.post(key)

    def wait_for_all(self) -> None:
        """Returns when every process has come here."""
        self.gather(torch.zeros(1))

    def gather(self, tensor: Tensor) -> Tensor:
        """Every process's ``tensor``, of one shape in all of them: ``[count, ...]`` in the order of their ranks."""
        if self.count == 1:
            return tensor[None]
        gathered = tensor.new_empty(self.count, *tensor.shape)
        dist.all_gather(list(gathered), tensor.contiguous())
        return gathered

    def any_signal(self, number: int) -> int:
        """The signal that some process was stopped by; 0: none was."""
        return int(self.gather(torch.tensor(number)).max())

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Puts the mean over the processes in place of each floating-point tensor, in one exchange."""
        tensors = list(tensors)
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, mean in zip(tensors, (flat / self.count).split([t.numel() for t in tensors]), strict=True):
            tensor.detach().copy_(mean.view_as(tensor))

    def copy_first(self, network: nn.Module) -> None:
        """Puts the first process's parameters and buffers in place of each process's own."""
        if self.count > 1:
            for tensor in network.state_dict().values():
                dist.broadcast(tensor, src=0)

    def parallel(self, network: nn.Module) -> nn.Module:
        """The network whose backward pass leaves the mean of all processes' gradients.

        Gradients are views of the buckets they are sent in, which saves a copy of them. Every parameter has a gradient in
        every step, so nothing looks for those without, which is also all that ``static_graph`` would save. Buffers are ours
        to keep alike (``synchronised_norm.py``).
        """
        if self.count == 1:
            return network
        with warnings.catch_warnings():
            # Newer versions of torch have another name for broadcast_buffers, which older ones do not know.
            warnings.simplefilter("ignore", category=FutureWarning)
            return DistributedDataParallel(network, broadcast_buffers=False, gradient_as_bucket_view=True)

    def keeping_gradients(self, network: nn.Module, keeping: bool) -> AbstractContextManager:
        """While entered, gradients add up in each process: no part of a batch but its last sends them."""
        return network.no_sync() if keeping and isinstance(network, DistributedDataParallel) else nullcontext()


ALONE = Team()
