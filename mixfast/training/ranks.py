"""Which of the processes of a run this one is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from mixfast.errors import MixfastError

# torchrun ends all processes as soon as one has ended: the others leave the first one time to say what is wrong.
SECONDS_FOR_FIRST = 5.0


@dataclass(frozen=True)
class Ranks:
    """This process's number among ``count``, and among the ``local_count`` of its machine; both begin at 0."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes files and talks to people."""
        return self.rank == 0

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> Ranks:
        """As ``torchrun`` sets it; one process alone where it has set nothing.

        Raises:
            MixfastError: a variable is missing or is no number in its range.
        """
        if "WORLD_SIZE" not in environment:
            return ONE_PROCESS
        count = _number(environment, "WORLD_SIZE", 1, 2**20)
        if count == 1:
            return ONE_PROCESS
        local_count = _number(environment, "LOCAL_WORLD_SIZE", 1, count)
        return Ranks(
            rank=_number(environment, "RANK", 0, count - 1),
            count=count,
            local_rank=_number(environment, "LOCAL_RANK", 0, local_count - 1),
            local_count=local_count,
        )


ONE_PROCESS = Ranks()


def _number(environment: Mapping[str, str], name: str, least: int, most: int) -> int:
    text = environment.get(name)
    if text is None or not text.isdecimal() or not least <= int(text) <= most:
        given = "is not set" if text is None else f"is {text!r}, expected a number in {least}..{most}"
        raise MixfastError(f"{name} {given}, but WORLD_SIZE is: start several processes with torchrun, which sets both")
    return int(text)
