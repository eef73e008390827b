"""Interleaved timing: every contender has a turn in every round, so that all of them see the same machine."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

Mark = Callable[[str], None]
"""Called with a phase's name when it ends: the time since the previous call belongs to it."""

UNTIMED = "untimed"
"""A phase that nobody asks for: what a run needs before it begins."""

ORDER_SEED = 0


class Contender(Protocol):
    """Something that is timed, phase by phase."""

    name: str

    def run(self, mark: Mark) -> None:
        """Does the work once, marking the end of each of its phases."""


@dataclass
class Timings:
    """What one contender took: seconds a run, a number for each round, by phase."""

    phases: dict[str, list[float]] = field(default_factory=dict)

    def add(self, turn: dict[str, float]) -> None:
        for phase, seconds in turn.items():
            self.phases.setdefault(phase, []).append(seconds)

    def total(self) -> list[float]:
        """Seconds a run, all phases together, one number a round."""
        return [sum(round_phases) for round_phases in zip(*self.phases.values(), strict=True)]


def no_mark(phase: str) -> None:
    """For runs that are not timed."""


def interleave(
    contenders: Sequence[Contender],
    rounds: int,
    runs: int,
    device: torch.device,
    finished: Callable[[], None] = lambda: None,
) -> dict[str, Timings]:
    """Times the contenders in turns of ``runs`` runs, ``rounds`` turns each.

    Each round has an order of its own, and nobody follows itself: a drift of the machine favours nobody, and nobody finds
    its own data in the caches more often than others do. Where a turn is of several runs, which share what the first one
    reads into the caches, one more goes before them that is not timed: what they take does not depend on who had
    the turn before.

    Args:
        contenders: already warmed up, with different names.
        rounds, runs: at least 1.
        device: where the work runs; a turn on CUDA ends when the device has finished.
        finished: called after every round.

    Returns:
        Timings by name.
    """
    timings = {contender.name: Timings() for contender in contenders}
    gc.collect()
    for order in _orders(len(contenders), rounds):
        for place in order:
            contender = contenders[place]
            if runs > 1:
                contender.run(no_mark)
            timings[contender.name].add(time_turn(contender, runs, device))
        finished()
    return timings


def _orders(count: int, rounds: int) -> Iterator[list[int]]:
    """Random orders, the same ones every time, none of which begins with what the one before ended with."""
    draw = random.Random(ORDER_SEED)
    order = list(range(count))
    for _ in range(rounds):
        last = order[-1]
        draw.shuffle(order)
        while count > 1 and order[0] == last:
            draw.shuffle(order)
        yield order


def time_turn(contender: Contender, runs: int, device: torch.device) -> dict[str, float]:
    """Mean seconds a run by phase, over ``runs`` runs one right after the other."""
    watch = CudaWatch(device) if device.type == "cuda" else HostWatch()
    for _ in range(runs):
        contender.run(watch.mark)
    return {phase: seconds / runs for phase, seconds in watch.seconds().items() if phase != UNTIMED}


class HostWatch:
    """A stopwatch for work that is done when its call returns."""

    def __init__(self) -> None:
        self._phases: dict[str, float] = {}
        self._last = time.perf_counter()

    def mark(self, phase: str) -> None:
        now = time.perf_counter()
        self._phases[phase] = self._phases.get(phase, 0.0) + now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        return self._phases


class CudaWatch:
    """A stopwatch for work that a CUDA stream does later: phases end at events in the stream.

    Time in which the device waits for the host counts too, as it does in a training.
    """

    def __init__(self, device: torch.device) -> None:
        torch.cuda.synchronize(device)
        self._device = device
        self._events: list[tuple[str, torch.cuda.Event]] = []
        self.mark("start")

    def mark(self, phase: str) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        self._events.append((phase, event))

    def seconds(self) -> dict[str, float]:
        """Waits for the device."""
        torch.cuda.synchronize(self._device)
        phases: dict[str, float] = {}
        for (_, before), (phase, event) in zip(self._events, self._events[1:], strict=False):
            phases[phase] = phases.get(phase, 0.0) + before.elapsed_time(event) / 1000
        return phases
