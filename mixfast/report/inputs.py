"""What a report is made from: run directories and records, read and checked before anything is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mixfast.flops.costing import Costed
from mixfast.records import BENCH, read_record
from mixfast.report.counted import Counted, counted_of_record, counted_of_runs
from mixfast.report.measured import Operators, Timing, operators_of, timings_of
from mixfast.report.names import distinct_names
from mixfast.report.runs import Group, Run, groups_of, read_run


@dataclass(frozen=True)
class Source:
    """One of the paths, for the page's list. name: tells it from the others; kind: what it is; detail: of what and when."""

    name: str
    kind: str
    detail: str


@dataclass(frozen=True)
class Inputs:
    """All that was given.

    Attributes:
        sources: in the order given.
        runs: finished runs.
        timings: the tables of steps and inference passes.
        operators: records of operators.
        recipes: costs that ``mixfast flops`` counted.
    """

    sources: tuple[Source, ...] = ()
    runs: tuple[Run, ...] = ()
    timings: tuple[Timing, ...] = ()
    operators: tuple[Operators, ...] = ()
    recipes: tuple[Counted, ...] = ()

    @cached_property
    def groups(self) -> dict[str, list[Group]]:
        """The runs by data set, since accuracies on different ones are not to be compared, and by configuration."""
        by_data: dict[str, list[Run]] = {}
        for run in self.runs:
            by_data.setdefault(run.config.data.name, []).append(run)
        return {data: groups_of(runs) for data, runs in by_data.items()}

    @property
    def uncounted(self) -> list[str]:
        """The runs whose networks cannot be counted, and why."""
        return [
            f"{data}: {group.label}: {group.cost}"
            for data, groups in self.groups.items()
            for group in groups
            if not isinstance(group.cost, Costed)
        ]

    @cached_property
    def counted(self) -> list[Counted]:
        """Every counted cost, of recipes and runs, once."""
        groups = [group for groups in self.groups.values() for group in groups]
        return list(dict.fromkeys([*self.recipes, *counted_of_runs(groups)]))


def read_inputs(paths: Sequence[str]) -> Inputs:
    """Reads run directories and records; one that is named twice counts once.

    Raises:
        ValueError: a path leads nowhere, or to a file that is no record of this version.
        RunError: a folder is no run, or its run is not finished.
    """
    given = list(dict.fromkeys(Path(path).expanduser().resolve() for path in paths))
    inputs = Inputs()
    for path, name in zip(given, distinct_names(given), strict=True):
        read = _of_run(path, name) if path.is_dir() else _of_record(path, name)
        inputs = _joined(inputs, read)
    return inputs


def _of_run(path: Path, name: str) -> Inputs:
    run = read_run(path, name)
    config = run.config
    detail = f"{config.method.name}, {config.model.name}, {config.data.name}, seed {config.seed}"
    return Inputs(sources=(Source(name, "run", detail),), runs=(run,))


def _of_record(path: Path, name: str) -> Inputs:
    if not path.is_file():
        raise ValueError(
            f"{path} is not there, expected a run directory or a record that mixfast bench or mixfast flops wrote (--json)"
        )
    kind, record = read_record(path, str(path))
    try:
        return _of_bench(name, record) if kind == BENCH else _of_flops(name, record)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{path} is not whole: {error!r} where a record of {kind} has a figure; write it again"
        ) from error


def _of_bench(name: str, record: dict[str, Any]) -> Inputs:
    inputs = Inputs(sources=(Source(name, f"mixfast bench {record['bench']}", _where_and_when(record)),))
    for bench, part in _benches(record):
        operators = operators_of(name, part) if bench == "kernels" else None
        own = Inputs(timings=tuple(timings_of(name, bench, part)), operators=() if operators is None else (operators,))
        inputs = _joined(inputs, own)
    return inputs


def _benches(record: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The record itself, or the parts of one of ``bench all``, each with its own settings."""
    if record["bench"] != "all":
        yield record["bench"], record
        return
    for bench in ("step", "inference", "data", "kernels"):
        yield bench, {"machine": record["machine"], **record[bench]}


def _of_flops(name: str, record: dict[str, Any]) -> Inputs:
    recipes = tuple(counted_of_record(record))
    detail = f"{len(recipes)} recipes, torch {record['torch']}"
    return Inputs(sources=(Source(name, "mixfast flops", detail),), recipes=recipes)


def _where_and_when(record: dict[str, Any]) -> str:
    machine = record["machine"]
    return f"{machine['device_name']}, torch {machine['versions']['torch']}, {record['date'][:10]}"


def _joined(first: Inputs, second: Inputs) -> Inputs:
    fields = ("sources", "runs", "timings", "operators", "recipes")
    return Inputs(**{field: getattr(first, field) + getattr(second, field) for field in fields})
