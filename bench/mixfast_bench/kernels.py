"""Operators against their plain form: who runs in ``mixfast bench kernels``, and the measurement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from mixfast_bench.captured import Captured, Cold
from mixfast_bench.kernel_measurement import BOTH, COMPILED, EAGER, FORWARD, MIXFAST, KernelMeasurement
from mixfast_bench.kernel_problems import Call, KernelCase, Problem, Rival
from mixfast_bench.machine import Copy, MatrixProduct
from mixfast_bench.measure import Contender, Mark, interleave, time_turn
from mixfast_bench.runs import WARM_UP_RUNS

# Seconds that the fastest contender's turn should last at least, and the slowest one's at most.
SHORTEST_TURN, LONGEST_TURN = 2e-3, 0.3
# So that a turn begins with a run that is not timed (see `interleave`): operators live on what caches hold.
FEWEST_RUNS = 2
PRODUCT_ROUNDS = 9


class Forward:
    """One forward pass a run."""

    def __init__(self, name: str, call: Call, leaves: Sequence[Tensor]) -> None:
        self.name, self._call = name, call
        self._leaves = [leaf.detach() for leaf in leaves]

    def run(self, mark: Mark) -> None:
        with torch.no_grad():
            self._call(*self._leaves)
        mark("pass")


class ForwardBackward:
    """One forward and one backward pass a run: the gradients of all leaves, for a fixed gradient of the result."""

    def __init__(self, name: str, call: Call, leaves: Sequence[Tensor]) -> None:
        self.name, self._call = name, call
        self._leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        result = call(*self._leaves)
        # In the result's memory layout, as the next operator's gradient would be.
        self._grad = torch.randn_like(result) if result.dim() else torch.ones_like(result)

    def run(self, mark: Mark) -> None:
        torch.autograd.grad(self._call(*self._leaves), self._leaves, self._grad)
        mark("pass")


def measure_kernels(
    cases: Sequence[KernelCase],
    device: torch.device,
    dtype: torch.dtype,
    times: int,
    rounds: int,
    compiled: bool,
    console: Console,
) -> list[KernelMeasurement]:
    """Times the cases, with ``times`` their batch, one after the other; in each, all contenders interleaved, a copy too.

    A matrix product takes far longer than an operator: it has a few turns of its own, before. Interrupted (Ctrl-C), the
    measurement gives the cases that are done.
    """
    product = MatrixProduct(device, dtype)
    time_turn(product, WARM_UP_RUNS, device)
    product_rate = product.flops / median(interleave([product], PRODUCT_ROUNDS, 1, device)[product.name].total())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    results = []
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=len(cases))
        for case in cases:
            progress.update(task, description=case.operator)
            # What earlier cases compiled must not count towards this one's limit of recompilations.
            torch._dynamo.reset()
            problem = case.build(device, dtype, times)
            try:
                timings, copy, launched = measure_problem(problem, device, rounds, compiled)
            except KeyboardInterrupt:
                if not results:
                    raise
                console.print(f"interrupted: the first {len(results)} of {len(cases)} cases")
                break
            work = _work(problem)
            results.append(KernelMeasurement(case.operator, case.name, timings, copy, work, product_rate, launched))
            progress.advance(task)
    return results


def measure_problem(
    problem: Problem, device: torch.device, rounds: int, compiled: bool
) -> tuple[dict[tuple[str, str], list[float]], list[float], tuple[str, ...]]:
    """Seconds by contender, those of the copy, and who is launched; see ``KernelMeasurement``."""
    contenders, copy = contenders_of(problem, compiled), Copy(device, problem.bytes[0] // 2)
    everyone: list[Contender] = [*contenders.values(), copy]
    launched: tuple[str, ...] = ()
    if device.type == "cuda":
        cold = Cold(device)
        captured = [Captured(contender, cold) for contender in everyone]
        everyone, launched = [*captured], tuple(each.name for each in captured if not each.is_captured)
    for contender in everyone:
        time_turn(contender, WARM_UP_RUNS, device)
    timings = interleave(everyone, rounds, _runs_a_turn(everyone, device), device)
    seconds = {key: timings[contender.name].total() for key, contender in contenders.items()}
    return seconds, timings[copy.name].total(), launched


def _work(problem: Problem) -> dict[str, dict[str, int]]:
    """See ``KernelMeasurement``."""
    forward, both = (
        {"bytes": moved, "flops": flops} for moved, flops in zip(problem.bytes, problem.flops, strict=True)
    )
    return {FORWARD: forward, BOTH: both} if problem.leaves else {FORWARD: forward}


def contenders_of(problem: Problem, compiled: bool) -> dict[tuple[str, str], Contender]:
    """Everyone who runs, by way and direction: see ``KernelMeasurement``."""
    ways = {MIXFAST: Rival(problem.call, problem.leaves), EAGER: Rival(problem.plain, problem.leaves)}
    if compiled:
        ways[COMPILED] = Rival(problem.plain, problem.leaves, compiled=True)
        ways |= problem.rivals
    else:
        ways |= {name: rival for name, rival in problem.rivals.items() if not rival.compiled}
    contenders: dict[tuple[str, str], Contender] = {}
    for way, rival in ways.items():
        call = torch.compile(rival.call, dynamic=False) if rival.compiled else rival.call
        contenders[way, FORWARD] = Forward(f"{way}, {FORWARD}", call, rival.leaves)
        if rival.leaves:
            contenders[way, BOTH] = ForwardBackward(f"{way}, {BOTH}", call, rival.leaves)
    return contenders


def _runs_a_turn(contenders: Sequence[Contender], device: torch.device) -> int:
    seconds = [sum(time_turn(contender, 1, device).values()) for contender in contenders]
    wanted = math.ceil(SHORTEST_TURN / min(seconds))
    return max(FEWEST_RUNS, min(wanted, int(LONGEST_TURN / max(seconds))))
