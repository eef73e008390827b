"""Records of ``mixfast bench`` as the plots need them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

SINGLE = "single"  # the plain network, among the contenders


@dataclass(frozen=True)
class Contender:
    """Who was timed. way: eager, compiled, or empty; seconds: median and quartiles; flops: of the pass or step."""

    method: str
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
        yield _timing(name, "training step", record["settings"]["batch_size"], record, record)
    elif bench == "inference":
        for key, table in record.items():
            if key.startswith("batch "):
                yield _timing(name, "inference", int(key.removeprefix("batch ")), record, table)


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


def _timing(name: str, work: str, batch_size: int, record: dict[str, Any], table: dict[str, Any]) -> Timing:
    summary, settings = table["summary"], record["settings"]
    contenders = tuple(_contender(row, table["flops_a_step"]) for row in summary["rows"])
    amp = settings.get("amp", "off")
    return Timing(
        name,
        work,
        settings["backbone"],
        batch_size,
        "float32" if amp == "off" else amp,
        described_images(record["images"]["size"], record["images"]["classes"]),
        _device(record),
        contenders,
        tuple(_overheads(summary["ratios"], contenders)),
        summary["product_rate"]["median"],
    )


def _contender(row: dict[str, Any], flops: dict[str, int]) -> Contender:
    method, _, way = row["name"].partition(", ")
    step = row["step"]
    seconds = (step["median"], step["lower_quartile"], step["upper_quartile"])
    return Contender(method, way, seconds, flops[row["name"]])


def _overheads(ratios: dict[str, Any], contenders: tuple[Contender, ...]) -> Iterator[Overhead]:
    """Of ``overhead of METHOD, WAY``; where one method was timed the bench leaves its name out."""
    for label, ratio in ratios.items():
        what, _, way = label.partition(", ")
        if not what.startswith("overhead"):
            continue
        timed = [each.method for each in contenders if each.way == way and each.method != SINGLE]
        method = what.removeprefix("overhead of ") if " of " in what else timed[0]
        value = ratio["value"]
        interval = ratio["interval"] or (value["lower_quartile"], value["upper_quartile"])
        yield Overhead(method, way, value["median"], tuple(interval), ratio["refusal"])


def _device(record: dict[str, Any]) -> str:
    machine = record["machine"]
    name = re.sub(r"\((R|TM)\)| Processor", "", machine["device_name"])
    threads = machine["threads"]
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}" if machine["device"] == "cpu" else name
