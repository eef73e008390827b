"""Records of ``mixfast bench`` as the plots need them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

SINGLE = "single"  # the plain network, among the contenders
USUAL_INPUTS = 2  # M in records of before it could be chosen


@dataclass(frozen=True)
class Contender:
    """Who was timed. num_inputs: M; way: eager, compiled, or empty; seconds: median and quartiles; flops: of the pass or step."""

    method: str
    num_inputs: int
    way: str
    seconds: tuple[float, float, float]
    flops: int


@dataclass(frozen=True)
class Overhead:
    """A method's time over the plain network's. interval: 95% of the median, or quartiles where rounds are too few for one."""

    method: str
    way: str
    median: float
    interval: tuple[float, float]
    refusal: str | None


@dataclass(frozen=True)
class Timing:
    """One table of ``bench step`` or ``bench inference``; product_rate: of a matrix product among them, FLOP/s."""

    record: str
    work: str
    backbone: str
    batch_size: int
    precision: str
    images: str
    device: str
    contenders: tuple[Contender, ...]
    overheads: tuple[Overhead, ...]
    product_rate: float


@dataclass(frozen=True)
class OperatorPass:
    """One row of ``bench kernels``; bytes and flops: the least there is to do; copy_rate: bytes a second, of as many bytes."""

    operator: str
    case: str
    direction: str
    seconds: float
    bytes: int
    flops: int
    copy_rate: float

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.operator}: {self.case}, {self.direction}"


@dataclass(frozen=True)
class Operators:
    """A record of ``bench kernels`` that has what was to be done."""

    record: str
    device: str
    precision: str
    passes: tuple[OperatorPass, ...]
    product_rate: float


def described_images(size: Sequence[int], classes: int) -> str:
    """Height and width in pixels, and the number of classes, for people."""
    return f"{' x '.join(map(str, size))} pixels, {classes} classes"


def timings_of(name: str, bench: str, record: dict[str, Any]) -> Iterator[Timing]:
    """The tables of a record of ``bench step`` or ``inference``."""
    if bench == "step":
        yield from _timings(name, "training step", record["settings"]["batch_size"], record, record)
    elif bench == "inference":
        for key, table in record.items():
            if key.startswith("batch "):
                yield from _timings(name, "inference", int(key.removeprefix("batch ")), record, table)


def operators_of(name: str, record: dict[str, Any]) -> Operators | None:
    """The passes of a record of ``bench kernels``; None of one that was written before records had the work."""
    if "work" not in record:
        return None
    summary = record["summary"]
    passes = []
    for row in summary["rows"]:
        title = f"{row['operator']}: {row['name']}"
        work = record["work"][title]
        # The copy moves what the forward pass must.
        copied = work["forward"]["bytes"] / median(record["seconds"][title]["copy"])
        own = work[row["direction"]]
        passes.append(
            OperatorPass(
                row["operator"],
                row["name"],
                row["direction"],
                row["seconds"]["median"],
                own["bytes"],
                own["flops"],
                copied,
            )
        )
    precision = record["settings"]["dtype"]
    return Operators(name, _device(record), precision, tuple(passes), summary["product_rate"])


def _timings(name: str, work: str, batch_size: int, record: dict[str, Any], table: dict[str, Any]) -> Iterator[Timing]:
    """Of one table: of a backbone, or of each recipe."""
    if "recipes" in table:
        for recipe, config in table["recipes"].items():
            yield _timing_of_recipe(name, work, recipe, config, record, table)
        return
    settings = record["settings"]
    contenders = tuple(
        _contender(row, *_method_and_way(row["name"]), settings.get("num_inputs", USUAL_INPUTS), table["flops_a_step"])
        for row in table["summary"]["rows"]
    )
    yield Timing(
        name,
        work,
        settings["backbone"],
        batch_size,
        _precision(settings.get("amp", "off")),
        described_images(record["images"]["size"], record["images"]["classes"]),
        _device(record),
        contenders,
        tuple(_overheads(table["summary"]["ratios"], contenders)),
        table["summary"]["product_rate"]["median"],
    )


def _timing_of_recipe(
    name: str, work: str, recipe: str, config: dict[str, Any], record: dict[str, Any], table: dict[str, Any]
) -> Timing:
    """A recipe and, where it was timed beside it, its backbone with one input."""
    summary, method = table["summary"], config["method"]
    titles = {recipe: method["name"], f"single of {recipe}": SINGLE}
    contenders = []
    for row in summary["rows"]:
        title, way = _method_and_way(row["name"])
        if title in titles:
            contenders.append(_contender(row, titles[title], way, method["num_inputs"], table["flops_a_step"]))
    overheads = []
    for label, ratio in summary["ratios"].items():
        title, way = _method_and_way(label)
        if title == f"overhead of {recipe}":
            overheads.append(_overhead(method["name"], way, ratio))
    images = table["images"][recipe]
    return Timing(
        name,
        work,
        config["model"]["name"],
        config["training"]["batch_size"],
        _precision(config["training"]["amp"]),
        described_images(images["size"], images["classes"]),
        _device(record),
        tuple(contenders),
        tuple(overheads),
        summary["product_rate"]["median"],
    )


def _method_and_way(name: str) -> tuple[str, str]:
    method, _, way = name.partition(", ")
    return method, way


def _precision(amp: str) -> str:
    return "float32" if amp == "off" else amp


def _contender(row: dict[str, Any], method: str, way: str, num_inputs: int, flops: dict[str, int]) -> Contender:
    step = row["step"]
    seconds = (step["median"], step["lower_quartile"], step["upper_quartile"])
    return Contender(method, 1 if method == SINGLE else num_inputs, way, seconds, flops[row["name"]])


def _overheads(ratios: dict[str, Any], contenders: tuple[Contender, ...]) -> Iterator[Overhead]:
    """Of ``overhead of METHOD, WAY``; where one method was timed the bench leaves its name out."""
    for label, ratio in ratios.items():
        what, way = _method_and_way(label)
        if not what.startswith("overhead"):
            continue
        timed = [each.method for each in contenders if each.way == way and each.method != SINGLE]
        yield _overhead(what.removeprefix("overhead of ") if " of " in what else timed[0], way, ratio)


def _overhead(method: str, way: str, ratio: dict[str, Any]) -> Overhead:
    value = ratio["value"]
    interval = ratio["interval"] or (value["lower_quartile"], value["upper_quartile"])
    return Overhead(method, way, value["median"], tuple(interval), ratio["refusal"])


def _device(record: dict[str, Any]) -> str:
    machine = record["machine"]
    name = re.sub(r"\((R|TM)\)| Processor", "", machine["device_name"])
    threads = machine["threads"]
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}" if machine["device"] == "cpu" else name
