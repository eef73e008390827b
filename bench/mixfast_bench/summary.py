"""From raw timings to the figures that are reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import geometric_mean

from mixfast_bench.kernel_measurement import COMPILED, EAGER, MIXFAST, KernelMeasurement
from mixfast_bench.measure import Timings
from mixfast_bench.registry import Comparison
from mixfast_bench.runs import DataMeasurement, StepMeasurement
from mixfast_bench.spread import COARSE, ROUGH, Ratio, Spread, compare


@dataclass(frozen=True)
class StepRow:
    """One contender's training step.

    Attributes:
        phases: seconds of each phase.
        step: seconds of the whole step.
        samples_per_second: rows of a batch over the median step.
        utilisation: the step's FLOPs over what a matrix product did in the same round's time.
        peak_memory: bytes; None where not known.
    """

    name: str
    phases: dict[str, Spread]
    step: Spread
    samples_per_second: float
    utilisation: Ratio
    peak_memory: int | None


@dataclass(frozen=True)
class StepSummary:
    """``product_rate`` in FLOP/s; ``ratios`` by the comparisons' names."""

    rows: list[StepRow]
    ratios: dict[str, Ratio]
    product_rate: Spread


@dataclass(frozen=True)
class DataRow:
    """One pipeline.

    Attributes:
        batch: seconds of a batch.
        samples_per_second: rows of a batch (images or pairs) over the median batch.
        copy_share: the least traffic of a batch over what a copy moved in the same round's time.
    """

    name: str
    batch: Spread
    samples_per_second: float
    copy_share: Ratio


@dataclass(frozen=True)
class DataSummary:
    """``copy_rate`` in bytes a second, read and written; ``ratios`` by the comparisons' names."""

    rows: list[DataRow]
    ratios: dict[str, Ratio]
    copy_rate: Spread


def summarise_steps(measured: StepMeasurement, comparisons: Sequence[Comparison]) -> StepSummary:
    """Figures of a ``measure_steps``; comparisons with an absent contender are left out."""
    rates = [measured.product.flops / seconds for seconds in measured.timings[measured.product.name].total()]
    rows = []
    for name, flops in measured.flops.items():
        timings = measured.timings[name]
        step = Spread.of(timings.total())
        rows.append(
            StepRow(
                name,
                {phase: Spread.of(seconds) for phase, seconds in timings.phases.items()},
                step,
                measured.samples / step.median,
                compare([flops / rate for rate in rates], timings.total(), COARSE),
                measured.memory[name],
            )
        )
    return StepSummary(rows, _ratios(measured.timings, comparisons), Spread.of(rates))


def summarise_pipelines(
    measured: DataMeasurement, comparisons: Sequence[Comparison], prefixes: Sequence[str]
) -> DataSummary:
    """Figures of a ``measure_pipelines``; the comparisons are made for every prefix."""
    rates = [measured.copy.bytes / seconds for seconds in measured.timings[measured.copy.name].total()]
    rows = []
    for name, floor in measured.floor_bytes.items():
        seconds = measured.timings[name].total()
        batch = Spread.of(seconds)
        share = compare([floor / rate for rate in rates], seconds, COARSE)
        rows.append(DataRow(name, batch, measured.samples / batch.median, share))
    prefixed = [
        replace(
            comparison,
            name=prefix + comparison.name,
            numerator=prefix + comparison.numerator,
            denominator=prefix + comparison.denominator,
        )
        for prefix in prefixes
        for comparison in comparisons
    ]
    return DataSummary(rows, _ratios(measured.timings, prefixed), Spread.of(rates))


@dataclass(frozen=True)
class KernelRow:
    """One operator on one shape, one pass.

    Attributes:
        seconds: a run of mixfast's.
        eager, compiled: how many times as long the plain form takes; None where it was not run.
        floor: the share of the measured copy or matrix rate that is reached; above 1 in a cache, or by writing past it.
        rivals: how many times as long each named opponent takes.
    """

    operator: str
    name: str
    direction: str
    seconds: Spread
    eager: Ratio
    compiled: Ratio | None
    floor: Ratio
    rivals: dict[str, Ratio]


@dataclass(frozen=True)
class KernelSummary:
    """``means``: geometric means over the cases, of their whole passes; ``product_rate`` in FLOP/s."""

    rows: list[KernelRow]
    means: dict[str, float]
    smallest: dict[str, float]
    product_rate: float


def whole_passes(rows: Sequence[KernelRow]) -> list[KernelRow]:
    """One row a case: forward + backward, or forward where there is no backward pass (``augment``)."""
    return list({(row.operator, row.name): row for row in rows}.values())


def summarise_kernels(measured: Sequence[KernelMeasurement]) -> KernelSummary:
    """Figures of a ``measure_kernels``."""
    rows = [_kernel_row(each, direction) for each in measured for direction in each.work]
    against = {
        way: [ratio.value.median for row in whole_passes(rows) if (ratio := getattr(row, way))]
        for way in (EAGER, COMPILED)
    }
    against = {way: ratios for way, ratios in against.items() if ratios}
    return KernelSummary(
        rows,
        {way: geometric_mean(ratios) for way, ratios in against.items()},
        {way: min(ratios) for way, ratios in against.items()},
        measured[0].product_rate,
    )


def _kernel_row(measured: KernelMeasurement, direction: str) -> KernelRow:
    ours = measured.timings[MIXFAST, direction]
    others = {
        way: compare(seconds, ours, ROUGH)
        for (way, its_direction), seconds in measured.timings.items()
        if its_direction == direction and way != MIXFAST
    }
    eager, compiled = others.pop(EAGER), others.pop(COMPILED, None)
    floor = compare(measured.floor(direction), ours, ROUGH)
    return KernelRow(measured.operator, measured.name, direction, Spread.of(ours), eager, compiled, floor, others)


def _ratios(timings: dict[str, Timings], comparisons: Sequence[Comparison]) -> dict[str, Ratio]:
    return {
        comparison.name: compare(
            timings[comparison.numerator].total(), timings[comparison.denominator].total(), comparison.resolution
        )
        for comparison in comparisons
        if comparison.numerator in timings and comparison.denominator in timings
    }
