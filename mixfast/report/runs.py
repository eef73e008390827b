"""Finished runs: what their directories hold, which of them differ in nothing but the seed, and what their networks cost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mixfast.config import Config
from mixfast.flops.costing import Costed, cost_of
from mixfast.report.names import short_labels
from mixfast.training.run_directory import RunDirectory, RunError
from mixfast.training.session import member_runs

# What leaves a network as it is: runs that differ here only are repetitions of one another.
FREE_SETTINGS = {
    "about": True,
    "seed": True,
    "baseline": True,
    "beside": True,
    "data": {"dir", "cache_dir"},
    "training": {"device", "log_every", "checkpoint_minutes"},
}


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        name: tells it from the others.
        config: resolved.
        metrics: the lines of ``metrics.jsonl``; none of a deep ensemble, whose members have their own.
        summary: of ``summary.json``.
        num_classes: K, from the weights; None where there are none.
    """

    name: str
    config: Config
    metrics: list[dict[str, Any]]
    summary: dict[str, Any]
    num_classes: int | None


@dataclass(frozen=True)
class Group:
    """Runs of one configuration; ``label``: what it is called in plots."""

    label: str
    runs: tuple[Run, ...]

    @property
    def config(self) -> Config:
        return self.runs[0].config

    @cached_property
    def cost(self) -> Costed | str:
        """What one of its networks costs, or why that cannot be counted."""
        try:
            return cost_of(self.config, self.label, self.runs[0].num_classes)
        except (ValueError, OSError, RuntimeError) as error:
            return str(error)


def read_run(path: Path, name: str) -> Run:
    """The finished run at ``path``.

    Raises:
        RunError: there is no run, or it is not finished.
        ValueError: its configuration or summary cannot be read.
    """
    directory = RunDirectory(path)
    config = directory.read_config()
    try:
        summary = directory.read_summary()
    except ValueError as error:
        raise ValueError(f"{directory.summary_file} is no JSON: {error}") from error
    if summary is None:
        raise RunError(
            f"{path} has no {directory.summary_file.name}: the run is still being trained, or was interrupted (go on with "
            f"`mixfast train --resume {path}`); only finished runs can be reported"
        )
    return Run(name, config, directory.read_metrics(), summary, _classes_of(config, directory))


def groups_of(runs: Sequence[Run]) -> list[Group]:
    """The runs by configuration, in the order given, the plain network first."""
    by_settings: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.config.method.name != "single"):
        settings = run.config.model_dump(mode="json", exclude=FREE_SETTINGS)
        by_settings.setdefault(json.dumps(settings), []).append(run)
    groups = list(by_settings.values())
    labels = short_labels([_description(members[0].config) for members in groups])
    shared = {label for label, count in Counter(labels).items() if count > 1}
    return [
        Group(f"{label} ({_named(members)})" if label in shared else label, tuple(members))
        for label, members in zip(labels, groups, strict=True)
    ]


def _description(config: Config) -> tuple[str, ...]:
    members = config.ensemble.members
    inputs = f"M = {config.method.num_inputs}"
    ensemble = f"{members} networks" if members > 1 else ""
    return config.method.name, config.model.name, inputs, ensemble


def _named(runs: Sequence[Run]) -> str:
    return runs[0].name if len(runs) == 1 else f"{runs[0].name} and {len(runs) - 1} more"


def _classes_of(config: Config, directory: RunDirectory) -> int | None:
    """From the heads ``[M, K, F]``: the data need not be on this machine."""
    weights = member_runs(config, directory)[0][1].best
    try:
        with safe_open(weights, "pt") as tensors:
            return tensors.get_slice("heads.weight").get_shape()[1]
    except (OSError, SafetensorError):
        return None
