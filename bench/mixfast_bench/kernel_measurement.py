"""What was measured of one case of ``bench kernels``, and how it lies in a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

MIXFAST, EAGER, COMPILED, COPY = "mixfast", "eager", "compiled", "copy"
FORWARD, BOTH = "forward", "forward + backward"


@dataclass(frozen=True)
class KernelMeasurement:
    """Raw results for one case.

    Attributes:
        operator, name: of the case.
        timings: seconds, a number a round, by contender: ``(way, direction)``; the way is ``mixfast``, ``eager``,
            ``compiled`` or a rival's name, the direction ``forward`` or ``forward + backward``.
        copy: seconds of a copy that moves as many bytes as the forward pass must, a number a round.
        work: by direction, what cannot be avoided: bytes read or written, and FLOPs of matrix products.
        product_rate: of a matrix product, in FLOP/s.
        launched: on CUDA, the contenders that cannot be captured as a graph: the host launches them in every run.
    """

    operator: str
    name: str
    timings: dict[tuple[str, str], list[float]]
    copy: list[float]
    work: dict[str, dict[str, int]]
    product_rate: float
    launched: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.operator}: {self.name}"

    def floor(self, direction: str) -> list[float]:
        """Seconds it takes at the measured copy or matrix rate, whichever is more; a number a round."""
        work = self.work[direction]
        share = work["bytes"] / self.work[FORWARD]["bytes"]
        arithmetic = work["flops"] / self.product_rate
        return [max(share * copy, arithmetic) for copy in self.copy]


def recorded(measured: Sequence[KernelMeasurement]) -> dict[str, Any]:
    """Their part of a record, but for the summary."""
    seconds = {
        each.title: {f"{way}, {direction}": values for (way, direction), values in each.timings.items()}
        | {COPY: each.copy}
        for each in measured
    }
    launched = {each.title: each.launched for each in measured if each.launched}
    return {"work": {each.title: each.work for each in measured}, "seconds": seconds, "launched_by_the_host": launched}


def from_record(record: dict[str, Any]) -> list[KernelMeasurement]:
    """What ``recorded`` wrote, of a whole record of ``bench kernels``."""
    result = []
    for title, seconds in record["seconds"].items():
        operator, _, name = title.partition(": ")
        timings = {}
        for contender, values in seconds.items():
            way, _, direction = contender.rpartition(", ")
            if contender != COPY:
                timings[way, direction] = values
        launched = tuple(record["launched_by_the_host"].get(title, ()))
        rate = record["summary"]["product_rate"]
        result.append(KernelMeasurement(operator, name, timings, seconds[COPY], record["work"][title], rate, launched))
    return result


def joined(measured: Sequence[Sequence[KernelMeasurement]]) -> list[KernelMeasurement]:
    """Measurements of the same cases, one after the other: a case has the rounds of all of them."""
    result = []
    for cases in zip(*measured, strict=True):
        first = cases[0]
        timings = {key: [value for case in cases for value in case.timings[key]] for key in first.timings}
        copy = [value for case in cases for value in case.copy]
        rate = median(case.product_rate for case in cases)
        result.append(KernelMeasurement(first.operator, first.name, timings, copy, first.work, rate, first.launched))
    return result
