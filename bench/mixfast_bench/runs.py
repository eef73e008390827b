"""A whole measurement: builds the contenders, warms them up, measures memory, then times them interleaved."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mixfast.data import Images
from mixfast.errors import MixfastError
from mixfast.training.precision import AMP_DTYPES
from mixfast_bench.cases import Batches, Rounds
from mixfast_bench.machine import Copy, MatrixProduct, peak_memory
from mixfast_bench.measure import Contender, Timings, interleave, no_mark, time_turn

# The first run compiles, the second fills caches and memory pools, the third is as all others.
WARM_UP_RUNS = 3
MEMORY_RUNS = 3


@dataclass(frozen=True)
class StepMeasurement:
    """Raw results of ``measure_steps`` (training steps or inference passes); dictionaries are by contender.

    Attributes:
        timings: seconds, of the probe too.
        samples: rows of a batch.
        flops: of the forward and backward pass of each step, or of each inference pass.
        memory: bytes a step needs at its peak beyond weights, optimiser state and data set; None where not known.
        product: the matrix product that ran among them.
    """

    timings: dict[str, Timings]
    samples: int
    flops: dict[str, int]
    memory: dict[str, int | None]
    product: MatrixProduct


@dataclass(frozen=True)
class DataMeasurement:
    """Raw results of ``measure_pipelines``; dictionaries are by contender.

    Attributes:
        timings: seconds, of the probe too.
        samples: rows of a batch.
        floor_bytes: the least traffic each batch can be made with.
        copy: the copy that ran among them.
    """

    timings: dict[str, Timings]
    samples: int
    floor_bytes: dict[str, int]
    copy: Copy


class Buildable(Protocol):
    """An entry of a registry, which makes a pipeline of some images."""

    def build(self, data: Any, batches: Batches, *, prefix: str) -> Any:
        """The contender; its name is that of the entry after ``prefix``."""


def measure_steps(
    builders: Sequence[Callable[[], Any]],
    samples: int,
    device: torch.device,
    rounds: Rounds,
    console: Console,
    amp: str = "off",
) -> StepMeasurement:
    """Times the training steps or inference passes that ``builders`` make, with a matrix product in their precision among them.

    ``samples``: rows of every contender's batch.

    Raises:
        MixfastError: a loss or prediction was not finite at the end: such steps may take another time than real ones.
        UnavailableError: a compiled entry, and there is no compiler.
    """
    product = MatrixProduct(device, AMP_DTYPES.get(amp, torch.float32))
    with networks_apart():
        contenders = [build() for build in builders]
        _warm_up([*contenders, product], device, console)
        gc.collect()
        memory = {contender.name: _step_memory(contender, device) for contender in contenders}
        timings = _timed([*contenders, product], rounds, device, console)
    for contender in contenders:
        if not bool(torch.isfinite(contender.result).all()):
            raise MixfastError(
                f"what {contender.name!r} computes is not finite: these are not the timings of real work"
            )
    flops = {contender.name: contender.flops for contender in contenders}
    return StepMeasurement(timings, samples, flops, memory, product)


def measure_pipelines(
    entries: Sequence[Buildable], batches: Batches, data_sets: Sequence[Images], rounds: Rounds, console: Console
) -> DataMeasurement:
    """Times the pipelines of ``entries`` on each of the data sets, with a copy of memory among them."""
    device = data_sets[0].device
    contenders = [entry.build(data, batches, prefix=pipeline_prefix(data)) for data in data_sets for entry in entries]
    copy = Copy(device)
    _warm_up([*contenders, copy], device, console)
    timings = _timed([*contenders, copy], rounds, device, console)
    floors = {contender.name: contender.floor_bytes for contender in contenders}
    return DataMeasurement(timings, batches.batch_size, floors, copy)


def networks_apart() -> AbstractContextManager[Any]:
    """While entered, several networks in one process compile as each would in a process of its own.

    Otherwise the second one teaches the compiler that batch sizes vary, and gets slower code for it.
    """
    return torch._dynamo.config.patch(automatic_dynamic_shapes=False)


def pipeline_prefix(data: Images) -> str:
    """What a pipeline's name begins with: the image size, as ``32x32 ``."""
    return "x".join(map(str, data.image_shape)) + " "


def _warm_up(contenders: Sequence[Contender], device: torch.device, console: Console) -> None:
    with console.status("warming up") as status:
        for contender in contenders:
            status.update(f"warming up {contender.name}; compiling takes a minute or more")
            time_turn(contender, WARM_UP_RUNS, device)


def _step_memory(contender: Contender, device: torch.device) -> int | None:
    """The median of some runs: the system's allocator makes resident memory vary by a few percent."""
    peaks = [peak_memory(lambda: contender.run(no_mark), device) for _ in range(MEMORY_RUNS)]
    return None if None in peaks else int(median(peaks))


def _timed(
    contenders: Sequence[Contender], rounds: Rounds, device: torch.device, console: Console
) -> dict[str, Timings]:
    columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TextColumn("rounds"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("rounds", total=rounds.rounds)
        return interleave(contenders, rounds.rounds, rounds.runs, device, lambda: progress.advance(task))
